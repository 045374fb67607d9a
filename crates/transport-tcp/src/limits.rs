//! How much a connection may hold, on either end.

/// Bytes of one stream that may be on their way (RFC 9113, 5.2).
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;

/// Bytes of all streams of a connection that may be on their way.
pub(crate) const CONNECTION_WINDOW: u32 = 2 << 20;

/// The longest frame, in bytes: so much of one message goes before another's
/// turn comes, so that what is short waits for no more than that.
pub(crate) const FRAME: u32 = 64 << 10;

/// The most that the headers of a request may have, in bytes.
pub(crate) const HEADERS: u32 = 4 << 10;

/// How much is made ready to be sent, in bytes.
pub(crate) const SEND_BUFFER: usize = 256 << 10;

/// Calls at once over a connection.
pub(crate) const STREAMS: u32 = 64;

/// Synchronizations that a connection may have begun and not ended.
pub(crate) const SESSIONS: usize = 64;
