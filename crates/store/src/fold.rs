//! Merging the catalog's tables when a vault is closed.
//!
//! SlateDB merges tables in the background of long-lived processes. Runs of a
//! few milliseconds never let it come to that, and every lookup of what is not
//! there asks each table.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, Error, Result};
use slatedb::admin::Admin;
use slatedb::config::{CompactionWorkerOptions, CompactorOptions};
use tokio_util::sync::CancellationToken;

use crate::catalog_admin;
use crate::failure;
use crate::place::Place;
use crate::seal::Seal;
use crate::sealed_blocks::SealedBlocks;

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

async fn is_crowded(place: &Place, admin: &Admin) -> Result<bool> {
    let manifest = catalog_admin::manifest(place, admin).await?;
    Ok(manifest.is_some_and(|manifest| manifest.l0().len() >= TABLES))
}
