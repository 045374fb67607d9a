//! The nodes of an image map and their encoding. Each value has one encoding,
//! so a node's digest names its content.
//!
//! ```text
//! leaf: the map of one region
//!     1        0x01
//!     varint   n, digests
//!     n x 32   the digests, in the order in which slices first use them
//!     varint   m, slices
//!     then for each slice, in order:
//!     varint   length x 8 + flags: 1 a gap before it, 2 a skip, 4 not the next new digest
//!     varint   the gap, if flagged: bytes since the slice before
//!     varint   which digest + 1, or 0 for unreadable, if flagged
//!     varint   the skip, if flagged
//!
//! inner: 64 subtrees
//!     1        0x02
//!     1        level: 1 above leaves
//!     8        which of the 64 children are not holes, little-endian bits
//!     n x 32   their digests
//! ```

use backstop_core::{ChunkDigest, REGION_LENGTH, RegionMap, Result, Slice, SliceContent};

use crate::codec::{Reader, put_varint};
use crate::digest_map::DigestMap;
use crate::header::newer;

/// How many children an inner node has.
pub(crate) const FAN_OUT: u64 = PLACES as u64;

/// The same, as a length.
const PLACES: usize = 64;

/// The highest level of an inner node: 64^7 regions are more than 2^64 bytes.
pub(crate) const MAX_LEVEL: u8 = 7;

const LEAF: u8 = 1;
const INNER: u8 = 2;

const GAP: u64 = 1;
const SKIP: u64 = 2;
const EXPLICIT: u64 = 4;

/// The children of an inner node; none for a subtree that is one hole.
pub(crate) type Children = [Option<ChunkDigest>; PLACES];

/// A node of an image map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Leaf(RegionMap),
    Inner { level: u8, children: Box<Children> },
}

/// An inner node without children.
pub(crate) fn no_children() -> Box<Children> {
    Box::new([None; PLACES])
}

impl Node {
    /// What it takes in memory, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Leaf(map) => 64 + size_of_val(map.slices()),
            Self::Inner { .. } => 64 + size_of::<Children>(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(map) => encode_leaf(map),
            Self::Inner { level, children } => encode_inner(*level, children),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("a node of an image map", bytes);
        let node = match reader.u8()? {
            LEAF => Self::Leaf(decode_leaf(&mut reader)?),
            INNER => decode_inner(&mut reader)?,
            0 => return Err(reader.damaged("its kind is not known")),
            // A node was opened under its seal before, so it is as it was written.
            _ => return Err(newer("a node of an image map")),
        };
        reader.finish()?;
        Ok(node)
    }
}

fn encode_inner(level: u8, children: &Children) -> Vec<u8> {
    let mut out = vec![INNER, level];
    let present = children
        .iter()
        .enumerate()
        .filter(|(_, child)| child.is_some())
        .fold(0u64, |bits, (at, _)| bits | 1 << at);
    out.extend_from_slice(&present.to_le_bytes());
    for digest in children.iter().flatten() {
        out.extend_from_slice(digest.as_bytes());
    }
    out
}

fn decode_inner(reader: &mut Reader<'_>) -> Result<Node> {
    let level = reader.u8()?;
    if level == 0 || level > MAX_LEVEL {
        return Err(reader.damaged("its level can't be"));
    }
    let present = reader.u64()?;
    let mut children = no_children();
    for (at, child) in children.iter_mut().enumerate() {
        if present >> at & 1 == 1 {
            *child = Some(reader.digest()?);
        }
    }
    Ok(Node::Inner { level, children })
}

fn encode_leaf(map: &RegionMap) -> Vec<u8> {
    let mut digests: Vec<ChunkDigest> = Vec::new();
    let mut slices = Vec::with_capacity(map.slices().len() * 6);
    let mut places = DigestMap::default();
    let mut end = 0;
    for slice in map.slices() {
        let gap = slice.start - end;
        end = slice.end();
        let (place, skip) = match slice.content {
            SliceContent::Unreadable => (Some(0), 0),
            SliceContent::Chunk { digest, skip } => {
                let known = places.get(&digest).copied();
                if known.is_none() {
                    digests.push(digest);
                    places.insert(digest, digests.len() as u64);
                }
                (known, skip)
            }
        };
        let flags = if gap > 0 { GAP } else { 0 }
            | if skip > 0 { SKIP } else { 0 }
            | if place.is_some() { EXPLICIT } else { 0 };
        put_varint(&mut slices, u64::from(slice.length) << 3 | flags);
        if gap > 0 {
            put_varint(&mut slices, u64::from(gap));
        }
        if let Some(place) = place {
            put_varint(&mut slices, place);
        }
        if skip > 0 {
            put_varint(&mut slices, u64::from(skip));
        }
    }
    let mut out = Vec::with_capacity(1 + 3 + digests.len() * 32 + 3 + slices.len());
    out.push(LEAF);
    put_varint(&mut out, digests.len() as u64);
    for digest in &digests {
        out.extend_from_slice(digest.as_bytes());
    }
    put_varint(&mut out, map.slices().len() as u64);
    out.extend_from_slice(&slices);
    out
}

fn decode_leaf(reader: &mut Reader<'_>) -> Result<RegionMap> {
    let count = reader.count(ChunkDigest::LENGTH)?;
    let digests = (0..count)
        .map(|_| reader.digest())
        .collect::<Result<Vec<_>>>()?;
    let count = reader.count(1)?;
    let mut slices = Vec::with_capacity(count);
    let mut fresh = digests.iter().copied();
    let mut end = 0u32;
    for _ in 0..count {
        let head = reader.varint()?;
        let length = u32::try_from(head >> 3)
            .ok()
            .filter(|length| *length <= REGION_LENGTH)
            .ok_or_else(|| reader.damaged("a slice is too long"))?;
        let gap = if head & GAP == 0 {
            0
        } else {
            reader.varint_u32()?
        };
        let digest = if head & EXPLICIT == 0 {
            Some(
                fresh
                    .next()
                    .ok_or_else(|| reader.damaged("a digest is missing"))?,
            )
        } else {
            let place = reader.varint()?;
            match usize::try_from(place)
                .ok()
                .and_then(|place| place.checked_sub(1))
            {
                None if place == 0 => None,
                Some(at) if at < digests.len() - fresh.len() => Some(digests[at]),
                _ => return Err(reader.damaged("a slice names no digest")),
            }
        };
        let skip = if head & SKIP == 0 {
            0
        } else {
            reader.varint_u32()?
        };
        let start = end
            .checked_add(gap)
            .ok_or_else(|| reader.damaged("a gap is too long"))?;
        let content = match digest {
            Some(digest) => SliceContent::Chunk { digest, skip },
            None => SliceContent::Unreadable,
        };
        slices.push(Slice {
            start,
            length,
            content,
        });
        end = start
            .checked_add(length)
            .ok_or_else(|| reader.damaged("a slice is too long"))?;
    }
    if fresh.next().is_some() {
        return Err(reader.damaged("a digest is not used"));
    }
    let map = RegionMap::from_slices(slices)
        .map_err(|error| reader.damaged("its slices can't be").with_source(error))?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use backstop_core::MAX_CHUNK_LENGTH;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn region_map() -> impl Strategy<Value = RegionMap> {
        let run = (
            0u32..70_000,
            1u32..70_000,
            0u8..6,
            0..MAX_CHUNK_LENGTH - 70_000,
        );
        prop::collection::vec(run, 0..40).prop_map(|runs| {
            let mut start = 0u32;
            let mut slices = Vec::new();
            for (gap, length, chunk, skip) in runs {
                start += gap / 2;
                let content = match chunk {
                    0 => SliceContent::Unreadable,
                    n => SliceContent::Chunk {
                        digest: ChunkDigest::from_bytes([n; 32]),
                        skip: if skip % 2 == 0 { 0 } else { skip },
                    },
                };
                slices.push(Slice {
                    start,
                    length,
                    content,
                });
                start += length;
            }
            slices.retain(|slice| slice.end() <= REGION_LENGTH);
            RegionMap::from_slices(slices).unwrap()
        })
    }

    proptest! {
        #[test]
        fn leaves_round_trip(map in region_map()) {
            let node = Node::Leaf(map);
            prop_assert_eq!(Node::decode(&node.encode()).unwrap(), node);
        }

        #[test]
        fn inner_nodes_round_trip(level in 1..=MAX_LEVEL, present: u64) {
            let mut children = no_children();
            for (at, child) in children.iter_mut().enumerate() {
                *child = (present >> at & 1 == 1).then(|| ChunkDigest::of(&at.to_le_bytes()));
            }
            let node = Node::Inner { level, children };
            prop_assert_eq!(Node::decode(&node.encode()).unwrap(), node);
        }

        #[test]
        fn damage_is_an_error_or_another_valid_node(map in region_map(), flip: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = Node::Leaf(map).encode();
            let at = flip.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(Node::decode(&node.encode()).unwrap(), node);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Node::decode(&bytes);
        }
    }
}
