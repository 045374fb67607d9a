//! Reading chunks of a region back: neighbours in one request, every chunk
//! checked, around damage.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, ChunkDigest, Codecs, Error, ErrorKind, Extent, PooledBuffer,
    RecoveredRange, RegionMap, Result, SliceContent,
};
use futures::future::join_all;

use crate::failure;
use crate::pack::frame::{self, Content};
use crate::pack::index::Location;
use crate::pack::reader::Span;
use crate::vault::Vault;

/// How many chunks are confirmed at once: no more than a region holds.
const CONFIRMED_AT_ONCE: usize = 64;

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
#[derive(Clone, Debug)]
struct Wanted {
    digest: ChunkDigest,
    parts: Vec<Part>,
}

/// What of a region is to be read.
#[derive(Debug, Default)]
struct Plan {
    places: HashMap<ChunkDigest, usize>,
    chunks: Vec<Wanted>,
    unreadable: Vec<Part>,
    /// The length of the output, in bytes.
    length: usize,
}

impl Plan {
    /// Appends `start..end` of a region to the output.
    fn add(&mut self, map: &RegionMap, start: u32, end: u32) {
        let first = map.slices().partition_point(|slice| slice.end() <= start);
        for slice in &map.slices()[first..] {
            let (from, to) = (slice.start.max(start), slice.end().min(end));
            if from >= to {
                break;
            }
            let mut part = Part {
                to: self.length + (from - start) as usize,
                skip: 0,
                length: (to - from) as usize,
            };
            match slice.content {
                SliceContent::Unreadable => self.unreadable.push(part),
                SliceContent::Chunk { digest, skip } => {
                    part.skip = (skip + (from - slice.start)) as usize;
                    let chunks = &mut self.chunks;
                    let place = *self.places.entry(digest).or_insert_with(|| {
                        let parts = Vec::new();
                        chunks.push(Wanted { digest, parts });
                        chunks.len() - 1
                    });
                    chunks[place].parts.push(part);
                }
            }
        }
        self.length += (end - start) as usize;
    }
}

/// What was read: parts of the output that hold what they should, in order,
/// and parts that could not be had.
struct Fetched<T> {
    output: PooledBuffer,
    data: Vec<Part>,
    missing: Vec<(Part, Error)>,
    finished: T,
}

/// Reads what is planned. One bad chunk costs its own parts and nothing else.
///
/// `finish` is CPU work on the output: what no data part covers holds
/// whatever was there before.
async fn fetch<T: Send + 'static>(
    vault: &Arc<Vault>,
    plan: Plan,
    finish: impl Fn(&mut Decoded, &[(Part, Error)]) -> T + Send + Sync + 'static,
) -> Result<Fetched<T>> {
    let Plan {
        chunks,
        unreadable,
        length,
        ..
    } = plan;
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
    let located = vault.reader.locate(Content::Chunk, &digests).await?;
    if located.iter().any(Option::is_none) {
        // Or it is no damage.
        vault.reader.store.check_vault().await?;
    }
    for (chunk, location) in chunks.into_iter().zip(located) {
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
    missing.sort_by_key(|(part, _)| part.to);
    let held = Arc::new(held);
    let mut decoded = Decoded {
        output: vault.buffer(length),
        data: Vec::new(),
        failed: Vec::new(),
        scratch: Vec::new(),
    };
    let finish = Arc::new(finish);
    let mut spans = vault.reader.spans(&locations).await?;
    let (decoded, mut missing, finished) = loop {
        let later = spans.split_off(batch(&spans));
        let read = read_spans(vault, &spans).await?;
        let (codecs, chunks) = (Arc::clone(&vault.codecs), Arc::clone(&held));
        let finish = later.is_empty().then(|| Arc::clone(&finish));
        let decode = move || {
            for (span, bytes) in spans.iter().zip(read) {
                decode_span(span, bytes, &chunks, &codecs, &mut decoded);
            }
            let whole = decoded.failed.is_empty();
            let finished = finish.filter(|_| whole).map(|finish| {
                decoded.data.sort_unstable_by_key(|part| part.to);
                finish(&mut decoded, &missing)
            });
            (decoded, missing, finished)
        };
        let done = vault.cpu.run(decode).await?;
        if later.is_empty() {
            break done;
        }
        (decoded, missing, _) = done;
        spans = later;
    };
    if let Some(finished) = finished {
        return Ok(Fetched {
            output: decoded.output,
            data: decoded.data,
            missing,
            finished,
        });
    }
    let (mut decoded, again) = read_again(vault, &held, decoded).await?;
    for (at, error) in std::mem::take(&mut decoded.failed) {
        let (chunk, location) = &again[at];
        if failure::is_damage(&error) {
            vault.reader.refuse_newer(location.pack).await?;
        }
        vault.index.mark_bad(Content::Chunk, &chunk.digest).await;
        let error = |_| Error::new(error.kind(), error.context());
        let parts = chunk.parts.iter();
        missing.extend(parts.enumerate().map(|(n, part)| (*part, error(n))));
    }
    missing.sort_by_key(|(part, _)| part.to);
    let work = move || {
        decoded.data.sort_unstable_by_key(|part| part.to);
        let finished = finish(&mut decoded, &missing);
        (decoded, missing, finished)
    };
    let (decoded, missing, finished) = vault.cpu.run(work).await?;
    Ok(Fetched {
        output: decoded.output,
        data: decoded.data,
        missing,
        finished,
    })
}

/// Runs CPU work on ranges of a region, side by side in one buffer, holes as
/// zeros; it is told what of the buffer could not be had.
pub(crate) async fn with_plain<T: Send + 'static>(
    vault: &Arc<Vault>,
    map: &RegionMap,
    ranges: &[Extent],
    work: impl Fn(&[u8], &[Range<usize>]) -> T + Send + Sync + 'static,
) -> Result<T> {
    let mut plan = Plan::default();
    for range in ranges {
        let place = |at: ByteOffset| u32::try_from(at.0).unwrap_or(u32::MAX);
        plan.add(map, place(range.offset()), place(range.end()));
    }
    let finish = move |decoded: &mut Decoded, missing: &[(Part, Error)]| {
        let mut at = 0;
        for part in &decoded.data {
            decoded.output[at..part.to].fill(0);
            at = part.to + part.length;
        }
        decoded.output[at..].fill(0);
        let missing: Vec<_> = missing
            .iter()
            .map(|(part, _)| part.to..part.to + part.length)
            .collect();
        work(&decoded.output, &missing)
    };
    Ok(fetch(vault, plan, finish).await?.finished)
}

/// Reads chunks, so that those that are bad are known as such.
pub(crate) async fn confirm(vault: &Arc<Vault>, digests: &[ChunkDigest]) -> Result<()> {
    let chunk = |digest: &ChunkDigest| Wanted {
        digest: *digest,
        parts: Vec::new(),
    };
    for few in digests.chunks(CONFIRMED_AT_ONCE) {
        let plan = Plan {
            chunks: few.iter().map(chunk).collect(),
            ..Plan::default()
        };
        fetch(vault, plan, |_, _| ()).await?;
    }
    Ok(())
}

/// Reads `start..end` of a region: data and missing parts, positions relative
/// to `start`.
pub(crate) async fn read_region(
    vault: &Arc<Vault>,
    map: &RegionMap,
    start: u32,
    end: u32,
) -> Result<RecoveredRange> {
    let mut plan = Plan::default();
    plan.add(map, start, end);
    let fetched = fetch(vault, plan, |_, _| ()).await?;
    let output = fetched.output.freeze();
    let extent =
        |to: usize, length: usize| Extent::new(ByteOffset(to as u64), ByteCount(length as u64));
    let mut recovered = RecoveredRange::default();
    let mut parts = fetched.data.into_iter().peekable();
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
    for (part, error) in fetched.missing {
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
    /// For chunks that don't go where they belong in one piece.
    scratch: Vec<u8>,
}

type Held = (Wanted, Location);

/// How many bytes of packs are read for a region at once: more than a region's
/// whole chunks take, less than the chunks that an agent can have it name.
const READ_AT_ONCE: u64 = 8 << 20;

/// How many of the spans are read at once, at least one of them.
fn batch(spans: &[Span]) -> usize {
    let mut length = 0;
    let full = spans.iter().position(|span| {
        length += span.range.end - span.range.start;
        length > READ_AT_ONCE
    });
    full.unwrap_or(spans.len()).max(1).min(spans.len())
}

async fn read_spans(vault: &Arc<Vault>, spans: &[Span]) -> Result<Vec<Result<PooledBuffer>>> {
    let reads = spans.iter().map(|span| read_span(vault, span));
    join_all(reads).await.into_iter().collect()
}

/// Reads the bytes of a span: an error inside if they are damaged. A store that
/// does not answer, or lets nobody in, has lost nothing.
async fn read_span(vault: &Arc<Vault>, span: &Span) -> Result<Result<PooledBuffer>> {
    let length = usize::try_from(span.range.end - span.range.start).unwrap_or(0);
    let buffer = vault.buffer(length);
    let read = vault.reader.read_into(&span.pack, span.range.start, buffer);
    match read.await {
        Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
        read => Ok(read),
    }
}

/// Asks the store once more for what could not be had: it may have been
/// damaged only on its way here, and another copy may have taken its place.
/// Gives what was read again; what failed refers to it.
async fn read_again(
    vault: &Arc<Vault>,
    held: &[Held],
    mut decoded: Decoded,
) -> Result<(Decoded, Arc<Vec<Held>>)> {
    let failed: Vec<usize> = std::mem::take(&mut decoded.failed)
        .into_iter()
        .map(|(at, _)| at)
        .collect();
    let digests: Vec<_> = failed.iter().map(|at| held[*at].0.digest).collect();
    let found = vault.reader.relocate(Content::Chunk, &digests).await?;
    let again: Vec<Held> = failed
        .iter()
        .zip(found)
        .map(|(at, found)| (held[*at].0.clone(), found.unwrap_or(held[*at].1)))
        .collect();
    let again = Arc::new(again);
    let mut spans = Vec::with_capacity(again.len());
    for (at, (_, location)) in again.iter().enumerate() {
        // Each by itself: one bad sector must not cost its neighbours.
        for mut span in vault.reader.spans(&[*location]).await? {
            span.frames = vec![at];
            spans.push(span);
        }
    }
    for span in spans {
        let read = read_span(vault, &span).await?;
        let (chunks, codecs) = (Arc::clone(&again), Arc::clone(&vault.codecs));
        let decode = move || {
            decode_span(&span, read, &chunks, &codecs, &mut decoded);
            decoded
        };
        decoded = vault.cpu.run(decode).await?;
    }
    Ok((decoded, again))
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
        let (output, scratch) = (&mut decoded.output, &mut decoded.scratch);
        let done = match bytes.get_mut(from..to) {
            Some(sealed) => frame::open(sealed, location.offset, &span.pack.key, &span.pack.name)
                .and_then(|(header, payload)| {
                    let expected = header.content == Content::Chunk
                        && header.plain_length == location.plain_length;
                    if !expected {
                        return Err(Error::corrupt("its frame is another's"));
                    }
                    codecs.decompress_with(|decompressor| {
                        let length = header.plain_length as usize;
                        decode_chunk(chunk, length, output, scratch, |plain| {
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
    scratch: &mut Vec<u8>,
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
    if scratch.len() < length {
        scratch.resize(length, 0);
    }
    let plain = &mut scratch[..length];
    decompress(plain)?;
    check(plain)?;
    for part in &chunk.parts {
        let from = plain
            .get(part.skip..part.skip + part.length)
            .ok_or_else(|| Error::corrupt("it is shorter than a slice of it"))?;
        output[part.to..part.to + part.length].copy_from_slice(from);
    }
    Ok(())
}
