//! What a vault holds, by the tables of its packs, and which of it is needed.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstop_core::{ChunkDigest, CollectOptions, ErrorKind, Result};
use futures::{StreamExt, stream};

use super::marks::{ENTRY, Frames, Marks, Walked};
use crate::failure;
use crate::pack::frame::Content;
use crate::pack::index::{Pack, Recorder};
use crate::pack::name::PackKind;
use crate::pack::table::TableEntry;
use crate::record::PackRecord;
use crate::vault::Vault;

/// How many tables are read at once.
const READING: usize = 4;

/// A pack that was durable when the collection began.
#[derive(Debug)]
pub(super) struct HeldPack {
    pub(super) number: u64,
    pub(super) record: PackRecord,
    pub(super) pack: Arc<Pack>,
    /// Of a map pack, the place of its first frame.
    first: u32,
}

/// A frame of a map pack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Which of the packs.
    pub(super) pack: u32,
    pub(super) length: u32,
    pub(super) offset: u64,
}

/// The packs that are looked at, and a mark for each of their frames.
#[derive(Debug)]
pub(crate) struct Inventory {
    pub(super) packs: Vec<HeldPack>,
    /// Frames of data packs; their place is that of their pack in `packs`.
    data: Marks,
    /// Frames of map packs; their place is that in `places`.
    maps: Marks,
    places: Vec<Place>,
    /// Packs whose tables can't be read: what is in them stays.
    pub(super) unreadable: Vec<(u64, PackRecord)>,
    /// Data packs that did not fit into the memory.
    pub(super) passed_over: Vec<u64>,
    /// Whether a walk tells what it finds in none of the packs.
    pub(crate) tells_missing: bool,
}

/// How many frames of a pack are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) live: u64,
    pub(super) all: u64,
}

/// How far walks have come.
#[derive(Debug)]
pub(super) struct Progress {
    data: Walked,
    maps: Walked,
}

/// What came of marking a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// No walk came to it before. Its place.
    New(u32),
    Before,
    /// It stands in several packs: the index knows which copy counts.
    Several,
    /// It is in none of these packs.
    Elsewhere,
}

impl Inventory {
    /// Reads the tables of all packs that the catalog knows and that are not
    /// condemned: of map packs all, of data packs as many as fit.
    pub(crate) async fn take(vault: &Arc<Vault>, options: &CollectOptions) -> Result<Self> {
        let listed = vault.listed_packs().await?;
        let (maps, mut data): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|(_, record)| record.kind == PackKind::Map);
        let map_frames: u64 = maps.iter().map(|(_, record)| record.frames).sum();
        let each = (ENTRY + size_of::<Place>()) as u64;
        let room = options.memory.0.saturating_sub(map_frames * each) / ENTRY as u64;
        // Where not all fit, others each time.
        if data.iter().map(|(_, record)| record.frames).sum::<u64>() > room {
            let now = vault.clock.now().0.unsigned_abs();
            let turn = now % (data.len() as u64).max(1);
            data.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        let mut data_frames = 0;
        let mut fitting = 0;
        for (_, record) in &data {
            if data_frames + record.frames > room {
                break;
            }
            data_frames += record.frames;
            fitting += 1;
        }
        let passed_over = data[fitting..].iter().map(|(number, _)| *number).collect();
        let chosen = maps.into_iter().chain(data.into_iter().take(fitting));

        let mut packs: Vec<HeldPack> = Vec::new();
        let mut unreadable = Vec::new();
        let mut places = Vec::with_capacity(capacity(map_frames));
        let mut in_maps = Frames::with_capacity(capacity(map_frames));
        let mut in_data = Frames::with_capacity(capacity(data_frames));
        let mut tables = stream::iter(chosen)
            .map(|(number, record)| async move {
                let table = vault.index.table(number).await;
                (number, record, table)
            })
            .buffered(READING);
        while let Some((number, record, table)) = tables.next().await {
            let (pack, entries) = match table {
                Ok(table) => table,
                Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
                    tracing::warn!(pack = %record.name, %error, "a pack's table can't be read, so all of it stays");
                    unreadable.push((number, record));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let at = u32::try_from(packs.len()).unwrap_or(u32::MAX);
            let first = u32::try_from(places.len()).unwrap_or(u32::MAX);
            for entry in &entries {
                let (content, digest) = (entry.header.content, &entry.digest);
                if record.kind == PackKind::Data {
                    in_data.push(content, digest, at);
                } else {
                    let place = u32::try_from(places.len()).unwrap_or(u32::MAX);
                    in_maps.push(content, digest, place);
                    places.push(Place {
                        pack: at,
                        length: u32::try_from(entry.header.frame_length()).unwrap_or(u32::MAX),
                        offset: entry.offset,
                    });
                }
            }
            packs.push(HeldPack {
                number,
                record,
                pack,
                first,
            });
        }
        let sort = move || (in_data.sorted(), in_maps.sorted());
        let (data, maps) = vault.cpu.run(sort).await?;
        Ok(Self {
            packs,
            data,
            maps,
            places,
            unreadable,
            passed_over,
            tells_missing: false,
        })
    }

    /// Whether this is a pack whose table could not be read.
    pub(super) fn is_unreadable(&self, pack: u64) -> bool {
        self.unreadable.iter().any(|(number, _)| *number == pack)
    }

    pub(super) fn place(&self, at: u32) -> Place {
        self.places[at as usize]
    }

    fn of(&self, content: Content) -> &Marks {
        if content == Content::Chunk {
            &self.data
        } else {
            &self.maps
        }
    }

    /// The pack of an entry.
    fn pack_of(&self, content: Content, place: u32) -> &HeldPack {
        let at = if content == Content::Chunk {
            place
        } else {
            self.place(place).pack
        };
        &self.packs[at as usize]
    }

    /// Marks a frame as needed, if it stands in one pack only.
    pub(super) fn reach(&self, content: Content, digest: &ChunkDigest) -> Reached {
        let marks = self.of(content);
        let found = marks.find(content, digest);
        match found.len() {
            0 => Reached::Elsewhere,
            1 if marks.walk(found.start) => Reached::New(marks.place(found.start)),
            1 => Reached::Before,
            _ => Reached::Several,
        }
    }

    /// The packs that hold copies of a frame.
    pub(crate) fn holders<'a>(
        &'a self,
        content: Content,
        digest: &ChunkDigest,
    ) -> impl Iterator<Item = u64> + 'a {
        let marks = self.of(content);
        let copies = self.copies(content, digest, None);
        copies.map(move |entry| self.pack_of(content, marks.place(entry)).number)
    }

    /// Where the copies of a map's frame stand.
    pub(super) fn places(&self, content: Content, digest: &ChunkDigest) -> Vec<Place> {
        let marks = self.of(content);
        let copies = self.copies(content, digest, None);
        copies.map(|entry| self.place(marks.place(entry))).collect()
    }

    /// The packs that hold a frame of which there are several copies.
    pub(crate) fn packs_with_copies(&self) -> BTreeSet<u64> {
        let data = self.data.copies().map(|place| (Content::Chunk, place));
        let maps = self.maps.copies().map(|place| (Content::Node, place));
        let packs = data.chain(maps);
        packs
            .map(|(content, place)| self.pack_of(content, place).number)
            .collect()
    }

    /// The entries of a frame in this pack; without one, in all.
    fn copies<'a>(
        &'a self,
        content: Content,
        digest: &ChunkDigest,
        pack: Option<u64>,
    ) -> impl Iterator<Item = usize> + use<'a> {
        let marks = self.of(content);
        let copies = marks.find(content, digest);
        copies.filter(move |entry| {
            let place = marks.place(*entry);
            pack.is_none_or(|pack| self.pack_of(content, place).number == pack)
        })
    }

    /// Marks the copy of a frame that stands in this pack; without one, all.
    pub(super) fn reach_copy(
        &self,
        content: Content,
        digest: &ChunkDigest,
        pack: Option<u64>,
    ) -> Reached {
        let marks = self.of(content);
        let mut reached = Reached::Elsewhere;
        for entry in self.copies(content, digest, pack) {
            if marks.walk(entry) {
                reached = Reached::New(marks.place(entry));
            } else if reached == Reached::Elsewhere {
                reached = Reached::Before;
            }
        }
        reached
    }

    /// How far walks have come.
    pub(super) fn walked(&self) -> Progress {
        Progress {
            data: self.data.walked(),
            maps: self.maps.walked(),
        }
    }

    /// Takes back what walks have marked since: the next one judges it anew. What
    /// somebody relies on stays marked.
    pub(super) fn walk_back(&self, to: &Progress) {
        self.data.walk_back(&to.data);
        self.maps.walk_back(&to.maps);
    }

    /// Whether a frame may be needed, wherever it stands; of one that stands in
    /// none of the packs that are looked at, that is not known.
    pub(super) fn may_be_needed(&self, content: Content, digest: &ChunkDigest) -> bool {
        let marks = self.of(content);
        let mut copies = marks.find(content, digest);
        copies.is_empty() || copies.any(|copy| marks.is_live(copy))
    }

    /// The packs in which a frame stands and is needed.
    pub(super) fn needed_in<'a>(
        &'a self,
        content: Content,
        digest: &ChunkDigest,
    ) -> impl Iterator<Item = u64> + use<'a> {
        let marks = self.of(content);
        let copies = self.copies(content, digest, None);
        let needed = copies.filter(|entry| marks.is_live(*entry));
        needed.map(move |entry| self.pack_of(content, marks.place(entry)).number)
    }

    /// Which frames of a pack are needed now; `entries` are its table.
    pub(super) fn needed(&self, at: usize, entries: &[TableEntry]) -> Vec<bool> {
        let held = &self.packs[at];
        let is_data = held.record.kind == PackKind::Data;
        let needed = (0u32..).zip(entries).map(|(ordinal, entry)| {
            let content = entry.header.content;
            let place = if is_data {
                u32::try_from(at).unwrap_or(u32::MAX)
            } else {
                held.first + ordinal
            };
            self.of(content).is_needed(content, &entry.digest, place)
        });
        needed.collect()
    }

    /// How many frames of each pack are needed now.
    pub(super) fn counts(&self) -> Vec<Count> {
        let mut counts = vec![Count::default(); self.packs.len()];
        let mut count = |pack: u32, is_live: bool| {
            let count = &mut counts[pack as usize];
            count.all += 1;
            count.live += u64::from(is_live);
        };
        for (pack, is_live) in self.data.all() {
            count(pack, is_live);
        }
        for (place, is_live) in self.maps.all() {
            count(self.place(place).pack, is_live);
        }
        counts
    }
}

/// What a synchronization relies on from now on is needed.
impl Recorder for Inventory {
    fn relied_on(&self, content: Content, digest: &ChunkDigest) {
        // All copies: which of them counts, only the index knows.
        for entry in self.copies(content, digest, None) {
            self.of(content).rely_on(entry);
        }
    }
}

fn capacity(frames: u64) -> usize {
    usize::try_from(frames).unwrap_or(0)
}
