//! How much a connection may hold, on either end.

/// Bytes of one stream that may be on their way to a server (RFC 9113, 5.2), and of
/// all streams of a connection, as long as the peer is near. What has come and waits
/// for memory takes that much.
pub(crate) const STREAM_WINDOW: u32 = 512 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 20;

/// The same for a peer that is far and synchronizes: by its distance, so that a line
/// of this speed is filled, in bytes for each millisecond of round trip, up to a most.
pub(crate) const WINDOW_PER_MILLISECOND: u64 = 250_000;
pub(crate) const WINDOW_MOST: u64 = 32 << 20;

/// What the windows of all far peers take together, beyond those above.
pub(crate) const WINDOWS: u64 = 64 << 20;

/// The same on their way to a client, which has asked for them.
pub(crate) const CLIENT_STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CLIENT_CONNECTION_WINDOW: u32 = 16 << 20;

/// The longest frame, in bytes: so much of one message goes before another's
/// turn comes, so that what is short waits for no more than that.
pub(crate) const FRAME: u32 = 64 << 10;

/// The most that the headers of a request may have, in bytes.
pub(crate) const HEADERS: u32 = 4 << 10;

/// How much is made ready to be sent, in bytes.
pub(crate) const SEND_BUFFER: usize = 256 << 10;

/// Calls at once over a connection.
pub(crate) const STREAMS: u32 = 128;

/// Calls that a connection has at work: those that were taken back go on until it
/// is found out. One that takes back so many is ended.
pub(crate) const CALLS: usize = 4 * STREAMS as usize;

/// Connections of one peer.
pub(crate) const CONNECTIONS: usize = 16;

/// Connections of which nobody knows yet who is there.
pub(crate) const HANDSHAKES: usize = 256;

/// The most items that a message about a region may tell: no region has more.
pub(crate) const ITEMS: usize = 32 << 10;

/// What the largest answer about a region takes, in bytes.
pub(crate) const ANSWER: u64 = 2 << 20;

/// Synchronizations that a connection may have begun and not ended.
pub(crate) const SESSIONS: usize = 64;

/// Recovery points that a connection may have open.
pub(crate) const IMAGES: usize = 64;

/// Reads of a connection that are answered at once.
pub(crate) const READS: usize = 8;
