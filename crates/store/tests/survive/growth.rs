//! Many short runs: nothing small piles up but packs, two a run, until there is
//! collection.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Clock, ManualClock, SystemClock};
use backstop_store::{Credential, DedupStore};

use crate::history::History;
use crate::images::{self, Machine};

/// Bytes that the packs of a short run hold beyond what changed, of which about
/// half compresses: nodes from the region to the root, a manifest, a point
/// record, tables.
const PACK_OVERHEAD: usize = 2 << 10;

/// How many objects there are, by folder.
fn counts(folder: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for path in images::files(folder).keys() {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        *counts.entry(folder.to_owned()).or_default() += 1;
    }
    counts
}

/// How many small objects there are that no number of runs should add to:
/// neither packs, which every run makes, nor tables, which are told by the
/// catalog's manifest.
fn small(counts: &BTreeMap<String, usize>) -> usize {
    let others = ["packs", "db/compacted"];
    let small = counts
        .iter()
        .filter(|(name, _)| !others.contains(&&***name));
    small.map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_short_runs_leave_two_small_packs_each_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    // The objects have the times of the host.
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let at = || {
        DedupStore::at(place)
            .with_credential(Credential::key([3; 32]))
            .with_clock(Arc::clone(&clock) as Arc<dyn Clock>)
    };
    let mut random = fastrand::Rng::with_seed(21);
    let history = History::default();
    let mut machine = Machine::new("a", 200_000);
    machine.write(&mut random, 0, 100_000);
    at().create().await.unwrap().close().await.unwrap();
    let mut measured = Vec::new();
    let (mut pack_bytes, mut changed_bytes) = (Vec::new(), 0);
    for run in 1..100 {
        // A run an hour.
        clock.advance(Duration::from_hours(1));
        let vault = at().open().await.unwrap();
        machine.scribble(&mut random, 2, 5_000);
        changed_bytes += machine
            .changed
            .iter()
            .map(ExactSizeIterator::len)
            .sum::<usize>();
        history.protect_one(&vault, &mut random, &mut machine).await;
        vault.close().await.unwrap();
        // Just tidied: every eighth opening, of which making it was the first.
        if (run + 1) % 8 == 0 {
            let counts = counts(folder.path());
            eprintln!("after {run} runs: {counts:?}");
            measured.push(counts);
            let files = images::files(&folder.path().join("packs"));
            let bytes: usize = files.values().map(Vec::len).sum();
            pack_bytes.push((bytes, changed_bytes));
        }
    }
    let (early, last) = (&measured[2], &measured[11]);
    // What every run adds, since nothing is collected yet: a pack of data and a
    // pack of maps, as small as what changed. This pile is collection's to end.
    let runs = 95 - 23;
    let bytes = pack_bytes[11].0 - pack_bytes[2].0;
    let changed = pack_bytes[11].1 - pack_bytes[2].1;
    assert!(last["packs"] - early["packs"] <= 2 * runs, "{last:?}");
    assert!(last["packs"] <= 2 * 95, "{last:?}");
    assert!(
        bytes <= changed + runs * PACK_OVERHEAD,
        "{bytes} bytes of packs"
    );
    // A compaction that was interrupted by the end of its run leaves its logs
    // and tables to the next turn, no more.
    assert!(small(last) <= small(early) + 8, "{early:?}, later {last:?}");
    // Every four tables are merged into one run, and every four of these: what
    // a lookup asks does not grow with the runs.
    let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let admin = slatedb::admin::Admin::builder("db", Arc::new(local)).build();
    let manifest = admin.read_manifest(None).await.unwrap().unwrap();
    let (tables, runs) = (manifest.l0().len(), manifest.compacted().len());
    assert!(
        tables < 4 && runs <= 3,
        "{tables} tables, {runs} merged runs"
    );
    let vault = at().open_read_only().await.unwrap();
    history.check(&vault).await;
}

/// A host's clock may be set back between two runs.
#[tokio::test]
async fn a_clock_that_is_set_back_stops_nothing() {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let on = || {
        DedupStore::on(Arc::clone(&store), "vault").with_clock(Arc::clone(&clock) as Arc<dyn Clock>)
    };
    on().create().await.unwrap().close().await.unwrap();
    let mut random = fastrand::Rng::with_seed(22);
    let history = History::default();
    let mut machine = Machine::new("a", 200_000);
    for turn in 0..12 {
        let back = Duration::from_hours(1 + turn).as_millis();
        clock.set(backstop_core::Timestamp(clock.now().0 - back as i64));
        let vault = on().open().await.unwrap();
        machine.scribble(&mut random, 2, 50_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
        vault.close().await.unwrap();
        history.check(&on().open_read_only().await.unwrap()).await;
    }
}
