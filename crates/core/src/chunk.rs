//! Cutting data into chunks, naming them by digest, and compressing them.
//!
//! Cut points come from FastCDC in its 2020 form (Xia et al., "The Design of
//! Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems", IEEE TPDS 31(9), 2020), so that data which moves is found again.
//! A chunk's name can't be claimed, only computed: [`VerifiedChunk`] has no
//! constructor that takes a digest without checking it.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use zstd::bulk;
use zstd::zstd_safe::CParameter;

use crate::{BufferPool, ChunkDigest, Error, MAX_CHUNK_LENGTH, PooledBuffer, Result};

/// How a chunk's payload is stored and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The plain bytes.
    Raw = 0,
    /// One zstd frame (RFC 8878) without a dictionary.
    Zstd = 1,
}

impl TryFrom<u8> for Encoding {
    type Error = Error;
    fn try_from(code: u8) -> Result<Self> {
        match code {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(Error::corrupt(format!(
                "encoding {code} of a chunk is not known"
            ))),
        }
    }
}

/// Cuts data into chunks at content-defined points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunker {
    min: usize,
    average: usize,
    max: usize,
}

impl Default for Chunker {
    /// 16, 64 and 256 KiB: measured best between deduplication across hosts,
    /// compression and the size of the index.
    fn default() -> Self {
        Self {
            min: 16 << 10,
            average: 64 << 10,
            max: MAX_CHUNK_LENGTH as usize,
        }
    }
}

impl Chunker {
    /// The shortest chunk that a cut makes; only the end of data is shorter.
    pub fn min(&self) -> usize {
        self.min
    }

    /// The ranges of `data` that are its chunks, in order, covering it whole.
    pub fn cut<'a>(&self, data: &'a [u8]) -> impl Iterator<Item = Range<usize>> + use<'a> {
        fastcdc::v2020::FastCDC::new(data, self.min, self.average, self.max)
            .map(|chunk| chunk.offset..chunk.offset + chunk.length)
    }
}

/// Whether every byte is zero.
pub fn is_zero(data: &[u8]) -> bool {
    // Blocks of this size the compiler compares with wide registers.
    let (blocks, tail) = data.as_chunks::<64>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
        && tail.iter().all(|byte| *byte == 0)
}

/// A plain chunk and its name, computed from it.
#[derive(Clone, Debug)]
pub struct HashedChunk {
    digest: ChunkDigest,
    data: Bytes,
}

impl HashedChunk {
    /// Hashes data. CPU work.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput) if it is
    /// empty or longer than [`MAX_CHUNK_LENGTH`].
    pub fn new(data: Bytes) -> Result<Self> {
        check_length(data.len())?;
        Ok(Self {
            digest: ChunkDigest::of(&data),
            data,
        })
    }

    /// Its name.
    pub fn digest(&self) -> ChunkDigest {
        self.digest
    }

    /// Its plain bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }
}

fn check_length(length: usize) -> Result<u32> {
    u32::try_from(length)
        .ok()
        .filter(|length| (1..=MAX_CHUNK_LENGTH).contains(length))
        .ok_or_else(|| {
            Error::invalid_input(format!(
                "a chunk of {length} bytes is empty or longer than {MAX_CHUNK_LENGTH}"
            ))
        })
}

/// A chunk, compressed where that pays, whose name is known to be true.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    digest: ChunkDigest,
    length: u32,
    encoding: Encoding,
    payload: Bytes,
}

impl VerifiedChunk {
    /// Checks a chunk that came from elsewhere: decompresses it and compares
    /// length and digest. CPU work.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) naming the claimed
    /// digest if the payload is not that chunk.
    pub fn check(
        claimed: ChunkDigest,
        length: u32,
        encoding: Encoding,
        payload: Bytes,
        decompressor: &mut Decompressor,
    ) -> Result<Self> {
        let digest = decompressor.digest(encoding, &payload, check_length(length as usize)?)?;
        if digest != claimed {
            return Err(Error::corrupt(format!(
                "chunk {claimed} holds other data ({digest})"
            )));
        }
        Ok(Self {
            digest,
            length,
            encoding,
            payload,
        })
    }

    /// Its name.
    pub fn digest(&self) -> ChunkDigest {
        self.digest
    }

    /// The length of its plain bytes.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// How the payload is stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The stored bytes.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// Compresses chunks with zstd.
///
/// The default is level 1 with a window of 2^18 bytes, a hash table of 2^16
/// and matches of at least 6 bytes: on disk images smaller than plain level 1
/// by 1 % and no slower. Matches of 5 bytes would save another 0.8 % and cost
/// a tenth more time.
pub struct Compressor {
    pub(crate) zstd: bulk::Compressor<'static>,
    buffers: BufferPool,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// A chunk is stored raw unless compressing saves this share of it, in parts
/// of 256.
pub(crate) const WORTHWHILE: usize = 8;

/// No further chunk is begun in an output buffer that holds so much, in bytes.
const OUTPUT_FULL: usize = 1 << 20;

/// How many idle output buffers are kept.
const OUTPUTS_KEPT: usize = 6;

/// Compressed chunks of up to this plain length together, in bytes, get memory
/// of their own, so that keeping them keeps no more than that.
const SMALL_OUTPUT: usize = 512 << 10;

/// Output buffers: taken from the allocator by one thread and given back by
/// another, they would stay in its arenas.
fn output_buffers() -> BufferPool {
    let longest = zstd::zstd_safe::compress_bound(MAX_CHUNK_LENGTH as usize);
    BufferPool::new(OUTPUT_FULL + longest, OUTPUTS_KEPT)
}

impl Compressor {
    /// A compressor for `level` (1 to 19). Holds about 1 MiB at level 1.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if zstd refuses.
    pub fn new(level: i32) -> Result<Self> {
        Self::with_buffers(level, output_buffers())
    }

    fn with_buffers(level: i32, buffers: BufferPool) -> Result<Self> {
        let refused =
            |error| Error::internal(format!("zstd refused level {level}")).with_source(error);
        let mut zstd = bulk::Compressor::new(level).map_err(refused)?;
        let mut parameters = vec![
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
        ];
        if level == 1 {
            parameters.extend([
                CParameter::WindowLog(18),
                CParameter::HashLog(16),
                CParameter::MinMatch(6),
            ]);
        }
        for parameter in parameters {
            zstd.set_parameter(parameter).map_err(refused)?;
        }
        Ok(Self { zstd, buffers })
    }

    /// Compresses many chunks, neighbours into one buffer. CPU work. A chunk
    /// that does not shrink by a thirty-second keeps its plain bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if zstd refuses.
    pub fn compress(&mut self, chunks: Vec<HashedChunk>) -> Result<Vec<VerifiedChunk>> {
        let bound = |chunk: &HashedChunk| zstd::zstd_safe::compress_bound(chunk.data.len());
        let plain: usize = chunks.iter().map(|chunk| chunk.data.len()).sum();
        let mut done = Vec::with_capacity(chunks.len());
        let longest = chunks.iter().map(bound).max().unwrap_or(0);
        let mut rest = chunks.into_iter();
        while rest.len() > 0 {
            let mut buffer = if plain <= SMALL_OUTPUT {
                // No chunk takes more than its plain length in the end.
                Output::Small(vec![0; plain + longest])
            } else {
                Output::Large(self.buffers.take(OUTPUT_FULL + longest))
            };
            // What was compressed into this buffer, and where it ends.
            let mut filled = Vec::new();
            let mut end = 0;
            while end < OUTPUT_FULL
                && let Some(chunk) = rest.next()
            {
                let written = self
                    .zstd
                    .compress_to_buffer(&chunk.data[..], &mut buffer.space()[end..])
                    .map_err(|error| {
                        Error::internal(format!("zstd failed on chunk {}", chunk.digest))
                            .with_source(error)
                    })?;
                let worthwhile = chunk.data.len() - chunk.data.len() * WORTHWHILE / 256;
                if written < worthwhile {
                    end += written;
                }
                filled.push((chunk, end));
            }
            let buffer = buffer.freeze(end);
            let mut start = 0;
            done.extend(filled.into_iter().map(|(chunk, end)| {
                let range = start..end;
                start = end;
                VerifiedChunk {
                    digest: chunk.digest,
                    length: u32::try_from(chunk.data.len()).unwrap_or(u32::MAX),
                    encoding: if range.is_empty() {
                        Encoding::Raw
                    } else {
                        Encoding::Zstd
                    },
                    payload: if range.is_empty() {
                        chunk.data
                    } else {
                        buffer.slice(range)
                    },
                }
            }));
        }
        Ok(done)
    }
}

/// Memory for compressed chunks.
enum Output {
    Small(Vec<u8>),
    Large(PooledBuffer),
}

impl Output {
    fn space(&mut self) -> &mut [u8] {
        match self {
            Self::Small(buffer) => buffer,
            Self::Large(buffer) => buffer,
        }
    }

    fn freeze(self, length: usize) -> Bytes {
        match self {
            Self::Small(mut buffer) => {
                buffer.truncate(length);
                buffer.shrink_to_fit();
                buffer.into()
            }
            Self::Large(mut buffer) => {
                buffer.truncate(length);
                buffer.freeze()
            }
        }
    }
}

/// Gives back the plain bytes of chunks.
pub struct Decompressor {
    zstd: bulk::Decompressor<'static>,
    /// For plain bytes that are only looked at.
    plain: Vec<u8>,
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Decompressor {
    /// A decompressor. Holds about 160 KiB, and the longest chunk that it has checked.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if zstd refuses.
    pub fn new() -> Result<Self> {
        let zstd = bulk::Decompressor::new()
            .map_err(|error| Error::internal("zstd refused a context").with_source(error))?;
        let plain = Vec::new();
        Ok(Self { zstd, plain })
    }

    /// The digest of what a payload gives, which must have this length.
    fn digest(&mut self, encoding: Encoding, payload: &[u8], length: u32) -> Result<ChunkDigest> {
        let mut plain = std::mem::take(&mut self.plain);
        plain.resize(plain.len().max(length as usize), 0);
        let room = plain.get_mut(..length as usize).unwrap_or_default();
        let digest = self
            .decompress(encoding, payload, room)
            .map(|()| ChunkDigest::of(room));
        self.plain = plain;
        digest
    }

    /// Fills `plain` exactly. CPU work; memory is bounded by `plain`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the payload is
    /// damaged or gives another length.
    pub fn decompress(
        &mut self,
        encoding: Encoding,
        payload: &[u8],
        plain: &mut [u8],
    ) -> Result<()> {
        let length = match encoding {
            Encoding::Raw => {
                if payload.len() == plain.len() {
                    plain.copy_from_slice(payload);
                }
                payload.len()
            }
            Encoding::Zstd => self
                .zstd
                .decompress_to_buffer(payload, plain)
                .map_err(|error| {
                    Error::corrupt("a compressed chunk can't be decompressed").with_source(error)
                })?,
        };
        if length == plain.len() {
            Ok(())
        } else {
            Err(Error::corrupt(format!(
                "a chunk gives {length} bytes where {} were promised",
                plain.len()
            )))
        }
    }
}

/// Lends compressors and decompressors, so that each thread of a pool need not
/// hold its own.
#[derive(Debug)]
pub struct Codecs {
    level: i32,
    outputs: BufferPool,
    compressors: Mutex<Vec<Compressor>>,
    decompressors: Mutex<Vec<Decompressor>>,
}

impl Codecs {
    /// Codecs that compress at `level`.
    pub fn new(level: i32) -> Self {
        Self {
            level,
            outputs: output_buffers(),
            compressors: Mutex::default(),
            decompressors: Mutex::default(),
        }
    }

    /// [`Compressor::compress`] with a lent compressor.
    ///
    /// # Errors
    /// As there.
    pub fn compress(&self, chunks: Vec<HashedChunk>) -> Result<Vec<VerifiedChunk>> {
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        self.compress_with(|compressor| compressor.compress(chunks))
    }

    /// Runs `work` with a lent compressor.
    pub(crate) fn compress_with<T>(
        &self,
        work: impl FnOnce(&mut Compressor) -> Result<T>,
    ) -> Result<T> {
        let idle = self
            .compressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let new = || Compressor::with_buffers(self.level, self.outputs.clone());
        let mut compressor = idle.map_or_else(new, Ok)?;
        let result = work(&mut compressor);
        self.compressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(compressor);
        result
    }

    /// Runs `work` with a lent decompressor.
    ///
    /// # Errors
    /// Those of `work`, and [`Decompressor::new`]'s.
    pub fn decompress_with<T>(
        &self,
        work: impl FnOnce(&mut Decompressor) -> Result<T>,
    ) -> Result<T> {
        let idle = self
            .decompressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut decompressor = idle.map_or_else(Decompressor::new, Ok)?;
        let result = work(&mut decompressor);
        self.decompressors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(decompressor);
        result
    }
}

impl Default for Codecs {
    /// Level 1.
    fn default() -> Self {
        Self::new(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(length: usize, seed: u64, compressible: bool) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..length)
            .map(|_| {
                if compressible {
                    random.u8(..3)
                } else {
                    random.u8(..)
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn cuts_cover_data_and_chunks_come_back(length in 1usize..400_000, seed: u64, compressible: bool) {
            let data = Bytes::from(bytes(length, seed, compressible));
            let chunker = Chunker::default();
            let ranges: Vec<_> = chunker.cut(&data).collect();
            let mut at = 0;
            for range in &ranges {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.len() <= MAX_CHUNK_LENGTH as usize);
                prop_assert!(range.len() >= chunker.min() || range.end == length);
                at = range.end;
            }
            prop_assert_eq!(at, length);

            let hashed = ranges.iter().map(|r| HashedChunk::new(data.slice(r.clone())).unwrap());
            let codecs = Codecs::default();
            let chunks = codecs.compress(hashed.collect()).unwrap();
            for (range, chunk) in ranges.iter().zip(&chunks) {
                let plain = &data[range.clone()];
                prop_assert_eq!(chunk.digest(), ChunkDigest::of(plain));
                prop_assert!(chunk.payload().len() <= plain.len());
                codecs.decompress_with(|decompressor| {
                    let check = |digest, length, payload, decompressor: &mut Decompressor| {
                        VerifiedChunk::check(digest, length, chunk.encoding(), payload, decompressor)
                    };
                    let payload = chunk.payload();
                    check(chunk.digest(), chunk.length(), payload.clone(), decompressor)?;
                    assert!(check(ChunkDigest::of(b"x"), chunk.length(), payload.clone(), decompressor).is_err());
                    assert!(check(chunk.digest(), chunk.length() + 1, payload.clone(), decompressor).is_err());
                    let short = payload.slice(..payload.len() - 1);
                    assert!(check(chunk.digest(), chunk.length(), short, decompressor).is_err());
                    Ok(())
                }).unwrap();
            }
        }

        #[test]
        fn zero_is_seen(length in 0usize..300, at in 0usize..300) {
            let mut data = vec![0; length];
            prop_assert!(is_zero(&data));
            if at < length { data[at] = 1; prop_assert!(!is_zero(&data)); }
        }
    }

    #[test]
    fn chunks_fill_several_outputs() {
        let mut data = bytes(4 << 20, 7, false);
        data[1 << 20..2 << 20].fill(9);
        // Shrinks by a tenth only, so that outputs become full.
        for byte in &mut data {
            *byte &= 0x7f;
        }
        let data = Bytes::from(data);
        let ranges: Vec<_> = Chunker::default().cut(&data).collect();
        let hashed = ranges
            .iter()
            .map(|r| HashedChunk::new(data.slice(r.clone())).unwrap());
        let codecs = Codecs::default();
        let chunks = codecs.compress(hashed.collect()).unwrap();
        let stored: usize = chunks.iter().map(|chunk| chunk.payload().len()).sum();
        assert!(
            stored > 2 * OUTPUT_FULL && stored < data.len() * 9 / 10,
            "{stored}"
        );
        for (range, chunk) in ranges.into_iter().zip(chunks) {
            let mut plain = vec![0; range.len()];
            let payload = chunk.payload();
            let open = |d: &mut Decompressor| d.decompress(chunk.encoding(), payload, &mut plain);
            codecs.decompress_with(open).unwrap();
            assert!(plain == data[range.clone()], "{range:?}");
        }
    }

    #[test]
    fn a_bomb_is_refused_within_its_promise() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        let digest = ChunkDigest::of(b"");
        let payload = Bytes::from(bomb);
        let error = VerifiedChunk::check(
            digest,
            4096,
            Encoding::Zstd,
            payload.clone(),
            &mut decompressor,
        );
        assert_eq!(error.unwrap_err().kind(), crate::ErrorKind::Corrupt);
        let error =
            VerifiedChunk::check(digest, u32::MAX, Encoding::Zstd, payload, &mut decompressor);
        assert_eq!(error.unwrap_err().kind(), crate::ErrorKind::InvalidInput);
    }
}
