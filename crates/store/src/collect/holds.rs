//! The store's legal hold on what recovery points with a hold need.
//!
//! As long as any point has a hold, the packs that such points need are held:
//! what they need is found by the walk that a collection makes of everything,
//! made of these points alone. A pack that could not be looked at counts as
//! needed. Holds are lifted only after all that are needed stand.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{CollectOptions, Error, Result};
use futures::future::join_all;

use super::inventory::Inventory;
use super::locks::{AT_ONCE, Pass, openers, put};
use super::roots::Roots;
use super::walk;
use crate::catalog::{PACKS, pack_number};
use crate::pack::frame::Content;
use crate::record::{self, PackHold, PackRecord, PointRecord};
use crate::vault::Vault;

/// Puts under legal hold what held points need, and lifts it from the rest.
pub(super) async fn renew(
    vault: &Arc<Vault>,
    options: &CollectOptions,
    pass: &mut Pass,
) -> Result<()> {
    let (points, packs) = {
        let _one = vault.commit.lock().await;
        vault.catalog.flush().await?;
        let mut points = vault.all_points().await?;
        points.retain(|record| !record.point.marks.holds.is_empty());
        (points, all_packs(vault).await?)
    };
    let is_held = packs
        .iter()
        .any(|(_, record)| record.hold != PackHold::None);
    if points.is_empty() && !is_held {
        return Ok(());
    }
    let condemned = vault.index.condemned();
    let (needed, lost) = needed(vault, options, &points).await?;
    let (held, free): (Vec<_>, Vec<_>) = packs
        .into_iter()
        .partition(|(number, _)| needed.contains(number) && !condemned.contains(number));
    let (there, more): (Vec<_>, Vec<_>) = held
        .into_iter()
        .partition(|(_, record)| record.hold == PackHold::On);
    for (_, record) in &there {
        pass.report.held.add(record.bytes);
    }
    if !points.is_empty() {
        set_openers(vault, true, pass).await?;
    }
    let left = set(vault, more, true, pass).await?;
    for record in &left {
        pass.report.unheld.add(record.bytes);
    }
    if let Some(lost) = lost.first() {
        // What it needs is not known: nothing is let go.
        return Err(Error::corrupt(format!(
            "what points with a hold need is not all known, so no legal hold is lifted: {lost}"
        )));
    }
    if !left.is_empty() {
        return Ok(());
    }
    // Before the last pack: with none held nobody comes back to these.
    if points.is_empty() {
        set_openers(vault, false, pass).await?;
    }
    let free = free.into_iter();
    let free = free.filter(|(_, record)| record.hold != PackHold::None);
    set(vault, free.collect(), false, pass).await?;
    Ok(())
}

/// All packs that the catalog knows, condemned ones too.
async fn all_packs(vault: &Vault) -> Result<Vec<(u64, PackRecord)>> {
    let mut all = Vec::new();
    let mut entries = vault.catalog.scan(&[PACKS]).await?;
    while let Some((key, value)) = entries.next().await? {
        all.push((
            pack_number(&key)?,
            record::decode("a pack's record", &value)?,
        ));
    }
    Ok(all)
}

/// The packs that points need, and what of these could not be read.
async fn needed(
    vault: &Arc<Vault>,
    options: &CollectOptions,
    points: &[PointRecord],
) -> Result<(HashSet<u64>, Vec<String>)> {
    if points.is_empty() {
        return Ok(Default::default());
    }
    let inventory = Arc::new(Inventory::take(vault, options).await?);
    let mut roots = Roots::default();
    for record in points {
        let frame = record.frame.map(|digest| (Content::Point, digest));
        roots.frames.extend(frame);
        roots.add_manifest(vault, record).await?;
    }
    let walked = walk::walk(vault, &inventory, &roots).await?;
    let counts = inventory.packs.iter().zip(inventory.counts());
    let mut needed: HashSet<u64> = counts
        .filter(|(_, count)| count.live > 0)
        .map(|(held, _)| held.number)
        .collect();
    needed.extend(inventory.unreadable.iter().map(|(number, _)| *number));
    needed.extend(&inventory.passed_over);
    let mut lost = roots.lost;
    if walked.lost > 0 {
        lost.push(format!("{} map nodes can't be read", walked.lost));
    }
    Ok((needed, lost))
}

async fn set_openers(vault: &Vault, is_held: bool, pass: &mut Pass) -> Result<()> {
    for name in openers(vault).await? {
        let set = vault.place.locks.set_hold(&name, is_held).await;
        pass.note(set);
    }
    Ok(())
}

/// Sets or lifts the holds of packs; gives those of which it failed.
async fn set(
    vault: &Vault,
    packs: Vec<(u64, PackRecord)>,
    is_held: bool,
    pass: &mut Pass,
) -> Result<Vec<PackRecord>> {
    let locks = &vault.place.locks;
    let mut left = Vec::new();
    for some in packs.chunks(AT_ONCE) {
        if pass.is_over() {
            left.extend(some.iter().map(|(_, record)| record.clone()));
            continue;
        }
        // Before it is asked for: whoever goes away in between must not leave a
        // hold that nobody knows of.
        let in_doubt = some.iter().map(|(number, record)| {
            let hold = PackHold::Unknown;
            (*number, PackRecord { hold, ..*record })
        });
        put(vault, &in_doubt.collect::<Vec<_>>()).await?;
        vault.catalog.flush().await?;
        let setting = some.iter().cloned().map(|(number, record)| async move {
            let name = record.name.path(record.kind);
            let set = locks.set_hold(&name, is_held).await;
            (number, record, set)
        });
        let done = join_all(setting).await;
        let mut changed = Vec::new();
        for (number, record, set) in done {
            if pass.note(set).is_none() {
                left.push(record);
                continue;
            }
            let hold = if is_held {
                pass.report.held.add(record.bytes);
                PackHold::On
            } else {
                pass.report.released.add(record.bytes);
                PackHold::None
            };
            changed.push((number, PackRecord { hold, ..record }));
        }
        put(vault, &changed).await?;
    }
    vault.catalog.flush().await?;
    Ok(left)
}
