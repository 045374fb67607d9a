//! An image under a name that clients ask for.

use std::fmt;
use std::sync::Arc;

use backstop_core::{BlockSource, ByteCount};

use super::context::Context;
use crate::protocol::numbers::{CAN_MULTI_CONN, HAS_FLAGS, LONGEST_REQUEST, READ_ONLY, SEND_DF};
use crate::protocol::option_replies::BlockSizes;

/// An image that a server gives to its clients.
#[derive(Clone)]
pub struct NbdExport {
    source: Arc<dyn BlockSource>,
    description: String,
    /// Transmission flags: what clients may do.
    flags: u16,
    /// The meta contexts it can tell.
    contexts: Vec<Context>,
}

impl NbdExport {
    /// An image for reading: writes are refused as not permitted.
    pub fn read_only(source: Arc<dyn BlockSource>) -> Self {
        Self {
            source,
            description: String::new(),
            // What nobody writes to looks the same on every connection.
            flags: HAS_FLAGS | READ_ONLY | CAN_MULTI_CONN,
            contexts: vec![Context::Allocation],
        }
    }

    /// The same with a description, which clients can ask for.
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    pub(crate) fn source(&self) -> &dyn BlockSource {
        &*self.source
    }

    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    pub(crate) fn length(&self) -> ByteCount {
        self.source.geometry().length
    }

    /// What clients are told that they may do.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        if structured {
            self.flags | SEND_DF
        } else {
            self.flags
        }
    }

    /// Any range may be asked for: an image need not end at a block's end.
    pub(crate) fn block_sizes(&self) -> BlockSizes {
        let block = self.source.geometry().block.0.clamp(4096, 1 << 20);
        BlockSizes {
            minimum: 1,
            preferred: u32::try_from(block).unwrap_or(4096),
            maximum: LONGEST_REQUEST,
        }
    }

    /// The meta contexts it can tell.
    pub(crate) fn contexts(&self) -> &[Context] {
        &self.contexts
    }
}

impl fmt::Debug for NbdExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NbdExport")
            .field("geometry", &self.source.geometry())
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}
