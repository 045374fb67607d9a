//! Copies of frames: a frame may stand in several packs, and the index names one
//! of them.
//!
//! That a table tells of a copy is no proof that it is whole, so a copy is read
//! before the index comes to name it. Where none of the others is whole and the
//! frame may be needed, what stands in the pack that is to go is stored anew.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstop_core::{ChunkDigest, Error, ErrorKind, Result};
use bytes::Bytes;

use super::delete::entries_of;
use super::inventory::Inventory;
use super::{Judged, Run};
use crate::catalog::Batch;
use crate::failure;
use crate::pack::frame::{self, Content, PlainFrame};
use crate::pack::index::Location;
use crate::pack::name::PackKind;
use crate::vault::Vault;

/// A frame by its name.
pub(super) type Frame = (Content, ChunkDigest);

/// Where else, in packs that are not condemned, frames stand of which the index
/// names the copies that are given: which the index is to name then.
pub(super) async fn others(
    vault: &Arc<Vault>,
    inventory: &Inventory,
    judged: Judged,
    named: HashMap<Frame, Location>,
) -> Result<HashMap<Frame, Location>> {
    let frames: HashSet<Frame> = named.keys().copied().collect();
    let mut others = HashMap::new();
    let mut alone = Vec::new();
    for (frame, copies) in candidates(vault, inventory, &frames).await? {
        if let Some(whole) = whole(vault, &frame, &copies).await? {
            vault.index.forget_bad(&frame).await;
            others.insert(frame, whole);
            continue;
        }
        // From here on nobody comes to rely on it any more.
        vault.index.mark_bad(frame.0, &frame.1).await;
        // So that it is told as damage where nothing of it is whole.
        others.extend(copies.first().map(|copy| (frame, *copy)));
        alone.extend(named.get(&frame).map(|at| (frame, *at)));
    }
    for frame in rescue(vault, inventory, judged, alone).await? {
        others.remove(&frame);
    }
    Ok(others)
}

/// Stores frames anew that are bad where else they stand, each from a place in a
/// pack that is to go, if they may be needed and are whole there. Gives those that
/// are not needed.
pub(super) async fn rescue(
    vault: &Arc<Vault>,
    inventory: &Inventory,
    judged: Judged,
    frames: Vec<(Frame, Location)>,
) -> Result<Vec<Frame>> {
    let mut needless = Vec::new();
    if frames.is_empty() {
        return Ok(needless);
    }
    let writer = vault.writer()?.apart();
    for (frame, at) in frames {
        if judged == Judged::All && !inventory.may_be_needed(frame.0, &frame.1) {
            needless.push(frame);
        } else if let Some((kind, plain)) = sealed_anew(vault, &frame, at).await? {
            tracing::warn!(content = ?frame.0, digest = %frame.1, "the only whole copy of a frame is stored anew");
            writer.append(kind, vec![plain], ()).await?;
        }
    }
    writer.finish_all().await?;
    writer.check(0)?;
    Ok(needless)
}

/// Reads each frame once more that is known to be bad, and its other copies: the
/// index comes to name one that is whole, if there is one.
pub(super) async fn mend(run: &mut Run<'_>, inventory: &Inventory) -> Result<()> {
    let vault = run.vault;
    let bad = vault.index.bad_frames().into_iter();
    let held = bad.filter(|(content, digest)| inventory.holders(*content, digest).count() > 0);
    let frames: HashSet<Frame> = held.collect();
    if frames.is_empty() {
        return Ok(());
    }
    run.report.requests += frames.len() as u64;
    for (frame, copies) in candidates(vault, inventory, &frames).await? {
        let Some(whole) = whole(vault, &frame, &copies).await? else {
            continue;
        };
        let _index = vault.writer()?.hold_index().await;
        let mut batch = Batch::default();
        for (key, _) in entries_of(vault, &[frame]).await?.into_iter().flatten() {
            tracing::info!(content = ?frame.0, digest = %frame.1, "a frame that was bad can be read");
            batch.put(&key, &whole.encode());
        }
        vault.catalog.write(batch).await?;
        vault.index.forget_bad(&frame).await;
    }
    vault.catalog.flush().await
}

/// Where frames stand, in packs that are not condemned, the newest copy first.
async fn candidates(
    vault: &Vault,
    inventory: &Inventory,
    frames: &HashSet<Frame>,
) -> Result<HashMap<Frame, Vec<Location>>> {
    let condemned = vault.index.condemned();
    let mut packs: HashSet<u64> = inventory.passed_over.iter().copied().collect();
    for (content, digest) in frames {
        packs.extend(inventory.holders(*content, digest));
    }
    let mut candidates: HashMap<Frame, Vec<Location>> = HashMap::new();
    for number in packs {
        if frames.is_empty() || condemned.contains(&number) {
            continue;
        }
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
    Ok(candidates)
}

/// The first of these copies that is whole.
async fn whole(vault: &Vault, frame: &Frame, copies: &[Location]) -> Result<Option<Location>> {
    let (content, digest) = frame;
    for copy in copies {
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
