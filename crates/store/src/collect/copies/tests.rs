//! Frames of which one copy is bad, with what comes in between.

use std::pin::pin;

use backstop_core::{CollectOptions, CollectReport, Maintenance, NoMonitor, RegionMap};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;
use crate::DedupStore;
use crate::catalog::{CONDEMNED, numbered_key};
use crate::collect::{delete, walk};
use crate::map::node::Node;
use crate::nodes::raw_frame;
use crate::pack::index::bad_frames;
use crate::record::{self, CondemnedPack};

struct Lab {
    objects: Arc<InMemory>,
    store: DedupStore,
}

impl Lab {
    async fn new() -> Self {
        let objects = Arc::new(InMemory::new());
        let store = DedupStore::on(Arc::clone(&objects) as _, "v");
        let store = store.create().await.unwrap();
        Self { objects, store }
    }

    fn vault(&self) -> &Arc<Vault> {
        &self.store.vault
    }

    /// A frame on its way to a pack.
    async fn append(&self, content: Content, plain: &[u8]) -> Frame {
        let kind = match content {
            Content::Chunk => PackKind::Data,
            _ => PackKind::Map,
        };
        let frame = raw_frame(content, plain.to_vec()).unwrap();
        let name = (content, frame.digest);
        let writer = self.vault().writer().unwrap();
        writer.append(kind, vec![frame], ()).await.unwrap();
        name
    }

    /// A frame in a pack of its own.
    async fn put(&self, content: Content, plain: &[u8]) -> (Frame, Location) {
        let frame = self.append(content, plain).await;
        self.vault().writer().unwrap().finish_all().await.unwrap();
        // Only what is durable is listed.
        self.vault().catalog.flush().await.unwrap();
        let Said::At(at) = self.said(frame).await else {
            panic!("it is not stored");
        };
        (frame, at)
    }

    /// As a collection leaves a pack that it means to delete.
    async fn condemn(&self, at: Location) {
        let vault = self.vault();
        let condemned = CondemnedPack {
            at: vault.clock.now(),
            readers: Some(Vec::new()),
        };
        let mut batch = Batch::default();
        let key = numbered_key(CONDEMNED, at.pack);
        batch.put(&key, &record::encode(&condemned).unwrap());
        vault.catalog.write(batch).await.unwrap();
        vault.catalog.flush().await.unwrap();
        vault.index.condemn([at.pack]);
    }

    async fn said(&self, frame: Frame) -> Said {
        let entries = entries_of(self.vault(), &[frame]).await.unwrap();
        entries[0].said()
    }

    /// Flips a bit of a frame.
    async fn damage(&self, at: Location) {
        let pack = self.vault().index.pack(at.pack).await.unwrap();
        let path = Path::from(format!("v/{}", pack.path));
        let whole = self.objects.get(&path).await.unwrap();
        let mut bytes = whole.bytes().await.unwrap().to_vec();
        bytes[usize::try_from(at.offset).unwrap() + 12] ^= 1;
        self.objects.put(&path, bytes.into()).await.unwrap();
        self.vault().reader.forget_cached();
    }

    /// A frame that is whole in the pack that is told, and damaged in a newer one,
    /// which the index names.
    async fn damaged(&self, content: Content, plain: &[u8]) -> (Frame, Location) {
        let (frame, old) = self.put(content, plain).await;
        let (_, new) = self.put(content, plain).await;
        assert!(old.pack < new.pack);
        self.damage(new).await;
        (frame, old)
    }

    async fn inventory(&self) -> Arc<Inventory> {
        let options = CollectOptions::default();
        Arc::new(Inventory::take(self.vault(), &options).await.unwrap())
    }

    fn run(&self) -> Run<'_> {
        Run {
            vault: self.vault(),
            options: CollectOptions::default(),
            monitor: &NoMonitor,
            began: self.vault().clock.now(),
            report: CollectReport::default(),
            done: 0,
            total: 0,
        }
    }

    async fn mark_bad(&self, frame: Frame) {
        self.vault().index.mark_bad(frame.0, &frame.1).await;
    }

    /// What is known to be bad, in memory and in the catalog.
    async fn bad(&self) -> Vec<Frame> {
        let bad = self.vault().index.bad_frames();
        self.vault().catalog.flush().await.unwrap();
        let mut kept = bad_frames::kept(&self.vault().catalog).await.unwrap();
        kept.sort_unstable();
        assert_eq!(bad, kept);
        bad
    }
}

/// Lets everything else go on until it waits for us.
async fn others_go_on() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_older_copy_does_not_take_the_place_of_one_that_was_stored_meanwhile() {
    let lab = Lab::new().await;
    let (frame, old) = lab.damaged(Content::Chunk, b"a chunk").await;
    lab.mark_bad(frame).await;
    let inventory = lab.inventory().await;
    lab.append(Content::Chunk, b"a chunk").await;
    let writer = lab.vault().writer().unwrap();
    let mut run = lab.run();
    {
        let held = writer.hold_index().await;
        let mut finishing = pin!(writer.finish_all());
        for _ in 0..10 {
            assert!(futures::poll!(&mut finishing).is_pending());
            others_go_on().await;
        }
        // It has read the copies, and waits behind the new one.
        let mut mending = pin!(mend(&mut run, &inventory, Mended::All));
        for _ in 0..50 {
            assert!(futures::poll!(&mut mending).is_pending());
            others_go_on().await;
        }
        drop(held);
        let (finished, mended) = futures::join!(finishing, mending);
        finished.unwrap();
        assert_eq!(mended.unwrap(), 0);
    }
    let Said::At(at) = lab.said(frame).await else {
        panic!("it has no entry");
    };
    assert!(at.pack > old.pack + 1, "{at:?}");
    assert_eq!(lab.bad().await, []);
}

/// The index may name a copy that is younger than the inventory.
#[tokio::test]
async fn a_copy_that_only_the_index_knows_is_looked_at() {
    let lab = Lab::new().await;
    let inventory = lab.inventory().await;
    let (frame, at) = lab.put(Content::Chunk, b"a chunk").await;
    lab.mark_bad(frame).await;
    let mended = mend(&mut lab.run(), &inventory, Mended::All).await;
    assert_eq!(mended.unwrap(), 1);
    assert_eq!(lab.said(frame).await, Said::At(at));
    assert_eq!(lab.bad().await, []);
}

/// A reader that registered after a pack was condemned still goes by an entry that
/// names it: a rebuild's may.
#[tokio::test]
async fn a_pack_waits_for_who_reads_when_entries_move_away_from_it() {
    let lab = Lab::new().await;
    let (frame, old) = lab.put(Content::Chunk, b"a chunk").await;
    let (_, new) = lab.put(Content::Chunk, b"a chunk").await;
    lab.condemn(new).await;
    let vault = lab.vault();
    let builder = DedupStore::on(Arc::clone(&lab.objects) as _, "v");
    let beside = builder.open_read_only().await.unwrap();
    let located = beside.vault.index.locate_indexed(frame.0, &[frame.1]).await;
    assert_eq!(located.unwrap(), [Some(new)]);
    let here = vault.reading.begin();
    let delete = async || {
        let inventory = lab.inventory().await;
        let mut run = lab.run();
        let deleting = delete::condemned(&mut run, &inventory, Judged::NotYet);
        deleting.await.unwrap();
        let report = run.report;
        (report.waiting.count, report.deleted.count, report.readers)
    };
    for _ in 0..2 {
        assert_eq!(delete().await, (1, 0, 2));
        assert_eq!(lab.said(frame).await, Said::At(old));
        let read = beside
            .vault
            .reader
            .read_at(frame.0, &frame.1, new, &beside.vault.codecs);
        read.await.unwrap();
    }
    beside.close().await.unwrap();
    assert_eq!(delete().await, (1, 0, 1));
    drop(here);
    assert_eq!(delete().await, (0, 1, 0));
    assert_eq!(lab.said(frame).await, Said::At(old));
}

/// What is on its way may be lost yet.
#[tokio::test]
async fn a_copy_on_its_way_does_not_free_the_last_whole_one() {
    let lab = Lab::new().await;
    let (frame, old) = lab.damaged(Content::Chunk, b"a chunk").await;
    lab.mark_bad(frame).await;
    lab.append(Content::Chunk, b"a chunk").await;
    assert!(!lab.vault().index.is_bad(frame.0, &frame.1));
    let inventory = lab.inventory().await;
    walk::walk_from(lab.vault(), &inventory, &[frame], None)
        .await
        .unwrap();
    let needed: Vec<u64> = inventory.needed_in(frame.0, &frame.1).collect();
    assert!(needed.contains(&old.pack), "{needed:?}");
    let mended = mend(&mut lab.run(), &inventory, Mended::All).await;
    assert_eq!(mended.unwrap(), 1);
    assert_eq!(lab.said(frame).await, Said::At(old));
    lab.vault().writer().unwrap().finish_all().await.unwrap();
}

#[tokio::test]
async fn a_damaged_map_node_is_walked_where_it_is_whole() {
    let lab = Lab::new().await;
    let plain = Node::Leaf(RegionMap::new()).encode();
    let (frame, old) = lab.damaged(Content::Node, &plain).await;
    let inventory = lab.inventory().await;
    // Nobody has noticed it yet.
    let walked = walk::walk_from(lab.vault(), &inventory, &[frame], None).await;
    let walked = walked.unwrap();
    assert_eq!((walked.lost, walked.nodes), (0, 1));
    let needed: Vec<u64> = inventory.needed_in(frame.0, &frame.1).collect();
    assert!(needed.contains(&old.pack), "{needed:?}");
    assert_eq!(lab.bad().await, [frame]);
    let mended = mend(&mut lab.run(), &inventory, Mended::Maps).await;
    assert_eq!(mended.unwrap(), 1);
    assert_eq!(lab.said(frame).await, Said::At(old));
    assert_eq!(lab.bad().await, []);
}

#[tokio::test]
async fn what_is_known_of_a_bad_frame_goes_with_it() {
    let lab = Lab::new().await;
    let (frame, at) = lab.put(Content::Chunk, b"nobody needs it").await;
    lab.damage(at).await;
    lab.mark_bad(frame).await;
    assert_eq!(lab.bad().await, [frame]);
    let options = CollectOptions::default();
    let report = lab.store.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.deleted.count, 1, "{report:?}");
    assert_eq!(lab.said(frame).await, Said::Nothing);
    assert_eq!(lab.bad().await, []);
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_written_anew_or_goes() {
    let lab = Lab::new().await;
    let (frame, at) = lab.put(Content::Chunk, b"a chunk").await;
    let spoil = async || {
        let key = lab.vault().catalog.chunk_key(frame.0, &frame.1);
        let mut batch = Batch::default();
        batch.put(&key, &[0xff; 40]);
        lab.vault().catalog.write(batch).await.unwrap();
        let index = &lab.vault().index;
        let located = index.locate_indexed(frame.0, &[frame.1]).await.unwrap();
        assert_eq!(located, [None]);
        assert_eq!(lab.said(frame).await, Said::Unreadable);
        assert_eq!(lab.bad().await, [frame]);
    };
    spoil().await;
    let inventory = lab.inventory().await;
    let mended = mend(&mut lab.run(), &inventory, Mended::All).await;
    assert_eq!(mended.unwrap(), 1);
    assert_eq!(lab.said(frame).await, Said::At(at));
    assert_eq!(lab.bad().await, []);
    // As its pack was condemned before, nothing mends it.
    spoil().await;
    lab.condemn(at).await;
    let options = CollectOptions::default();
    lab.store.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(lab.said(frame).await, Said::Nothing);
    assert_eq!(lab.bad().await, []);
}

#[tokio::test]
async fn what_is_stored_anew_is_told_as_that_of_others_is() {
    let lab = Lab::new().await;
    let (frame, old) = lab.damaged(Content::Chunk, b"a chunk").await;
    let inventory = lab.inventory().await;
    let writer = lab.vault().writer().unwrap();
    let mut run = lab.run();
    {
        let held = writer.hold_index().await;
        let mut saving = pin!(rescue(
            &mut run,
            &inventory,
            Judged::NotYet,
            vec![(frame, old)]
        ));
        let is_on_its_way = || lab.vault().index.any_pending(frame.0, &[frame.1]);
        for _ in 0..100_000 {
            assert!(futures::poll!(&mut saving).is_pending());
            if is_on_its_way() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // Whoever began before, and relies on it, finishes the same pack.
        assert!(is_on_its_way());
        let mut settling = pin!(writer.finish_all());
        for _ in 0..10 {
            assert!(futures::poll!(&mut settling).is_pending());
            others_go_on().await;
        }
        drop(held);
        let (needless, settled) = futures::join!(saving, settling);
        assert_eq!(needless.unwrap(), Some(Vec::new()));
        settled.unwrap();
    }
    let Said::At(at) = lab.said(frame).await else {
        panic!("it has no entry");
    };
    assert!(at.pack > old.pack + 1);
    assert!(run.report.requests > 0);
}

/// Maps are mended whatever the budget: without them nothing is known.
#[tokio::test]
async fn looking_for_copies_is_within_the_budget() {
    let lab = Lab::new().await;
    let (chunk, _) = lab.damaged(Content::Chunk, b"a chunk").await;
    let (node, _) = lab.damaged(Content::Node, b"a node").await;
    lab.mark_bad(chunk).await;
    lab.mark_bad(node).await;
    let inventory = lab.inventory().await;
    let mut run = lab.run();
    run.options.most_requests = Some(0);
    let mended = mend(&mut run, &inventory, Mended::Maps).await.unwrap();
    // Two tables, and two copies.
    assert_eq!((mended, run.report.requests), (1, 4));
    assert!(!run.report.is_partial);
    let mended = mend(&mut run, &inventory, Mended::All).await.unwrap();
    assert_eq!((mended, run.report.requests), (0, 4));
    assert!(run.report.is_partial);
    run.options.most_requests = None;
    let mended = mend(&mut run, &inventory, Mended::All).await.unwrap();
    assert_eq!((mended, run.report.requests), (1, 8));
    assert_eq!(lab.bad().await, []);
}
