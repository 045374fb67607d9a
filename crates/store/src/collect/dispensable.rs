//! Maps that nobody misses if they can't be read: folded ones, and those of
//! synchronizations that could be continued. They must not hold up a collection,
//! which would wait for a source that may never come again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Result, SourceName};
use bytes::Bytes;

use super::Run;
use super::inventory::Inventory;
use super::roots::{Dispensable, Roots};
use super::walk::walk_from;
use crate::catalog::{Batch, UNFINISHED};
use crate::record::{self, UnfinishedEntry};
use crate::vault::Vault;

/// Marks what dispensable maps need, after all that is needed for good; gives
/// those that can't be read. Of these nothing is marked.
pub(super) async fn mark<'a>(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    roots: &'a Roots,
) -> Result<Vec<&'a Dispensable>> {
    let before = inventory.walked();
    let all: Vec<_> = roots.dispensable.iter().collect();
    if walk(run, inventory, roots, &all).await? {
        return Ok(Vec::new());
    }
    // Which it is, is told only where each is walked by itself, from what is
    // whole: below a lost node nothing is marked, for whoever shares it.
    inventory.walk_back(&before);
    let mut lost = Vec::new();
    for maps in all {
        let before = inventory.walked();
        if !walk(run, inventory, roots, &[maps]).await? {
            inventory.walk_back(&before);
            lost.push(maps);
        }
    }
    Ok(lost)
}

/// Walks from some; tells whether all could be read.
async fn walk(
    run: &mut Run<'_>,
    inventory: &Arc<Inventory>,
    roots: &Roots,
    some: &[&Dispensable],
) -> Result<bool> {
    let frames: Vec<_> = some.iter().flat_map(|maps| &maps.frames).copied().collect();
    let walked = walk_from(run.vault, inventory, &frames, roots.unstored.as_ref()).await?;
    run.report.nodes += walked.nodes;
    run.report.requests += walked.requests;
    Ok(walked.lost == 0)
}

/// Forgets maps that can't be read, for good. Those of a source that is being
/// synchronized, or has been since, stay: it may stand on them. Tells how many
/// synchronizations were given up.
pub(super) async fn forget(vault: &Vault, lost: &[&Dispensable]) -> Result<u64> {
    let _one = vault.commit.lock().await;
    let mut batch = Batch::default();
    let mut given_up = 0;
    for maps in lost {
        let now = vault.catalog.get(&maps.key).await?;
        if vault.session_of(&maps.source).is_some() || now.as_ref() != Some(&maps.value) {
            continue;
        }
        tracing::warn!(source = %maps.source, unfinished = maps.is_unfinished, "maps that can't be read are forgotten");
        batch.delete(&maps.key);
        given_up += u64::from(maps.is_unfinished);
    }
    vault.commit_batch(batch).await?;
    Ok(given_up)
}

/// Gives up the synchronizations that nobody went on with for so long, by the
/// vault's time; a dry run tells which they are.
pub(super) async fn give_up_old(
    vault: &Vault,
    after: Duration,
    dry_run: bool,
) -> Result<HashSet<Bytes>> {
    let _one = vault.commit.lock().await;
    let now = vault.time().await?.time;
    let mut batch = Batch::default();
    let mut old = HashSet::new();
    let mut entries = vault.catalog.scan(&[UNFINISHED]).await?;
    while let Some((key, value)) = entries.next().await? {
        let what = "the record of an unfinished synchronization";
        let entry: UnfinishedEntry = record::decode(what, &value)?;
        if now.since(entry.at) >= after && !is_under_way(vault, &entry.source) {
            tracing::info!(source = %entry.source, at = %entry.at, "a synchronization that nobody goes on with is given up");
            batch.delete(&key);
            old.insert(key);
        }
    }
    if !dry_run {
        vault.commit_batch(batch).await?;
    }
    Ok(old)
}

fn is_under_way(vault: &Vault, source: &SourceName) -> bool {
    vault.session_of(source).is_some()
}
