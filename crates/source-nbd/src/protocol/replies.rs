//! What a server answers in the transmission: a simple reply, or chunks of a
//! structured one.

use backstop_core::Result;

use super::errno::Errno;
use super::fields::{Fields, broken, shortened};
use super::numbers::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_ERROR_OFFSET, CHUNK_HOLE, CHUNK_IS_ERROR,
    CHUNK_MAGIC, CHUNK_NONE, CHUNK_STATUS, LONGEST_STRING, SIMPLE_REPLY_MAGIC,
};

/// What comes before the data of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyHeader {
    /// The data of a successful read follows, as long as it was asked for.
    Simple {
        /// Zero for a success.
        error: u32,
        cookie: u64,
    },
    Chunk {
        done: bool,
        kind: u16,
        cookie: u64,
        /// The length of what follows, in bytes.
        length: u32,
    },
}

impl ReplyHeader {
    /// What both kinds have, in bytes; the rest of a chunk's is read when that
    /// is known.
    pub(crate) const SIMPLE_LENGTH: usize = 16;
    /// The length of a chunk's header, in bytes.
    pub(crate) const CHUNK_LENGTH: usize = 20;

    /// Whether these are the first bytes of a chunk's header.
    pub(crate) fn is_chunk(bytes: &[u8]) -> bool {
        bytes.starts_with(&CHUNK_MAGIC.to_be_bytes())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("a reply", bytes);
        let header = match fields.u32()? {
            SIMPLE_REPLY_MAGIC => Self::Simple {
                error: fields.u32()?,
                cookie: fields.u64()?,
            },
            CHUNK_MAGIC => Self::Chunk {
                done: fields.u16()? & CHUNK_DONE != 0,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                length: fields.u32()?,
            },
            _ => return Err(broken("a reply does not begin as one")),
        };
        fields.end()?;
        Ok(header)
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::CHUNK_LENGTH);
        match self {
            Self::Simple { error, cookie } => {
                bytes.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
                bytes.extend(error.to_be_bytes());
                bytes.extend(cookie.to_be_bytes());
            }
            Self::Chunk {
                done,
                kind,
                cookie,
                length,
            } => {
                bytes.extend(CHUNK_MAGIC.to_be_bytes());
                bytes.extend(if done { CHUNK_DONE } else { 0 }.to_be_bytes());
                bytes.extend(kind.to_be_bytes());
                bytes.extend(cookie.to_be_bytes());
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes
    }
}

/// What a chunk holds; of data only where it belongs, the bytes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    None,
    Data {
        offset: u64,
        /// In bytes.
        length: u32,
    },
    Hole {
        offset: u64,
        /// In bytes.
        length: u32,
    },
    Status {
        context: u32,
        extents: Vec<StatusExtent>,
    },
    Error {
        errno: Errno,
        message: String,
        /// Where in the image, if that is told.
        offset: Option<u64>,
    },
}

/// A part of the image in one state of a meta context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusExtent {
    /// In bytes.
    pub(crate) length: u32,
    pub(crate) flags: u32,
}

impl Chunk {
    /// How long the part of [`Data`](Self::Data) is that comes before its
    /// bytes.
    pub(crate) const DATA_PREFIX: u32 = 8;

    /// `bytes` is all of it, but of a data chunk only what comes before the
    /// data; `length` is that of all of it.
    pub(crate) fn decode(kind: u16, length: u32, bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("a chunk of a reply", bytes);
        let chunk = match kind {
            CHUNK_NONE => Self::None,
            CHUNK_DATA => {
                let Some(length) = length.checked_sub(Self::DATA_PREFIX) else {
                    return Err(broken("a chunk of data has no place"));
                };
                Self::Data {
                    offset: fields.u64()?,
                    length,
                }
            }
            CHUNK_HOLE => Self::Hole {
                offset: fields.u64()?,
                length: fields.u32()?,
            },
            CHUNK_STATUS => Self::decode_status(&mut fields)?,
            error if error & CHUNK_IS_ERROR != 0 => {
                return Self::decode_error(error, fields);
            }
            other => return Err(broken(format_args!("chunks of kind {other} are not known"))),
        };
        fields.end()?;
        Ok(chunk)
    }

    fn decode_status(fields: &mut Fields<'_>) -> Result<Self> {
        let context = fields.u32()?;
        let mut extents = Vec::with_capacity(fields.remaining() / 8);
        while fields.remaining() > 0 {
            extents.push(StatusExtent {
                length: fields.u32()?,
                flags: fields.u32()?,
            });
        }
        Ok(Self::Status { context, extents })
    }

    /// Whatever an error's kind is, it begins alike.
    fn decode_error(kind: u16, mut fields: Fields<'_>) -> Result<Self> {
        let errno = Errno(fields.u32()?);
        if errno.0 == 0 {
            return Err(broken("an error has the number of a success"));
        }
        let length = usize::from(fields.u16()?);
        let message = fields.text(length)?;
        let offset = match kind {
            CHUNK_ERROR_OFFSET => Some(fields.u64()?),
            _ => None,
        };
        if matches!(kind, CHUNK_ERROR | CHUNK_ERROR_OFFSET) {
            fields.end()?;
        }
        Ok(Self::Error {
            errno,
            message,
            offset,
        })
    }

    /// The chunk with its header; the bytes of data are to follow.
    pub(crate) fn encode(&self, cookie: u64, done: bool) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut following = 0;
        let kind = match self {
            Self::None => CHUNK_NONE,
            Self::Data { offset, length } => {
                payload.extend(offset.to_be_bytes());
                following = *length;
                CHUNK_DATA
            }
            Self::Hole { offset, length } => {
                payload.extend(offset.to_be_bytes());
                payload.extend(length.to_be_bytes());
                CHUNK_HOLE
            }
            Self::Status { context, extents } => {
                payload.extend(context.to_be_bytes());
                for extent in extents {
                    payload.extend(extent.length.to_be_bytes());
                    payload.extend(extent.flags.to_be_bytes());
                }
                CHUNK_STATUS
            }
            Self::Error {
                errno,
                message,
                offset,
            } => {
                let message = shortened(message, LONGEST_STRING);
                payload.extend(errno.0.to_be_bytes());
                let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
                payload.extend(length.to_be_bytes());
                payload.extend(message.as_bytes());
                match offset {
                    Some(offset) => {
                        payload.extend(offset.to_be_bytes());
                        CHUNK_ERROR_OFFSET
                    }
                    None => CHUNK_ERROR,
                }
            }
        };
        let header = ReplyHeader::Chunk {
            done,
            kind,
            cookie,
            length: u32::try_from(payload.len())
                .unwrap_or(u32::MAX)
                .saturating_add(following),
        };
        let mut bytes = header.encode();
        bytes.extend(payload);
        bytes
    }
}
