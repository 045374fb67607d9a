//! Reading an image of a recovery point: lazy, random-access, every chunk
//! checked, around damage.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, ChunkDigest, Codecs, Error, ErrorKind, Extent, Geometry,
    PooledBuffer, RecoveredRange, Recovery, RegionIndex, RegionMap, Result, SliceContent,
};
use bytes::Bytes;
use futures::future::join_all;

use crate::map::tree::{ImageMap, NodeSource, as_leaf};
use crate::pack::frame::{self, Content};
use crate::pack::reader::Span;
use crate::vault::Vault;

/// An image of a recovery point.
#[derive(Debug)]
pub(crate) struct Image {
    vault: Arc<Vault>,
    map: ImageMap,
    name: String,
}

impl Image {
    pub(crate) fn new(vault: Arc<Vault>, map: ImageMap, name: String) -> Self {
        Self { vault, map, name }
    }

    async fn region(&self, region: RegionIndex) -> Result<RegionMap> {
        let nodes = &*self.vault.nodes;
        match self.map.leaf(region, nodes).await? {
            Some(digest) => Ok(as_leaf(&*nodes.get(&digest).await?)?.clone()),
            None => Ok(RegionMap::new()),
        }
    }

    fn check(&self, range: Extent) -> Result<()> {
        if Extent::whole(self.map.length).contains(range) {
            Ok(())
        } else {
            Err(Error::invalid_input(format!(
                "{range} lies past the end of {} ({} bytes)",
                self.name, self.map.length
            )))
        }
    }

    /// The parts of a range by region.
    fn regions(&self, range: Extent) -> impl Iterator<Item = (RegionIndex, Extent)> + use<> {
        let length = self.map.length;
        let first = RegionIndex::at(range.offset()).0;
        let last = RegionIndex::at(ByteOffset(range.end().0.saturating_sub(1))).0;
        (first..=last)
            .map(RegionIndex)
            .map(move |region| (region, region.extent(length).intersection(range)))
            .filter(|(_, part)| !part.is_empty())
    }
}

/// A part of a chunk and where it goes.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where in the output.
    to: usize,
    /// Where in the chunk.
    skip: usize,
    length: usize,
}

/// A chunk to fetch for a range.
#[derive(Debug)]
struct Wanted {
    digest: ChunkDigest,
    parts: Vec<Part>,
}

/// The parts of a region's slices inside `start..end`: chunks to fetch, and
/// runs that were unreadable.
fn wanted(map: &RegionMap, start: u32, end: u32) -> (Vec<Wanted>, Vec<Part>) {
    let mut places: HashMap<ChunkDigest, usize> = HashMap::new();
    let (mut chunks, mut unreadable) = (Vec::<Wanted>::new(), Vec::new());
    for slice in map.slices() {
        let (from, to) = (slice.start.max(start), slice.end().min(end));
        if from >= to {
            continue;
        }
        let mut part = Part {
            to: (from - start) as usize,
            skip: 0,
            length: (to - from) as usize,
        };
        match slice.content {
            SliceContent::Unreadable => unreadable.push(part),
            SliceContent::Chunk { digest, skip } => {
                part.skip = (skip + (from - slice.start)) as usize;
                let place = *places.entry(digest).or_insert_with(|| {
                    chunks.push(Wanted {
                        digest,
                        parts: Vec::new(),
                    });
                    chunks.len() - 1
                });
                chunks[place].parts.push(part);
            }
        }
    }
    (chunks, unreadable)
}

/// Reads `start..end` of a region: data and missing parts, positions relative
/// to `start`.
///
/// One bad chunk costs its own parts and nothing else.
pub(crate) async fn read_region(
    vault: &Arc<Vault>,
    map: &RegionMap,
    start: u32,
    end: u32,
) -> Result<RecoveredRange> {
    let (chunks, unreadable) = wanted(map, start, end);
    let mut missing: Vec<(Part, Error)> = unreadable
        .into_iter()
        .map(|part| {
            let sentence = "the source could not be read here when the point was made";
            (part, Error::new(ErrorKind::Unreadable, sentence))
        })
        .collect();
    let digests: Vec<_> = chunks.iter().map(|chunk| chunk.digest).collect();
    let mut locations = Vec::with_capacity(chunks.len());
    let mut held = Vec::with_capacity(chunks.len());
    for (chunk, location) in chunks
        .into_iter()
        .zip(vault.reader.locate(Content::Chunk, &digests).await?)
    {
        match location {
            Some(location) => {
                locations.push(location);
                held.push((chunk, location));
            }
            None => missing.extend(chunk.parts.iter().map(|part| {
                (
                    *part,
                    Error::corrupt(format!("chunk {} is not in the vault", chunk.digest)),
                )
            })),
        }
    }
    let held = Arc::new(held);
    let spans = vault.reader.spans(&locations).await?;
    let reads = spans.iter().map(|span| {
        let length = usize::try_from(span.range.end - span.range.start).unwrap_or(0);
        let (reader, buffer) = (&vault.reader, vault.buffer(length));
        reader.read_into(&span.pack, span.range.start, buffer)
    });
    let read = join_all(reads).await;
    let read = unless_unavailable(read)?;
    let length = (end - start) as usize;
    let mut decoded = Decoded {
        output: vault.buffer(length),
        data: Vec::new(),
        failed: Vec::new(),
    };
    let (codecs, chunks) = (Arc::clone(&vault.codecs), Arc::clone(&held));
    let decode = move || {
        for (span, bytes) in spans.iter().zip(read) {
            decode_span(span, bytes, &chunks, &codecs, &mut decoded);
        }
        (decoded, spans)
    };
    let (mut decoded, spans) = vault.cpu.run(decode).await?;
    if !decoded.failed.is_empty() {
        decoded = read_again(vault, spans, &held, decoded).await?;
    }
    for (at, error) in std::mem::take(&mut decoded.failed) {
        let error = |_| Error::new(error.kind(), error.context());
        let parts = held[at].0.parts.iter();
        missing.extend(parts.enumerate().map(|(n, part)| (*part, error(n))));
    }
    let Decoded {
        output, mut data, ..
    } = decoded;
    data.sort_unstable_by_key(|part: &Part| part.to);
    missing.sort_by_key(|(part, _)| part.to);
    let output = output.freeze();
    let extent =
        |to: usize, length: usize| Extent::new(ByteOffset(to as u64), ByteCount(length as u64));
    let mut recovered = RecoveredRange::default();
    let mut parts = data.into_iter().peekable();
    while let Some(first) = parts.next() {
        let mut end = first.to + first.length;
        while let Some(next) = parts.next_if(|next| next.to == end) {
            end += next.length;
        }
        recovered.data.push((
            extent(first.to, end - first.to)?,
            output.slice(first.to..end),
        ));
    }
    for (part, error) in missing {
        recovered
            .missing
            .push((extent(part.to, part.length)?, error));
    }
    Ok(recovered)
}

/// What was made of the frames of a region so far.
struct Decoded {
    output: PooledBuffer,
    /// Parts of the output that hold what they should.
    data: Vec<Part>,
    /// Chunks, by their places in the list of held ones, that could not be had.
    failed: Vec<(usize, Error)>,
}

type Held = (Wanted, crate::pack::index::Location);

/// A store that does not answer has lost nothing: asking again later may help.
fn unless_unavailable<T>(read: Vec<Result<T>>) -> Result<Vec<Result<T>>> {
    let mut kept = Vec::with_capacity(read.len());
    for read in read {
        match read {
            Err(error) if error.is_transient() => return Err(error),
            read => kept.push(read),
        }
    }
    Ok(kept)
}

/// Asks the store once more for what could not be had: it may have been
/// damaged only on its way here.
async fn read_again(
    vault: &Arc<Vault>,
    spans: Vec<Span>,
    held: &Arc<Vec<Held>>,
    mut decoded: Decoded,
) -> Result<Decoded> {
    let failed: HashSet<usize> = std::mem::take(&mut decoded.failed)
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    for mut span in spans {
        span.frames.retain(|at| failed.contains(at));
        // Sorted by where they stand.
        let (Some(first), Some(last)) = (span.frames.first(), span.frames.last()) else {
            continue;
        };
        span.range = held[*first].1.offset..held[*last].1.end();
        let length = usize::try_from(span.range.end - span.range.start).unwrap_or(0);
        let read = vault
            .reader
            .read_into(&span.pack, span.range.start, vault.buffer(length))
            .await;
        let read = match read {
            Err(error) if error.is_transient() => return Err(error),
            read => read,
        };
        let (held, codecs) = (Arc::clone(held), Arc::clone(&vault.codecs));
        let decode = move || {
            decode_span(&span, read, &held, &codecs, &mut decoded);
            decoded
        };
        decoded = vault.cpu.run(decode).await?;
    }
    Ok(decoded)
}

/// Decodes the frames of one span into the output. CPU work.
fn decode_span(
    span: &Span,
    bytes: Result<PooledBuffer>,
    held: &[Held],
    codecs: &Codecs,
    decoded: &mut Decoded,
) {
    let mut bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let same = |at: &usize| (*at, Error::new(error.kind(), error.context()));
            decoded.failed.extend(span.frames.iter().map(same));
            return;
        }
    };
    for at in &span.frames {
        let (chunk, location) = &held[*at];
        let from = usize::try_from(location.offset - span.range.start).unwrap_or(usize::MAX);
        let to = usize::try_from(location.end() - span.range.start).unwrap_or(usize::MAX);
        let output = &mut decoded.output;
        let done = match bytes.get_mut(from..to) {
            Some(sealed) => frame::open(sealed, location.offset, &span.pack.key, &span.pack.name)
                .and_then(|(header, payload)| {
                    let expected = header.content == Content::Chunk
                        && header.plain_length == location.plain_length;
                    if !expected {
                        return Err(Error::corrupt("its frame is another's"));
                    }
                    codecs.decompress_with(|decompressor| {
                        decode_chunk(chunk, header.plain_length as usize, output, |plain| {
                            decompressor.decompress(header.encoding, payload, plain)
                        })
                    })
                }),
            None => Err(Error::corrupt(format!(
                "pack {} ends early",
                span.pack.name
            ))),
        };
        match done {
            Ok(()) => decoded.data.extend_from_slice(&chunk.parts),
            Err(error) => {
                let sentence = format!("chunk {}: {error}", chunk.digest);
                decoded
                    .failed
                    .push((*at, Error::new(error.kind(), sentence)));
            }
        }
    }
}

/// Puts a chunk's parts into the output, checked.
fn decode_chunk(
    chunk: &Wanted,
    length: usize,
    output: &mut PooledBuffer,
    decompress: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let check = |plain: &[u8]| {
        if ChunkDigest::of(plain) == chunk.digest {
            Ok(())
        } else {
            Err(Error::corrupt(
                "its bytes are not those that it was made of",
            ))
        }
    };
    // Most chunks go where they belong in one piece.
    if let [part] = chunk.parts[..]
        && part.skip == 0
        && part.length == length
    {
        let plain = &mut output[part.to..part.to + length];
        decompress(plain)?;
        return check(plain);
    }
    let mut plain = vec![0; length];
    decompress(&mut plain)?;
    check(&plain)?;
    for part in &chunk.parts {
        let from = plain
            .get(part.skip..part.skip + part.length)
            .ok_or_else(|| Error::corrupt("it is shorter than a slice of it"))?;
        output[part.to..part.to + part.length].copy_from_slice(from);
    }
    Ok(())
}

fn shifted(range: RecoveredRange, by: ByteOffset) -> Result<RecoveredRange> {
    let shift = |extent: Extent| {
        Extent::new(
            by.checked_add(ByteCount(extent.offset().0))?,
            extent.length(),
        )
    };
    Ok(RecoveredRange {
        data: range
            .data
            .into_iter()
            .map(|(extent, bytes)| Ok((shift(extent)?, bytes)))
            .collect::<Result<_>>()?,
        missing: range
            .missing
            .into_iter()
            .map(|(extent, error)| Ok((shift(extent)?, error)))
            .collect::<Result<_>>()?,
    })
}

fn within(region: RegionIndex, part: Extent) -> (u32, u32) {
    let start = region.start().0;
    let relative = |at: ByteOffset| u32::try_from(at.0 - start).unwrap_or(u32::MAX);
    (relative(part.offset()), relative(part.end()))
}

#[async_trait]
impl Recovery for Image {
    async fn recover(&self, range: Extent) -> Result<RecoveredRange> {
        self.check(range)?;
        let mut whole = RecoveredRange::default();
        for (region, part) in self.regions(range) {
            let map = self.region(region).await?;
            let (start, end) = within(region, part);
            let found = read_region(&self.vault, &map, start, end).await?;
            let found = shifted(found, part.offset())?;
            whole.data.extend(found.data);
            whole.missing.extend(found.missing);
        }
        Ok(whole)
    }
}

#[async_trait]
impl BlockSource for Image {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: self.map.length,
            block: ByteCount(4096),
        }
    }

    async fn read(&self, at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        let range = Extent::new(at, length)?;
        let found = self.recover(range).await?;
        if let Some((extent, error)) = found.missing.into_iter().next() {
            return Err(error.within(format_args!("reading {extent} of {}", self.name)));
        }
        match &found.data[..] {
            [(extent, data)] if *extent == range => Ok(data.clone()),
            parts => {
                let mut whole = vec![0; length.to_usize()?];
                for (extent, data) in parts {
                    let from = usize::try_from(extent.offset().0 - at.0).unwrap_or(usize::MAX);
                    whole[from..from + data.len()].copy_from_slice(data);
                }
                Ok(whole.into())
            }
        }
    }

    async fn read_extents(&self, extents: &[Extent]) -> Result<Vec<Bytes>> {
        let reads = extents
            .iter()
            .map(|extent| self.read(extent.offset(), extent.length()));
        join_all(reads).await.into_iter().collect()
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        self.check(range)?;
        let mut found: Vec<Extent> = Vec::new();
        let mut runs =
            crate::map::compare::data_runs(self.map, range, Arc::clone(&self.vault.nodes));
        while let Some(run) = futures::TryStreamExt::try_next(&mut runs).await? {
            match found.last_mut() {
                Some(last) if last.end() == run.offset() => {
                    *last = Extent::between(last.offset(), run.end());
                }
                _ => found.push(run),
            }
        }
        Ok(found)
    }
}
