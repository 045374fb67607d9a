//! What a restore could not bring back: told by run, in bounded memory.

use std::collections::BTreeMap;

use backstop_core::{ByteCount, ByteOffset, Error, ErrorKind, Extent};

/// How many runs a report lists.
pub(crate) const MOST_LISTED: usize = 4096;

/// A part of an image that could not be brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// Which bytes. Neighbours of one kind are one range.
    pub extent: Extent,
    /// Whether the source was unreadable when the point was made, or stored
    /// data is damaged.
    pub kind: ErrorKind,
    /// Why, as a sentence; of the first part that was met, where several chunks
    /// make up the range.
    pub reason: String,
}

/// What is missing beyond the ranges that a report lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    /// How many ranges. Neighbours may be counted one by one.
    pub ranges: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// Their kind; that of damage if some are damaged and some were
    /// unreadable.
    pub kind: Option<ErrorKind>,
}

impl Unlisted {
    fn count(&mut self, run: &Run, start: u64) {
        self.ranges += 1;
        let bytes = ByteCount(run.end.saturating_sub(start));
        self.bytes = self.bytes.saturating_add(bytes);
        if self.kind.is_none_or(|kind| kind == ErrorKind::Unreadable) {
            self.kind = Some(run.kind);
        }
    }
}

#[derive(Debug)]
struct Run {
    end: u64,
    kind: ErrorKind,
    reason: String,
}

/// Collects what is missing, in any order: keeps the first runs of the image
/// and counts the rest.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    by_start: BTreeMap<u64, Run>,
    unlisted: Unlisted,
}

impl Missing {
    /// Adds a range that was not added before.
    pub(crate) fn add(&mut self, extent: Extent, error: &Error) {
        let (mut start, mut end) = (extent.offset().0, extent.end().0);
        let mut reason = None;
        let before = self.by_start.range(..start).next_back();
        if let Some((&first, run)) = before
            && run.end == start
            && run.kind == error.kind()
        {
            reason = self.by_start.remove(&first).map(|run| run.reason);
            start = first;
        }
        if let Some(run) = self.by_start.get(&end)
            && run.kind == error.kind()
            && let Some(run) = self.by_start.remove(&end)
        {
            end = run.end;
            reason = reason.or(Some(run.reason));
        }
        let run = Run {
            end,
            kind: error.kind(),
            reason: reason.unwrap_or_else(|| error.to_string()),
        };
        self.by_start.insert(start, run);
        if self.by_start.len() > MOST_LISTED
            && let Some((start, run)) = self.by_start.pop_last()
        {
            self.unlisted.count(&run, start);
        }
    }

    /// The runs in order, and what there is beyond them.
    pub(crate) fn into_ranges(self) -> (Vec<MissingRange>, Unlisted) {
        let ranges = self.by_start.into_iter().map(|(start, run)| MissingRange {
            extent: Extent::between(ByteOffset(start), ByteOffset(run.end)),
            kind: run.kind,
            reason: run.reason,
        });
        (ranges.collect(), self.unlisted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Extent {
        Extent::between(ByteOffset(start), ByteOffset(end))
    }

    fn listed(missing: Missing) -> Vec<(Extent, ErrorKind, String)> {
        let (ranges, unlisted) = missing.into_ranges();
        assert_eq!(unlisted, Unlisted::default());
        let told = ranges
            .into_iter()
            .map(|range| (range.extent, range.kind, range.reason));
        told.collect()
    }

    #[test]
    fn neighbours_of_one_kind_are_one_range() {
        let unreadable = Error::new(ErrorKind::Unreadable, "a bad block");
        for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 2, 0]] {
            let mut missing = Missing::default();
            for part in order {
                let error = Error::corrupt(format!("chunk {part} is damaged"));
                missing.add(range(part * 10, part * 10 + 10), &error);
            }
            missing.add(range(30, 40), &unreadable);
            missing.add(range(50, 60), &unreadable);
            let listed = listed(missing);
            let parts: Vec<_> = listed
                .iter()
                .map(|(extent, kind, _)| (*extent, *kind))
                .collect();
            assert_eq!(
                parts,
                [
                    (range(0, 30), ErrorKind::Corrupt),
                    (range(30, 40), ErrorKind::Unreadable),
                    (range(50, 60), ErrorKind::Unreadable),
                ]
            );
            assert!(listed[0].2.starts_with("chunk "), "{listed:?}");
            assert_eq!(listed[1].2, "a bad block");
        }
    }

    #[test]
    fn what_is_not_listed_is_counted() {
        let mut missing = Missing::default();
        let unreadable = Error::new(ErrorKind::Unreadable, "a bad block");
        let count = 3 * MOST_LISTED as u64;
        // From the end, so that the later ones have to go again.
        for part in (0..count).rev() {
            missing.add(range(part * 10, part * 10 + 5), &unreadable);
        }
        missing.add(
            range(count * 10, count * 10 + 7),
            &Error::corrupt("damaged"),
        );
        let (ranges, unlisted) = missing.into_ranges();
        assert_eq!(ranges.len(), MOST_LISTED);
        assert_eq!(
            ranges[MOST_LISTED - 1].extent.offset().0,
            (MOST_LISTED as u64 - 1) * 10
        );
        let rest = 2 * MOST_LISTED as u64;
        assert_eq!(unlisted.ranges, rest + 1);
        assert_eq!(unlisted.bytes, ByteCount(rest * 5 + 7));
        assert_eq!(unlisted.kind, Some(ErrorKind::Corrupt));
    }

    #[test]
    fn a_lost_image_is_one_range() {
        let mut missing = Missing::default();
        for part in 0..100_000 {
            let error = Error::corrupt(format!("pack {part} is missing"));
            missing.add(range(part * 10, part * 10 + 10), &error);
        }
        assert_eq!(missing.by_start.len(), 1);
        assert_eq!(listed(missing)[0].0, range(0, 1_000_000));
    }
}
