//! The client: an export of any NBD server as a source.

mod assembly;
mod connection;
mod handshake;
mod receive;
mod source;

#[cfg(test)]
mod tests;

pub use source::{NbdClientLimits, NbdSource};
