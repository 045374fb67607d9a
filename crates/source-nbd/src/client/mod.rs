//! The client: an export of any NBD server as a source.

mod assembly;
mod connection;
mod handshake;
mod receive;
mod source;

pub use source::{NbdClientLimits, NbdSource};
