//! Condemning: from here on nobody relies on a pack, and there is no way back.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::Result;

use super::inventory::Inventory;
use super::{Run, count_packs};
use crate::catalog::{Batch, CONDEMNED, NEXT_PACK, PACKS, numbered_key};
use crate::ledger::{self, Event, PER_EVENT};
use crate::maintenance::to_its_end;
use crate::pack::name::PackName;
use crate::readers;
use crate::record::{self, CondemnedPack, NextPack, PackRecord};
use crate::vault::Vault;

/// Condemns the packs in which nothing is needed, all in one step; gives their
/// places in the inventory.
pub(super) async fn dead(run: &mut Run<'_>, inventory: &Arc<Inventory>) -> Result<HashSet<usize>> {
    let dead = if run.options.dry_run {
        find_dead(inventory)
    } else {
        let all = Arc::clone(inventory);
        condemn(run.vault, inventory, move || find_dead(&all)).await?
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
/// rely on anything any more. Durable when this returns; once begun it goes on
/// to its end.
pub(super) async fn condemn(
    vault: &Arc<Vault>,
    inventory: &Arc<Inventory>,
    choose: impl FnOnce() -> HashSet<usize> + Send + 'static,
) -> Result<HashSet<usize>> {
    let (vault, inventory) = (Arc::clone(vault), Arc::clone(inventory));
    to_its_end(async move { condemn_now(&vault, &inventory, choose).await }).await
}

async fn condemn_now(
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
    // From here on nobody relies on them. Nothing is deleted before that is
    // durable.
    vault.index.condemn(numbers.iter().copied());
    vault.reading.condemned(numbers.clone());
    drop(all);
    let names: Vec<PackName> = chosen
        .iter()
        .map(|at| inventory.packs[*at].record.name)
        .collect();
    let mut condemned = CondemnedPack {
        at: vault.clock.now(),
        readers: None,
    };
    {
        let _one = vault.commit.lock().await;
        ledger::commit(vault, batch(&numbers, &condemned)?, events(&names)).await?;
    }
    // After the flush: who registers from now on finds them condemned. If this
    // is lost, it is found out again, of later readers too.
    condemned.readers = Some(readers::registered(&vault.place, vault.clock.now()).await?);
    vault.catalog.write(batch(&numbers, &condemned)?).await?;
    Ok(chosen)
}

/// Condemns packs that the catalog did not know: nobody relies on them, or reads
/// them. They get numbers and records, so that they are deleted as others are.
pub(super) async fn unknown(vault: &Arc<Vault>, packs: Vec<PackRecord>) -> Result<()> {
    let vault = Arc::clone(vault);
    to_its_end(async move { unknown_now(&vault, &packs).await }).await
}

async fn unknown_now(vault: &Vault, packs: &[PackRecord]) -> Result<()> {
    let condemned = CondemnedPack {
        at: vault.clock.now(),
        readers: Some(Vec::new()),
    };
    let _one = vault.commit.lock().await;
    let reserved = vault.writer()?.reserve_numbers(packs.len() as u64).await;
    let numbers: Vec<u64> = reserved.numbers.clone().collect();
    vault.index.condemn(numbers.iter().copied());
    let mut batch = batch(&numbers, &condemned)?;
    for (number, record) in numbers.iter().zip(packs) {
        batch.put(&numbered_key(PACKS, *number), &record::encode(record)?);
    }
    // Or the next owner would give a number of theirs to a pack that is needed.
    let number = reserved.numbers.end;
    batch.put(NEXT_PACK, &record::encode(&NextPack { number })?);
    let names: Vec<PackName> = packs.iter().map(|record| record.name).collect();
    ledger::commit(vault, batch, events(&names)).await
}

/// What the ledger tells of condemned packs.
fn events(names: &[PackName]) -> Vec<Event> {
    let events = names.chunks(PER_EVENT).map(|packs| Event::Condemned {
        packs: packs.to_vec(),
    });
    events.collect()
}

fn batch(numbers: &[u64], condemned: &CondemnedPack) -> Result<Batch> {
    let value = record::encode(condemned)?;
    let mut batch = Batch::default();
    for number in numbers {
        batch.put(&numbered_key(CONDEMNED, *number), &value);
    }
    Ok(batch)
}
