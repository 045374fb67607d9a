//! Merging the catalog's tables: when a vault is closed, and when an old key
//! goes.
//!
//! SlateDB merges tables in the background of long-lived processes. Runs of a
//! few milliseconds never let it come to that, and every lookup of what is not
//! there asks each table.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, Error, Result};
use slatedb::admin::Admin;
use slatedb::compactor::{CompactionSpec, SourceId};
use slatedb::config::{CompactionWorkerOptions, CompactorOptions};
use tokio_util::sync::CancellationToken;

use crate::catalog::{Batch, OWNER_PROOF};
use crate::catalog_admin;
use crate::failure;
use crate::place::Place;
use crate::seal::Seal;
use crate::sealed_blocks::SealedBlocks;
use crate::vault::Vault;

/// From so many unmerged tables on they are merged; SlateDB merges no fewer.
const TABLES: usize = 4;

/// How often it is looked whether something can be done, or is.
const INTERVAL: Duration = Duration::from_millis(10);

/// After this it is left to a later run: what is merged by then stays.
const PATIENCE: Duration = Duration::from_secs(5);

/// Merges the catalog's newest tables if there are several. The catalog is
/// closed, and its vault still owned.
pub(crate) async fn tables(place: &Place, seal: &Arc<Seal>, clock: &Arc<dyn Clock>) -> Result<()> {
    let admin = catalog_admin::admin(place, clock)
        .with_block_transformer(Arc::new(SealedBlocks::new(Arc::clone(seal))))
        .build();
    if !is_crowded(place, &admin).await? {
        return Ok(());
    }
    let enough = CancellationToken::new();
    let options = CompactorOptions {
        poll_interval: INTERVAL,
        commit_compacted_interval: INTERVAL,
        max_concurrent_compactions: 1,
        object_store_max_retries: Some(1),
        worker: Some(CompactionWorkerOptions {
            compactions_poll_interval: INTERVAL,
            max_sst_size: 16 << 20,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    };
    let merging = admin.run_compactor_with_options(enough.clone(), options);
    let watching = async {
        let merged = async {
            while is_crowded(place, &admin).await? {
                tokio::time::sleep(INTERVAL).await;
            }
            Ok(())
        };
        let watched = tokio::time::timeout(PATIENCE, merged).await;
        enough.cancel();
        watched.unwrap_or(Ok(()))
    };
    // Ending it asks the store too, which may have stopped to answer.
    let both = async { futures::join!(merging, watching) };
    let Ok((merged, watched)) = tokio::time::timeout(3 * PATIENCE, both).await else {
        return Err(Error::unavailable(format!(
            "the store does not let the tables of the catalog at {} be merged",
            place.name
        )));
    };
    merged.map_err(|error| failure::of_catalog("merging the catalog's tables", error))?;
    watched
}

/// How often it is looked whether the catalog was written anew.
const LOOK: Duration = Duration::from_millis(100);

/// How long writing the catalog anew may make no progress.
const STANDSTILL: Duration = Duration::from_mins(10);

/// Writes the whole catalog anew, under the current key, beside its use: when
/// this returns, no table is left that was begun before.
///
/// Twice: what was being written when the first round began may have been
/// begun before the last rotation, and so hold blocks of both keys. As one
/// merging is under way at a time, it has ended when the first round has, and
/// the second one takes it in.
pub(crate) async fn anew(vault: &Vault) -> Result<()> {
    let _merging = vault.catalog.merging();
    let admin = catalog_admin::admin(&vault.place, &vault.clock).build();
    for _ in 0..2 {
        let mut proof = Batch::default();
        proof.delete(OWNER_PROOF);
        // Also what stands in logs, so that there is something to flush.
        vault.commit_batch(proof).await?;
        vault.catalog.flush_tables().await?;
        all_tables(vault, &admin).await?;
    }
    Ok(())
}

/// Has all tables merged that there are now.
async fn all_tables(vault: &Vault, admin: &Admin) -> Result<()> {
    let failed = |error| failure::of_catalog("writing the catalog anew", error);
    let mut old: Option<HashSet<_>> = None;
    let mut asked = None;
    let (mut left, mut waited) = (usize::MAX, Duration::ZERO);
    loop {
        let Some(manifest) = catalog_admin::manifest(&vault.place, admin).await? else {
            return Err(Error::corrupt("the vault's catalog has no manifest"));
        };
        let tables: HashSet<_> = manifest.all_sst_views().map(|view| view.sst.id).collect();
        let old = old.get_or_insert_with(|| tables.clone());
        let still = old.intersection(&tables).count();
        if still == 0 {
            return Ok(());
        }
        if still < left {
            (left, waited) = (still, Duration::ZERO);
        } else if waited >= STANDSTILL {
            return Err(Error::unavailable(format!(
                "the tables of the catalog at {} are not merged; repeat later",
                vault.place.name
            )));
        }
        let is_over = match asked {
            Some(id) => {
                let compaction = admin.read_compaction(id, None).await.map_err(failed)?;
                compaction.is_none_or(|compaction| !compaction.active())
            }
            None => true,
        };
        if is_over {
            let newest = manifest.l0().iter().map(|view| SourceId::SstView(view.id));
            let runs = manifest.compacted().iter().map(|run| run.id);
            let sources = newest
                .chain(runs.clone().map(SourceId::SortedRun))
                .collect();
            let spec = CompactionSpec::new(sources, runs.min().unwrap_or(0));
            let submitted = admin.submit_compaction(spec).await.map_err(failed)?;
            asked = Some(submitted.id());
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    }
}

async fn is_crowded(place: &Place, admin: &Admin) -> Result<bool> {
    let manifest = catalog_admin::manifest(place, admin).await?;
    Ok(manifest.is_some_and(|manifest| manifest.l0().len() >= TABLES))
}
