//! Moves what is needed out of packs of which little is, out of many small
//! packs into few, and, where it is asked for, out of packs that are sealed under
//! an older key of the vault.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use backstop_core::{Error, Result};
use bytes::Bytes;

use super::condemn::condemn;
use super::inventory::{Count, Inventory};
use super::{Run, count_packs};
use crate::failure;
use crate::pack::frame::{self, PlainFrame};
use crate::pack::index::{Location, Pack};
use crate::pack::name::PackKind;
use crate::pack::reader::Span;
use crate::pack::table::TableEntry;
use crate::pack::writer::{FRAMES, PackWriter};
use crate::vault::Vault;

/// So many packs of about one size are merged. Sizes are told apart by factors
/// of this, so that a byte is merged a few times at most, however many
/// synchronizations come after it.
const MERGED: usize = 8;

/// Packs are merged that have less than this share of a full one. Merging what
/// is larger would write most of what changes once more, and later once more,
/// for few objects less.
const SMALL: u64 = 8;

/// A pack that is to be rewritten.
#[derive(Clone, Copy, Debug)]
struct Victim {
    /// Its place in the inventory.
    at: usize,
    live_bytes: u64,
}

/// A pack whose frames were moved.
struct Moved {
    at: usize,
    entries: Vec<TableEntry>,
    moved: Vec<bool>,
}

/// Rewrites the packs that are worth it, within the budgets.
pub(super) async fn worthwhile(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    dropped: &HashSet<usize>,
) -> Result<()> {
    let victims = choose(run, inventory, dropped).await?;
    if run.options.dry_run {
        let records = victims
            .iter()
            .map(|victim| &inventory.packs[victim.at].record);
        count_packs(&mut run.report.rewritten, records);
        count_resealed(run, inventory, victims.iter().map(|victim| victim.at));
        let written: u64 = victims.iter().map(|victim| victim.live_bytes).sum();
        run.report.written.0 += written;
        return Ok(());
    }
    let writer = run.vault.writer()?.apart();
    let mut group: Vec<Moved> = Vec::new();
    let mut bytes = 0;
    for victim in victims {
        if run.is_spent() || run.report.written >= run.options.most_rewritten {
            run.report.is_partial = true;
            break;
        }
        run.tell(inventory.packs[victim.at].record.bytes)?;
        match rewrite(run, inventory, victim.at, &writer).await? {
            Ok(moved) => group.push(moved),
            Err(damage) => {
                let record = &inventory.packs[victim.at].record;
                tracing::warn!(pack = %record.name, error = %damage, "a pack can't be read, so all of it stays");
                run.report.unreadable.add(record.bytes);
            }
        }
        bytes += victim.live_bytes;
        if bytes >= run.vault.settings.pack_bytes {
            finish(run, inventory, &writer, &mut group).await?;
            bytes = 0;
        }
    }
    finish(run, inventory, &writer, &mut group).await
}

/// Which packs are worth rewriting, in their order: what was written together
/// stays together.
async fn choose(
    run: &mut Run<'_>,
    inventory: &Inventory,
    dropped: &HashSet<usize>,
) -> Result<Vec<Victim>> {
    let small = run.vault.settings.pack_bytes / SMALL;
    let stuck = stuck(run.vault, inventory);
    let mut held = Vec::new();
    for (at, count) in inventory.counts().into_iter().enumerate() {
        let pack = &inventory.packs[at];
        if stuck.contains(&pack.number) {
            tracing::warn!(pack = %pack.record.name, "a needed frame can't be read, so all of the pack stays");
            run.report.unreadable.add(pack.record.bytes);
        } else if !dropped.contains(&at) {
            let (all, live) = bytes_of(run, inventory, at, count).await?;
            held.push((
                Victim {
                    at,
                    live_bytes: live,
                },
                all - live,
            ));
        }
    }
    let live: u64 = held.iter().map(|(victim, _)| victim.live_bytes).sum();
    let mut dead: u64 = held.iter().map(|(_, dead)| *dead).sum();
    let may_stay = live / 100 * u64::from(run.options.most_dead);
    // Those first that give back most for what they cost.
    let share = |victim: &Victim, dead: u64| {
        u128::from(victim.live_bytes) * 1000 / u128::from((victim.live_bytes + dead).max(1))
    };
    held.sort_by_key(|(victim, dead)| (share(victim, *dead), victim.at));
    let mut victims = Vec::new();
    let mut sizes: BTreeMap<(bool, u32), Vec<(Victim, u64)>> = BTreeMap::new();
    let current = run.vault.seal.current();
    let is_old =
        |victim: &Victim| run.options.reseal && inventory.packs[victim.at].record.key != current;
    for (victim, of_it) in held.extract_if(.., |(victim, _)| is_old(victim)) {
        dead -= of_it;
        victims.push(victim);
    }
    for (victim, of_it) in held {
        let record = &inventory.packs[victim.at].record;
        if of_it > 0 && dead > may_stay {
            dead -= of_it;
            victims.push(victim);
        } else if record.bytes < small && record.frames < FRAMES / 2 {
            let size = victim.live_bytes.max(1).ilog2() / MERGED.ilog2();
            let is_data = record.kind == PackKind::Data;
            sizes
                .entry((is_data, size))
                .or_default()
                .push((victim, of_it));
        }
    }
    for same in sizes.into_values() {
        if same.len() >= MERGED {
            dead -= same.iter().map(|(_, dead)| dead).sum::<u64>();
            victims.extend(same.into_iter().map(|(victim, _)| victim));
        }
    }
    victims.sort_by_key(|victim| victim.at);
    run.report.left.0 = dead;
    Ok(victims)
}

/// The packs in which a frame is needed that is known to be bad: it can't be
/// moved, so they stay until it is healed.
fn stuck(vault: &Vault, inventory: &Inventory) -> HashSet<u64> {
    let bad = vault.index.bad_frames().into_iter();
    let packs = bad.flat_map(|(content, digest)| inventory.needed_in(content, &digest));
    packs.collect()
}

/// The bytes of a pack's frames, and of those that are needed.
async fn bytes_of(
    run: &mut Run<'_>,
    inventory: &Inventory,
    at: usize,
    count: Count,
) -> Result<(u64, u64)> {
    let held = &inventory.packs[at];
    if count.live == count.all {
        return Ok((held.record.bytes, held.record.bytes));
    }
    run.report.requests += 1;
    let (_, entries) = run.vault.index.table(held.number).await?;
    let needed = inventory.needed(at, &entries);
    let length = |entry: &TableEntry| entry.header.frame_length() as u64;
    let all = entries.iter().map(length).sum();
    let live = entries.iter().zip(needed).filter(|(_, needed)| *needed);
    Ok((all, live.map(|(entry, _)| length(entry)).sum()))
}

/// Appends what is needed of a pack to others; damage of the pack inside. That
/// something could not be written is no damage of what was read.
async fn rewrite(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    at: usize,
    writer: &PackWriter,
) -> Result<Result<Moved>> {
    let vault = run.vault;
    let held = &inventory.packs[at];
    let (pack, entries) = match vault.index.table(held.number).await {
        Err(error) if failure::is_damage(&error) => return Ok(Err(error)),
        table => table?,
    };
    let moved = inventory.needed(at, &entries);
    let live: Vec<&TableEntry> = entries
        .iter()
        .zip(&moved)
        .filter(|(_, needed)| **needed)
        .map(|(entry, _)| entry)
        .collect();
    let locations: Vec<Location> = live
        .iter()
        .map(|entry| Location::of(held.number, entry))
        .collect();
    run.report.requests += 1;
    for span in vault.reader.spans(&locations).await? {
        let frames: Vec<TableEntry> = span.frames.iter().map(|place| *live[*place]).collect();
        run.report.requests += 1;
        let frames = match read(vault, &pack, span, frames).await {
            Err(error) if failure::is_damage(&error) => {
                mark_bad(run, held.number, &live).await?;
                return Ok(Err(error));
            }
            frames => frames?,
        };
        let added = writer.append(held.record.kind, frames, ()).await?;
        run.report.written.0 += added;
    }
    Ok(Ok(Moved { at, entries, moved }))
}

/// Finds out which of these frames of a pack are bad, so that the next run does
/// not read it again in vain.
async fn mark_bad(run: &mut Run<'_>, number: u64, entries: &[&TableEntry]) -> Result<()> {
    let vault = run.vault;
    for entry in entries {
        run.report.requests += 1;
        let (content, digest) = (entry.header.content, &entry.digest);
        let at = Location::of(number, entry);
        let read = vault.reader.read_at(content, digest, at, &vault.codecs);
        match read.await {
            Err(error) if failure::is_damage(&error) => {}
            read => {
                read?;
                continue;
            }
        }
        // Another copy may count.
        let counts = vault.index.locate_indexed(content, &[*digest]).await?;
        if counts.iter().flatten().any(|at| at.pack == number) {
            vault.index.mark_bad(content, digest).await;
        }
    }
    Ok(())
}

/// Reads frames as they stand, their seals checked.
async fn read(
    vault: &Vault,
    pack: &Arc<Pack>,
    span: Span,
    entries: Vec<TableEntry>,
) -> Result<Vec<PlainFrame>> {
    let mut bytes = vault.reader.read(pack, span.range.clone()).await?;
    let pack = Arc::clone(pack);
    let open = move || {
        let mut payloads = Vec::with_capacity(entries.len());
        for entry in &entries {
            let from = usize::try_from(entry.offset - span.range.start).unwrap_or(usize::MAX);
            let to = from.saturating_add(entry.header.frame_length());
            let sealed = bytes
                .get_mut(from..to)
                .ok_or_else(|| Error::corrupt(format!("pack {} ends early", pack.name)))?;
            let (header, _) = frame::open(sealed, entry.offset, &pack.key, &pack.name)?;
            if header != entry.header {
                let what = format!("frame at {} of pack {}", entry.offset, pack.name);
                return Err(Error::corrupt(format!("{what} is not as the table says")));
            }
            payloads.push(from + frame::HEADER_LENGTH);
        }
        let bytes = Bytes::from(bytes);
        let frames = entries
            .iter()
            .zip(payloads)
            .map(|(entry, from)| PlainFrame {
                digest: entry.digest,
                header: entry.header,
                payload: bytes.slice(from..from + entry.header.payload_length as usize),
            });
        Ok(frames.collect())
    };
    vault.cpu.run(open).await?
}

/// Makes durable what was moved, and condemns the packs that it was moved from.
async fn finish(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    writer: &PackWriter,
    group: &mut Vec<Moved>,
) -> Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    writer.finish_all().await?;
    // Also of one that was finished, and lost, while others were read.
    writer.check(0)?;
    run.report.requests += 1;
    let (group, all) = (std::mem::take(group), Arc::clone(inventory));
    // What somebody has come to rely on since stands there alone.
    let choose = move || {
        let is_empty = |pack: &&Moved| {
            let needed = all.needed(pack.at, &pack.entries);
            let mut both = needed.iter().zip(&pack.moved);
            both.all(|(needed, moved)| !needed || *moved)
        };
        group.iter().filter(is_empty).map(|pack| pack.at).collect()
    };
    let condemned = condemn(run.vault, inventory, choose).await?;
    let records = condemned.iter().map(|at| &inventory.packs[*at].record);
    count_packs(&mut run.report.rewritten, records);
    count_resealed(run, inventory, condemned.iter().copied());
    Ok(())
}

/// Counts those of the packs that are sealed under an older key.
fn count_resealed(run: &mut Run<'_>, inventory: &Inventory, packs: impl Iterator<Item = usize>) {
    let current = run.vault.seal.current();
    let records = packs.map(|at| &inventory.packs[at].record);
    let old = records.filter(|record| record.key != current);
    count_packs(&mut run.report.resealed, old);
}
