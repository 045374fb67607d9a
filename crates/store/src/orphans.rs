//! What owners leave behind that did not close: packs that were never finished,
//! and SlateDB's own old objects.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, Result, Timestamp};
use slatedb::config::{GarbageCollectorDirectoryOptions, GarbageCollectorOptions};

use crate::catalog::{Batch, CLEAN_EPOCH, Catalog, TAKEOVER};
use crate::catalog_admin;
use crate::failure;
use crate::pack::name::PackName;
use crate::pack::sink::{PackStore, UNFINISHED};
use crate::place::{Place, catalog_folder};
use crate::record::{self, CleanEpoch, Overridden};

/// Deletes what owners before us began and never finished.
///
/// Only of epochs before our own: an owner that was suspended and then wakes
/// can delete nothing of a later one. Complete packs stay, even those that the
/// catalog does not know: if a log of the catalog was lost, they are what its
/// points are found again from. Collection decides about them. Costs nothing
/// when the owner before us closed; tells whether it did.
pub(crate) async fn sweep(catalog: &Catalog, packs: &dyn PackStore) -> Result<bool> {
    let epoch = catalog.epoch();
    let clean = match catalog.get(CLEAN_EPOCH).await? {
        Some(value) => record::decode::<CleanEpoch>("the mark of clean epochs", &value)?.epoch,
        None => 0,
    };
    if clean + 1 >= epoch {
        return Ok(true);
    }
    for (file, bytes) in packs.list().await? {
        // The name of an unfinished pack is that of the pack, and more.
        let unfinished = file
            .strip_suffix(UNFINISHED)
            .and_then(|pack| pack.split_once('.'))
            .and_then(|(name, _)| PackName::try_from(name.to_owned()).ok());
        if unfinished.is_some_and(|name| name.epoch < epoch) {
            tracing::info!(file, bytes, "deleting a pack that was never finished");
            packs.delete(&format!("packs/{file}")).await?;
        }
    }
    mark_clean(catalog, epoch - 1).await?;
    Ok(false)
}

/// Notes that epochs up to this one left no orphans.
pub(crate) async fn mark_clean(catalog: &Catalog, epoch: u64) -> Result<()> {
    let mut batch = Batch::default();
    batch.put(CLEAN_EPOCH, &record::encode(&CleanEpoch { epoch })?);
    catalog.write(batch).await
}

/// When an owner was last overridden.
pub(crate) async fn overridden(catalog: &Catalog) -> Result<Option<Timestamp>> {
    let value = catalog.get(TAKEOVER).await?;
    value
        .map(|value| Ok(record::decode::<Overridden>("the mark of a takeover", &value)?.at))
        .transpose()
}

/// Notes that an owner was overridden, who may still be alive.
pub(crate) async fn note_takeover(catalog: &Catalog, at: Timestamp) -> Result<()> {
    // A clock that was set back does not shorten an earlier one's time.
    let at = overridden(catalog)
        .await?
        .map_or(at, |before| before.max(at));
    let mut batch = Batch::default();
    batch.put(TAKEOVER, &record::encode(&Overridden { at })?);
    catalog.write(batch).await?;
    catalog.flush().await
}

/// How long an owner that was overridden may sleep before its traces are
/// deleted that would stop it.
const SLEEPER: Duration = Duration::from_hours(7 * 24);

/// How often a vault that is opened for short runs is tidied: every so many
/// epochs.
const TIDY_EPOCHS: u64 = 8;

/// Whether closing now should [`tidy`].
pub(crate) fn is_due(epoch: u64) -> bool {
    epoch.is_multiple_of(TIDY_EPOCHS)
}

/// Whether nobody but us can be writing: on local files, where the lock says
/// so, unless an owner was overridden lately.
pub(crate) async fn is_alone(catalog: &Catalog, place: &Place, now: Timestamp) -> Result<bool> {
    if place.folder.is_none() {
        return Ok(false);
    }
    let overridden = overridden(catalog).await?;
    Ok(overridden.is_none_or(|at| now.since(at) > SLEEPER))
}

/// Deletes catalogs that a rebuild has replaced, when nobody can still mean to
/// write them.
async fn sweep_catalogs(place: &Place, clock: &Arc<dyn Clock>) -> Result<()> {
    if place.catalog == 0 {
        return Ok(());
    }
    for catalog in place.catalogs().await? {
        if catalog >= place.catalog {
            continue;
        }
        let folder = catalog_folder(catalog);
        let last = place.last_written(&folder).await?;
        if last.is_some_and(|last| clock.now().since(last) > SLEEPER) {
            tracing::info!(folder, "deleting a catalog that was replaced");
            place.delete_folder(&folder).await?;
        }
    }
    Ok(())
}

/// Deletes SlateDB's objects that nothing needs any more: each opening leaves
/// manifests and fences, and its own collector runs only in long-lived
/// processes.
///
/// Fences and manifests keep a suspended old owner from writing. Where one
/// can exist they stay for a week.
pub(crate) async fn tidy(place: &Place, alone: bool, clock: &Arc<dyn Clock>) -> Result<()> {
    let directory = |min_age| {
        Some(GarbageCollectorDirectoryOptions {
            interval: None,
            min_age,
            dry_run: false,
        })
    };
    // Readers that are just opening hold no checkpoint yet.
    let opening = Duration::from_secs(10);
    let age = if alone { opening } else { SLEEPER };
    let options = GarbageCollectorOptions {
        manifest_options: directory(age),
        wal_options: directory(opening.max(age / 100)),
        wal_fence_options: directory(age),
        compacted_options: directory(opening),
        compactions_options: directory(age),
        boundary_files_enabled: !alone,
        object_store_max_retries: Some(1),
        ..GarbageCollectorOptions::default()
    };
    sweep_catalogs(place, clock).await?;
    let admin = catalog_admin::admin(place, clock).build();
    catalog_admin::soon(place, admin.run_gc_once(options))
        .await?
        .map_err(|error| failure::of_catalog("tidying the vault's catalog", error))
}
