//! Sees to it that nobody writes a catalog that no longer counts.
//!
//! An owner that was suspended, or another rebuild, may wake and go on with a
//! catalog that this one replaces, and would report what nobody finds again. A
//! log of SlateDB is stored only where none is yet: an empty one under the next
//! number makes the owner's next flush fail.

use std::collections::BTreeMap;

use backstop_core::{Error, ErrorKind, Result};

use crate::place::{Place, catalog_folder};

/// The fences of all catalogs but one, each with the number of its log.
#[derive(Debug)]
pub(super) struct Fences(BTreeMap<u32, Option<u64>>);

/// How often it is tried to come before an owner that still writes.
const TRIES: usize = 16;

/// The number of the newest log of a catalog; none if it has none left.
async fn newest_log(place: &Place, catalog: u32) -> Result<Option<u64>> {
    let names = place.list(&logs(catalog)).await?;
    let numbers = names.iter().filter_map(|name| {
        let name = name.rsplit('/').next()?;
        name.strip_suffix(".sst")?.parse::<u64>().ok()
    });
    Ok(numbers.max())
}

fn logs(catalog: u32) -> String {
    format!("{}/wal", catalog_folder(catalog))
}

impl Fences {
    /// Fences all catalogs that there are; gives the number of a new one too.
    pub(super) async fn put(place: &Place) -> Result<(Self, u32)> {
        let there = place.catalogs().await?;
        let next = there
            .iter()
            .max()
            .map_or(0, |last| *last)
            .max(place.catalog);
        let next = next
            .checked_add(1)
            .ok_or_else(|| Error::internal("the vault was rebuilt too often"))?;
        let mut fences = BTreeMap::new();
        for catalog in there {
            fences.insert(catalog, fence(place, catalog).await?);
        }
        Ok((Self(fences), next))
    }

    /// Deletes the catalogs of rebuilds that were interrupted: those after the
    /// one that counted before. Who wakes and goes on with one finds, before it
    /// would count, that it is not alone.
    pub(super) async fn sweep(&self, place: &Place, before: u32, own: u32) -> Result<()> {
        for catalog in self.0.keys() {
            if *catalog > before && *catalog != own {
                place.delete_folder(&catalog_folder(*catalog)).await?;
            }
        }
        Ok(())
    }

    /// Fails if somebody has come past a fence since.
    pub(super) async fn check(&self, place: &Place, own: u32) -> Result<()> {
        for catalog in place.catalogs().await? {
            if catalog == own {
                continue;
            }
            let stands = match self.0.get(&catalog) {
                Some(fence) => *fence == newest_log(place, catalog).await?,
                None => false,
            };
            if !stands {
                return Err(Error::new(
                    ErrorKind::Fenced,
                    format!(
                        "another owner has written the catalog {} at {} meanwhile; end it, and \
                         rebuild again",
                        catalog_folder(catalog),
                        place.name
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Puts an empty log where the owner of a catalog would put its next. One
/// without logs has lost them, and where its owner would go on can't be known.
async fn fence(place: &Place, catalog: u32) -> Result<Option<u64>> {
    for _ in 0..TRIES {
        let Some(newest) = newest_log(place, catalog).await? else {
            return Ok(None);
        };
        let next = newest + 1;
        let name = format!("{}/{next:020}.sst", logs(catalog));
        match place.put_new(&name, Vec::new()).await {
            Ok(()) => return Ok(Some(next)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(
        ErrorKind::Locked,
        format!(
            "an owner of the vault at {} goes on writing; end it first",
            place.name
        ),
    ))
}
