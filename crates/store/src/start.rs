//! What a synchronization starts from: where an earlier run of it stands, its
//! base, or nothing.

use std::collections::BTreeMap;

use backstop_core::{Error, PointKind, Result, StoreBegin, region_count};

use crate::commit::DOCUMENTS;
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::folding;
use crate::manifest::Entry;
use crate::map::tree::ImageMap;
use crate::session::{Added, Start};

/// Checks what a synchronization calls its images.
pub(crate) fn check_streams(begin: &StoreBegin) -> Result<()> {
    let sorted = begin
        .streams
        .windows(2)
        .all(|pair| pair[0].name < pair[1].name);
    let taken = begin
        .streams
        .iter()
        .find(|spec| spec.name.as_str().starts_with(DOCUMENTS));
    if let Some(spec) = taken {
        return Err(Error::invalid_input(format!(
            "image {} has a document's name",
            spec.name
        )));
    }
    if begin.streams.is_empty() || !sorted {
        return Err(Error::invalid_input(format!(
            "the images of {} are none, or not sorted by name",
            begin.source
        )));
    }
    Ok(())
}

impl DedupStore {
    /// What a new synchronization starts from: where an earlier run of it
    /// stands, its base, or nothing.
    pub(crate) async fn start(&self, begin: &StoreBegin) -> Result<Start> {
        let unfinished = self.vault.unfinished_entry(&begin.source).await?;
        if let Some(entry) = unfinished {
            let same_images = entry.streams.len() == begin.streams.len()
                && entry.streams.iter().zip(&begin.streams).all(|(a, b)| {
                    a.name == b.name
                        && a.map.length == b.length
                        && a.next_region <= region_count(b.length)
                });
            if entry.synchronization == begin.id {
                if entry.snapshot != begin.snapshot || !same_images || entry.base != begin.base {
                    return Err(Error::conflict(format!(
                        "synchronization {} of {} was begun on another snapshot",
                        begin.id, begin.source
                    )));
                }
                // Of another kind it starts over: what that passed over was
                // not compared.
                if (entry.kind, entry.verify) == (begin.kind, begin.verify) {
                    return Ok(Start {
                        maps: entry.streams.iter().map(|stream| stream.map).collect(),
                        next: entry
                            .streams
                            .iter()
                            .map(|stream| stream.next_region)
                            .collect(),
                        added: Added {
                            bytes: entry.bytes_added,
                            plain_bytes: entry.plain_bytes_added,
                        },
                        maps_lost: entry.maps_lost,
                        is_folding: false,
                    });
                }
            }
            self.vault.delete_unfinished(&begin.source).await?;
        }
        let (maps, maps_lost) = match self.maps_of(begin).await {
            // A check compares everything anyway.
            Err(error)
                if failure::is_damage(&error) && begin.kind == PointKind::ConsistencyCheck =>
            {
                tracing::warn!(source = %begin.source, %error, "the maps of a point are lost");
                let holes = begin.streams.iter();
                (
                    holes.map(|spec| ImageMap::hole(spec.length)).collect(),
                    true,
                )
            }
            maps => (maps?, false),
        };
        Ok(Start {
            maps,
            next: vec![0; begin.streams.len()],
            added: Added::default(),
            maps_lost,
            is_folding: false,
        })
    }

    /// The maps of its base that a synchronization starts from: those that were
    /// folded, if they were.
    pub(crate) async fn maps_of(&self, begin: &StoreBegin) -> Result<Vec<ImageMap>> {
        let mut held: BTreeMap<String, ImageMap> = BTreeMap::new();
        if let Some(base) = begin.base {
            let record = self.vault.point_record(base).await?;
            let manifest = self.vault.manifest(&record).await?;
            let maps = manifest.entries.into_iter();
            held.extend(maps.filter_map(|(name, entry)| match entry {
                Entry::Image(map) => Some((name, map)),
                Entry::Document { .. } => None,
            }));
            let folded = folding::folded(&self.vault, &begin.source, base).await?;
            let folded = folded.into_iter();
            held.extend(folded.map(|(name, map)| (name.as_str().to_owned(), map)));
        }
        let maps = begin.streams.iter().map(|spec| {
            let held = held.get(spec.name.as_str()).copied();
            held.unwrap_or_else(|| ImageMap::hole(spec.length))
        });
        Ok(maps.collect())
    }
}
