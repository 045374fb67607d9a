//! Calls that are abandoned half way, at the instants that matter.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use backstop_core::{
    ByteCount, ByteOffset, Codecs, Deduplication, ErrorKind, Extent, HashedChunk, NewPoint,
    NoMonitor, Piece, PieceContent, PointFacts, PointId, RecoveryStore, RegionIndex, RegionUpdate,
    ReplicaState, ReplicaWriter, ReplicateOptions, SliceContent, SnapshotId, SourceName,
    StreamName, StreamSpec, SynchronizationId, Timestamp, WHOLE_REGION,
};

use futures::future::OptionFuture;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use tokio::task::JoinSet;

use super::*;
use crate::DedupStore;
use crate::catalog::{PACKS, numbered_key};
use crate::pack::frame::Content;
use crate::pack::index::Location;

const LENGTH: u32 = 4 << 20;

async fn session(store: &DedupStore) -> Arc<Session> {
    session_of(store, 1, u64::from(LENGTH)).await
}

/// A session of so many images of this length.
async fn session_of(store: &DedupStore, streams: usize, length: u64) -> Arc<Session> {
    let name = |at: usize| match at {
        0 => StreamName::disk(),
        at => StreamName::new(format!("disk{at:03}")).unwrap(),
    };
    let id = SynchronizationId::from_bytes([1; 16]);
    let begin = StoreBegin {
        id,
        source: SourceName::new("a").unwrap(),
        snapshot: SnapshotId::from_bytes([2; 16]),
        streams: (0..streams)
            .map(|at| StreamSpec {
                name: name(at),
                length: ByteCount(length),
            })
            .collect(),
        base: None,
        deduplication: Deduplication::OwnReplica,
        kind: PointKind::Initial,
        verify: false,
    };
    store.begin(begin).await.unwrap();
    store.vault.session(id).unwrap()
}

/// An update that is longer than a run, and its bytes.
fn update(seed: u64) -> (RegionUpdate, Vec<u8>) {
    let mut bytes = vec![0; LENGTH as usize];
    fastrand::Rng::with_seed(seed).fill(&mut bytes[..2 * RUN]);
    let parts = bytes[..2 * RUN].chunks(64 << 10);
    let hashed = parts.map(|part| HashedChunk::new(part.to_vec().into()).unwrap());
    let chunks = Codecs::new(1).compress(hashed.collect()).unwrap();
    let mut start = 0;
    let pieces = chunks.iter().map(|chunk| {
        start += chunk.length();
        Piece {
            start: start - chunk.length(),
            length: chunk.length(),
            content: PieceContent::Data(SliceContent::Chunk {
                digest: chunk.digest(),
                skip: 0,
            }),
        }
    });
    let update = RegionUpdate {
        at: RegionAddress {
            stream: 0,
            region: RegionIndex(0),
        },
        pieces: pieces.collect(),
        chunks: chunks.clone(),
    };
    (update, bytes)
}

/// A byte of one chunk at a place of a region.
fn one_byte(stream: usize, region: u64, starts: impl Iterator<Item = u32>) -> RegionUpdate {
    chunk_at(stream, region, &[7], starts)
}

/// The first byte of a chunk, at places of a region.
fn chunk_at(
    stream: usize,
    region: u64,
    plain: &[u8],
    starts: impl Iterator<Item = u32>,
) -> RegionUpdate {
    let hashed = HashedChunk::new(plain.to_vec().into()).unwrap();
    let chunks = Codecs::new(1).compress(vec![hashed]).unwrap();
    let digest = chunks[0].digest();
    let pieces = starts.map(|start| Piece {
        start,
        length: 1,
        content: PieceContent::Data(SliceContent::Chunk { digest, skip: 0 }),
    });
    RegionUpdate {
        at: RegionAddress {
            stream,
            region: RegionIndex(region),
        },
        pieces: pieces.collect(),
        chunks,
    }
}

#[tokio::test]
async fn many_images_share_the_memory_for_what_was_written() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session_of(&store, 256, 200 << 22).await;
    for region in 0..200 {
        let update = one_byte(3, region, std::iter::once(0));
        session.write(update).await.unwrap();
        let held = session.state.lock().await.streams[3].leaves.len();
        assert!(held < LEAVES_HELD / 256, "{held} regions are held");
    }
    assert_eq!(store.vault.streams.leaves_each(), LEAVES_HELD / 256);
    store.vault.forget_all();
    drop(session);
    assert_eq!(store.vault.streams.leaves_each(), LEAVES_HELD);
}

#[tokio::test]
async fn a_region_of_single_bytes_is_refused() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    let every = |from: u32, count: u32| (0..count).map(move |at| from + 2 * at);
    let most = u32::try_from(MOST_SLICES).unwrap();
    let refused = session.write(one_byte(0, 0, every(0, most + 1))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    // Nor bit by bit.
    session.write(one_byte(0, 0, every(0, most))).await.unwrap();
    let refused = session.write(one_byte(0, 0, every(2 * most, 1))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// A point of a session.
async fn commit(store: &DedupStore, session: &Session) -> PointId {
    let begin = &session.begin;
    let (id, state_before) = match begin.base {
        None => (3, ReplicaState::Pending),
        Some(_) => (4, ReplicaState::Consistent),
    };
    let point = NewPoint {
        synchronization: begin.id,
        id: PointId::from_bytes([id; 16]),
        time: Timestamp(1),
        facts: PointFacts::new(begin.kind),
        marks: backstop_core::Marks::default(),
        state_before,
        state: ReplicaState::Consistent,
    };
    store.commit(vec![point]).await.unwrap()[0].id
}

/// Checks that a point restores bit for bit.
async fn holds(store: &DedupStore, point: PointId, bytes: &[u8]) {
    let image = store.open(point, &StreamName::disk()).await.unwrap();
    let whole = ByteCount(u64::from(LENGTH));
    let read = image.read(ByteOffset(0), whole).await.unwrap();
    assert!(read[..] == bytes[..]);
}

/// Lets everything else go on until it waits for us.
async fn others_go_on() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn settling_waits_for_frames_on_their_way() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    // As an append whose caller went away holds it.
    let hold = session.hold().await;
    let mut settling = pin!(session.settle());
    for _ in 0..10 {
        assert!(futures::poll!(&mut settling).is_pending());
        others_go_on().await;
    }
    drop(hold);
    settling.await.unwrap();
}

#[tokio::test]
async fn a_write_that_is_abandoned_while_others_settle_loses_nothing() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    let (update, bytes) = update(5);
    let hold = session.hold().await;
    let mut settling = pin!(session.settle());
    for _ in 0..10 {
        assert!(futures::poll!(&mut settling).is_pending());
        others_go_on().await;
    }
    {
        // It has a full run and waits behind the settling.
        let mut writing = pin!(session.write(update.clone()));
        for _ in 0..10 {
            assert!(matches!(futures::poll!(&mut writing), Poll::Pending));
            others_go_on().await;
        }
    }
    drop(hold);
    settling.await.unwrap();
    session.write(update).await.unwrap();
    let point = commit(&store, &session).await;
    holds(&store, point, &bytes).await;
}

/// Suspending looks at what is durable, not at what was begun.
#[tokio::test]
async fn a_checkpoint_that_is_abandoned_is_made_when_suspended() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    let (update, _) = update(6);
    session.write(update).await.unwrap();
    session.progress(0, RegionIndex(1)).await.unwrap();
    let hold = session.hold().await;
    {
        let mut checkpoint = pin!(session.checkpoint());
        for _ in 0..10 {
            assert!(futures::poll!(&mut checkpoint).is_pending());
            others_go_on().await;
        }
    }
    drop(hold);
    session.suspend().await.unwrap();
    let begin = session.begin.clone();
    drop(session);
    let again = store.begin(begin).await.unwrap();
    assert_eq!(again.resume_at(0), RegionIndex(1));
}

#[tokio::test]
async fn a_suspended_synchronization_gives_its_memory_back() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session_of(&store, 4, u64::from(LENGTH)).await;
    session.write(update(7).0).await.unwrap();
    session.progress(0, RegionIndex(1)).await.unwrap();
    assert_eq!(store.vault.streams.leaves_each(), LEAVES_HELD / 4);
    session.suspend().await.unwrap();
    assert!(store.vault.session(session.begin.id).is_none());
    let gone = Arc::downgrade(&session);
    drop(session);
    assert!(gone.upgrade().is_none());
    assert_eq!(store.vault.streams.leaves_each(), LEAVES_HELD);
}

/// Whether anything of what a session was sent is still in memory.
async fn holds_memory(session: &Session) -> bool {
    let state = session.state.lock().await;
    let own = session.own.lock().unwrap();
    let (update, _) = update(7);
    state.run.capacity() > 0
        || state.streams.iter().any(|stream| !stream.leaves.is_empty())
        || !session.queued.hold().is_empty()
        || session.nodes.waiting() > 0
        || own.contains(&update.chunks[0].digest())
}

#[tokio::test]
async fn a_synchronization_that_failed_gives_its_memory_back_too() {
    for aborted in [false, true] {
        let store = DedupStore::create("memory://").await.unwrap();
        let session = session(&store).await;
        session.write(update(7).0).await.unwrap();
        session.write(one_byte(0, 0, 0..1)).await.unwrap();
        session.progress(0, RegionIndex(1)).await.unwrap();
        session.checkpoint().await.unwrap();
        session.write(one_byte(0, 0, 3..4)).await.unwrap();
        assert!(holds_memory(&session).await);
        // As when a run can't be appended.
        session.state.lock().await.over = true;
        if aborted {
            session.abort().await.unwrap();
        } else {
            session.suspend().await.unwrap();
        }
        assert!(!holds_memory(&session).await);
        assert!(store.vault.session(session.begin.id).is_none());
        let begin = session.begin.clone();
        drop(session);
        assert_eq!(store.vault.streams.leaves_each(), LEAVES_HELD);
        // What was durable is there to go on with, unless it was given up.
        let again = store.begin(begin).await.unwrap();
        assert_eq!(again.resume_at(0), RegionIndex(u64::from(!aborted)));
    }
}

#[tokio::test]
async fn giving_up_what_failed_leaves_what_came_after() {
    for aborted in [false, true] {
        let store = DedupStore::create("memory://").await.unwrap();
        let old = session(&store).await;
        old.state.lock().await.over = true;
        let new = session(&store).await;
        if aborted {
            old.abort().await.unwrap();
        } else {
            old.suspend().await.unwrap();
        }
        let held = store.vault.session(new.begin.id).unwrap();
        assert!(Arc::ptr_eq(&held, &new));
        new.check_whole().await.unwrap();
    }
}

#[tokio::test]
async fn a_run_is_on_its_way_only_until_it_arrives_whoever_waits_for_it() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    let (update, bytes) = update(8);
    {
        let mut writing = pin!(session.write(update));
        loop {
            assert!(futures::poll!(&mut writing).is_pending());
            if session.appends.try_write().is_err() {
                // The run was taken.
                break;
            }
            others_go_on().await;
        }
    }
    assert!(!session.queued.hold().is_empty());
    drop(session.appends.write().await);
    assert!(session.queued.hold().is_empty());
    let point = commit(&store, &session).await;
    holds(&store, point, &bytes).await;
}

#[tokio::test]
async fn too_many_names_at_once_are_refused() {
    let store = DedupStore::create("memory://").await.unwrap();
    let session = session(&store).await;
    let at = one_byte(0, 0, 0..1).at;
    let names = vec![ChunkDigest::of(b"a"); MOST_SLICES + 1];
    let needed = session.needed(&at, &names[1..]).await.unwrap();
    assert!(needed.into_iter().all(|needed| needed));
    let refused = session.needed(&at, &names).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

/// What the catalog tells of one chunk, or of one pack, costs that chunk or
/// that pack, and a check that meets it heals it.
#[tokio::test]
async fn a_bad_entry_of_the_catalog_costs_its_own_range() {
    let (update, bytes) = update(9);
    // It is among the first that are asked for: when the table of its pack has
    // come, nobody asks for it.
    let victim = update.chunks.last().unwrap().digest();
    for whole_pack in [false, true] {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let at = || DedupStore::on(Arc::clone(&objects) as _, "vault");
        let store = at().create().await.unwrap();
        let first = session(&store).await;
        first.write(update.clone()).await.unwrap();
        let base = commit(&store, &first).await;
        let catalog = &store.vault.catalog;
        let key = catalog.chunk_key(Content::Chunk, &victim);
        let mut batch = crate::catalog::Batch::default();
        if whole_pack {
            let entry = catalog.get(&key).await.unwrap().unwrap();
            let pack = Location::decode(&entry).unwrap().pack;
            batch.delete(&numbered_key(PACKS, pack));
        } else {
            batch.put(&key, b"nothing that can be read");
        }
        store.vault.commit_batch(batch).await.unwrap();
        store.close().await.unwrap();

        let store = at().open().await.unwrap();
        let image = store.open(base, &StreamName::disk()).await.unwrap();
        let whole = Extent::whole(ByteCount(u64::from(LENGTH)));
        let found = image.recover(whole).await.unwrap();
        let missing: u64 = found.missing.iter().map(|(part, _)| part.length().0).sum();
        // One alone stands in the table that came with its neighbours.
        assert_eq!(missing, if whole_pack { 2 * RUN as u64 } else { 0 });
        store.close().await.unwrap();

        let store = at().open().await.unwrap();
        let begin = StoreBegin {
            id: SynchronizationId::from_bytes([5; 16]),
            base: Some(base),
            kind: PointKind::ConsistencyCheck,
            ..first.begin.clone()
        };
        store.begin(begin.clone()).await.unwrap();
        let check = store.vault.session(begin.id).unwrap();
        let slices = check.slices(&update.at, WHOLE_REGION).await.unwrap();
        let lost = slices.iter().filter(|slice| slice.digest.is_none());
        let lost: u32 = lost.map(|slice| slice.length).sum();
        assert_eq!(lost as usize, if whole_pack { 2 * RUN } else { 64 << 10 });
        check.write(update.clone()).await.unwrap();
        let healed = commit(&store, &check).await;
        for point in [base, healed] {
            holds(&store, point, &bytes).await;
        }
        store.close().await.unwrap();
    }
}

/// Who drops a vault gives it up, whatever was under way.
#[tokio::test]
async fn a_vault_that_is_dropped_in_a_synchronization_can_be_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let store = DedupStore::create(place).await.unwrap();
    let (update, _) = update(7);
    let begun = session(&store).await;
    begun.write(update).await.unwrap();
    drop(begun);
    let other = store.clone();
    drop(store);
    let refused = DedupStore::open(place).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "a clone has it still");
    let vault = Arc::downgrade(&other.vault);
    drop(other);
    // What runs in the background lets go of it when it is next asked.
    while vault.strong_count() > 0 {
        others_go_on().await;
    }
    DedupStore::open(place).await.unwrap();
}

/// What fails before the catalog is asked to write is known to have failed.
#[tokio::test]
async fn a_commit_is_decided_by_the_write_and_nothing_before_it() {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let store = DedupStore::on(objects, "vault").create().await.unwrap();
    let vault = &store.vault;
    let mut bad = crate::catalog::Batch::default();
    bad.put(crate::catalog::VAULT_TIME, b"no time");
    vault.catalog.write(bad).await.unwrap();
    let mut batch = crate::catalog::Batch::default();
    batch.put(b"a key", b"a value");
    let mut is_decided = false;
    let committed = vault.commit_deciding(batch, || is_decided = true).await;
    assert_eq!(committed.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!is_decided, "nothing was written");
    assert_eq!(vault.catalog.get(b"a key").await.unwrap(), None);
    assert!(vault.writer().is_ok(), "nothing is in doubt");
}

/// What a replication reads ahead waits for the session, and so do its writes and
/// others' appends: a turn that is given to what nobody polls would never be over.
#[tokio::test(start_paused = true)]
async fn a_replication_gives_way_to_others_and_goes_on() {
    let moment = Duration::from_millis(1);
    let slow = ThrottleConfig {
        wait_get_per_byte: moment / 1000,
        ..ThrottleConfig::default()
    };
    let slow = ThrottledStore::new(InMemory::new(), slow);
    let here = DedupStore::on(Arc::new(slow), "v").create().await.unwrap();
    let there = DedupStore::create("memory://").await.unwrap();
    let regions = 100;
    let first = session_of(&here, 1, regions << 22).await;
    let mut random = fastrand::Rng::with_seed(7);
    for region in 0..regions {
        let plain: Vec<u8> = (0..random.u32(8..9000)).map(|_| random.u8(..)).collect();
        let update = chunk_at(0, region, &plain, std::iter::once(0));
        first.write(update).await.unwrap();
    }
    commit(&here, &first).await;
    let id = first.begin.id;
    // One of them has the turn, or is the next.
    let mut others = JoinSet::new();
    for seed in 0..2 {
        let vault = Arc::clone(&there.vault);
        let mut random = fastrand::Rng::with_seed(seed);
        others.spawn(async move {
            loop {
                let session = vault.session(id);
                let turn = OptionFuture::from(session.as_ref().map(|it| it.state.lock()));
                let _turn = turn.await;
                tokio::time::sleep(moment * random.u32(1..4)).await;
            }
        });
    }
    let options = ReplicateOptions::default();
    let replicating = here.replicate(&there, &options, &NoMonitor);
    // Time passes only where nothing goes on.
    let report = tokio::time::timeout(Duration::from_hours(1), replicating).await;
    assert_eq!(report.expect("it stands still").unwrap().regions, regions);
}
