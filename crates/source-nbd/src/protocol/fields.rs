//! Taking numbers and strings from the front of bytes that a peer sent.

use backstop_core::{Error, Result};

use super::numbers::LONGEST_STRING;

/// The error for a peer that does not keep to the protocol.
pub(crate) fn broken(sentence: impl std::fmt::Display) -> Error {
    Error::unavailable(format!("the NBD peer broke the protocol: {sentence}"))
}

/// Bytes of which fields are taken in order.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    /// What is decoded, for the error.
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            return Err(broken(format_args!("{} is cut short", self.what)));
        };
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string of so many bytes.
    pub(crate) fn text(&mut self, length: usize) -> Result<String> {
        if length > LONGEST_STRING {
            return Err(broken(format_args!(
                "{} has a string of {length} bytes, {LONGEST_STRING} at most",
                self.what
            )));
        }
        let Some((text, rest)) = self.rest.split_at_checked(length) else {
            return Err(broken(format_args!("{} is cut short", self.what)));
        };
        self.rest = rest;
        match std::str::from_utf8(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(broken(format_args!(
                "{} has a string that is no UTF-8",
                self.what
            ))),
        }
    }

    /// A string after its length in 32 bits.
    pub(crate) fn long_text(&mut self) -> Result<String> {
        let length = self.u32()?;
        self.text(length as usize)
    }

    /// All that is left, as a string.
    pub(crate) fn remaining_text(&mut self) -> Result<String> {
        self.text(self.rest.len())
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// That nothing is left.
    pub(crate) fn end(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(broken(format_args!(
            "{} has {} bytes too many",
            self.what,
            self.rest.len()
        )))
    }
}

/// Appends a string after its length in 32 bits.
pub(crate) fn put_long_text(to: &mut Vec<u8>, text: &str) {
    to.extend(length(text).to_be_bytes());
    to.extend(text.as_bytes());
}

fn length(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

/// As much of a sentence as fits in so many bytes.
pub(crate) fn shortened(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
