//! Which frames are needed: a bit for each frame of the packs that are looked
//! at, found by the first 8 bytes of its name.
//!
//! The tables of packs tell what frames there are. Reading all of them in a row
//! costs less than asking the index for each name, and 12 bytes for each frame
//! are all that stays in memory. Two names that begin alike in 64 bits count as
//! one: chunks keep each other; of map nodes, only the one that is held is walked.
//! None come about by chance, and who makes two of them makes them of his own maps.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::ChunkDigest;

use crate::pack::frame::Content;

/// A name's first 8 bytes, and where it stands, both big-endian.
type Entry = [u8; ENTRY];

/// What a frame takes here, in bytes.
pub(super) const ENTRY: usize = 12;

/// How many bits of a name choose where to look for it.
const PREFIX_BITS: u32 = 16;

/// The frames of some packs and which of them are needed.
#[derive(Debug)]
pub(super) struct Marks {
    /// Sorted.
    entries: Vec<Entry>,
    /// Where the entries of each prefix begin, and the end of the last.
    starts: Vec<u32>,
    /// Those that somebody relies on, whatever a walk finds.
    relied_on: Bits,
    /// Those that a walk has come to: what leads on from them is marked.
    walked: Bits,
}

/// A bit for each entry.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    fn new(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Tells whether it was not set before.
    fn set(&self, at: usize) -> bool {
        let bit = 1 << (at % 64);
        self.0[at / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64].load(Ordering::Acquire) >> (at % 64) & 1 == 1
    }

    fn all(&self) -> Vec<u64> {
        let words = self.0.iter();
        words.map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Sets them to what they were.
    fn reset(&self, to: &[u64]) {
        for (word, to) in self.0.iter().zip(to) {
            word.store(*to, Ordering::Release);
        }
    }
}

/// Which frames a walk had come to.
#[derive(Debug)]
pub(super) struct Walked(Vec<u64>);

/// Frames to be sorted into [`Marks`].
#[derive(Debug)]
pub(super) struct Frames {
    entries: Vec<Entry>,
}

/// The first bytes of a name; those of different contents never meet by being
/// of the same bytes.
fn start_of(content: Content, digest: &ChunkDigest) -> [u8; 8] {
    let mut start = [0; 8];
    start.copy_from_slice(&digest.as_bytes()[..8]);
    start[7] ^= content.code();
    start
}

fn prefix(entry: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([entry[0], entry[1]]))
}

impl Frames {
    /// For as many frames as are expected: memory beyond them is wasted.
    pub(super) fn with_capacity(frames: usize) -> Self {
        Self {
            entries: Vec::with_capacity(frames),
        }
    }

    pub(super) fn push(&mut self, content: Content, digest: &ChunkDigest, place: u32) {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&start_of(content, digest));
        entry[8..].copy_from_slice(&place.to_be_bytes());
        self.entries.push(entry);
    }

    /// Sorts them; none of them is needed yet. Takes some seconds for millions.
    pub(super) fn sorted(self) -> Marks {
        let mut entries = self.entries;
        entries.sort_unstable();
        let mut starts = vec![0u32; (1 << PREFIX_BITS) + 1];
        for entry in &entries {
            starts[prefix(entry) + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        Marks {
            relied_on: Bits::new(entries.len()),
            walked: Bits::new(entries.len()),
            entries,
            starts,
        }
    }
}

impl Marks {
    /// The entries of a name: mostly one; several if it stands in several
    /// packs.
    pub(super) fn find(&self, content: Content, digest: &ChunkDigest) -> Range<usize> {
        let start = start_of(content, digest);
        let bucket = prefix(&start);
        let (from, to) = (
            self.starts[bucket] as usize,
            self.starts[bucket + 1] as usize,
        );
        let bucket = &self.entries[from..to];
        let first = bucket.partition_point(|entry| entry[..8] < start[..]);
        let same = bucket[first..]
            .iter()
            .take_while(|entry| entry[..8] == start[..])
            .count();
        from + first..from + first + same
    }

    /// Where the frame of an entry stands: what was told when it was pushed.
    pub(super) fn place(&self, entry: usize) -> u32 {
        let mut place = [0; 4];
        place.copy_from_slice(&self.entries[entry][8..]);
        u32::from_be_bytes(place)
    }

    /// Marks an entry as needed by who relies on it: no walk changes that.
    pub(super) fn rely_on(&self, entry: usize) {
        self.relied_on.set(entry);
    }

    /// Marks an entry as needed by a walk; tells whether no walk came to it
    /// before.
    pub(super) fn walk(&self, entry: usize) -> bool {
        self.walked.set(entry)
    }

    /// How far walks have come.
    pub(super) fn walked(&self) -> Walked {
        Walked(self.walked.all())
    }

    /// Takes back what walks have marked since. None may be under way.
    pub(super) fn walk_back(&self, to: &Walked) {
        self.walked.reset(&to.0);
    }

    pub(super) fn is_live(&self, entry: usize) -> bool {
        self.relied_on.get(entry) || self.walked.get(entry)
    }

    /// Whether a frame is needed in the pack, or at the place, that was told
    /// when it was pushed.
    pub(super) fn is_needed(&self, content: Content, digest: &ChunkDigest, place: u32) -> bool {
        self.find(content, digest)
            .any(|entry| self.place(entry) == place && self.is_live(entry))
    }

    /// The places of entries of names that have several.
    pub(super) fn copies(&self) -> impl Iterator<Item = u32> {
        let same = |a: usize, b: usize| {
            let entries = self.entries.get(a).zip(self.entries.get(b));
            entries.is_some_and(|(a, b)| a[..8] == b[..8])
        };
        let several = move |at: &usize| same(*at, at + 1) || (*at > 0 && same(at - 1, *at));
        let all = 0..self.entries.len();
        all.filter(several).map(|entry| self.place(entry))
    }

    /// The places of all entries, and whether each is needed.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, bool)> {
        (0..self.entries.len()).map(|entry| (self.place(entry), self.is_live(entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn digest(number: u16) -> ChunkDigest {
        ChunkDigest::of(&number.to_le_bytes())
    }

    const CONTENTS: [Content; 2] = [Content::Chunk, Content::Node];

    proptest! {
        #[test]
        fn marks_are_a_map_of_flags(
            frames in prop::collection::vec((0..2usize, 0..300u16, 0..9u32), 0..400),
            needed in prop::collection::vec((0..2usize, 0..400u16, 0..9u32), 0..200),
        ) {
            let mut model: HashMap<(usize, u16), Vec<u32>> = HashMap::new();
            let mut all = Frames::with_capacity(frames.len());
            for (content, number, place) in &frames {
                let places = model.entry((*content, *number)).or_default();
                if !places.contains(place) {
                    places.push(*place);
                    all.push(CONTENTS[*content], &digest(*number), *place);
                }
            }
            let count = model.values().map(Vec::len).sum::<usize>();
            let marks = all.sorted();
            let none = marks.walked();
            let (mut live, mut walked) = (HashSet::new(), HashSet::new());
            for (content, number, place) in &needed {
                let found = marks.find(CONTENTS[*content], &digest(*number));
                let places: HashSet<u32> = found.clone().map(|entry| marks.place(entry)).collect();
                let expected = model.get(&(*content, *number)).cloned().unwrap_or_default();
                prop_assert_eq!(places, expected.into_iter().collect());
                for entry in found.filter(|entry| marks.place(*entry) == *place) {
                    let what = (*content, *number, *place);
                    live.insert(what);
                    if number % 3 == 0 {
                        // Somebody relies on it: a walk still has to go there.
                        marks.rely_on(entry);
                    } else {
                        prop_assert_eq!(marks.walk(entry), walked.insert(what));
                    }
                }
            }
            for ((content, number), places) in &model {
                for place in places {
                    let is_live = live.contains(&(*content, *number, *place));
                    prop_assert_eq!(marks.is_needed(CONTENTS[*content], &digest(*number), *place), is_live);
                }
            }
            prop_assert_eq!(marks.all().count(), count);
            prop_assert_eq!(marks.all().filter(|(_, live)| *live).count(), live.len());
            // A walk that begins anew judges all anew; who relies on something stays.
            let halfway = marks.walked();
            marks.walk_back(&none);
            let relied_on = live.difference(&walked).count();
            prop_assert_eq!(marks.all().filter(|(_, live)| *live).count(), relied_on);
            for (content, number, place) in &walked {
                for entry in marks.find(CONTENTS[*content], &digest(*number)) {
                    if marks.place(entry) == *place {
                        prop_assert!(marks.walk(entry));
                    }
                }
            }
            marks.walk_back(&halfway);
            prop_assert_eq!(marks.all().filter(|(_, live)| *live).count(), live.len());
        }
    }
}
