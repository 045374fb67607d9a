//! Whether logs of the catalog are missing.
//!
//! SlateDB finds the newest of its logs by probing: a log that is gone is taken
//! for the end, and the catalog shown as it was before it, without a word. Logs
//! are written one after another, so a missing one before the newest shows as a
//! gap. That the very newest are gone can't be seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstop_core::{Clock, Error, Result};
use slatedb::VersionedManifest;

use crate::catalog_admin;
use crate::place::Place;

/// The numbers of the logs that are there.
async fn listed(place: &Place, folder: &str) -> Result<BTreeSet<u64>> {
    let names = place.list(folder).await?;
    let number = |name: &String| {
        let name = name.rsplit('/').next()?;
        name.strip_suffix(".sst")?.parse().ok()
    };
    Ok(names.iter().filter_map(number).collect())
}

/// The object of a log.
fn object(folder: &str, number: u64) -> String {
    format!("{folder}/{number:020}.sst")
}

/// What the catalog's manifest and logs tell before the catalog is opened.
pub(crate) struct Found {
    /// The latest manifest, if the catalog has one.
    pub(crate) manifest: Option<VersionedManifest>,
    /// The object of the first log that is missing, if one is.
    pub(crate) missing: Option<String>,
    /// The object of the newest log, if there is one.
    pub(crate) newest: Option<String>,
}

/// Reads the catalog's manifest and lists its logs.
pub(crate) async fn look(place: &Place, clock: &Arc<dyn Clock>) -> Result<Found> {
    let folder = format!("{}/wal", place.catalog_folder());
    // The list comes first: what is deleted later is no gap in it, and what is
    // deleted before is not needed by the manifest.
    let mut there = listed(place, &folder).await?;
    let admin = catalog_admin::admin(place, clock).build();
    let manifest = catalog_admin::manifest(place, &admin).await?;
    let mut found = Found {
        manifest,
        missing: None,
        newest: there.last().map(|number| object(&folder, *number)),
    };
    let (Some(manifest), Some(newest)) = (&found.manifest, there.last().copied()) else {
        return Ok(found);
    };
    let needed = manifest.replay_after_wal_id() + 1..newest;
    let gap = |there: &BTreeSet<u64>| needed.clone().find(|number| !there.contains(number));
    if gap(&there).is_some() {
        // A list that is made while logs are written may lack one and show the
        // next.
        there.extend(listed(place, &folder).await?);
    }
    found.missing = gap(&there).map(|number| object(&folder, number));
    Ok(found)
}

/// The error of a vault that may not be written without this log.
pub(crate) fn refuse(log: &str) -> Error {
    Error::corrupt(format!(
        "object {log}, a log of the vault's catalog, is missing, and with it what was committed \
         then and later; bring it back, or open the vault for reading only"
    ))
}
