//! What a vault stores now, by kind of object.

use std::collections::BTreeMap;

use backstop_core::{ByteCount, Result};
use futures::TryStreamExt;
use object_store::ObjectMeta;
use serde::Serialize;

use super::ObjectKind;
use super::metered::object_kind;
use crate::catalog::PACKS;
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::pack::name::PackKind;
use crate::place::catalog_folder;
use crate::readers::READERS;
use crate::record::{self, PackRecord};

/// Objects that are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stored {
    /// How many there are.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
}

impl Stored {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(ByteCount(bytes));
    }
}

impl DedupStore {
    /// What is stored now, by kind of object. Packs are those that the catalog
    /// knows, condemned ones too; what a crash left is not among them, and parts
    /// of uploads that were never finished show nowhere. The rest is listed, in a
    /// few requests.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn stored(&self) -> Result<BTreeMap<ObjectKind, Stored>> {
        let vault = &self.vault;
        let _listing = vault.place.meter.begin(super::Operation::List);
        let mut stored: BTreeMap<ObjectKind, Stored> = BTreeMap::new();
        let mut packs = vault.catalog.scan(&[PACKS]).await?;
        while let Some((_, value)) = packs.next().await? {
            let record: PackRecord = record::decode("a pack's record", &value)?;
            let kind = match record.kind {
                PackKind::Data => ObjectKind::DataPacks,
                PackKind::Map => ObjectKind::MapPacks,
            };
            stored.entry(kind).or_default().add(record.bytes);
        }
        let (store, root) = (&vault.place.store, &vault.place.prefix);
        let mut count = |kind, object: &ObjectMeta| {
            stored.entry(kind).or_default().add(object.size);
        };
        let folders = [READERS.to_owned(), "keys".to_owned()].into_iter();
        // Those that a rebuild has replaced take space too.
        let catalogs = vault.place.catalogs().await?.into_iter();
        for folder in folders.chain(catalogs.map(catalog_folder)) {
            let path = vault.place.path(&folder);
            let mut listed = store.list(Some(&path));
            let failed = |error| failure::of_store(&folder, error);
            while let Some(object) = listed.try_next().await.map_err(failed)? {
                count(object_kind(&format!("{folder}/")), &object);
            }
        }
        let beside = store.list_with_delimiter(Some(root)).await;
        let beside = beside.map_err(|error| failure::of_store(&vault.place.name, error))?;
        for object in &beside.objects {
            count(ObjectKind::Other, object);
        }
        Ok(stored)
    }
}
