//! Small scattered changes of a region, gathered into patch chunks: one chunk
//! instead of one for each page, and no neighbour rewritten.

use backstop_core::{HashedChunk, MAX_CHUNK_LENGTH, Result};
use bytes::{Bytes, BytesMut};

/// For each piece that points into a patch chunk its place in the list of
/// pieces, and how much of the chunk it skips.
pub(crate) type Members = Vec<(usize, u32)>;

/// A chunk under way and the pieces that point into it.
#[derive(Debug, Default)]
pub(crate) struct Patch {
    data: Vec<Bytes>,
    length: u32,
    members: Members,
}

impl Patch {
    /// Whether so much more fits.
    pub(crate) fn fits(&self, length: u32) -> bool {
        self.length.saturating_add(length) <= MAX_CHUNK_LENGTH
    }

    /// Whether the piece at this place has no chunk yet.
    pub(crate) fn is_waiting(&self, piece: usize) -> bool {
        self.members.last().is_some_and(|(last, _)| *last == piece)
    }

    /// Adds the data of the piece at this place.
    pub(crate) fn add(&mut self, piece: usize, length: u32, data: Bytes) {
        self.members.push((piece, self.length));
        self.length += length;
        self.data.push(data);
    }

    /// The chunk and its members; none if it is empty. CPU work.
    pub(crate) fn take(&mut self) -> Result<Option<(HashedChunk, Members)>> {
        let Self { data, members, .. } = std::mem::take(self);
        let data = match data.len() {
            0 => return Ok(None),
            1 => data.into_iter().next().unwrap_or_default(),
            _ => {
                let mut joined = BytesMut::with_capacity(data.iter().map(Bytes::len).sum());
                for part in &data {
                    joined.extend_from_slice(part);
                }
                joined.freeze()
            }
        };
        Ok(Some((HashedChunk::new(data)?, members)))
    }
}
