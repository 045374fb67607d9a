//! The handshake with a client: options, until it has chosen an export.

use backstop_core::Result;
use tokio::io::{AsyncRead, AsyncWrite};

use super::context::Context;
use super::export::NbdExport;
use super::exports::Exports;
use crate::protocol::fields::broken;
use crate::protocol::numbers::{
    FIXED_NEWSTYLE, IHAVEOPT, INFO_DESCRIPTION, INFO_NAME, NBDMAGIC, NO_ZEROES, OLD_ZEROES,
    REP_ERR_INVALID, REP_ERR_TOO_BIG, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
};
use crate::protocol::option_replies::{Info, OptionReply};
use crate::protocol::options::{ClientOption, ContextQuery, ExportQuery, OptionHeader};
use crate::wire::{pass_over, put, take, take_vec};

/// Options of more data are refused, in bytes.
const LONGEST_OPTION: u32 = 64 << 10;

/// Options of more data end the connection, in bytes.
const LONGEST_PASSED_OVER: u32 = 1 << 20;

/// A client that still has not chosen after so many options never will.
const MOST_OPTIONS: usize = 256;

/// What a client has chosen.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) export: NbdExport,
    pub(crate) structured: bool,
    pub(crate) contexts: Vec<Context>,
}

/// Talks with a client until it has chosen an export; none if it leaves.
///
/// # Errors
/// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if the connection
/// fails or the client breaks the protocol: there is no going on then.
pub(crate) async fn agree<S>(stream: &mut S, exports: &Exports) -> Result<Option<Agreed>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(NBDMAGIC.to_be_bytes());
    greeting.extend(IHAVEOPT.to_be_bytes());
    greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    put(stream, &greeting).await?;
    let flags = u32::from_be_bytes(take(stream).await?);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(broken(format_args!(
            "client flags {flags:#x} are not known"
        )));
    }
    let mut handshake = Handshake {
        stream,
        exports,
        no_zeroes: flags & u32::from(NO_ZEROES) != 0,
        structured: false,
        contexts: None,
    };
    handshake.options().await
}

struct Handshake<'a, S> {
    stream: &'a mut S,
    exports: &'a Exports,
    no_zeroes: bool,
    structured: bool,
    /// The contexts that were chosen, and of which export.
    contexts: Option<(String, Vec<Context>)>,
}

/// What comes after an option.
enum Next {
    Another,
    Leave,
    Transmit(NbdExport, String),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    async fn options(&mut self) -> Result<Option<Agreed>> {
        for _ in 0..MOST_OPTIONS {
            let header =
                OptionHeader::decode(&take::<{ OptionHeader::LENGTH }>(self.stream).await?)?;
            match self.option(header).await? {
                Next::Another => {}
                Next::Leave => return Ok(None),
                Next::Transmit(export, name) => {
                    let contexts = self.contexts.take();
                    let contexts = contexts
                        .filter(|(of, _)| *of == name)
                        .map(|(_, contexts)| contexts);
                    return Ok(Some(Agreed {
                        export,
                        structured: self.structured,
                        contexts: contexts.unwrap_or_default(),
                    }));
                }
            }
        }
        Err(broken("the client asks for options without end"))
    }

    async fn option(&mut self, header: OptionHeader) -> Result<Next> {
        let OptionHeader { option, length } = header;
        if length > LONGEST_PASSED_OVER {
            return Err(broken(format_args!("option {option} has {length} bytes")));
        }
        if length > LONGEST_OPTION {
            pass_over(self.stream, length.into()).await?;
            self.refuse(option, REP_ERR_TOO_BIG, "this option has too much data")
                .await?;
            return Ok(Next::Another);
        }
        let data = take_vec(self.stream, length as usize).await?;
        let decoded = match ClientOption::decode(option, &data) {
            Ok(decoded) => decoded,
            // The only option that has no reply.
            Err(error) if option == crate::protocol::numbers::OPT_EXPORT_NAME => {
                return Err(error);
            }
            Err(error) => {
                self.refuse(option, REP_ERR_INVALID, error.context())
                    .await?;
                return Ok(Next::Another);
            }
        };
        self.answer(option, decoded).await
    }

    async fn answer(&mut self, option: u32, asked: ClientOption) -> Result<Next> {
        match asked {
            ClientOption::ExportName(name) => return self.export_name(name).await,
            ClientOption::Abort => {
                // It may be gone already.
                let _ = self.reply(option, &OptionReply::Ack).await;
                return Ok(Next::Leave);
            }
            ClientOption::List => {
                for name in self.exports.names() {
                    self.reply(option, &OptionReply::Server(name.to_owned()))
                        .await?;
                }
                self.reply(option, &OptionReply::Ack).await?;
            }
            ClientOption::Info(query) => {
                self.describe(option, &query).await?;
            }
            ClientOption::Go(query) => {
                if let Some(export) = self.describe(option, &query).await? {
                    return Ok(Next::Transmit(export, query.export));
                }
            }
            ClientOption::StructuredReply => {
                self.structured = true;
                self.reply(option, &OptionReply::Ack).await?;
            }
            ClientOption::ListMetaContext(query) => {
                self.list_contexts(option, &query).await?;
            }
            ClientOption::SetMetaContext(query) => self.set_contexts(option, query).await?,
            ClientOption::Unknown(_) => {
                self.refuse(option, REP_ERR_UNSUP, "this server has no such option")
                    .await?;
            }
        }
        Ok(Next::Another)
    }

    /// The old way: no reply but the export itself, or the end.
    async fn export_name(&mut self, name: String) -> Result<Next> {
        let Some(export) = self.exports.find(&name) else {
            return Err(broken(format_args!("there is no export {name:?}")));
        };
        let mut reply = Vec::new();
        reply.extend(export.length().0.to_be_bytes());
        reply.extend(export.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            reply.extend([0; OLD_ZEROES]);
        }
        put(self.stream, &reply).await?;
        Ok(Next::Transmit(export, name))
    }

    /// Tells of an export; none if there is none of that name.
    async fn describe(&mut self, option: u32, query: &ExportQuery) -> Result<Option<NbdExport>> {
        let Some(export) = self.exports.find(&query.export) else {
            self.refuse_export(option, &query.export).await?;
            return Ok(None);
        };
        let mut infos = vec![
            Info::Export {
                length: export.length().0,
                flags: export.flags(self.structured),
            },
            Info::BlockSize(export.block_sizes()),
        ];
        if query.infos.contains(&INFO_NAME) {
            infos.push(Info::Name(query.export.clone()));
        }
        if query.infos.contains(&INFO_DESCRIPTION) && !export.description().is_empty() {
            infos.push(Info::Description(export.description().to_owned()));
        }
        for info in infos {
            self.reply(option, &OptionReply::Info(info)).await?;
        }
        self.reply(option, &OptionReply::Ack).await?;
        Ok(Some(export))
    }

    async fn list_contexts(&mut self, option: u32, query: &ContextQuery) -> Result<()> {
        let Some(export) = self.exports.find(&query.export) else {
            return self.refuse_export(option, &query.export).await;
        };
        for context in export.contexts() {
            let is_wanted = |query: &String| context.matches(query, true);
            if query.queries.is_empty() || query.queries.iter().any(is_wanted) {
                let name = context.name().to_owned();
                // Ids are given when one is chosen.
                self.reply(option, &OptionReply::MetaContext { id: 0, name })
                    .await?;
            }
        }
        self.reply(option, &OptionReply::Ack).await
    }

    async fn set_contexts(&mut self, option: u32, query: ContextQuery) -> Result<()> {
        // Whatever comes of it, an earlier choice is void.
        self.contexts = None;
        if !self.structured {
            let sentence = "meta contexts take structured replies, which were not asked for";
            return self.refuse(option, REP_ERR_INVALID, sentence).await;
        }
        let Some(export) = self.exports.find(&query.export) else {
            return self.refuse_export(option, &query.export).await;
        };
        let mut chosen = Vec::new();
        for context in export.contexts() {
            if query
                .queries
                .iter()
                .any(|asked| context.matches(asked, false))
            {
                let (id, name) = (context.id(), context.name().to_owned());
                self.reply(option, &OptionReply::MetaContext { id, name })
                    .await?;
                chosen.push(*context);
            }
        }
        self.contexts = Some((query.export, chosen));
        self.reply(option, &OptionReply::Ack).await
    }

    async fn reply(&mut self, option: u32, reply: &OptionReply) -> Result<()> {
        put(self.stream, &reply.encode(option)).await
    }

    async fn refuse(&mut self, option: u32, kind: u32, message: &str) -> Result<()> {
        let message = message.to_owned();
        self.reply(option, &OptionReply::Error { kind, message })
            .await
    }

    async fn refuse_export(&mut self, option: u32, name: &str) -> Result<()> {
        let sentence = format!("there is no export {name:?}");
        self.refuse(option, REP_ERR_UNKNOWN, &sentence).await
    }
}
