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
//! its entry then comes to name that copy, once it was read ([`copies`]). Who
//! reads by then may go by the old entry, so that the pack waits once more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstop_core::{ErrorKind, Objects, Result};
use futures::future::join_all;

use super::copies::{self, Frame, Other, Placed};
use super::entries::{AT_ONCE, Said, entries_of};
use super::inventory::Inventory;
use super::{Judged, Run};
use crate::catalog::{Batch, CONDEMNED, PACKS, numbered_key, pack_number};
use crate::failure;
use crate::pack::index::{Location, Pack};
use crate::pack::salvage::{self, Salvaged};
use crate::pack::table::{FOOTER_LENGTH, TableEntry};
use crate::readers;
use crate::record::{self, CondemnedPack, PackHold, PackRecord};
use crate::vault::Vault;

/// How many packs are deleted after one flush.
const TOGETHER: usize = 16;

/// What a frame that is remembered may take here, in bytes.
const FRAME: u64 = 256;

/// A pack to be deleted.
struct Doomed {
    number: u64,
    record: Option<PackRecord>,
    /// The frames whose entries name it.
    named: Vec<(Frame, Location)>,
    /// The others that are known to be bad where their entries name them: these
    /// copies may be the only whole ones.
    spare: Vec<(Frame, Location)>,
}

/// Deletes what is condemned and not needed by a reader. Before it is `judged`
/// what is needed, all may be.
pub(super) async fn condemned(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    judged: Judged,
) -> Result<()> {
    let vault = run.vault;
    let mut all = Vec::new();
    let mut entries = vault.catalog.scan(&[CONDEMNED]).await?;
    while let Some((key, value)) = entries.next().await? {
        let condemned: CondemnedPack = record::decode("the record of a condemned pack", &value)?;
        all.push((pack_number(&key)?, condemned));
    }
    if all.is_empty() {
        run.report.waiting = Objects::default();
        run.report.locked = Objects::default();
        run.report.readers = 0;
        return Ok(());
    }
    let unknown = all.iter().filter(|(_, it)| it.readers.is_none());
    let unknown: Vec<u64> = unknown.map(|(number, _)| *number).collect();
    if !unknown.is_empty() {
        vault.reading.condemned(unknown);
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
        let hold = record.as_ref().map_or(PackHold::None, |record| record.hold);
        if hold != PackHold::None && vault.place.locks.term().is_some() {
            // What is left of it must not be kept for ever.
            run.report
                .locked
                .add(record.map_or(0, |record| record.bytes));
        } else if is_needed {
            if let Some(record) = record {
                run.report.waiting.add(record.bytes);
            }
        } else {
            free.push((number, record));
        }
    }
    vault.catalog.write(found_out).await?;
    run.report.readers = waits_for.len() as u64 + reading_here;
    let mut free = free.into_iter().peekable();
    while free.peek().is_some() {
        if run.is_spent() {
            run.report.is_partial = true;
            break;
        }
        let doomed = gather(run, inventory, &mut free).await?;
        // Where these are is found out for all of them at once: it may take the
        // tables of all packs that were passed over.
        let named = doomed.iter().flat_map(|pack| &pack.named).copied();
        let spare = doomed.iter().flat_map(|pack| &pack.spare).copied();
        let (named, spare) = (named.collect(), spare.collect());
        let Some(others) = copies::others(run, inventory, judged, named, spare).await? else {
            run.report.is_partial = true;
            break;
        };
        for packs in doomed.chunks(TOGETHER) {
            if run.is_spent() {
                run.report.is_partial = true;
                break;
            }
            delete(run, packs, &others).await?;
        }
    }
    vault.catalog.flush().await
}

/// The next packs to be deleted, and what the index says of them: as many as are
/// deleted together; where packs were passed over, as many as fit into the memory.
async fn gather(
    run: &mut Run<'_>,
    inventory: &Inventory,
    free: &mut impl Iterator<Item = (u64, Option<PackRecord>)>,
) -> Result<Vec<Doomed>> {
    let vault = run.vault;
    let most_frames = run.options.memory.0 / FRAME;
    let mut doomed: Vec<Doomed> = Vec::new();
    let mut named_frames = 0;
    for (number, record) in free {
        let (mut named, mut spare) = (Vec::new(), Vec::new());
        if let Some(record) = &record {
            match frames(run, number, record).await {
                Ok(frames) => {
                    (named, spare) = naming(vault, number, frames).await?;
                }
                Err(error) => {
                    // It must not hold up the others.
                    tracing::warn!(pack = %record.name, %error, "a condemned pack can't be deleted now");
                    run.report.waiting.add(record.bytes);
                    continue;
                }
            }
        }
        named_frames += named.len() as u64;
        doomed.push(Doomed {
            number,
            record,
            named,
            spare,
        });
        let is_full = inventory.passed_over.is_empty() || named_frames >= most_frames;
        if is_full && doomed.len() >= TOGETHER {
            break;
        }
    }
    Ok(doomed)
}

async fn pack_record(vault: &Vault, number: u64) -> Result<Option<PackRecord>> {
    let value = vault.catalog.get(&numbered_key(PACKS, number)).await?;
    value
        .map(|value| record::decode("a pack's record", &value))
        .transpose()
}

/// Deletes packs, each with what the catalog tells of it.
async fn delete(run: &mut Run<'_>, packs: &[Doomed], others: &HashMap<Frame, Other>) -> Result<()> {
    let vault = run.vault;
    let numbers: Vec<u64> = packs.iter().map(|pack| pack.number).collect();
    let named: Vec<Frame> = packs
        .iter()
        .flat_map(|pack| pack.named.iter().map(|(frame, _)| *frame))
        .collect();
    let moved = moved(packs, others);
    not_found_out(vault, &moved).await?;
    let mut settled = Vec::new();
    for frames in named.chunks(AT_ONCE) {
        settled.extend(release(vault, &numbers, frames, others).await?);
    }
    vault.catalog.flush().await?;
    for frame in &settled {
        vault.index.forget_bad(frame).await;
    }
    let waiting = still_read(run, packs, &moved).await?;
    let packs: Vec<&Doomed> = packs
        .iter()
        .filter(|pack| !waiting.contains(&pack.number))
        .collect();
    let numbers: Vec<u64> = packs.iter().map(|pack| pack.number).collect();
    vault.index.forget(&numbers);
    let objects = packs.iter().filter_map(|pack| {
        let record = pack.record.as_ref()?;
        Some(async move {
            let path = record.name.path(record.kind);
            (pack.number, vault.reader.store.delete(&path).await)
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
    for Doomed { number, record, .. } in &packs {
        run.report.requests += u64::from(record.is_some());
        let bytes = record.as_ref().map(|record| record.bytes);
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

/// The packs of which entries come to name other copies.
fn moved(packs: &[Doomed], others: &HashMap<Frame, Other>) -> Vec<u64> {
    let is_moved = |(frame, _): &(Frame, Location)| {
        matches!(others.get(frame), Some(Other::Whole(_) | Other::Damaged(_)))
    };
    let moved = packs.iter().filter(|pack| pack.named.iter().any(is_moved));
    moved.map(|pack| pack.number).collect()
}

async fn condemned_pack(vault: &Vault, number: u64) -> Result<CondemnedPack> {
    let value = vault.catalog.get(&numbered_key(CONDEMNED, number)).await?;
    let known = value.map(|value| record::decode("the record of a condemned pack", &value));
    Ok(known.transpose()?.unwrap_or(CondemnedPack {
        at: vault.clock.now(),
        readers: None,
    }))
}

/// Before entries move away from packs: it is to be found out anew who may read
/// these, even if this ends right after.
pub(super) async fn not_found_out(vault: &Vault, packs: &[u64]) -> Result<()> {
    let mut batch = Batch::default();
    for number in packs {
        let condemned = CondemnedPack {
            readers: None,
            ..condemned_pack(vault, *number).await?
        };
        let key = numbered_key(CONDEMNED, *number);
        batch.put(&key, &record::encode(&condemned)?);
    }
    vault.catalog.write(batch).await
}

/// Those of the packs from which entries have moved away, durably, that somebody
/// may still read by the old ones. Who begins from now on finds the new ones.
async fn still_read(run: &mut Run<'_>, packs: &[Doomed], moved: &[u64]) -> Result<HashSet<u64>> {
    let vault = run.vault;
    let mut waiting = HashSet::new();
    if moved.is_empty() {
        return Ok(waiting);
    }
    vault.reading.condemned(moved.to_vec());
    let alive = readers::registered(&vault.place, vault.clock.now()).await?;
    let (needed_here, reading_here) = vault.reading.needed();
    let mut batch = Batch::default();
    for pack in packs.iter().filter(|pack| moved.contains(&pack.number)) {
        let Some(record) = &pack.record else {
            continue;
        };
        if alive.is_empty() && !needed_here.contains(&pack.number) {
            continue;
        }
        let condemned = CondemnedPack {
            readers: Some(alive.clone()),
            ..condemned_pack(vault, pack.number).await?
        };
        let key = numbered_key(CONDEMNED, pack.number);
        batch.put(&key, &record::encode(&condemned)?);
        run.report.waiting.add(record.bytes);
        waiting.insert(pack.number);
    }
    if !waiting.is_empty() {
        let readers = alive.len() as u64 + reading_here;
        run.report.readers = run.report.readers.max(readers);
    }
    vault.catalog.write(batch).await?;
    Ok(waiting)
}

/// The folder of packs.
const FOLDER: &str = "packs";

/// The frames of a pack. Of one whose table is damaged, those that can be read:
/// what the index says of others stays, and is found to be wrong by who asks.
async fn frames(run: &mut Run<'_>, number: u64, record: &PackRecord) -> Result<Placed> {
    let vault = run.vault;
    run.report.requests += 1;
    let frame = |entry: &TableEntry| {
        let frame = (entry.header.content, entry.digest);
        (frame, Location::of(number, entry))
    };
    match vault.index.table(number).await {
        Ok((_, entries)) => Ok(entries.iter().map(frame).collect()),
        Err(error) if failure::is_damage(&error) => {
            tracing::warn!(pack = number, %error, "a condemned pack's table can't be read");
            let pack = Pack::of(record, &vault.seal).await?;
            let tail = FOOTER_LENGTH as u64 + u64::from(record.table_bytes);
            let end = record.bytes.saturating_sub(tail);
            let found = salvage::frames(&vault.reader, &pack, end, &vault.codecs).await?;
            run.report.requests += found.len() as u64 * salvage::REQUESTS;
            let whole = found.iter().filter_map(|found| match found {
                Salvaged::Whole(entry) => Some(frame(entry)),
                Salvaged::Damaged(_) => None,
            });
            Ok(with_bad(vault, number, whole.collect()).await?)
        }
        // Its object went before a crash.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            vault.reader.store.check_vault().await?;
            with_bad(vault, number, Vec::new()).await
        }
        Err(error) => Err(error),
    }
}

/// Adds, to the frames of a pack that can be read, those that are known to be bad
/// and of which the index says that they stand there: what is known of them goes
/// with the pack.
async fn with_bad(vault: &Vault, number: u64, mut whole: Placed) -> Result<Placed> {
    for frames in vault.index.bad_frames().chunks(AT_ONCE) {
        for (frame, entry) in frames.iter().zip(entries_of(vault, frames).await?) {
            if let Said::At(at) = entry.said()
                && at.pack == number
                && !whole.iter().any(|(known, _)| known == frame)
            {
                whole.push((*frame, at));
            }
        }
    }
    Ok(whole)
}

/// Parts the frames of a pack into those whose entries name it, or nothing that can
/// be read, and those that are known to be bad where their entries name them.
async fn naming(vault: &Vault, number: u64, frames: Placed) -> Result<(Placed, Placed)> {
    let is_bad = |frame: &Frame| vault.index.is_marked_bad(frame.0, &frame.1);
    let (mut naming, mut others) = (Vec::new(), Vec::new());
    for placed in frames.chunks(AT_ONCE) {
        let names: Vec<Frame> = placed.iter().map(|(frame, _)| *frame).collect();
        for (placed, entry) in placed.iter().zip(entries_of(vault, &names).await?) {
            match entry.said() {
                Said::At(at) if at.pack == number => naming.push((placed.0, at)),
                Said::Unreadable => naming.push(*placed),
                said if is_bad(&placed.0) => match said {
                    // What is known of it goes with the last copy.
                    Said::Nothing => naming.push(*placed),
                    _ => others.push(*placed),
                },
                Said::At(_) | Said::Nothing => {}
            }
        }
    }
    Ok((naming, others))
}

/// Sees to it that the entries of frames name none of these packs: they name
/// another copy, or go. Entries that name other packs by now stay. Gives the frames
/// of which nothing bad is left, once this is durable.
async fn release(
    vault: &Vault,
    packs: &[u64],
    frames: &[Frame],
    others: &HashMap<Frame, Other>,
) -> Result<Vec<Frame>> {
    let _index = vault.writer()?.hold_index().await;
    let mut batch = Batch::default();
    let mut settled = Vec::new();
    for (frame, entry) in frames.iter().zip(entries_of(vault, frames).await?) {
        if let Said::At(at) = entry.said()
            && !packs.contains(&at.pack)
        {
            continue;
        }
        let other = others.get(frame);
        match other {
            Some(Other::Whole(at) | Other::Damaged(at)) => batch.put(&entry.key, &at.encode()),
            Some(Other::Needless) | None => batch.delete(&entry.key),
        }
        if matches!(other, Some(Other::Whole(_)) | None)
            && vault.index.is_marked_bad(frame.0, &frame.1)
        {
            // In one step, or a crash would leave for ever that it is bad. Deleting
            // what was never there would cost every later opening a look at it.
            batch.delete(&vault.catalog.bad_key(frame.0, &frame.1));
            settled.push(*frame);
        }
    }
    vault.catalog.write(batch).await?;
    Ok(settled)
}
