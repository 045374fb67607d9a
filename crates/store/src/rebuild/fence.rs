//! Sees to it that nobody writes a catalog that no longer counts.
//!
//! An owner that was suspended, or another rebuild, may wake and go on with a
//! catalog that this one replaces, and would report what nobody finds again. A
//! log of SlateDB is stored only where none is yet: an empty one under the next
//! number makes the owner's next flush fail.
//!
//! Two rebuilds may run at once, as on an object store, whose lease only
//! informs. Each claims the folder of its catalog by an object that is put only
//! where none is. The later one goes on, since the earlier may be dead; the
//! earlier finds the claim before it would count. At the end `vault.json` is
//! changed only if it is still the one that the rebuild began with.

use std::collections::BTreeMap;

use backstop_core::{Error, ErrorKind, Result};
use object_store::UpdateVersion;

use crate::builder::HEADER;
use crate::header::VaultHeader;
use crate::place::{Place, catalog_folder};

/// What a rebuild began with.
#[derive(Debug)]
pub(super) struct Fences {
    /// Of all catalogs but its own, each with the number of its log.
    logs: BTreeMap<u32, Option<u64>>,
    /// The catalog that counted.
    before: u32,
    header: UpdateVersion,
}

/// Claims the folder of a catalog that a rebuild makes.
const CLAIM: &str = "rebuild";

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

fn overtaken(place: &Place) -> Error {
    Error::conflict(format!(
        "another rebuild of the vault at {} was begun or has ended meanwhile, and this one counts \
         for nothing; see that nobody else rebuilds it, then open the vault or repeat",
        place.name
    ))
}

impl Fences {
    /// Claims a new catalog, and fences all others that there are; gives the
    /// new one's number too. `header` is what the vault was opened by.
    pub(super) async fn put(place: &Place, header: &VaultHeader) -> Result<(Self, u32)> {
        let (now, version) = place.get_versioned(HEADER).await?;
        if VaultHeader::decode(&now)? != *header {
            return Err(overtaken(place));
        }
        let before = header.catalog;
        let there = place.catalogs().await?;
        let next = there.iter().max().map_or(0, |last| *last).max(before);
        let next = next
            .checked_add(1)
            .ok_or_else(|| Error::internal("the vault was rebuilt too often"))?;
        let claim = format!("{}/{CLAIM}", catalog_folder(next));
        match place.put_new(&claim, Vec::new()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(overtaken(place));
            }
            claimed => claimed?,
        }
        let mut logs = BTreeMap::new();
        for catalog in there {
            logs.insert(catalog, fence(place, catalog).await?);
        }
        let fences = Self {
            logs,
            before,
            header: version,
        };
        Ok((fences, next))
    }

    /// Makes the new catalog count.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if somebody has come past a fence since;
    /// [`ErrorKind::Conflict`] if another rebuild was begun or has ended.
    pub(super) async fn count(&self, place: &Place, own: &VaultHeader) -> Result<()> {
        self.check(place, own.catalog).await?;
        let header = own.encode()?;
        let version = self.header.clone();
        if place.put_over(HEADER, header, version).await? {
            Ok(())
        } else {
            Err(overtaken(place))
        }
    }

    /// Deletes the catalogs of rebuilds that were interrupted: those after the
    /// one that counted before. Who wakes and goes on with one finds, before it
    /// would count, that it is not alone.
    pub(super) async fn sweep(&self, place: &Place, own: u32) -> Result<()> {
        for catalog in self.logs.keys() {
            if *catalog > self.before && *catalog != own {
                place.delete_folder(&catalog_folder(*catalog)).await?;
            }
        }
        Ok(())
    }

    async fn check(&self, place: &Place, own: u32) -> Result<()> {
        for catalog in place.catalogs().await? {
            if catalog > own {
                return Err(overtaken(place));
            }
            // Those in between are of other rebuilds, which find our claim.
            if catalog > self.before {
                continue;
            }
            let stands = match self.logs.get(&catalog) {
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
