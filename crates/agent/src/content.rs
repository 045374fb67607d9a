//! What was read of a source in and around one region.

use backstop_core::{ByteOffset, Error, Extent, Result};
use bytes::Bytes;

/// A part of what was read; all positions are the image's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Reads as zeros.
    Hole(Extent),
    /// These bytes.
    Data(Extent, Bytes),
    /// Can't be read.
    Unreadable(Extent),
}

/// Runs of data and of unreadable blocks, in order and not overlapping. What
/// neither covers is a hole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// None where unreadable.
    runs: Vec<(Extent, Option<Bytes>)>,
}

impl Content {
    /// Takes runs in order.
    pub(crate) fn new(runs: Vec<(Extent, Option<Bytes>)>) -> Self {
        debug_assert!(
            runs.windows(2)
                .all(|pair| pair[0].0.end() <= pair[1].0.offset())
        );
        Self { runs }
    }

    /// All runs, as ranges.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.runs.iter().map(|(extent, _)| *extent)
    }

    fn runs_in(&self, range: Extent) -> impl Iterator<Item = &(Extent, Option<Bytes>)> {
        let first = self
            .runs
            .partition_point(|(extent, _)| extent.end() <= range.offset());
        self.runs[first..]
            .iter()
            .take_while(move |(extent, _)| extent.offset() < range.end())
    }

    /// The parts of a range, in order, covering it whole. Shares the bytes.
    pub(crate) fn parts(&self, range: Extent) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.offset();
        let hole = |from: ByteOffset, to: ByteOffset, parts: &mut Vec<Part>| {
            if from < to {
                parts.push(Part::Hole(Extent::between(from, to)));
            }
        };
        for (extent, bytes) in self.runs_in(range) {
            let inside = extent.intersection(range);
            hole(at, inside.offset(), &mut parts);
            parts.push(match bytes {
                Some(bytes) => Part::Data(inside, part_of(bytes, *extent, inside)),
                None => Part::Unreadable(inside),
            });
            at = inside.end();
        }
        hole(at, range.end(), &mut parts);
        parts
    }

    /// Whether any byte of a range can't be read.
    pub(crate) fn is_unreadable(&self, range: Extent) -> bool {
        self.runs_in(range).any(|(_, bytes)| bytes.is_none())
    }

    /// The bytes of a range, zeros where it is a hole: shared if one run
    /// covers it, else copied.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if memory
    /// can't address so much.
    pub(crate) fn bytes(&self, range: Extent) -> Result<Bytes> {
        let mut copy = None;
        for (extent, bytes) in self.runs_in(range) {
            let Some(bytes) = bytes else { continue };
            if extent.contains(range) {
                return Ok(part_of(bytes, *extent, range));
            }
            let inside = extent.intersection(range);
            let copy = match &mut copy {
                Some(copy) => copy,
                none => none.insert(vec![0; range.length().to_usize()?]),
            };
            let start = distance(range.offset(), inside.offset());
            let part = part_of(bytes, *extent, inside);
            copy[start..start + part.len()].copy_from_slice(&part);
        }
        match copy {
            Some(copy) => Ok(copy.into()),
            None => zeros(range.length().to_usize()?),
        }
    }
}

/// Zeros, shared up to the length of the longest chunk.
fn zeros(length: usize) -> Result<Bytes> {
    static ZEROS: [u8; backstop_core::MAX_CHUNK_LENGTH as usize] =
        [0; backstop_core::MAX_CHUNK_LENGTH as usize];
    if length > backstop_core::REGION_LENGTH as usize {
        let sentence = format!("a comparison of {length} bytes is longer than a region");
        return Err(Error::internal(sentence));
    }
    Ok(match ZEROS.get(..length) {
        Some(zeros) => Bytes::from_static(zeros),
        None => vec![0; length].into(),
    })
}

fn part_of(bytes: &Bytes, extent: Extent, inside: Extent) -> Bytes {
    let start = distance(extent.offset(), inside.offset());
    let end = distance(extent.offset(), inside.end());
    bytes.slice(start..end)
}

/// How far `to` lies after `from`, both inside one run in memory.
fn distance(from: ByteOffset, to: ByteOffset) -> usize {
    usize::try_from(to.0.saturating_sub(from.0)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use backstop_core::ByteCount;

    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
    }

    #[test]
    fn parts_cover_a_range() {
        let data = Bytes::from_static(b"0123456789");
        let content = Content::new(vec![
            (extent(100, 10), Some(data.clone())),
            (extent(110, 5), None),
            (extent(120, 10), Some(data.clone())),
        ]);
        assert_eq!(
            content.parts(extent(95, 30)),
            [
                Part::Hole(extent(95, 5)),
                Part::Data(extent(100, 10), data.clone()),
                Part::Unreadable(extent(110, 5)),
                Part::Hole(extent(115, 5)),
                Part::Data(extent(120, 5), data.slice(..5)),
            ]
        );
        assert_eq!(content.parts(extent(0, 7)), [Part::Hole(extent(0, 7))]);
        assert!(content.is_unreadable(extent(114, 1)));
        assert!(!content.is_unreadable(extent(115, 100)));
        assert_eq!(content.bytes(extent(103, 2)).unwrap(), "34");
        assert_eq!(content.bytes(extent(98, 4)).unwrap(), "\0\x0001");
        assert_eq!(content.bytes(extent(118, 4)).unwrap(), "\0\x0001");
        assert_eq!(content.bytes(extent(0, 3)).unwrap(), "\0\0\0");
    }
}
