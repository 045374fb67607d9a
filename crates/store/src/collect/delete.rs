//! Deletes condemned packs that no reader can need any more.
//!
//! First what the index says of them goes, durably, then their objects, then
//! what the catalog says of them: whatever a crash leaves, the next run finds
//! them condemned and goes on.

use std::collections::HashSet;

use backstop_core::{ChunkDigest, ErrorKind, Result};
use futures::future::try_join_all;

use super::Run;
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

/// Deletes what is condemned and not needed by a reader.
pub(super) async fn condemned(run: &mut Run<'_>) -> Result<()> {
    let vault = run.vault;
    let alive = readers::registered(&vault.place, vault.clock.now()).await?;
    let (needed_here, reading_here) = vault.reading.needed();
    let needed_here: HashSet<u64> = needed_here.into_iter().collect();
    let mut waits_for: HashSet<String> = HashSet::new();
    let mut free = Vec::new();
    let mut found_out = Batch::default();
    run.report.waiting = backstop_core::Objects::default();
    let mut entries = vault.catalog.scan(&[CONDEMNED]).await?;
    while let Some((key, value)) = entries.next().await? {
        let number = pack_number(&key)?;
        let mut condemned: CondemnedPack =
            record::decode("the record of a condemned pack", &value)?;
        if condemned.readers.is_none() {
            // A run that ended early did not find it out. Who comes later is
            // not waited for.
            condemned.readers = Some(alive.clone());
            found_out.put(&key, &record::encode(&condemned)?);
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
        delete(run, packs).await?;
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
async fn delete(run: &mut Run<'_>, packs: &[(u64, Option<PackRecord>)]) -> Result<()> {
    let vault = run.vault;
    for (number, record) in packs {
        if record.is_some() {
            run.report.requests += 1;
            unindex(vault, *number).await?;
        }
    }
    vault.catalog.flush().await?;
    let numbers: Vec<u64> = packs.iter().map(|(number, _)| *number).collect();
    vault.index.forget(&numbers);
    let records = || packs.iter().filter_map(|(_, record)| record.as_ref());
    let objects = records().map(|record| async move {
        let path = record.name.path(record.kind);
        vault.reader.store.delete(&path).await
    });
    try_join_all(objects).await?;
    let mut batch = Batch::default();
    for number in &numbers {
        batch.delete(&numbered_key(PACKS, *number));
        batch.delete(&numbered_key(CONDEMNED, *number));
    }
    vault.catalog.write(batch).await?;
    for record in records() {
        run.report.requests += 1;
        run.report.deleted.add(record.bytes);
    }
    Ok(())
}

/// Removes what the index says of a pack.
async fn unindex(vault: &Vault, number: u64) -> Result<()> {
    let frames = match vault.index.table(number).await {
        Ok((_, entries)) => entries
            .iter()
            .map(|entry| (entry.header.content, entry.digest))
            .collect(),
        // What the index says of it stays, and is found to be wrong by who asks.
        Err(error) if failure::is_damage(&error) => {
            tracing::warn!(pack = number, %error, "a condemned pack's table can't be read");
            Vec::new()
        }
        // Its object went before a crash.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            vault.reader.store.check_vault().await?;
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    remove_entries(vault, number, frames).await
}

/// Removes the entries of the index that name a pack. Others may have taken
/// their place: those stay.
async fn remove_entries(
    vault: &Vault,
    number: u64,
    frames: Vec<(Content, ChunkDigest)>,
) -> Result<()> {
    let writer = vault.writer()?;
    for frames in frames.chunks(AT_ONCE) {
        let _index = writer.hold_index().await;
        let keys = frames
            .iter()
            .map(|(content, digest)| vault.catalog.chunk_key(*content, digest));
        let asked = keys.map(|key| async move { Ok((key, vault.catalog.get(&key).await?)) });
        let mut batch = Batch::default();
        for (key, value) in try_join_all(asked).await? {
            let value: Option<bytes::Bytes> = value;
            let names_it = value.is_some_and(|value| {
                Location::decode(&value).is_ok_and(|location| location.pack == number)
            });
            if names_it {
                batch.delete(&key);
            }
        }
        vault.catalog.write(batch).await?;
    }
    Ok(())
}
