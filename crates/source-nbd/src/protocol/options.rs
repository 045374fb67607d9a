//! What a client asks for before the transmission: options.

use backstop_core::Result;

use super::fields::{Fields, broken, put_long_text};
use super::numbers::{
    IHAVEOPT, OPT_ABORT, OPT_EXPORT_NAME, OPT_GO, OPT_INFO, OPT_LIST, OPT_LIST_META_CONTEXT,
    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY,
};

/// What comes before the data of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OptionHeader {
    pub(crate) option: u32,
    /// The length of its data, in bytes.
    pub(crate) length: u32,
}

impl OptionHeader {
    /// Its length, in bytes.
    pub(crate) const LENGTH: usize = 16;

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("an option", bytes);
        if fields.u64()? != IHAVEOPT {
            return Err(broken("an option does not begin as one"));
        }
        let header = Self {
            option: fields.u32()?,
            length: fields.u32()?,
        };
        fields.end()?;
        Ok(header)
    }
}

/// An option with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientOption {
    ExportName(String),
    Abort,
    List,
    Info(ExportQuery),
    Go(ExportQuery),
    StructuredReply,
    ListMetaContext(ContextQuery),
    SetMetaContext(ContextQuery),
    /// One that is not known here; its data is passed over.
    Unknown(u32),
}

/// Which export, and what a client wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportQuery {
    pub(crate) export: String,
    /// Kinds of information.
    pub(crate) infos: Vec<u16>,
}

/// Which export, and which meta contexts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContextQuery {
    pub(crate) export: String,
    pub(crate) queries: Vec<String>,
}

impl ClientOption {
    pub(crate) fn decode(option: u32, data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new("an option", data);
        let decoded = match option {
            OPT_EXPORT_NAME => Self::ExportName(fields.remaining_text()?),
            OPT_ABORT => Self::Abort,
            OPT_LIST => Self::List,
            OPT_INFO => Self::Info(ExportQuery::decode(&mut fields)?),
            OPT_GO => Self::Go(ExportQuery::decode(&mut fields)?),
            OPT_STRUCTURED_REPLY => Self::StructuredReply,
            OPT_LIST_META_CONTEXT => Self::ListMetaContext(ContextQuery::decode(&mut fields)?),
            OPT_SET_META_CONTEXT => Self::SetMetaContext(ContextQuery::decode(&mut fields)?),
            unknown => return Ok(Self::Unknown(unknown)),
        };
        fields.end()?;
        Ok(decoded)
    }

    pub(crate) fn number(&self) -> u32 {
        match self {
            Self::ExportName(_) => OPT_EXPORT_NAME,
            Self::Abort => OPT_ABORT,
            Self::List => OPT_LIST,
            Self::Info(_) => OPT_INFO,
            Self::Go(_) => OPT_GO,
            Self::StructuredReply => OPT_STRUCTURED_REPLY,
            Self::ListMetaContext(_) => OPT_LIST_META_CONTEXT,
            Self::SetMetaContext(_) => OPT_SET_META_CONTEXT,
            Self::Unknown(number) => *number,
        }
    }

    /// The option with its header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => data.extend(name.as_bytes()),
            Self::Info(query) | Self::Go(query) => query.encode(&mut data),
            Self::ListMetaContext(query) | Self::SetMetaContext(query) => query.encode(&mut data),
            Self::Abort | Self::List | Self::StructuredReply | Self::Unknown(_) => {}
        }
        let mut bytes = Vec::with_capacity(OptionHeader::LENGTH + data.len());
        bytes.extend(IHAVEOPT.to_be_bytes());
        bytes.extend(self.number().to_be_bytes());
        bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(data);
        bytes
    }
}

impl ExportQuery {
    fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        let export = fields.long_text()?;
        let count = usize::from(fields.u16()?);
        // Told before memory is taken for it.
        if count * 2 > fields.remaining() {
            return Err(broken("an option names more than it holds"));
        }
        let infos = (0..count).map(|_| fields.u16()).collect::<Result<_>>()?;
        Ok(Self { export, infos })
    }

    fn encode(&self, to: &mut Vec<u8>) {
        put_long_text(to, &self.export);
        let count = u16::try_from(self.infos.len()).unwrap_or(u16::MAX);
        to.extend(count.to_be_bytes());
        for info in self.infos.iter().take(usize::from(count)) {
            to.extend(info.to_be_bytes());
        }
    }
}

impl ContextQuery {
    fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        let export = fields.long_text()?;
        let count = fields.u32()? as usize;
        // Each has at least its length.
        if count > fields.remaining() / 4 {
            return Err(broken("an option names more than it holds"));
        }
        let queries = (0..count)
            .map(|_| fields.long_text())
            .collect::<Result<_>>()?;
        Ok(Self { export, queries })
    }

    fn encode(&self, to: &mut Vec<u8>) {
        put_long_text(to, &self.export);
        let count = u32::try_from(self.queries.len()).unwrap_or(u32::MAX);
        to.extend(count.to_be_bytes());
        for query in &self.queries {
            put_long_text(to, query);
        }
    }
}
