//! The handshake with a server, up to the choice of an export.

use backstop_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::fields::broken;
use crate::protocol::numbers::{
    BASE_ALLOCATION, FIXED_NEWSTYLE, HAS_FLAGS, IHAVEOPT, INFO_BLOCK_SIZE, LONGEST_REQUEST,
    NBDMAGIC, NO_ZEROES, OLD_ZEROES, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
};
use crate::protocol::option_replies::{BlockSizes, Info, OptionReply, OptionReplyHeader};
use crate::protocol::options::{ClientOption, ContextQuery, ExportQuery};
use crate::wire::{pass_over, put, take, take_vec};

/// Replies of more data are broken, in bytes.
const LONGEST_REPLY: u32 = 64 << 10;

/// More replies to one option are broken.
const MOST_REPLIES: usize = 4096;

/// What a server gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Of the export, in bytes.
    pub(super) length: u64,
    pub(super) flags: u16,
    pub(super) sizes: BlockSizes,
    pub(super) structured: bool,
    /// The id of `base:allocation`, where the server tells that.
    pub(super) allocation: Option<u32>,
}

/// What a server that tells no sizes takes.
const USUAL_SIZES: BlockSizes = BlockSizes {
    minimum: 1,
    preferred: 4096,
    maximum: LONGEST_REQUEST,
};

/// Chooses an export.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) if there is no such export;
/// [`Unsupported`](ErrorKind::Unsupported) for a server that is too old;
/// [`Unavailable`](ErrorKind::Unavailable) if it refuses, breaks the protocol
/// or goes away.
pub(super) async fn agree<S>(stream: &mut S, export: &str) -> Result<Agreed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting: [u8; 16] = take(stream).await?;
    let (magic, style) = greeting.split_at(8);
    if magic != NBDMAGIC.to_be_bytes() {
        return Err(broken("it does not greet as one"));
    }
    // Of the old style nothing more is looked at.
    let flags = if style == IHAVEOPT.to_be_bytes() {
        u16::from_be_bytes(take(stream).await?)
    } else {
        0
    };
    if flags & FIXED_NEWSTYLE == 0 {
        let sentence = "the NBD server is too old: it has no fixed newstyle handshake";
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    let no_zeroes = flags & NO_ZEROES;
    put(stream, &u32::from(FIXED_NEWSTYLE | no_zeroes).to_be_bytes()).await?;
    let mut handshake = Handshake {
        stream,
        export,
        has_zeroes: no_zeroes == 0,
    };
    handshake.choose().await
}

struct Handshake<'a, S> {
    stream: &'a mut S,
    export: &'a str,
    has_zeroes: bool,
}

/// How an option ended.
enum Outcome {
    Done(Vec<OptionReply>),
    Refused { kind: u32, message: String },
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    async fn choose(&mut self) -> Result<Agreed> {
        let structured = matches!(
            self.ask(&ClientOption::StructuredReply).await?,
            Outcome::Done(_)
        );
        let allocation = if structured {
            self.allocation().await?
        } else {
            None
        };
        let query = ExportQuery {
            export: self.export.to_owned(),
            infos: vec![INFO_BLOCK_SIZE],
        };
        match self.ask(&ClientOption::Go(query)).await? {
            Outcome::Done(replies) => {
                let (length, flags, sizes) = told(&replies)?;
                Ok(Agreed {
                    length,
                    flags,
                    sizes,
                    structured,
                    allocation,
                })
            }
            Outcome::Refused {
                kind: REP_ERR_UNSUP,
                ..
            } => self.choose_by_name(structured, allocation).await,
            Outcome::Refused { kind, message } => Err(self.refused(kind, &message)),
        }
    }

    /// The old way of choosing, for servers that know no other.
    async fn choose_by_name(
        &mut self,
        structured: bool,
        allocation: Option<u32>,
    ) -> Result<Agreed> {
        let option = ClientOption::ExportName(self.export.to_owned());
        put(self.stream, &option.encode()).await?;
        let length = u64::from_be_bytes(take(self.stream).await?);
        let flags = u16::from_be_bytes(take(self.stream).await?);
        if self.has_zeroes {
            pass_over(self.stream, OLD_ZEROES as u64).await?;
        }
        checked(length, flags)?;
        Ok(Agreed {
            length,
            flags,
            sizes: USUAL_SIZES,
            structured,
            allocation,
        })
    }

    /// The id of `base:allocation`.
    async fn allocation(&mut self) -> Result<Option<u32>> {
        let query = ContextQuery {
            export: self.export.to_owned(),
            queries: vec![BASE_ALLOCATION.to_owned()],
        };
        let Outcome::Done(replies) = self.ask(&ClientOption::SetMetaContext(query)).await? else {
            return Ok(None);
        };
        Ok(replies.into_iter().find_map(|reply| match reply {
            OptionReply::MetaContext { id, name } if name == BASE_ALLOCATION => Some(id),
            _ => None,
        }))
    }

    /// Asks, and collects what is answered.
    async fn ask(&mut self, option: &ClientOption) -> Result<Outcome> {
        put(self.stream, &option.encode()).await?;
        let mut replies = Vec::new();
        for _ in 0..MOST_REPLIES {
            let header = take::<{ OptionReplyHeader::LENGTH }>(self.stream).await?;
            let header = OptionReplyHeader::decode(&header)?;
            if header.option != option.number() {
                return Err(broken("it answers what was not asked"));
            }
            if header.length > LONGEST_REPLY {
                let length = header.length;
                return Err(broken(format_args!("a reply of {length} bytes")));
            }
            let data = take_vec(self.stream, header.length as usize).await?;
            match OptionReply::decode(header.kind, &data)? {
                OptionReply::Ack => return Ok(Outcome::Done(replies)),
                OptionReply::Error { kind, message } => {
                    return Ok(Outcome::Refused { kind, message });
                }
                reply @ (OptionReply::Info(_) | OptionReply::MetaContext { .. }) => {
                    replies.push(reply);
                }
                OptionReply::Server(_) | OptionReply::Other => {}
            }
        }
        Err(broken("it answers without end"))
    }

    fn refused(&self, kind: u32, message: &str) -> Error {
        let export = self.export;
        if kind == REP_ERR_UNKNOWN {
            return Error::not_found(format!("the NBD server has no export {export:?}"));
        }
        Error::unavailable(format!(
            "the NBD server refuses export {export:?} (reply {kind:#x}): {message}"
        ))
    }
}

/// What replies tell of an export.
fn told(replies: &[OptionReply]) -> Result<(u64, u16, BlockSizes)> {
    let mut export = None;
    let mut sizes = USUAL_SIZES;
    for reply in replies {
        match reply {
            OptionReply::Info(Info::Export { length, flags }) => export = Some((*length, *flags)),
            OptionReply::Info(Info::BlockSize(told)) => sizes = *told,
            _ => {}
        }
    }
    let Some((length, flags)) = export else {
        return Err(broken("it does not tell the export's length"));
    };
    checked(length, flags)?;
    let BlockSizes {
        minimum, maximum, ..
    } = sizes;
    if !minimum.is_power_of_two() || minimum > 64 << 10 || maximum < minimum {
        return Err(broken(format_args!(
            "blocks of {minimum} to {maximum} bytes"
        )));
    }
    Ok((length, flags, sizes))
}

/// No export is longer than a signed number tells: so no sum of a place and a
/// length in it overflows.
fn checked(length: u64, flags: u16) -> Result<()> {
    if flags & HAS_FLAGS == 0 || i64::try_from(length).is_err() {
        return Err(broken(format_args!(
            "an export of {length} bytes with flags {flags:#x}"
        )));
    }
    Ok(())
}
