//! Condemning: from here on nobody relies on a pack, and there is no way back.

use std::collections::HashSet;

use backstop_core::Result;

use super::inventory::Inventory;
use super::{Run, count_packs};
use crate::catalog::{Batch, CONDEMNED, numbered_key};
use crate::readers;
use crate::record::{self, CondemnedPack};
use crate::vault::Vault;

/// Condemns the packs in which nothing is needed, all in one step; gives their
/// places in the inventory.
pub(super) async fn dead(run: &mut Run<'_>, inventory: &Inventory) -> Result<HashSet<usize>> {
    let dead = if run.options.dry_run {
        find_dead(inventory)
    } else {
        condemn(run.vault, inventory, || find_dead(inventory)).await?
    };
    for count in inventory.counts() {
        run.report.live += count.live;
        run.report.dead += count.all - count.live;
    }
    let records = dead.iter().map(|at| &inventory.packs[*at].record);
    count_packs(&mut run.report.dropped, records);
    Ok(dead)
}

fn find_dead(inventory: &Inventory) -> HashSet<usize> {
    let counts = inventory.counts().into_iter().enumerate();
    let dead = counts.filter(|(_, count)| count.live == 0);
    dead.map(|(at, _)| at).collect()
}

/// Condemns the packs that `choose` gives: it is asked when nobody can come to
/// rely on anything any more. Durable when this returns.
pub(super) async fn condemn(
    vault: &Vault,
    inventory: &Inventory,
    choose: impl FnOnce() -> HashSet<usize>,
) -> Result<HashSet<usize>> {
    let all = vault.gate.write().await;
    let chosen = choose();
    if chosen.is_empty() {
        return Ok(chosen);
    }
    let numbers: Vec<u64> = chosen
        .iter()
        .map(|at| inventory.packs[*at].number)
        .collect();
    let mut condemned = CondemnedPack {
        at: vault.clock.now(),
        readers: None,
    };
    let batch_now = batch(&numbers, &condemned)?;
    // First here: whoever drops this call meanwhile must not leave packs that
    // are condemned and relied on.
    vault.index.condemn(numbers.iter().copied());
    vault.reading.condemned(numbers.clone());
    vault.commit_batch(batch_now).await?;
    drop(all);
    // After the flush: who registers from now on finds them condemned. If this
    // is lost, it is found out again, of later readers too.
    condemned.readers = Some(readers::registered(&vault.place, vault.clock.now()).await?);
    vault.catalog.write(batch(&numbers, &condemned)?).await?;
    Ok(chosen)
}

fn batch(numbers: &[u64], condemned: &CondemnedPack) -> Result<Batch> {
    let value = record::encode(condemned)?;
    let mut batch = Batch::default();
    for number in numbers {
        batch.put(&numbered_key(CONDEMNED, *number), &value);
    }
    Ok(batch)
}
