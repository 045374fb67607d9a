//! Messages about one region, binary: numbers are little-endian, positions are
//! relative to the region's start.

use backstop_core::{
    ByteCount, ByteOffset, CheckSlice, ChunkDigest, Decompressor, Encoding, Extent, Piece,
    PieceContent, RegionAddress, RegionIndex, RegionUpdate, Result, SliceContent, VerifiedChunk,
    WriteOutcome,
};
use bytes::{BufMut, Bytes, BytesMut};

use super::Reader;

const DIGEST: usize = 32;

/// Bytes of a piece at least, and of a chunk without its payload.
const PIECE: usize = 9;
const CHUNK: usize = DIGEST + 9;

/// What a piece holds.
const HOLE: u8 = 0;
const PART: u8 = 1;
const UNREADABLE: u8 = 2;

/// What is told of a slice or a block.
const HAS_DIGEST: u8 = 1;
const IS_UNREADABLE: u8 = 2;

/// Which synchronization of the connection, and which region of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) session: u64,
    pub(crate) at: RegionAddress,
}

impl Place {
    const LENGTH: usize = 20;

    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.session);
        out.put_u32_le(u32::try_from(self.at.stream).unwrap_or(u32::MAX));
        out.put_u64_le(self.at.region.0);
    }

    fn read(reader: &mut Reader) -> Result<Self> {
        Ok(Self {
            session: reader.long()?,
            at: RegionAddress {
                stream: reader.number()? as usize,
                region: RegionIndex(reader.long()?),
            },
        })
    }

    /// A message that is nothing but a place.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(Self::LENGTH);
        self.put(&mut out);
        out.freeze()
    }

    pub(crate) fn decode(message: Bytes) -> Result<Self> {
        let mut reader = Reader::new("a message of a region", message);
        let place = Self::read(&mut reader)?;
        reader.end()?;
        Ok(place)
    }
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_digest(out: &mut BytesMut, digest: &ChunkDigest) {
    out.put_slice(digest.as_bytes());
}

/// Which chunks have to be sent?
pub(crate) fn encode_needed(place: &Place, digests: &[ChunkDigest]) -> Bytes {
    let mut out = BytesMut::with_capacity(Place::LENGTH + 4 + digests.len() * DIGEST);
    place.put(&mut out);
    put_count(&mut out, digests.len());
    for digest in digests {
        put_digest(&mut out, digest);
    }
    out.freeze()
}

pub(crate) fn decode_needed(message: Bytes) -> Result<(Place, Vec<ChunkDigest>)> {
    let mut reader = Reader::new("a question for needed chunks", message);
    let place = Place::read(&mut reader)?;
    let count = reader.count(DIGEST)?;
    let digests = (0..count).map(|_| reader.digest());
    let digests = digests.collect::<Result<_>>()?;
    reader.end()?;
    Ok((place, digests))
}

/// A bit for each digest, the first the lowest of its byte.
pub(crate) fn encode_bits(bits: &[bool]) -> Bytes {
    let byte = |bits: &[bool]| {
        let bits = bits.iter().rev();
        bits.fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    };
    bits.chunks(8).map(byte).collect()
}

pub(crate) fn decode_bits(message: Bytes, count: usize) -> Result<Vec<bool>> {
    let mut reader = Reader::new("the answer about needed chunks", message);
    let bytes = reader.bytes(count.div_ceil(8))?;
    reader.end()?;
    let bit = |at: usize| {
        bytes
            .get(at / 8)
            .is_some_and(|byte| byte >> (at % 8) & 1 != 0)
    };
    Ok((0..count).map(bit).collect())
}

/// A chunk that nobody has looked into yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    digest: ChunkDigest,
    length: u32,
    encoding: Encoding,
    payload: Bytes,
}

/// An update whose chunks were not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) place: Place,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) chunks: Vec<Claimed>,
}

impl Update {
    /// Checks all chunks. CPU work.
    pub(crate) fn check(self, decompressor: &mut Decompressor) -> Result<(u64, RegionUpdate)> {
        let chunks = self.chunks.into_iter().map(|chunk| {
            let Claimed {
                digest,
                length,
                encoding,
                payload,
            } = chunk;
            VerifiedChunk::check(digest, length, encoding, payload, decompressor)
        });
        let update = RegionUpdate {
            at: self.place.at,
            pieces: self.pieces,
            chunks: chunks.collect::<Result<_>>()?,
        };
        Ok((self.place.session, update))
    }
}

pub(crate) fn encode_update(session: u64, update: &RegionUpdate) -> Bytes {
    let payload: usize = update.chunks.iter().map(|it| it.payload().len()).sum();
    let told = update.pieces.len() * (PIECE + DIGEST + 4) + update.chunks.len() * CHUNK;
    let mut out = BytesMut::with_capacity(Place::LENGTH + 8 + told + payload);
    let place = Place {
        session,
        at: update.at.clone(),
    };
    place.put(&mut out);
    put_count(&mut out, update.pieces.len());
    put_count(&mut out, update.chunks.len());
    for piece in &update.pieces {
        out.put_u32_le(piece.start);
        out.put_u32_le(piece.length);
        match &piece.content {
            PieceContent::Hole => out.put_u8(HOLE),
            PieceContent::Data(SliceContent::Chunk { digest, skip }) => {
                out.put_u8(PART);
                put_digest(&mut out, digest);
                out.put_u32_le(*skip);
            }
            PieceContent::Data(SliceContent::Unreadable) => out.put_u8(UNREADABLE),
        }
    }
    for chunk in &update.chunks {
        put_digest(&mut out, &chunk.digest());
        out.put_u32_le(chunk.length());
        out.put_u8(chunk.encoding() as u8);
        put_count(&mut out, chunk.payload().len());
    }
    for chunk in &update.chunks {
        out.put_slice(chunk.payload());
    }
    out.freeze()
}

pub(crate) fn decode_update(message: Bytes) -> Result<Update> {
    let mut reader = Reader::new("an update of a region", message);
    let place = Place::read(&mut reader)?;
    let pieces = reader.count(PIECE)?;
    let chunks = reader.count(CHUNK)?;
    let pieces = (0..pieces).map(|_| {
        let (start, length) = (reader.number()?, reader.number()?);
        let content = match reader.byte()? {
            HOLE => PieceContent::Hole,
            PART => PieceContent::Data(SliceContent::Chunk {
                digest: reader.digest()?,
                skip: reader.number()?,
            }),
            UNREADABLE => PieceContent::Data(SliceContent::Unreadable),
            _ => return Err(reader.refuse("has a piece of an unknown kind")),
        };
        Ok(Piece {
            start,
            length,
            content,
        })
    });
    let pieces = pieces.collect::<Result<_>>()?;
    let told = (0..chunks).map(|_| {
        let (digest, length) = (reader.digest()?, reader.number()?);
        let encoding = Encoding::try_from(reader.byte()?)
            .map_err(|_| reader.refuse("has a chunk of an unknown encoding"))?;
        Ok((digest, length, encoding, reader.number()? as usize))
    });
    let told: Vec<_> = told.collect::<Result<_>>()?;
    let chunks = told.into_iter().map(|(digest, length, encoding, payload)| {
        Ok(Claimed {
            digest,
            length,
            encoding,
            payload: reader.bytes(payload)?,
        })
    });
    let chunks = chunks.collect::<Result<_>>()?;
    reader.end()?;
    Ok(Update {
        place,
        pieces,
        chunks,
    })
}

pub(crate) fn encode_outcome(outcome: WriteOutcome) -> Bytes {
    Bytes::copy_from_slice(&outcome.chunks_received.to_le_bytes())
}

pub(crate) fn decode_outcome(message: Bytes) -> Result<WriteOutcome> {
    let mut reader = Reader::new("the answer to an update", message);
    let chunks_received = reader.number()?;
    reader.end()?;
    Ok(WriteOutcome { chunks_received })
}

/// For each stream, the first region that is not dealt with for good.
pub(crate) fn encode_regions(regions: &[RegionIndex]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + regions.len() * 8);
    put_count(&mut out, regions.len());
    for region in regions {
        out.put_u64_le(region.0);
    }
    out.freeze()
}

pub(crate) fn decode_regions(message: Bytes) -> Result<Vec<RegionIndex>> {
    let mut reader = Reader::new("the answer to progress", message);
    let count = reader.count(8)?;
    let regions = (0..count).map(|_| reader.long().map(RegionIndex));
    let regions = regions.collect::<Result<_>>()?;
    reader.end()?;
    Ok(regions)
}

/// Ranges of a region: of `slices` exactly one.
pub(crate) fn encode_ranges(place: &Place, ranges: &[Extent]) -> Bytes {
    let mut out = BytesMut::with_capacity(Place::LENGTH + 4 + ranges.len() * 16);
    place.put(&mut out);
    put_count(&mut out, ranges.len());
    for range in ranges {
        out.put_u64_le(range.offset().0);
        out.put_u64_le(range.length().0);
    }
    out.freeze()
}

pub(crate) fn decode_ranges(message: Bytes) -> Result<(Place, Vec<Extent>)> {
    let mut reader = Reader::new("a question for ranges of a region", message);
    let place = Place::read(&mut reader)?;
    let count = reader.count(16)?;
    let ranges =
        (0..count).map(|_| Extent::new(ByteOffset(reader.long()?), ByteCount(reader.long()?)));
    let ranges = ranges.collect::<Result<_>>()?;
    reader.end()?;
    Ok((place, ranges))
}

fn put_digest_if(out: &mut BytesMut, flags: u8, digest: Option<&ChunkDigest>) {
    match digest {
        Some(digest) => {
            out.put_u8(flags | HAS_DIGEST);
            put_digest(out, digest);
        }
        None => out.put_u8(flags),
    }
}

fn read_digest_if(reader: &mut Reader) -> Result<(u8, Option<ChunkDigest>)> {
    let flags = reader.byte()?;
    if flags & !(HAS_DIGEST | IS_UNREADABLE) != 0 {
        return Err(reader.refuse("has unknown flags"));
    }
    let digest = (flags & HAS_DIGEST != 0).then(|| reader.digest());
    Ok((flags & !HAS_DIGEST, digest.transpose()?))
}

pub(crate) fn encode_slices(slices: &[CheckSlice]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + slices.len() * (PIECE + DIGEST));
    put_count(&mut out, slices.len());
    for slice in slices {
        out.put_u32_le(slice.start);
        out.put_u32_le(slice.length);
        let flags = if slice.is_unreadable {
            IS_UNREADABLE
        } else {
            0
        };
        put_digest_if(&mut out, flags, slice.digest.as_ref());
    }
    out.freeze()
}

pub(crate) fn decode_slices(message: Bytes) -> Result<Vec<CheckSlice>> {
    let mut reader = Reader::new("the slices of a region", message);
    let count = reader.count(PIECE)?;
    let slices = (0..count).map(|_| {
        let (start, length) = (reader.number()?, reader.number()?);
        let (flags, digest) = read_digest_if(&mut reader)?;
        Ok(CheckSlice {
            start,
            length,
            digest,
            is_unreadable: flags & IS_UNREADABLE != 0,
        })
    });
    let slices = slices.collect::<Result<_>>()?;
    reader.end()?;
    Ok(slices)
}

pub(crate) fn encode_digests(digests: &[Option<ChunkDigest>]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + digests.len() * (1 + DIGEST));
    put_count(&mut out, digests.len());
    for digest in digests {
        put_digest_if(&mut out, 0, digest.as_ref());
    }
    out.freeze()
}

pub(crate) fn decode_digests(message: Bytes) -> Result<Vec<Option<ChunkDigest>>> {
    let mut reader = Reader::new("the digests of blocks", message);
    let count = reader.count(1)?;
    let digests = (0..count).map(|_| match read_digest_if(&mut reader)? {
        (0, digest) => Ok(digest),
        _ => Err(reader.refuse("has unknown flags")),
    });
    let digests = digests.collect::<Result<_>>()?;
    reader.end()?;
    Ok(digests)
}

#[cfg(test)]
mod tests;
