//! The NBD protocol as bytes: its numbers, and one type for each message, with
//! an encoder and a decoder that takes what anybody may send.
//!
//! No input and output here. All numbers are big-endian. What is decoded is
//! bounded by the buffer it is decoded from; who reads from a peer bounds that.

pub(crate) mod errno;
pub(crate) mod fields;
pub(crate) mod numbers;
pub(crate) mod option_replies;
pub(crate) mod options;
pub(crate) mod replies;
pub(crate) mod requests;

#[cfg(test)]
mod tests;
