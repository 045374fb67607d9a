//! The tables of packs in memory, and where the frames stand that they tell.

use std::collections::{HashMap, VecDeque};

use backstop_core::ChunkDigest;

use super::frame::Content;
use super::index::Location;
use super::table::TableEntry;

/// The tables of packs that were touched lately, bounded in bytes, the oldest
/// going first.
#[derive(Debug)]
pub(super) struct Tables {
    budget: usize,
    held: usize,
    tables: HashMap<u64, Vec<TableEntry>>,
    order: VecDeque<u64>,
    /// From the first 8 bytes of a digest: which pack, which entry. Two digests
    /// that begin alike cost a question to the catalog, nothing else.
    places: HashMap<u64, (u64, u32)>,
}

/// What an entry takes, with its place.
const ENTRY_WEIGHT: usize = size_of::<TableEntry>() + 40;

fn start_of(digest: &ChunkDigest) -> u64 {
    let mut start = [0; 8];
    start.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(start)
}

impl Tables {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            held: 0,
            tables: HashMap::new(),
            order: VecDeque::new(),
            places: HashMap::new(),
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.tables.contains_key(&number)
    }

    pub(super) fn find(&self, content: Content, digest: &ChunkDigest) -> Option<Location> {
        let (number, at) = self.places.get(&start_of(digest))?;
        let entry = self.tables.get(number)?.get(*at as usize)?;
        (entry.digest == *digest && entry.header.content == content)
            .then(|| Location::of(*number, entry))
    }

    pub(super) fn insert(&mut self, number: u64, entries: Vec<TableEntry>) {
        if self.contains(number) {
            return;
        }
        self.held += entries.len() * ENTRY_WEIGHT;
        for (at, entry) in (0..).zip(&entries) {
            let place = self
                .places
                .entry(start_of(&entry.digest))
                .or_insert((number, at));
            // The newer copy: it may have been made because the other is bad.
            if place.0 <= number {
                *place = (number, at);
            }
        }
        self.tables.insert(number, entries);
        self.order.push_back(number);
        while self.held > self.budget && self.order.len() > 1 {
            if let Some(oldest) = self.order.pop_front() {
                self.remove(oldest);
            }
        }
    }

    pub(super) fn remove(&mut self, number: u64) {
        let entries = self.tables.remove(&number).unwrap_or_default();
        self.order.retain(|held| *held != number);
        self.held -= entries.len() * ENTRY_WEIGHT;
        for entry in entries {
            let start = start_of(&entry.digest);
            if self
                .places
                .get(&start)
                .is_some_and(|(pack, _)| *pack == number)
            {
                self.places.remove(&start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::Encoding;
    use proptest::prelude::*;

    use super::*;
    use crate::pack::frame::FrameHeader;

    fn entry(number: u32) -> TableEntry {
        let header = FrameHeader {
            payload_length: number + 1,
            plain_length: number + 1,
            content: Content::Chunk,
            encoding: Encoding::Raw,
        };
        let digest = ChunkDigest::of(&number.to_le_bytes());
        TableEntry {
            digest,
            offset: u64::from(number),
            header,
        }
    }

    /// The other one may be bad; whichever table is loaded last.
    #[test]
    fn of_two_copies_the_newer_is_found() {
        for packs in [[3, 7], [7, 3]] {
            let mut tables = Tables::new(40 * ENTRY_WEIGHT);
            for number in packs {
                tables.insert(number, vec![entry(1)]);
            }
            let found = tables.find(Content::Chunk, &entry(1).digest);
            assert_eq!(found, Some(Location::of(7, &entry(1))));
        }
    }

    proptest! {
        #[test]
        fn tables_find_what_they_hold_within_their_budget(packs in prop::collection::vec(prop::collection::vec(0u32..50, 0..20), 1..20)) {
            let mut tables = Tables::new(40 * ENTRY_WEIGHT);
            for (number, entries) in (0..).zip(&packs) {
                tables.insert(number, entries.iter().copied().map(entry).collect());
                prop_assert!(tables.held <= tables.budget || tables.order.len() == 1);
                for e in entries {
                    prop_assert!(tables.find(Content::Chunk, &entry(*e).digest).is_some());
                    prop_assert!(tables.find(Content::Node, &entry(*e).digest).is_none());
                }
                let all: usize = tables.tables.values().map(Vec::len).sum();
                prop_assert!(tables.places.len() <= all);
            }
        }
    }
}
