//! Messages about an image that is read, binary: numbers are little-endian.

use backstop_core::{
    ByteCount, ByteOffset, Codecs, Decompressor, Encoding, Error, Extent, RecoveredRange, Result,
};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::Reader;
use super::control::{self, Failure};

/// The most that one call reads, in bytes.
pub(crate) const READ_LENGTH_MAX: u64 = 4 << 20;

/// Bytes of a range in an answer to `extents`, and of one in an answer to `read`.
const EXTENT: usize = 16;
const RUN: usize = 8;

/// A range of an image of an open point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The open point, by its number on this connection.
    pub(crate) image: u64,
    /// Which of its images.
    pub(crate) stream: usize,
    pub(crate) range: Extent,
}

impl Part {
    const LENGTH: usize = 28;

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(Self::LENGTH);
        out.put_u64_le(self.image);
        out.put_u32_le(u32::try_from(self.stream).unwrap_or(u32::MAX));
        put_extent(&mut out, self.range);
        out.freeze()
    }

    pub(crate) fn decode(message: Bytes) -> Result<Self> {
        let mut reader = Reader::new("a question for a part of an image", message);
        let part = Self {
            image: reader.long()?,
            stream: reader.number()? as usize,
            range: read_extent(&mut reader)?,
        };
        reader.end()?;
        Ok(part)
    }
}

fn put_extent(out: &mut BytesMut, extent: Extent) {
    out.put_u64_le(extent.offset().0);
    out.put_u64_le(extent.length().0);
}

fn read_extent(reader: &mut Reader) -> Result<Extent> {
    Extent::new(ByteOffset(reader.long()?), ByteCount(reader.long()?))
}

/// What may hold data of a range, as far as it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) until: ByteOffset,
    pub(crate) data: Vec<Extent>,
}

impl Told {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(12 + self.data.len() * EXTENT);
        out.put_u64_le(self.until.0);
        out.put_u32_le(u32::try_from(self.data.len()).unwrap_or(u32::MAX));
        for extent in &self.data {
            put_extent(&mut out, *extent);
        }
        out.freeze()
    }

    /// Reads what was told of `range`: some of it, in order.
    pub(crate) fn decode(message: Bytes, range: Extent) -> Result<Self> {
        let mut reader = Reader::new("the answer about data of an image", message);
        let until = ByteOffset(reader.long()?);
        let count = reader.count(EXTENT)?;
        let mut data = Vec::with_capacity(count);
        let mut at = range.offset();
        for _ in 0..count {
            let extent = read_extent(&mut reader)?;
            if extent.is_empty() || extent.offset() < at {
                return Err(reader.refuse("is out of order"));
            }
            at = extent.end();
            data.push(extent);
        }
        if until < at || until > range.end() || (until == range.offset() && !range.is_empty()) {
            return Err(reader.refuse("tells of another range"));
        }
        reader.end()?;
        Ok(Self { until, data })
    }
}

/// What can't be read.
#[derive(Debug, Serialize, Deserialize)]
struct Missing {
    /// Relative to the range.
    start: u32,
    length: u32,
    #[serde(flatten)]
    why: Failure,
}

/// What was read of a range, before and after it is on its way.
#[derive(Debug)]
pub(crate) struct Read {
    range: Extent,
    /// Where the data lies, in order.
    runs: Vec<Extent>,
    missing: Vec<(Extent, Error)>,
    encoding: Encoding,
    /// Of all runs, one behind the other.
    payload: Bytes,
}

/// Makes the answer of what was read of `range`. CPU work.
pub(crate) fn encode_read(range: Extent, read: RecoveredRange, codecs: &Codecs) -> Result<Bytes> {
    let relative = |at: ByteOffset| u32::try_from(at.0.saturating_sub(range.offset().0));
    let missing = read.missing.iter().map(|(extent, error)| {
        Ok(Missing {
            start: relative(extent.offset())?,
            length: u32::try_from(extent.length().0)?,
            why: Failure::of(error),
        })
    });
    let too_long =
        |error: std::num::TryFromIntError| Error::internal("too much was read").with_source(error);
    let missing: Vec<Missing> = missing.collect::<Result<_, _>>().map_err(too_long)?;
    let told = match &missing[..] {
        [] => Bytes::new(),
        missing => control::encode(&missing)?,
    };
    let mut runs: Vec<Extent> = Vec::new();
    for (extent, _) in &read.data {
        match runs.last_mut() {
            Some(last) if last.end() == extent.offset() => {
                *last = Extent::between(last.offset(), extent.end());
            }
            _ => runs.push(*extent),
        }
    }
    let plain: usize = read.data.iter().map(|(_, data)| data.len()).sum();
    let head = 9 + runs.len() * RUN + told.len();
    let mut out = BytesMut::with_capacity(head + plain);
    out.put_u32_le(u32::try_from(runs.len()).map_err(too_long)?);
    out.put_u32_le(u32::try_from(told.len()).map_err(too_long)?);
    for run in &runs {
        out.put_u32_le(relative(run.offset()).map_err(too_long)?);
        out.put_u32_le(u32::try_from(run.length().0).map_err(too_long)?);
    }
    out.put_slice(&told);
    out.put_u8(Encoding::Raw as u8);
    for (_, data) in read.data {
        out.put_slice(&data);
    }
    if let Some(compressed) = codecs.compress_if_worthwhile(&out[head..])? {
        out[head - 1] = Encoding::Zstd as u8;
        let mut shorter = BytesMut::with_capacity(head + compressed.len());
        shorter.put_slice(&out[..head]);
        shorter.put_slice(&compressed);
        out = shorter;
    }
    Ok(out.freeze())
}

impl Read {
    /// Reads the answer about `range`; the data still may be compressed.
    pub(crate) fn decode(message: Bytes, range: Extent) -> Result<Self> {
        let mut reader = Reader::new("the answer to a read", message);
        let (runs, told) = (reader.number()? as usize, reader.number()? as usize);
        let mut table = reader.bytes(runs.saturating_mul(RUN))?;
        let place = |start: u32, length: u32| {
            let at = range.offset().checked_add(ByteCount(start.into()))?;
            let extent = Extent::new(at, ByteCount(length.into()))?;
            if extent.is_empty() || !range.contains(extent) {
                return Err(Error::invalid_input(
                    "the answer to a read tells of another range",
                ));
            }
            Ok(extent)
        };
        let mut at = range.offset();
        let mut places = Vec::with_capacity(runs);
        while !table.is_empty() {
            let mut run = Reader::new("the answer to a read", table.split_to(RUN));
            let extent = place(run.number()?, run.number()?)?;
            if extent.offset() < at {
                return Err(reader.refuse("is out of order"));
            }
            at = extent.end();
            places.push(extent);
        }
        let told = reader.bytes(told)?;
        let missing: Vec<Missing> = match &told[..] {
            [] => Vec::new(),
            told => control::decode("what is missing of an image", told)?,
        };
        let missing = missing.into_iter().map(|missing| {
            let extent = place(missing.start, missing.length)?;
            Ok((extent, missing.why.into_error()))
        });
        let missing = missing.collect::<Result<_>>()?;
        let encoding = Encoding::try_from(reader.byte()?)
            .map_err(|_| reader.refuse("has an unknown encoding"))?;
        Ok(Self {
            range,
            runs: places,
            missing,
            encoding,
            payload: reader.rest(),
        })
    }

    /// Whether [`recovered`](Self::recovered) is CPU work.
    pub(crate) fn is_compressed(&self) -> bool {
        self.encoding != Encoding::Raw
    }

    /// The data in its places.
    pub(crate) fn recovered(self, decompressor: &mut Decompressor) -> Result<RecoveredRange> {
        let length = self.runs.iter().map(|run| run.length()).sum::<ByteCount>();
        let wrong = |error: Error| {
            let sentence = format!("the answer to a read of {} is damaged", self.range);
            Error::unavailable(sentence).with_source(error)
        };
        let mut plain = if self.encoding == Encoding::Raw {
            if self.payload.len() as u64 != length.0 {
                return Err(wrong(Error::corrupt("it has another length")));
            }
            self.payload
        } else {
            // No more than was asked for: runs don't overlap.
            let mut plain = vec![0; length.to_usize()?];
            let done = decompressor.decompress(self.encoding, &self.payload, &mut plain);
            done.map_err(wrong)?;
            plain.into()
        };
        let data = self.runs.into_iter().map(|run| {
            let data = plain.split_to(run.length().to_usize()?);
            Ok((run, data))
        });
        Ok(RecoveredRange {
            data: data.collect::<Result<_>>()?,
            missing: self.missing,
        })
    }
}

#[cfg(test)]
mod tests;
