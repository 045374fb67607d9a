//! What is done to the catalog's objects from outside, while it is closed or
//! not yet open.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, Error, Result};
use object_store::path::Path;
use slatedb::VersionedManifest;
use slatedb::admin::{Admin, AdminBuilder};

use crate::catalog_clock::CatalogClock;
use crate::failure;
use crate::place::Place;

/// How long the store may take: asked this way, SlateDB would ask again for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an operation gives, if it ends soon.
pub(crate) async fn soon<T>(place: &Place, work: impl Future<Output = T>) -> Result<T> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.map_err(|_| {
        Error::unavailable(format!(
            "the store does not answer for the catalog at {}",
            place.name
        ))
    })
}

/// The catalog of the vault at a place, by the vault's clock.
pub(crate) fn admin(place: &Place, clock: &Arc<dyn Clock>) -> AdminBuilder<Path> {
    let path = place.path(&place.catalog_folder());
    Admin::builder(path, Arc::clone(&place.store))
        .with_system_clock(CatalogClock::new(Arc::clone(clock)))
}

/// The newest manifest of the catalog, if it has one.
///
/// # Errors
/// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the store does not
/// give it soon.
pub(crate) async fn manifest(place: &Place, admin: &Admin) -> Result<Option<VersionedManifest>> {
    soon(place, admin.read_manifest(None))
        .await?
        .map_err(|error| failure::of_catalog("reading the vault's catalog", error))
}
