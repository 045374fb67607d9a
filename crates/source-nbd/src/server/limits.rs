//! What a server spends on its clients.

use std::time::Duration;

/// What a server spends on its clients: plain data.
///
/// Whatever clients do, an [`NbdServer`](crate::NbdServer) holds at most
/// `connections` times `bytes_in_flight` bytes of images for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdServerLimits {
    /// How many clients are served at once; others wait to be accepted. At
    /// least one.
    pub connections: usize,
    /// How many requests of one client are worked on at once; others wait to
    /// be read. At least one.
    pub requests_in_flight: usize,
    /// How much of an image is held for one client at once, in bytes, at least
    /// 1 MiB. Who does not read what it asked for gets no more.
    pub bytes_in_flight: usize,
    /// How long a client may take until it begins to read.
    pub handshake: Duration,
}

impl Default for NbdServerLimits {
    /// 16 connections of 16 requests and 8 MiB each; half a minute for the
    /// handshake.
    fn default() -> Self {
        Self {
            connections: 16,
            requests_in_flight: 16,
            bytes_in_flight: 8 << 20,
            handshake: Duration::from_secs(30),
        }
    }
}
