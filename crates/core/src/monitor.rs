//! How a long operation tells what it does, without printing.

use std::fmt;

use crate::{ByteCount, Extent, SourceName, StreamName};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the image dealt with so far.
    pub done: ByteCount,
    /// Bytes to deal with in all.
    pub total: ByteCount,
}

/// Something worth telling that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Blocks of the source could not be read; they are recorded as
    /// unreadable in the recovery point and the rest is protected.
    Unreadable {
        /// The source.
        source: SourceName,
        /// The image of it.
        stream: StreamName,
        /// Which bytes.
        extent: Extent,
        /// What the source said.
        error: String,
    },
    /// Bytes of a recovery point can't be brought back; the rest is restored.
    Missing {
        /// The image.
        stream: StreamName,
        /// Which bytes.
        extent: Extent,
        /// Why.
        error: String,
    },
    /// Changed blocks can't be trusted, so everything is compared.
    CheckNeeded {
        /// The source.
        source: SourceName,
        /// Why.
        reason: String,
    },
}

/// Receives progress and events.
///
/// Called from async tasks: must return at once, may not block. A panic in it
/// fails the operation that called it, nothing else.
pub trait Monitor: Send + Sync + fmt::Debug {
    /// How far the operation has come; called at most once per region.
    fn progress(&self, progress: Progress);

    /// Something happened that stops nothing.
    fn event(&self, event: &Event);
}

/// A monitor that tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMonitor;

impl Monitor for NoMonitor {
    fn progress(&self, _progress: Progress) {}
    fn event(&self, _event: &Event) {}
}
