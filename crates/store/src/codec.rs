//! Reading and writing the vault's binary objects: fixed and variable-length
//! numbers with limits, never a panic, never memory beyond the input.

use backstop_core::{ChunkDigest, Error, Result};

/// Appends an unsigned LEB128 number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads an object's bytes from front to back.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    object: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors say that this kind of `object` is damaged.
    pub(crate) fn new(object: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            object,
        }
    }

    pub(crate) fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!("{} is damaged: {what}", self.object))
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.damaged("it ends early")),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Result<ChunkDigest> {
        self.array().map(ChunkDigest::from_bytes)
    }

    /// An unsigned LEB128 number in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(self.damaged("a number is too long"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number is too long"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| self.damaged("a number is too large"))
    }

    /// A count of entries that take at least `entry` bytes each: never more
    /// than the input can hold, so it may size an allocation.
    pub(crate) fn count(&mut self, entry: usize) -> Result<usize> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| count.saturating_mul(entry) <= self.rest.len())
            .ok_or_else(|| self.damaged("it promises more than it holds"))
    }

    /// A byte string led in by its length.
    pub(crate) fn string(&mut self) -> Result<&'a [u8]> {
        let length = self.count(1)?;
        self.bytes(length)
    }

    /// Says that all was read.
    pub(crate) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged("bytes follow its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip_in_one_form(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new("a number", &out);
            prop_assert_eq!(reader.varint().unwrap(), value);
            reader.finish().unwrap();
        }

        #[test]
        fn any_bytes_give_a_number_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new("a number", &bytes);
            if let Ok(value) = reader.varint() {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                prop_assert_eq!(&bytes[..out.len()], &out[..]);
            }
        }
    }

    #[test]
    fn counts_are_bounded_by_the_input() {
        let mut out = Vec::new();
        put_varint(&mut out, 3);
        out.extend([0; 5]);
        assert!(Reader::new("x", &out).count(2).is_err());
        assert_eq!(Reader::new("x", &out).count(1).unwrap(), 3);
    }
}
