//! What a server answers to options.

use backstop_core::Result;

use super::fields::{Fields, broken, put_long_text, shortened};
use super::numbers::{
    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, LONGEST_STRING, OPTION_REPLY_MAGIC,
    REP_ACK, REP_ERROR, REP_INFO, REP_META_CONTEXT, REP_SERVER,
};

/// What comes before the data of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionReplyHeader {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    /// The length of its data, in bytes.
    pub(crate) length: u32,
}

impl OptionReplyHeader {
    /// Its length, in bytes.
    pub(crate) const LENGTH: usize = 20;

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("a reply to an option", bytes);
        if fields.u64()? != OPTION_REPLY_MAGIC {
            return Err(broken("a reply to an option does not begin as one"));
        }
        let header = Self {
            option: fields.u32()?,
            kind: fields.u32()?,
            length: fields.u32()?,
        };
        fields.end()?;
        Ok(header)
    }
}

/// A reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptionReply {
    /// The last one of a success.
    Ack,
    /// The name of an export.
    Server(String),
    Info(Info),
    /// A meta context and its id in this transmission.
    MetaContext {
        id: u32,
        name: String,
    },
    /// A refusal: which, and why.
    Error {
        kind: u32,
        message: String,
    },
    /// One that is not known here.
    Other,
}

/// What a server tells of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Info {
    Export {
        /// In bytes.
        length: u64,
        flags: u16,
    },
    BlockSize(BlockSizes),
    Name(String),
    Description(String),
    /// One that is not known here.
    Other,
}

/// The lengths that requests should have, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSizes {
    pub(crate) minimum: u32,
    pub(crate) preferred: u32,
    /// Of data in one request.
    pub(crate) maximum: u32,
}

impl OptionReply {
    pub(crate) fn decode(kind: u32, data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("a reply to an option", data);
        let decoded = match kind {
            REP_ACK => Self::Ack,
            REP_SERVER => {
                let name = fields.long_text()?;
                // What follows is for people and has no form.
                return Ok(Self::Server(name));
            }
            REP_INFO => {
                let Some(info) = Info::decode(&mut fields)? else {
                    return Ok(Self::Info(Info::Other));
                };
                Self::Info(info)
            }
            REP_META_CONTEXT => Self::MetaContext {
                id: fields.u32()?,
                name: fields.remaining_text()?,
            },
            error if error & REP_ERROR != 0 => {
                // For people; what is no text is not worth failing for.
                let message = fields.remaining_text().unwrap_or_default();
                return Ok(Self::Error {
                    kind: error,
                    message,
                });
            }
            _ => return Ok(Self::Other),
        };
        fields.end()?;
        Ok(decoded)
    }

    /// The reply to an option, with its header.
    pub(crate) fn encode(&self, option: u32) -> Vec<u8> {
        let mut data = Vec::new();
        let kind = match self {
            Self::Ack => REP_ACK,
            Self::Server(name) => {
                put_long_text(&mut data, name);
                REP_SERVER
            }
            Self::Info(info) => {
                info.encode(&mut data);
                REP_INFO
            }
            Self::MetaContext { id, name } => {
                data.extend(id.to_be_bytes());
                data.extend(name.as_bytes());
                REP_META_CONTEXT
            }
            Self::Error { kind, message } => {
                data.extend(shortened(message, LONGEST_STRING).as_bytes());
                *kind
            }
            // Never sent; a client passes over it.
            Self::Other => REP_ERROR - 1,
        };
        let mut bytes = Vec::with_capacity(OptionReplyHeader::LENGTH + data.len());
        bytes.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(data);
        bytes
    }
}

impl Info {
    /// None for one that is not known here.
    fn decode(fields: &mut Fields<'_>) -> Result<Option<Self>> {
        Ok(Some(match fields.u16()? {
            INFO_EXPORT => Self::Export {
                length: fields.u64()?,
                flags: fields.u16()?,
            },
            INFO_BLOCK_SIZE => Self::BlockSize(BlockSizes {
                minimum: fields.u32()?,
                preferred: fields.u32()?,
                maximum: fields.u32()?,
            }),
            INFO_NAME => Self::Name(fields.remaining_text()?),
            INFO_DESCRIPTION => Self::Description(fields.remaining_text()?),
            _ => return Ok(None),
        }))
    }

    fn encode(&self, to: &mut Vec<u8>) {
        let mut put = |kind: u16, parts: &[&[u8]]| {
            to.extend(kind.to_be_bytes());
            to.extend(parts.concat());
        };
        match self {
            Self::Export { length, flags } => {
                put(INFO_EXPORT, &[&length.to_be_bytes(), &flags.to_be_bytes()]);
            }
            Self::BlockSize(sizes) => put(
                INFO_BLOCK_SIZE,
                &[
                    &sizes.minimum.to_be_bytes(),
                    &sizes.preferred.to_be_bytes(),
                    &sizes.maximum.to_be_bytes(),
                ],
            ),
            Self::Name(name) => put(INFO_NAME, &[name.as_bytes()]),
            Self::Description(text) => put(INFO_DESCRIPTION, &[text.as_bytes()]),
            Self::Other => put(u16::MAX, &[]),
        }
    }
}
