//! Calls that are abandoned half way, at the instants that matter.

use std::pin::pin;
use std::task::Poll;

use backstop_core::{
    ByteCount, ByteOffset, Codecs, Deduplication, ErrorKind, HashedChunk, NewPoint, Piece,
    PieceContent, PointFacts, PointId, RecoveryStore, RegionIndex, RegionUpdate, ReplicaState,
    ReplicaWriter, SliceContent, SnapshotId, SourceName, StreamName, StreamSpec, SynchronizationId,
    Timestamp,
};

use super::*;
use crate::DedupStore;

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
    let hashed = HashedChunk::new(vec![7].into()).unwrap();
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
    let point = NewPoint {
        synchronization: session.begin.id,
        id: PointId::from_bytes([3; 16]),
        time: Timestamp(1),
        facts: PointFacts::new(PointKind::Initial),
        state_before: ReplicaState::Pending,
        state: ReplicaState::Consistent,
    };
    let points = store.commit(vec![point]).await.unwrap();
    let image = store.open(points[0].id, &StreamName::disk()).await.unwrap();
    let read = image
        .read(ByteOffset(0), ByteCount(u64::from(LENGTH)))
        .await;
    assert!(read.unwrap()[..] == bytes[..]);
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
