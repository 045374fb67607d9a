//! Where a frame stands, as an index entry tells it.

use backstop_core::Result;

use super::frame::{MAX_CONTENT_LENGTH, OVERHEAD};
use super::table::TableEntry;
use crate::codec::{Reader, put_varint};

/// No frame stands behind this, in bytes: more than any file or object has.
const MAX_OFFSET: u64 = 1 << 62;

/// Where a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) pack: u64,
    pub(crate) offset: u64,
    pub(crate) payload_length: u32,
    pub(crate) plain_length: u32,
}

impl Location {
    pub(crate) fn of(pack: u64, entry: &TableEntry) -> Self {
        Self {
            pack,
            offset: entry.offset,
            payload_length: entry.header.payload_length,
            plain_length: entry.header.plain_length,
        }
    }

    /// The position after the frame.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.frame_length()
    }

    pub(crate) fn frame_length(&self) -> u64 {
        OVERHEAD as u64 + u64::from(self.payload_length)
    }

    /// The value of an index entry: four varints: pack, offset, payload
    /// length, and how much the payload is shorter than the plain bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(14);
        put_varint(&mut out, self.pack);
        put_varint(&mut out, self.offset);
        put_varint(&mut out, u64::from(self.payload_length));
        put_varint(
            &mut out,
            u64::from(self.plain_length.saturating_sub(self.payload_length)),
        );
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("an index entry", bytes);
        let (pack, offset) = (reader.varint()?, reader.varint()?);
        let (payload_length, shrunk) = (reader.varint_u32()?, reader.varint_u32()?);
        let location = payload_length.checked_add(shrunk).map(|plain_length| Self {
            pack,
            offset,
            payload_length,
            plain_length,
        });
        let location = location
            .filter(|at| at.plain_length <= MAX_CONTENT_LENGTH && at.offset <= MAX_OFFSET)
            .ok_or_else(|| reader.damaged("a length is too large"))?;
        reader.finish()?;
        Ok(location)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn locations_round_trip(pack: u64, offset in 0..=MAX_OFFSET, plain_length in 0..=MAX_CONTENT_LENGTH, part in 0..=64u32) {
            let payload_length = plain_length / 64 * part;
            let location = Location { pack, offset, payload_length, plain_length };
            prop_assert_eq!(Location::decode(&location.encode()).unwrap(), location);
        }

        #[test]
        fn any_entry_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Location::decode(&bytes);
        }
    }
}
