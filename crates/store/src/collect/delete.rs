//! Deletes condemned packs that no reader can need any more.
//!
//! First what the index says of them goes, durably, then their objects, then
//! what the catalog says of them: whatever a crash leaves, the next run finds
//! them condemned and goes on.
//!
//! A store may keep an object from being deleted, for a while or for ever: such a
//! pack stays condemned, is told, and is tried again by the next run.
//!
//! A frame may stand in other packs too, and somebody may rely on it there:
//! its entry then comes to name that copy.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstop_core::{ChunkDigest, ErrorKind, Objects, Result};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};

use super::Run;
use super::inventory::Inventory;
use crate::catalog::{Batch, CONDEMNED, PACKS, numbered_key, pack_number};
use crate::failure;
use crate::pack::frame::Content;
use crate::pack::index::Location;
use crate::readers;
use crate::record::{self, CondemnedPack, PackRecord};
use crate::vault::Vault;

/// How many packs are deleted after one flush.
const TOGETHER: usize = 16;

/// How many entries of the index are looked at while nobody else changes it.
const AT_ONCE: usize = 256;

type Frame = (Content, ChunkDigest);

/// Deletes what is condemned and not needed by a reader.
pub(super) async fn condemned(run: &mut Run<'_>, inventory: &Arc<Inventory>) -> Result<()> {
    let vault = run.vault;
    let mut all = Vec::new();
    let mut entries = vault.catalog.scan(&[CONDEMNED]).await?;
    while let Some((key, value)) = entries.next().await? {
        let condemned: CondemnedPack = record::decode("the record of a condemned pack", &value)?;
        all.push((pack_number(&key)?, condemned));
    }
    // After what was condemned: who is not among them began later.
    let alive = readers::registered(&vault.place, vault.clock.now()).await?;
    let (needed_here, reading_here) = vault.reading.needed();
    let needed_here: HashSet<u64> = needed_here.into_iter().collect();
    let mut waits_for: HashSet<String> = HashSet::new();
    let mut free = Vec::new();
    let mut found_out = Batch::default();
    run.report.waiting = Objects::default();
    run.report.locked = Objects::default();
    for (number, mut condemned) in all {
        if condemned.readers.is_none() {
            // A run that ended early did not find it out. Who comes later is
            // not waited for.
            condemned.readers = Some(alive.clone());
            found_out.put(
                &numbered_key(CONDEMNED, number),
                &record::encode(&condemned)?,
            );
        }
        // Those that may have begun before, and live.
        let told = condemned.readers.unwrap_or_default();
        let readers = alive.iter().filter(|reader| told.contains(reader));
        let mut is_needed = needed_here.contains(&number);
        for reader in readers {
            is_needed = true;
            waits_for.insert(reader.clone());
        }
        let record = pack_record(vault, number).await?;
        if is_needed {
            if let Some(record) = record {
                run.report.waiting.add(record.bytes);
            }
        } else {
            free.push((number, record));
        }
    }
    vault.catalog.write(found_out).await?;
    run.report.readers = waits_for.len() as u64 + reading_here;
    for packs in free.chunks(TOGETHER) {
        if run.is_spent() {
            run.report.is_partial = true;
            break;
        }
        delete(run, inventory, packs).await?;
    }
    vault.catalog.flush().await
}

async fn pack_record(vault: &Vault, number: u64) -> Result<Option<PackRecord>> {
    let value = vault.catalog.get(&numbered_key(PACKS, number)).await?;
    value
        .map(|value| record::decode("a pack's record", &value))
        .transpose()
}

/// Deletes packs, each with what the catalog tells of it.
async fn delete(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    packs: &[(u64, Option<PackRecord>)],
) -> Result<()> {
    let vault = run.vault;
    let mut gone: Vec<(u64, Option<&PackRecord>)> = Vec::new();
    let mut entries: HashMap<u64, Vec<Frame>> = HashMap::new();
    for (number, record) in packs {
        let Some(record) = record else {
            gone.push((*number, None));
            continue;
        };
        run.report.requests += 1;
        match frames(vault, *number).await {
            Ok(frames) => {
                gone.push((*number, Some(record)));
                entries.insert(*number, frames);
            }
            Err(error) => {
                // It must not hold up the others.
                tracing::warn!(pack = %record.name, %error, "a condemned pack can't be deleted now");
                run.report.waiting.add(record.bytes);
            }
        }
    }
    let mut named = Vec::new();
    for (number, frames) in &entries {
        named.extend(naming(vault, *number, frames).await?);
    }
    let others = others(vault, inventory, named.iter().copied().collect()).await?;
    for frames in named.chunks(AT_ONCE) {
        let packs: HashSet<u64> = entries.keys().copied().collect();
        release(vault, &packs, frames, &others).await?;
    }
    vault.catalog.flush().await?;
    let numbers: Vec<u64> = gone.iter().map(|(number, _)| *number).collect();
    vault.index.forget(&numbers);
    let objects = gone.iter().filter_map(|(number, record)| {
        let record = (*record)?;
        Some(async move {
            let path = record.name.path(record.kind);
            (*number, vault.reader.store.delete(&path).await)
        })
    });
    let mut locked = HashSet::new();
    for (number, deleted) in join_all(objects).await {
        match deleted {
            Err(error) if failure::refuses_deletion(&error) => {
                tracing::info!(pack = number, %error, "a condemned pack stays for now");
                locked.insert(number);
            }
            deleted => deleted?,
        }
    }
    // Or power loss could bring them back, unknown.
    vault.place.sync(FOLDER)?;
    let mut batch = Batch::default();
    for (number, record) in &gone {
        run.report.requests += u64::from(record.is_some());
        let bytes = record.map(|record| record.bytes);
        if locked.contains(number) {
            run.report.locked.add(bytes.unwrap_or_default());
            continue;
        }
        batch.delete(&numbered_key(PACKS, *number));
        batch.delete(&numbered_key(CONDEMNED, *number));
        if let Some(bytes) = bytes {
            run.report.deleted.add(bytes);
        }
    }
    vault.catalog.write(batch).await?;
    Ok(())
}

/// The folder of packs.
const FOLDER: &str = "packs";

/// The frames of a pack; none of one whose table is damaged or gone: what the
/// index says of it stays, and is found to be wrong by who asks.
async fn frames(vault: &Vault, number: u64) -> Result<Vec<Frame>> {
    match vault.index.table(number).await {
        Ok((_, entries)) => Ok(entries
            .iter()
            .map(|entry| (entry.header.content, entry.digest))
            .collect()),
        Err(error) if failure::is_damage(&error) => {
            tracing::warn!(pack = number, %error, "a condemned pack's table can't be read");
            Ok(Vec::new())
        }
        // Its object went before a crash.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            vault.reader.store.check_vault().await?;
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// The frames whose entries name a pack.
async fn naming(vault: &Vault, number: u64, frames: &[Frame]) -> Result<Vec<Frame>> {
    let mut naming = Vec::new();
    for frames in frames.chunks(AT_ONCE) {
        for (frame, at) in frames.iter().zip(entries_of(vault, frames).await?) {
            if at.is_some_and(|(_, at)| at.pack == number) {
                naming.push(*frame);
            }
        }
    }
    Ok(naming)
}

/// The entries of frames: their keys, and where they say that they stand.
async fn entries_of(vault: &Vault, frames: &[Frame]) -> Result<Vec<Option<([u8; 17], Location)>>> {
    let asked = frames.iter().map(|(content, digest)| async move {
        let key = vault.catalog.chunk_key(*content, digest);
        let value: Option<Bytes> = vault.catalog.get(&key).await?;
        let location = value.and_then(|value| Location::decode(&value).ok());
        Ok(location.map(|location| (key, location)))
    });
    try_join_all(asked).await
}

/// Where else, in packs that are not condemned, these frames stand.
async fn others(
    vault: &Vault,
    inventory: &Inventory,
    frames: HashSet<Frame>,
) -> Result<HashMap<Frame, Location>> {
    let condemned = vault.index.condemned();
    let mut packs: HashSet<u64> = inventory.passed_over.iter().copied().collect();
    for (content, digest) in &frames {
        packs.extend(inventory.holders(*content, digest));
    }
    let mut others = HashMap::new();
    for number in packs {
        if frames.is_empty() || condemned.contains(&number) {
            continue;
        }
        let (_, entries) = vault.index.table(number).await?;
        for entry in &entries {
            let frame = (entry.header.content, entry.digest);
            if frames.contains(&frame) && !vault.index.is_bad(frame.0, &frame.1) {
                others.insert(frame, Location::of(number, entry));
            }
        }
    }
    Ok(others)
}

/// Sees to it that the entries of frames name none of these packs: they name
/// another copy, or go. Entries that name other packs by now stay.
async fn release(
    vault: &Vault,
    packs: &HashSet<u64>,
    frames: &[Frame],
    others: &HashMap<Frame, Location>,
) -> Result<()> {
    let _index = vault.writer()?.hold_index().await;
    let mut batch = Batch::default();
    for (frame, entry) in frames.iter().zip(entries_of(vault, frames).await?) {
        let Some((key, at)) = entry else { continue };
        if packs.contains(&at.pack) {
            match others.get(frame) {
                Some(other) => batch.put(&key, &other.encode()),
                None => batch.delete(&key),
            }
        }
    }
    vault.catalog.write(batch).await
}
