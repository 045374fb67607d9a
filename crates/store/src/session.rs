//! A synchronization under way: new chunks and nodes go into the shared packs
//! in runs, the image's map grows beside the committed ones, and nothing is
//! visible before the commit.

mod claims;
mod losses;
mod names;
mod queued;
mod recent;
mod replica_writer;
mod roots;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use backstop_core::{
    ChunkDigest, Error, PointKind, RegionAddress, RegionMap, Result, StoreBegin, region_count,
};
use tokio::sync::{Mutex, OwnedRwLockReadGuard, RwLock};

use crate::map::node::Node;
use crate::map::tree::{ImageMap, NodeSource, as_leaf};
use crate::nodes::NewNodes;
use crate::pack::frame::PlainFrame;
use crate::pack::name::PackKind;
use crate::record::{UnfinishedEntry, UnfinishedStream};
use crate::usage::Operation;
use crate::usage::meter::UnderWay;
use crate::vault::Vault;
pub(crate) use claims::Claim;
use claims::Claims;
use queued::Queued;
use recent::Recent;

/// Chunks are appended to packs in runs of at least this many bytes, or of a
/// pack if that is less, so that what belongs together stays together.
const RUN: usize = 1 << 20;

/// The same for nodes.
const NODE_RUN: usize = 256 << 10;

/// Regions that were written are folded into the tree when there are this
/// many in all images of a vault that are being written, so that memory grows
/// neither with an image nor with how many there are.
const LEAVES_HELD: usize = 16 << 10;

/// More slices than this are refused in a region, and as many chunks in one
/// call: a sender could else have all memory taken for a region of single
/// bytes. One of sectors has a quarter of it.
const MOST_SLICES: usize = 32 << 10;

/// How many images of a vault are being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamCount(Arc<AtomicUsize>);

impl StreamCount {
    /// How many written regions an image may hold before they are folded.
    fn leaves_each(&self) -> usize {
        (LEAVES_HELD / self.0.load(Ordering::Relaxed).max(1)).max(1)
    }

    fn begin(&self, count: usize) -> Writing {
        self.0.fetch_add(count, Ordering::Relaxed);
        Writing(self.clone(), count)
    }
}

/// Images that count as being written until it is dropped.
#[derive(Debug)]
struct Writing(StreamCount, usize);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A synchronization in a vault.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) vault: Arc<Vault>,
    pub(crate) begin: StoreBegin,
    pub(crate) is_folding: bool,
    under_way: UnderWay,
    /// The count of lost packs at its beginning.
    failures: u64,
    nodes: NewNodes,
    /// Beside the state, for those who can't wait for it.
    resume: Vec<AtomicU64>,
    writing: Writing,
    /// The chunks that it has sent, which it may name again.
    own: SyncMutex<Recent>,
    /// The chunks that the vault lacked when they were asked for.
    absent: SyncMutex<Recent>,
    /// Changed only together with the run.
    queued: Queued,
    /// Where each image stood when it began: what lies before was dealt with
    /// by an earlier run.
    from: Vec<u64>,
    /// Maps were found damaged: what the replica held is unknown there.
    maps_lost: AtomicBool,
    /// Held for reading while frames are on their way to a pack.
    appends: Arc<RwLock<()>>,
    claims: Claims,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    streams: Vec<Stream>,
    run: Vec<PlainFrame>,
    run_bytes: usize,
    added: Added,
    /// Where the last checkpoint began, and what is durable.
    checkpoint: Mark,
    durable: Mark,
    over: bool,
}

/// How far a synchronization has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    /// What it has added, and what waits to be.
    bytes: u64,
    /// The regions that are dealt with.
    regions: u64,
}

/// What a synchronization has added to the vault.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Added {
    /// Bytes of packs.
    pub(crate) bytes: u64,
    /// Plain bytes of chunks.
    pub(crate) plain_bytes: u64,
}

impl State {
    fn mark(&self) -> Mark {
        let done = self.streams.iter().map(|stream| stream.next);
        Mark {
            bytes: self.added.bytes + self.run_bytes as u64,
            regions: done.fold(0, u64::saturating_add),
        }
    }
}

#[derive(Clone, Debug)]
struct Stream {
    map: ImageMap,
    /// Regions written since the map was last folded.
    leaves: BTreeMap<u64, Option<ChunkDigest>>,
    next: u64,
}

/// What a session starts from, stream by stream.
pub(crate) struct Start {
    pub(crate) maps: Vec<ImageMap>,
    pub(crate) next: Vec<u64>,
    pub(crate) added: Added,
    /// The maps of the base are damaged, and `maps` are holes instead.
    pub(crate) maps_lost: bool,
    /// It is no synchronization that anybody sees.
    pub(crate) is_folding: bool,
}

/// A session's content, ready to be committed.
pub(crate) struct Settled {
    pub(crate) maps: Vec<ImageMap>,
    pub(crate) added: Added,
}

impl Session {
    /// Begins from `start`, whose images are cut or continued to the lengths
    /// that `begin` names.
    pub(crate) async fn new(vault: Arc<Vault>, begin: StoreBegin, start: Start) -> Result<Self> {
        // Counted before anything is found in a pack under way.
        let failures = vault.writer()?.failures_before().await;
        let is_check = begin.kind == PointKind::ConsistencyCheck;
        let nodes = NewNodes::new(Arc::clone(&vault.nodes), is_check);
        let mut streams = Vec::with_capacity(begin.streams.len());
        for ((map, next), spec) in start.maps.into_iter().zip(start.next).zip(&begin.streams) {
            let map = if map.length == spec.length {
                map
            } else {
                map.resized(spec.length, &nodes).await?
            };
            streams.push(Stream {
                map,
                leaves: BTreeMap::new(),
                next,
            });
        }
        let from: Vec<u64> = streams.iter().map(|stream| stream.next).collect();
        let resume = from.iter().copied().map(AtomicU64::new).collect();
        let maps_lost = (start.maps_lost || nodes.has_losses()).into();
        let mut state = State {
            streams,
            run: Vec::new(),
            run_bytes: 0,
            added: start.added,
            checkpoint: Mark::default(),
            durable: Mark::default(),
            over: false,
        };
        (state.checkpoint, state.durable) = (state.mark(), state.mark());
        let writing = vault.streams.begin(begin.streams.len());
        let operation = if start.is_folding {
            Operation::Fold
        } else {
            Operation::Synchronize
        };
        let under_way = vault.place.meter.begin(operation);
        Ok(Self {
            failures,
            under_way,
            writing,
            vault,
            begin,
            nodes,
            resume,
            from,
            maps_lost,
            is_folding: start.is_folding,
            own: SyncMutex::default(),
            absent: SyncMutex::default(),
            queued: Queued::default(),
            appends: Arc::default(),
            claims: Claims::default(),
            state: Mutex::new(state),
        })
    }

    /// Whether so many bytes make a run.
    fn is_run(&self, bytes: usize, run: usize) -> bool {
        bytes >= run || bytes as u64 >= self.vault.settings.pack_bytes
    }

    /// Fails if the session was given up, or lost something.
    fn check(&self, state: &State) -> Result<()> {
        if state.over {
            return Err(Error::conflict(format!(
                "synchronization {} of {} is over; begin again",
                self.begin.id, self.begin.source
            )));
        }
        self.vault.writer()?.check(self.failures)
    }

    fn stream(&self, at: &RegionAddress) -> Result<()> {
        match self.begin.streams.get(at.stream) {
            Some(spec) if at.region.0 < region_count(spec.length) => Ok(()),
            Some(spec) => Err(Error::invalid_input(format!(
                "region {} lies past the end of {} ({} bytes)",
                at.region.0, spec.name, spec.length
            ))),
            None => Err(Error::invalid_input(format!(
                "stream {} was not begun",
                at.stream
            ))),
        }
    }

    /// The maps as they were last folded into.
    pub(crate) async fn maps(&self) -> Vec<ImageMap> {
        let state = self.state.lock().await;
        state.streams.iter().map(|stream| stream.map).collect()
    }

    /// What it has added so far.
    pub(crate) async fn added(&self) -> Added {
        self.state.lock().await.added
    }

    pub(crate) async fn region(&self, at: &RegionAddress) -> Result<RegionMap> {
        match self.leaf(at).await? {
            Some(leaf) => Ok(as_leaf(&leaf)?.clone()),
            None => Ok(RegionMap::new()),
        }
    }

    /// The leaf of a region; none for a hole.
    async fn leaf(&self, at: &RegionAddress) -> Result<Option<Arc<Node>>> {
        self.stream(at)?;
        let (map, written) = {
            let state = self.state.lock().await;
            self.check(&state)?;
            let stream = &state.streams[at.stream];
            (stream.map, stream.leaves.get(&at.region.0).copied())
        };
        let leaf = match written {
            Some(leaf) => leaf,
            None => map.leaf(at.region, &self.nodes).await?,
        };
        match leaf {
            Some(digest) => self.nodes.get(&digest).await.map(Some),
            None => Ok(None),
        }
    }

    /// Says that frames are on their way to a pack, until it is dropped.
    async fn hold(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.appends).read_owned().await
    }

    /// `hold` was taken together with the run.
    async fn append_run(&self, run: Vec<PlainFrame>, hold: OwnedRwLockReadGuard<()>) -> Result<()> {
        let leaving = self.queued.leaving(&run);
        let plain_bytes = plain_bytes(&run);
        let appended = self
            .vault
            .writer()?
            .append(PackKind::Data, run, (leaving, hold))
            .await;
        let mut state = self.state.lock().await;
        match appended {
            Ok(bytes) => {
                state.added.bytes += bytes;
                state.added.plain_bytes += plain_bytes;
                Ok(())
            }
            Err(error) => {
                // What was in the run is gone.
                state.over = true;
                Err(error)
            }
        }
    }

    async fn append_nodes(&self) -> Result<()> {
        let hold = self.hold().await;
        let frames = self.nodes.take();
        let digests: Vec<_> = frames.iter().map(|frame| frame.digest).collect();
        let appended = self
            .vault
            .writer()?
            .append(PackKind::Map, frames, hold)
            .await;
        let mut state = self.state.lock().await;
        match appended {
            Ok(bytes) => {
                self.nodes.appended(&digests);
                state.added.bytes += bytes;
                Ok(())
            }
            Err(error) => {
                state.over = true;
                Err(error)
            }
        }
    }

    /// Folds the written regions of an image into its tree.
    async fn fold(&self, state: &mut State, stream: usize) -> Result<()> {
        let stream = &mut state.streams[stream];
        if stream.leaves.is_empty() {
            return Ok(());
        }
        match stream.map.with_leaves(&stream.leaves, &self.nodes).await {
            Ok(map) => {
                stream.map = map;
                stream.leaves.clear();
                Ok(())
            }
            Err(error) => Err(self.damaged(state, error).await),
        }
    }

    /// Folds all written regions into the trees and appends everything that
    /// waits: when the packs are finished, all of it is durable.
    pub(crate) async fn settle(&self) -> Result<Settled> {
        Ok(self.settle_and_claim().await?.0)
    }

    /// The same; its maps are needed until what this gives too is dropped,
    /// whatever is written meanwhile.
    pub(crate) async fn settle_and_claim(&self) -> Result<(Settled, Claim<'_>)> {
        let (run, hold) = {
            let mut state = self.state.lock().await;
            self.check(&state)?;
            for stream in 0..state.streams.len() {
                self.fold(&mut state, stream).await?;
            }
            // Before the run is taken: a caller that goes away while this waits
            // must leave it where it is.
            let hold = self.hold().await;
            state.run_bytes = 0;
            (std::mem::take(&mut state.run), hold)
        };
        let (data, nodes) = futures::join!(self.append_run(run, hold), self.append_nodes());
        data?;
        nodes?;
        // What other calls took before, and perhaps abandoned, is on its way.
        drop(self.appends.write().await);
        let state = self.state.lock().await;
        self.check(&state)?;
        let maps: Vec<_> = state.streams.iter().map(|stream| stream.map).collect();
        // Before the state is given free.
        let claim = self.claims.claim(&maps);
        let added = state.added;
        Ok((Settled { maps, added }, claim))
    }

    /// Adds frames of the commit itself, such as the manifest.
    pub(crate) async fn append(&self, kind: PackKind, frames: Vec<PlainFrame>) -> Result<Added> {
        let plain_bytes = match kind {
            PackKind::Data => plain_bytes(&frames),
            PackKind::Map => 0,
        };
        let bytes = self.vault.writer()?.append(kind, frames, ()).await?;
        let mut state = self.state.lock().await;
        state.added.bytes += bytes;
        state.added.plain_bytes += plain_bytes;
        Ok(state.added)
    }

    /// Fails if a pack that this session needs was lost.
    pub(crate) async fn check_whole(&self) -> Result<()> {
        self.check(&*self.state.lock().await)
    }

    /// Nothing more is taken, and nothing is kept: whoever still has a hold of
    /// it may never let go.
    pub(crate) async fn end(&self) {
        let mut state = self.state.lock().await;
        state.over = true;
        state.run = Vec::new();
        self.queued.clear();
        for stream in &mut state.streams {
            stream.leaves.clear();
        }
        self.nodes.forget();
        for recent in [&self.own, &self.absent] {
            *recent.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
        }
    }

    /// Makes durable what was done so far.
    async fn checkpoint(&self) -> Result<()> {
        let (mark, next) = {
            let mut state = self.state.lock().await;
            // At once, so that others don't begin one too.
            state.checkpoint = state.mark();
            let next = state.streams.iter().map(|stream| stream.next);
            (state.checkpoint, next.collect::<Vec<u64>>())
        };
        let (settled, _claim) = self.settle_and_claim().await?;
        self.vault.writer()?.finish_all().await?;
        self.check_whole().await?;
        let streams = self.begin.streams.iter().zip(settled.maps).zip(next);
        let entry = UnfinishedEntry {
            source: self.begin.source.clone(),
            synchronization: self.begin.id,
            snapshot: self.begin.snapshot,
            base: self.begin.base,
            kind: self.begin.kind,
            verify: self.begin.verify,
            maps_lost: self.maps_lost.load(Ordering::Acquire) || self.nodes.has_losses(),
            streams: streams
                .map(|((spec, map), next_region)| UnfinishedStream {
                    name: spec.name.clone(),
                    map,
                    next_region,
                })
                .collect(),
            at: self.vault.time().await?.time,
            bytes_added: settled.added.bytes,
            plain_bytes_added: settled.added.plain_bytes,
        };
        self.vault.put_unfinished(self, &entry).await?;
        self.state.lock().await.durable = mark;
        Ok(())
    }
}

fn plain_bytes(frames: &[PlainFrame]) -> u64 {
    let lengths = frames.iter().map(|f| u64::from(f.header.plain_length));
    lengths.sum()
}

fn too_many(what: &str, at: &RegionAddress) -> Error {
    Error::invalid_input(format!(
        "region {} has more than {MOST_SLICES} {what}",
        at.region.0
    ))
}
