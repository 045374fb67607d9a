//! A frame: one sealed chunk, node or record inside a pack.
//!
//! ```text
//! offset  size  field
//! 0       4     length of the payload, little-endian
//! 4       4     length of the plain bytes, little-endian
//! 8       1     what it holds: 1 chunk, 2 node, 3 manifest, 4 point record,
//!               5 page of the ledger
//! 9       1     encoding: 0 raw, 1 zstd
//! 10      2     zero
//! 12      n     payload, sealed
//! 12+n    16    tag
//! ```
//!
//! The seal's number is the frame's offset in its pack; the 12 bytes of the
//! header are bound to it.

use backstop_core::{ChunkDigest, Encoding, Error, MAX_CHUNK_LENGTH, Result};

use crate::codec::Reader;
use crate::seal::{SealingKey, TAG_LENGTH};

/// The size of a frame's header, in bytes.
pub(crate) const HEADER_LENGTH: usize = 12;

/// What a frame adds to its payload, in bytes.
pub(crate) const OVERHEAD: usize = HEADER_LENGTH + TAG_LENGTH;

/// The longest plain content of a frame that is not a chunk, in bytes.
pub(crate) const MAX_CONTENT_LENGTH: u32 = 16 << 20;

/// What a frame holds. Names of different contents never meet: a chunk whose
/// bytes are those of a node is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Content {
    Chunk,
    Node,
    Manifest,
    Point,
    Ledger,
}

/// All of them.
pub(crate) const CONTENTS: [Content; 5] = [
    Content::Chunk,
    Content::Node,
    Content::Manifest,
    Content::Point,
    Content::Ledger,
];

impl Content {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Node => 2,
            Self::Manifest => 3,
            Self::Point => 4,
            Self::Ledger => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self> {
        CONTENTS
            .into_iter()
            .find(|content| content.code() == code)
            .ok_or_else(|| Error::corrupt(format!("a frame holds something unknown ({code})")))
    }

    fn max_length(self) -> u32 {
        if self == Self::Chunk {
            MAX_CHUNK_LENGTH
        } else {
            MAX_CONTENT_LENGTH
        }
    }
}

/// The open part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) payload_length: u32,
    pub(crate) plain_length: u32,
    pub(crate) content: Content,
    pub(crate) encoding: Encoding,
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..4].copy_from_slice(&self.payload_length.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.plain_length.to_le_bytes());
        bytes[8] = self.content.code();
        bytes[9] = self.encoding as u8;
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("a frame's header", bytes);
        let header = Self {
            payload_length: reader.u32()?,
            plain_length: reader.u32()?,
            content: Content::from_code(reader.u8()?)?,
            encoding: Encoding::try_from(reader.u8()?)?,
        };
        if reader.array::<2>()? != [0; 2] {
            return Err(reader.damaged("bytes that must be zero are not"));
        }
        if header.plain_length == 0
            || header.plain_length > header.content.max_length()
            || header.payload_length > header.plain_length
        {
            return Err(reader.damaged("its lengths can't be"));
        }
        reader.finish()?;
        Ok(header)
    }

    /// The size of the whole frame.
    pub(crate) fn frame_length(&self) -> usize {
        OVERHEAD + self.payload_length as usize
    }
}

/// A frame to be written: its content is compressed but not yet sealed.
#[derive(Clone, Debug)]
pub(crate) struct PlainFrame {
    pub(crate) digest: ChunkDigest,
    pub(crate) header: FrameHeader,
    pub(crate) payload: bytes::Bytes,
}

/// Appends a frame to `run`, which will stand at `run_offset` of its pack.
pub(crate) fn seal_into(
    run: &mut Vec<u8>,
    run_offset: u64,
    frame: &PlainFrame,
    key: &SealingKey,
) -> Result<()> {
    let offset = run_offset + run.len() as u64;
    let header = frame.header.encode();
    run.extend_from_slice(&header);
    let start = run.len();
    run.extend_from_slice(&frame.payload);
    let tag = key.seal(offset, &header, &mut run[start..])?;
    run.extend_from_slice(&tag);
    Ok(())
}

/// Opens a whole frame in place: gives its header and its payload.
///
/// # Errors
/// [`ErrorKind::Corrupt`](backstop_core::ErrorKind::Corrupt) naming the pack.
pub(crate) fn open<'a>(
    frame: &'a mut [u8],
    offset: u64,
    key: &SealingKey,
    pack: &dyn std::fmt::Display,
) -> Result<(FrameHeader, &'a [u8])> {
    let damaged = |error: Error| error.within(format_args!("frame at {offset} of pack {pack}"));
    let Some((head, sealed)) = frame.split_at_mut_checked(HEADER_LENGTH) else {
        return Err(damaged(Error::corrupt("it ends early")));
    };
    let header = FrameHeader::decode(head).map_err(damaged)?;
    if sealed.len() != header.payload_length as usize + TAG_LENGTH {
        return Err(damaged(Error::corrupt(
            "its length is not what was promised",
        )));
    }
    let payload = key
        .open(offset, head, sealed, &"its payload")
        .map_err(damaged)?;
    Ok((header, payload))
}
