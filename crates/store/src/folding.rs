//! Folding: regions of a replica's head that have become dear to read are
//! written anew, whole.
//!
//! Small changes leave a region in many small pieces. Folding reads such a
//! region, cuts it as an initial synchronization would, and keeps the new maps
//! beside the head they were made of: the next synchronization of the source
//! starts from them, so that its point has them. Points that are there never
//! change.
//!
//! It is a synchronization of its own kind, which a real one of the same source
//! ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, Chunker, Codecs, Deduplication, Error, Extent, FoldOptions, FoldReport,
    HashedChunk, Monitor, Piece, PieceContent, PointKind, Progress, RegionAddress, RegionIndex,
    RegionMap, RegionUpdate, ReplicaWriter, Result, SliceContent, SnapshotId, SourceName,
    StoreBegin, StreamSpec, SynchronizationId, VerifiedChunk, is_zero,
};
use bytes::Bytes;

use crate::catalog::Batch;
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::fetch;
use crate::maintenance::to_its_end;
use crate::map::tree::{ImageMap, NodeSource, as_inner, as_leaf, height, span};
use crate::pack::frame::Content;
use crate::record::{self, FoldedEntry, FoldedStream};
use crate::seal;
use crate::session::{Added, Session, Start};
use crate::vault::Vault;

/// What a request to the store costs, in plain bytes that could be had meanwhile.
const REQUEST: u64 = 64 << 10;

/// A region with fewer chunks than these is not in pieces: so many more than one
/// for each of these lengths, in bytes, which few chunks reach.
const CHUNKS_MORE: usize = 4;
const CHUNK: u32 = 128 << 10;

/// A region that is worth folding.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    percent: u64,
    stream: usize,
    region: u64,
    cost: Cost,
}

impl Candidate {
    /// Those that cost most come first, by factors of two; of about the same,
    /// neighbours together, so that what they leave dies together: packs of
    /// which everything is dead are given back without writing anything anew.
    fn order(&self) -> (std::cmp::Reverse<u32>, usize, u64) {
        let doublings = (self.percent / 100).max(1).ilog2();
        (std::cmp::Reverse(doublings), self.stream, self.region)
    }
}

/// What reading a region costs, and what it would if it had just been written.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    now: u64,
    ideal: u64,
}

impl Cost {
    fn percent(self) -> u64 {
        self.now.saturating_mul(100) / self.ideal.max(1)
    }
}

/// Folds the head of a replica.
pub(crate) async fn fold(
    store: &DedupStore,
    source: &SourceName,
    options: &FoldOptions,
    monitor: &dyn Monitor,
) -> Result<FoldReport> {
    let vault = &store.vault;
    vault.writer()?;
    let _read = vault.reading.begin();
    let session = begin(store, source).await?;
    let _held = Held {
        vault,
        session: &session,
    };
    let folded = run(vault, &session, options, monitor).await;
    let kept = match folded {
        Ok(report) if report.folded > 0 && !options.dry_run => {
            let (vault, session) = (Arc::clone(vault), Arc::clone(&session));
            let keeping = to_its_end(async move { keep(&vault, &session).await });
            keeping.await.map(|()| report)
        }
        folded => folded,
    };
    session.end().await;
    kept
}

/// A session that is let go of however folding ends.
struct Held<'a> {
    vault: &'a Vault,
    session: &'a Session,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.vault.let_go(self.session);
    }
}

/// Forgets the folded maps of a source: the next synchronization starts from the
/// point's own.
pub(crate) async fn forget(vault: &Vault, source: &SourceName) -> Result<()> {
    let _one = vault.commit.lock().await;
    let key = vault.catalog.folded_key(source);
    if vault.catalog.get(&key).await?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.delete(&key);
    vault.commit_batch(batch).await
}

/// A session that stands where the next synchronization would begin.
async fn begin(store: &DedupStore, source: &SourceName) -> Result<Arc<Session>> {
    let vault = &store.vault;
    let _relying = vault.gate.read().await;
    let _one = vault.commit.lock().await;
    let head = vault.replica_entry(source).await?.and_then(|it| it.head);
    let head = head.ok_or_else(|| {
        Error::not_found(format!(
            "source {source} has no recovery point to be folded"
        ))
    })?;
    if vault.session_of(source).is_some() || vault.unfinished_entry(source).await?.is_some() {
        return Err(Error::conflict(format!(
            "a synchronization of {source} is under way or unfinished; fold it after its commit"
        )));
    }
    let point = vault.point_record(head).await?.point;
    let streams = point.streams.into_iter().map(|stream| StreamSpec {
        name: stream.name,
        length: stream.length,
    });
    let begin = StoreBegin {
        id: SynchronizationId::from_bytes(seal::random()?),
        source: source.clone(),
        snapshot: SnapshotId::from_bytes(seal::random()?),
        streams: streams.collect(),
        base: Some(head),
        deduplication: Deduplication::Vault,
        kind: PointKind::ExpressFull,
        verify: false,
    };
    let start = Start {
        maps: store.maps_of(&begin).await?,
        next: vec![0; begin.streams.len()],
        added: Added::default(),
        maps_lost: false,
        is_folding: true,
    };
    let session = Arc::new(Session::new(Arc::clone(vault), begin, start).await?);
    vault.remember(Arc::clone(&session));
    Ok(session)
}

/// Folds regions into the session.
async fn run(
    vault: &Arc<Vault>,
    session: &Session,
    options: &FoldOptions,
    monitor: &dyn Monitor,
) -> Result<FoldReport> {
    let mut report = FoldReport::default();
    let mut candidates = Vec::new();
    for (stream, map) in session.maps().await.into_iter().enumerate() {
        let found = &mut candidates;
        look(vault, stream, map, options, &mut report, found).await?;
    }
    candidates.sort_by_key(Candidate::order);
    let total = ByteCount(candidates.iter().map(|it| it.cost.now).sum());
    let mut done = 0;
    for (at, candidate) in candidates.iter().enumerate() {
        if report.written >= options.most_written {
            report.left = (candidates.len() - at) as u64;
            break;
        }
        let address = RegionAddress {
            stream: candidate.stream,
            region: RegionIndex(candidate.region),
        };
        if options.dry_run || fold_region(vault, session, address).await? {
            report.folded += 1;
            report.cost_before.0 += candidate.cost.now;
            report.cost_after.0 += candidate.cost.ideal;
        } else {
            report.damaged += 1;
        }
        report.written = if options.dry_run {
            ByteCount(report.written.0 + candidate.cost.ideal)
        } else {
            ByteCount(session.added().await.bytes)
        };
        done += candidate.cost.now;
        monitor.tell_progress(Progress {
            done: ByteCount(done),
            total,
        })?;
    }
    monitor.tell_progress(Progress { done: total, total })?;
    Ok(report)
}

/// Finds the regions of an image that are worth it: a walk of its whole map.
async fn look(
    vault: &Arc<Vault>,
    stream: usize,
    map: ImageMap,
    options: &FoldOptions,
    report: &mut FoldReport,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    let mut stack = vec![(height(map.length), 0u64, map.root)];
    while let Some((level, first, digest)) = stack.pop() {
        let Some(digest) = digest else { continue };
        let node = match vault.nodes.get(&digest).await {
            Ok(node) => node,
            // A check is to heal it.
            Err(error) if failure::is_damage(&error) => {
                report.damaged += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if level > 0 {
            let children = as_inner(&node, level)?.iter().enumerate();
            let step = span(level - 1);
            stack.extend(children.map(|(at, child)| (level - 1, first + at as u64 * step, *child)));
            continue;
        }
        report.regions += 1;
        let cost = match cost(vault, as_leaf(&node)?).await? {
            Some(cost) if cost.percent() >= u64::from(options.worth.max(101)) => cost,
            _ => continue,
        };
        found.push(Candidate {
            percent: cost.percent(),
            stream,
            region: first,
            cost,
        });
    }
    Ok(())
}

/// What reading a region costs; none if that is clearly little.
async fn cost(vault: &Arc<Vault>, map: &RegionMap) -> Result<Option<Cost>> {
    let mut length = 0u64;
    let mut chunks = HashSet::new();
    for slice in map.slices() {
        if let SliceContent::Chunk { digest, .. } = slice.content {
            length += u64::from(slice.length);
            chunks.insert(digest);
        }
    }
    let fewest = usize::try_from(length / u64::from(CHUNK)).unwrap_or(usize::MAX);
    if chunks.len() <= fewest + CHUNKS_MORE {
        return Ok(None);
    }
    let digests: Vec<_> = chunks.into_iter().collect();
    let located = vault.reader.locate(Content::Chunk, &digests).await?;
    let frames: Vec<_> = located.into_iter().flatten().collect();
    let spans = vault.reader.spans(&frames).await?;
    let plain: u64 = frames.iter().map(|at| u64::from(at.plain_length)).sum();
    Ok(Some(Cost {
        now: plain + REQUEST * spans.len() as u64,
        ideal: length + REQUEST,
    }))
}

/// Writes a region anew; false if some of it can't be read.
async fn fold_region(vault: &Arc<Vault>, session: &Session, at: RegionAddress) -> Result<bool> {
    let map = session.region(&at).await?;
    let runs = runs(&map);
    let codecs = Arc::clone(&vault.codecs);
    let ranges = runs.clone();
    let cut = move |plain: &[u8], missing: &[std::ops::Range<usize>]| match missing {
        [] => cut(&ranges, plain, &codecs).map(Some),
        _ => Ok(None),
    };
    let extents: Vec<Extent> = runs
        .iter()
        .map(|run| {
            let place = |at: u32| ByteOffset(u64::from(at));
            Extent::between(place(run.start), place(run.end))
        })
        .collect();
    let Some((pieces, chunks)) = fetch::with_plain(vault, &map, &extents, cut).await?? else {
        return Ok(false);
    };
    session.write(RegionUpdate { at, pieces, chunks }).await?;
    Ok(true)
}

/// The runs of a region that hold chunks side by side.
fn runs(map: &RegionMap) -> Vec<std::ops::Range<u32>> {
    let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
    for slice in map.slices() {
        if slice.content == SliceContent::Unreadable {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == slice.start => run.end = slice.end(),
            _ => runs.push(slice.start..slice.end()),
        }
    }
    runs
}

type Cut = (Vec<Piece>, Vec<VerifiedChunk>);

/// Cuts runs, which stand side by side in `plain`, into chunks. CPU work.
fn cut(runs: &[std::ops::Range<u32>], plain: &[u8], codecs: &Codecs) -> Result<Cut> {
    let chunker = Chunker::default();
    let mut pieces = Vec::new();
    let mut hashed: Vec<HashedChunk> = Vec::new();
    let mut from = 0;
    for run in runs {
        let length = (run.end - run.start) as usize;
        let data = plain
            .get(from..from + length)
            .ok_or_else(|| Error::internal("a region was read short"))?;
        from += length;
        for range in chunker.cut(data) {
            let start = run.start + u32::try_from(range.start).unwrap_or(u32::MAX);
            let content = if is_zero(&data[range.clone()]) {
                PieceContent::Hole
            } else {
                let chunk = HashedChunk::new(Bytes::copy_from_slice(&data[range.clone()]))?;
                let digest = chunk.digest();
                hashed.push(chunk);
                PieceContent::Data(SliceContent::Chunk { digest, skip: 0 })
            };
            pieces.push(Piece {
                start,
                length: u32::try_from(range.len()).unwrap_or(u32::MAX),
                content,
            });
        }
    }
    // Each once: what is written names it as often as it likes.
    let mut seen = HashSet::new();
    hashed.retain(|chunk| seen.insert(chunk.digest()));
    Ok((pieces, codecs.compress(hashed)?))
}

/// Keeps the folded maps for the next synchronization.
async fn keep(vault: &Arc<Vault>, session: &Session) -> Result<()> {
    let _relying = vault.gate.read().await;
    let (settled, _claim) = session.settle_and_claim().await?;
    vault.writer()?.finish_all().await?;
    let _one = vault.commit.lock().await;
    session.check_whole().await?;
    let source = &session.begin.source;
    let head = vault.replica_entry(source).await?.and_then(|it| it.head);
    let base = match session.begin.base {
        Some(base) if head == Some(base) => base,
        _ => {
            return Err(Error::conflict(format!(
                "{source} was synchronized while it was folded; fold it again"
            )));
        }
    };
    let streams = session.begin.streams.iter().zip(settled.maps);
    let entry = FoldedEntry {
        source: source.clone(),
        base,
        streams: streams
            .map(|(spec, map)| FoldedStream {
                name: spec.name.clone(),
                map,
            })
            .collect(),
    };
    let mut batch = Batch::default();
    batch.put(&vault.catalog.folded_key(source), &record::encode(&entry)?);
    vault.commit_batch(batch).await
}

/// The folded maps of a point, by stream; none if it was not folded.
pub(crate) async fn folded(
    vault: &Vault,
    source: &SourceName,
    base: backstop_core::PointId,
) -> Result<BTreeMap<backstop_core::StreamName, ImageMap>> {
    let value = vault.catalog.get(&vault.catalog.folded_key(source)).await?;
    let entry = value
        .map(|value| record::decode::<FoldedEntry>("the record of folded maps", &value))
        .transpose()?;
    let streams = entry.filter(|entry| entry.base == base);
    let streams = streams.map_or_else(Vec::new, |entry| entry.streams);
    Ok(streams.into_iter().map(|it| (it.name, it.map)).collect())
}
