//! Copies of frames: a frame may stand in several packs, and the index names one
//! of them.
//!
//! That a table tells of a copy is no proof that it is whole, so a copy is read
//! before the index comes to name it. Where none of the others is whole and the
//! frame may be needed, what stands in the pack that is to go is stored anew.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstop_core::{ChunkDigest, Error, ErrorKind, Result};
use bytes::Bytes;

use super::entries::{AT_ONCE, Said, entries_of};
use super::inventory::Inventory;
use super::{Judged, Run, delete};
use crate::catalog::Batch;
use crate::failure;
use crate::pack::frame::{self, Content, PlainFrame};
use crate::pack::index::Location;
use crate::pack::name::PackKind;
use crate::vault::Vault;

/// A frame by its name.
pub(super) type Frame = (Content, ChunkDigest);

/// Frames, each with a place where it stands.
pub(super) type Placed = Vec<(Frame, Location)>;

/// What another copy of a frame is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Other {
    /// The index is to name it.
    Whole(Location),
    /// The same, so that it is told as damage.
    Damaged(Location),
    /// It is damaged, and nobody needs it: it only must not be relied on.
    Needless,
}

/// Where else, in packs that are not condemned, frames stand of which the index
/// `named` the copies that are given: which the index is to name then. Copies that
/// it names no longer, for which others were found to be bad, are to be `spared`.
/// None if the budget was spent before all was looked at.
pub(super) async fn others(
    run: &mut Run<'_>,
    inventory: &Inventory,
    judged: Judged,
    named: Placed,
    spared: Placed,
) -> Result<Option<HashMap<Frame, Other>>> {
    let vault = run.vault;
    let frames: HashSet<Frame> = named.iter().map(|(frame, _)| *frame).collect();
    let Some(candidates) = candidates(run, inventory, &frames, Stops::WhenSpent).await? else {
        return Ok(None);
    };
    let mut others = HashMap::new();
    let mut alone = HashSet::new();
    for (frame, copies) in candidates {
        if run.is_spent() {
            return Ok(None);
        }
        if let Some(at) = whole(run, &frame, &copies).await? {
            others.insert(frame, Other::Whole(at));
            continue;
        }
        // From here on nobody comes to rely on it any more.
        vault.index.mark_bad(frame.0, &frame.1).await;
        // So that it is told as damage where nothing of it is whole.
        let damaged = copies.first().map(|at| Other::Damaged(*at));
        others.extend(damaged.map(|other| (frame, other)));
        alone.insert(frame);
    }
    let named = named.into_iter();
    let alone = named.filter(|(frame, _)| alone.contains(frame));
    let all: Placed = alone.chain(spared).collect();
    // Entries move when these are stored, whether or not the packs go then.
    let packs: HashSet<u64> = all.iter().map(|(_, at)| at.pack).collect();
    delete::not_found_out(vault, &Vec::from_iter(packs)).await?;
    let Some(needless) = rescue(run, inventory, judged, all).await? else {
        return Ok(None);
    };
    for frame in needless {
        others
            .entry(frame)
            .and_modify(|other| *other = Other::Needless);
    }
    Ok(Some(others))
}

/// Stores frames anew that are bad where else they stand, each from a place in a
/// pack that is to go, if they may be needed and are whole there. Gives those that
/// are not needed; none if the budget was spent before.
async fn rescue(
    run: &mut Run<'_>,
    inventory: &Inventory,
    judged: Judged,
    frames: Placed,
) -> Result<Option<Vec<Frame>>> {
    let vault = run.vault;
    let mut needless = Vec::new();
    if frames.is_empty() {
        return Ok(Some(needless));
    }
    // The shared one: a synchronization may come to rely on what is on its way,
    // and has to be told if it is lost.
    let writer = vault.writer()?;
    let failures = writer.failures_before().await;
    let mut stored = HashSet::new();
    let mut is_cut = false;
    for (frame, at) in frames {
        if stored.contains(&frame) {
            continue;
        }
        if judged == Judged::All && !inventory.may_be_needed(frame.0, &frame.1) {
            needless.push(frame);
            continue;
        }
        is_cut = run.is_spent();
        if is_cut {
            break;
        }
        run.report.requests += 2;
        if let Some((kind, plain)) = sealed_anew(vault, &frame, at).await? {
            tracing::warn!(content = ?frame.0, digest = %frame.1, "the only whole copy of a frame is stored anew");
            writer.append(kind, vec![plain], ()).await?;
            stored.insert(frame);
        }
    }
    writer.finish_all().await?;
    writer.check(failures)?;
    Ok((!is_cut).then_some(needless))
}

/// Which frames are mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Those without which it is not known what is needed: whatever the budget.
    Maps,
    All,
}

/// Reads each frame once more that is known to be bad, and its other copies: the
/// index comes to name one that is whole, if there is one. Tells of how many.
pub(super) async fn mend(run: &mut Run<'_>, inventory: &Inventory, which: Mended) -> Result<usize> {
    let vault = run.vault;
    let mut bad = vault.index.bad_frames();
    bad.retain(|(content, _)| which == Mended::All || *content != Content::Chunk);
    let stops = match which {
        Mended::Maps => Stops::Never,
        Mended::All => Stops::WhenSpent,
    };
    let frames: HashSet<Frame> = bad.iter().copied().collect();
    // Before the copies are looked at: who stores it anew meanwhile changes it.
    let mut entries = HashMap::new();
    for frames in bad.chunks(AT_ONCE) {
        let read = entries_of(vault, frames).await?;
        entries.extend(frames.iter().copied().zip(read));
    }
    let Some(mut candidates) = candidates(run, inventory, &frames, stops).await? else {
        return Ok(0);
    };
    let condemned = vault.index.condemned();
    let mut mended = 0;
    for (frame, entry) in entries {
        let mut copies = candidates.remove(&frame).unwrap_or_default();
        if let Said::At(at) = entry.said() {
            // It may be in a pack that is younger than the inventory.
            let is_known = copies.iter().any(|copy| copy.pack == at.pack);
            if !is_known && !condemned.contains(&at.pack) && !inventory.is_unreadable(at.pack) {
                copies.insert(0, at);
            }
        }
        if stops == Stops::WhenSpent && run.is_spent() {
            run.report.is_partial = true;
            break;
        }
        let Some(whole) = whole(run, &frame, &copies).await? else {
            continue;
        };
        let _index = vault.writer()?.hold_index().await;
        let now = entries_of(vault, &[frame]).await?;
        if now.first() != Some(&entry) || !vault.index.is_marked_bad(frame.0, &frame.1) {
            continue;
        }
        tracing::info!(content = ?frame.0, digest = %frame.1, "a frame that was bad can be read");
        let mut batch = Batch::default();
        batch.put(&entry.key, &whole.encode());
        vault.catalog.write(batch).await?;
        vault.index.forget_bad(&frame).await;
        mended += 1;
    }
    if mended > 0 {
        vault.catalog.flush().await?;
    }
    Ok(mended)
}

/// Whether the budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stops {
    Never,
    WhenSpent,
}

/// Where frames stand by the tables of packs that are not condemned, the newest
/// copy first. None if the budget was spent before all packs were looked at.
async fn candidates(
    run: &mut Run<'_>,
    inventory: &Inventory,
    frames: &HashSet<Frame>,
    stops: Stops,
) -> Result<Option<HashMap<Frame, Vec<Location>>>> {
    let vault = run.vault;
    let condemned = vault.index.condemned();
    let mut packs = HashSet::new();
    for (content, digest) in frames {
        packs.extend(inventory.holders(*content, digest));
    }
    if frames.iter().any(|(content, _)| *content == Content::Chunk) {
        packs.extend(inventory.passed_over.iter().copied());
    }
    let mut candidates: HashMap<Frame, Vec<Location>> = HashMap::new();
    for number in packs.difference(&condemned).copied() {
        if stops == Stops::WhenSpent && run.is_spent() {
            run.report.is_partial = true;
            return Ok(None);
        }
        run.report.requests += 1;
        let entries = match vault.index.table(number).await {
            Ok((_, entries)) => entries,
            Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
                tracing::warn!(pack = number, %error, "a pack's table can't be read");
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in &entries {
            let frame = (entry.header.content, entry.digest);
            if frames.contains(&frame) {
                let copies = candidates.entry(frame).or_default();
                copies.push(Location::of(number, entry));
            }
        }
    }
    for copies in candidates.values_mut() {
        copies.sort_unstable_by_key(|copy| std::cmp::Reverse(copy.pack));
    }
    Ok(Some(candidates))
}

/// The first of these copies that is whole.
async fn whole(run: &mut Run<'_>, frame: &Frame, copies: &[Location]) -> Result<Option<Location>> {
    let vault = run.vault;
    let (content, digest) = frame;
    for copy in copies {
        run.report.requests += 1;
        let read = vault.reader.read_at(*content, digest, *copy, &vault.codecs);
        match read.await {
            Ok(_) => return Ok(Some(*copy)),
            Err(error) if failure::is_damage(&error) => {
                tracing::warn!(?content, %digest, %error, "a copy of a frame is damaged");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A frame as it stands in a pack, to be sealed into another; none if it is
/// damaged.
async fn sealed_anew(
    vault: &Arc<Vault>,
    frame: &Frame,
    at: Location,
) -> Result<Option<(PackKind, PlainFrame)>> {
    let (content, digest) = frame;
    let read = async {
        vault
            .reader
            .read_at(*content, digest, at, &vault.codecs)
            .await?;
        let pack = vault.index.pack(at.pack).await?;
        let mut sealed = vault.reader.read(&pack, at.offset..at.end()).await?;
        let (header, payload) = frame::open(&mut sealed, at.offset, &pack.key, &pack.name)?;
        let plain = PlainFrame {
            digest: *digest,
            header,
            payload: Bytes::copy_from_slice(payload),
        };
        Ok::<_, Error>((pack.kind, plain))
    };
    match read.await {
        Ok(plain) => Ok(Some(plain)),
        Err(error) if failure::is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
