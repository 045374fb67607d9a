//! Ranges of bytes, and sorted sets of them: the changed blocks of a source.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ByteCount, ByteOffset, Error, Result};

/// A range of bytes: `offset` up to, not including, `offset + length`.
///
/// Its end never passes 2^64, so it can always be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Extent {
    offset: ByteOffset,
    length: ByteCount,
}

/// What is read of an extent before its end was looked at.
#[derive(Deserialize)]
#[serde(rename = "Extent")]
struct Unchecked {
    offset: ByteOffset,
    length: ByteCount,
}

impl TryFrom<Unchecked> for Extent {
    type Error = Error;

    fn try_from(read: Unchecked) -> Result<Self> {
        Self::new(read.offset, read.length)
    }
}

impl Extent {
    /// The range of `length` bytes from `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if its end
    /// passes 2^64.
    pub fn new(offset: ByteOffset, length: ByteCount) -> Result<Self> {
        offset.checked_add(length)?;
        Ok(Self { offset, length })
    }

    /// The range from the start of an image of this length to its end.
    pub const fn whole(length: ByteCount) -> Self {
        Self {
            offset: ByteOffset(0),
            length,
        }
    }

    /// The range between two positions; empty if they are out of order.
    pub fn between(start: ByteOffset, end: ByteOffset) -> Self {
        Self {
            offset: start,
            length: ByteCount(end.0.saturating_sub(start.0)),
        }
    }

    /// The first byte.
    pub fn offset(self) -> ByteOffset {
        self.offset
    }

    /// How many bytes.
    pub fn length(self) -> ByteCount {
        self.length
    }

    /// The position after the last byte.
    pub fn end(self) -> ByteOffset {
        ByteOffset(self.offset.0 + self.length.0)
    }

    /// Whether it covers nothing.
    pub fn is_empty(self) -> bool {
        self.length.0 == 0
    }

    /// What both cover; empty (at this range's start) where they don't meet.
    pub fn intersection(self, other: Self) -> Self {
        let start = self.offset.max(other.offset);
        let end = self.end().min(other.end());
        if start >= end {
            Self {
                length: ByteCount::ZERO,
                ..self
            }
        } else {
            Self::between(start, end)
        }
    }

    /// Whether `other` lies wholly inside.
    pub fn contains(self, other: Self) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }

    /// The smallest range around this one whose ends are multiples of
    /// `block`, its end cut at `limit`.
    pub fn aligned_out(self, block: ByteCount, limit: ByteOffset) -> Self {
        let block = block.0.max(1);
        let start = self.offset.0 - self.offset.0 % block;
        let end = self.end().0.div_ceil(block).saturating_mul(block);
        Self::between(ByteOffset(start), ByteOffset(end.min(limit.0)))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

/// A sorted set of byte ranges; ranges that touch or overlap are merged, empty
/// ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    ends_by_start: BTreeMap<u64, u64>,
}

impl ExtentSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a range, merging it with those that it touches.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let (mut start, mut end) = (extent.offset.0, extent.end().0);
        // Everything from the last range that starts at or before our end.
        while let Some((&s, &e)) = self.ends_by_start.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ends_by_start.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ends_by_start.insert(start, end);
    }

    /// The ranges in order of their start.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.ends_by_start
            .iter()
            .map(|(&start, &end)| Extent::between(ByteOffset(start), ByteOffset(end)))
    }

    /// The parts of the set inside `range`, in order.
    pub fn within(&self, range: Extent) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .ends_by_start
            .range(..=range.offset.0)
            .next_back()
            .map_or(range.offset.0, |(&start, _)| start);
        self.ends_by_start
            .range(first..range.end().0.max(first))
            .map(move |(&start, &end)| {
                Extent::between(ByteOffset(start), ByteOffset(end)).intersection(range)
            })
            .filter(|extent| !extent.is_empty())
    }

    /// How many ranges.
    pub fn len(&self) -> usize {
        self.ends_by_start.len()
    }

    /// Whether it covers nothing.
    pub fn is_empty(&self) -> bool {
        self.ends_by_start.is_empty()
    }

    /// The sum of all lengths.
    pub fn total(&self) -> ByteCount {
        self.iter().map(Extent::length).sum()
    }

    /// The position after the last byte covered.
    pub fn end(&self) -> ByteOffset {
        ByteOffset(
            self.ends_by_start
                .last_key_value()
                .map_or(0, |(_, &end)| end),
        )
    }

    /// Reads lines of `offset length` in decimal bytes; empty lines and lines
    /// that begin with `#` are passed over. The order is free, overlaps merge.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) naming the
    /// first bad line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut set = Self::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_ascii_whitespace().map(str::parse::<u64>);
            let (Some(Ok(offset)), Some(Ok(length)), None) =
                (words.next(), words.next(), words.next())
            else {
                return Err(Error::invalid_input(format!(
                    "line {} is not `offset length` in bytes: {line:?}",
                    number + 1
                )));
            };
            let extent = Extent::new(ByteOffset(offset), ByteCount(length));
            let here = |error: Error| error.within(format_args!("line {}", number + 1));
            set.insert(extent.map_err(here)?);
        }
        Ok(set)
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        for extent in extents {
            set.insert(extent);
        }
        set
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "the positions of these tests are small"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    proptest! {
        #[test]
        fn set_equals_a_bitmap(ranges in prop::collection::vec((0u64..200, 0u64..40), 0..30),
                               window in (0u64..220, 0u64..80)) {
            let set: ExtentSet = ranges.iter().map(|&(o, l)| extent(o, l)).collect();
            let mut bits = [false; 400];
            for &(o, l) in &ranges {
                for bit in &mut bits[o as usize..(o + l) as usize] { *bit = true; }
            }
            let mut seen = [false; 400];
            let mut previous_end = None;
            for e in set.iter() {
                prop_assert!(!e.is_empty());
                prop_assert!(previous_end.is_none_or(|end| end < e.offset()), "not merged");
                previous_end = Some(e.end());
                for bit in &mut seen[e.offset().0 as usize..e.end().0 as usize] { *bit = true; }
            }
            prop_assert_eq!(bits, seen);
            prop_assert_eq!(set.total().0 as usize, bits.iter().filter(|b| **b).count());

            let window = extent(window.0, window.1);
            let mut inside = [false; 400];
            for e in set.within(window) {
                prop_assert!(window.contains(e));
                for bit in &mut inside[e.offset().0 as usize..e.end().0 as usize] { *bit = true; }
            }
            for (at, bit) in inside.iter().enumerate() {
                let here = extent(at as u64, 1);
                prop_assert_eq!(*bit, bits[at] && window.contains(here), "byte {}", at);
            }
        }
    }

    #[test]
    fn parse_names_the_bad_line() {
        let set = ExtentSet::parse("# dirty\n4096 4096\n\n0 4096\n").unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [extent(0, 8192)]);
        for bad in ["1", "1 2 3", "a b", "-1 4", "18446744073709551615 2"] {
            let error = ExtentSet::parse(bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{bad}");
        }
        for bad in ["0 1\nx", "0 1\n18446744073709551615 2\n0 1"] {
            let said = ExtentSet::parse(bad).unwrap_err().to_string();
            assert!(said.contains("line 2"), "{said}");
        }
    }

    #[test]
    fn what_is_read_is_checked() {
        use serde::de::value::{Error, MapDeserializer};
        let read = |offset: u64, length: u64| {
            let fields = [("offset", offset), ("length", length)];
            Extent::deserialize(MapDeserializer::<_, Error>::new(fields.into_iter()))
        };
        assert_eq!(read(5, 7).unwrap(), extent(5, 7));
        let error = read(u64::MAX, 2).unwrap_err();
        assert!(error.to_string().contains("2^64"), "{error}");
    }

    #[test]
    fn aligning_never_passes_the_limit() {
        let e = extent(5000, 100).aligned_out(ByteCount(4096), ByteOffset(8000));
        assert_eq!(e, extent(4096, 3904));
    }
}
