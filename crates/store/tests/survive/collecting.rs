//! Collection under budgets, beside readers that die, after crashes, and over
//! damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{
    CollectOptions, CollectReport, ErrorKind, Maintenance, ManualClock, NoMonitor, RecoveryStore,
    Timestamp,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};

use crate::history::History;
use crate::images::{self, Machine};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn at(place: &Path, clock: &Arc<ManualClock>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
        .with_clock(Arc::clone(clock) as _)
}

/// A vault whose every point but the last has expired.
struct Lab {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    vault: Option<DedupStore>,
    history: History,
    machine: Machine,
    random: fastrand::Rng,
}

impl Lab {
    async fn new(seed: u64, points: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let vault = at(folder.path(), &clock).create().await.unwrap();
        let mut lab = Self {
            folder,
            clock,
            vault: Some(vault),
            history: History::default(),
            machine: Machine::new("a", 700_000),
            random: fastrand::Rng::with_seed(seed),
        };
        for _ in 0..points {
            lab.protect(700_000).await;
        }
        lab.expire_old().await;
        lab
    }

    fn vault(&self) -> DedupStore {
        self.vault.clone().unwrap()
    }

    async fn protect(&mut self, length: usize) {
        self.machine.write(&mut self.random, 0, length);
        let vault = self.vault();
        self.history
            .protect_one(&vault, &mut self.random, &mut self.machine)
            .await;
    }

    async fn expire_old(&self) {
        let points = self.history.known().points;
        let all: Vec<_> = points.iter().map(|kept| kept.id).collect();
        let (_, old) = all.split_last().unwrap();
        self.history.expire(&self.vault(), old).await.unwrap();
    }

    async fn collect(&self, change: impl FnOnce(&mut CollectOptions)) -> CollectReport {
        let mut options = CollectOptions::default();
        change(&mut options);
        let vault = self.vault();
        vault.collect(&options, &NoMonitor).await.unwrap()
    }

    async fn reopen(&mut self) {
        self.vault.take().unwrap().close().await.unwrap();
        let opened = at(self.folder.path(), &self.clock).open().await;
        self.vault = Some(opened.unwrap());
    }

    async fn check(&self) {
        self.history.check(&self.vault()).await;
    }

    fn packs(&self, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("packs")).unwrap();
        let mut packs: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(ending))
            .collect();
        packs.sort();
        packs
    }
}

/// Copies of packs, to be put back when they were deleted.
struct Copies(Vec<(PathBuf, PathBuf)>);

impl Copies {
    fn of(packs: &[PathBuf], before: &[PathBuf]) -> Self {
        let fresh = packs.iter().filter(|path| !before.contains(path));
        let copies = fresh.map(|path| {
            let copy = path.with_extension("copy");
            std::fs::copy(path, &copy).unwrap();
            (path.clone(), copy)
        });
        Self(copies.collect())
    }

    fn put_back(&self) {
        for (path, copy) in &self.0 {
            assert!(!path.exists(), "it was not needed");
            std::fs::rename(copy, path).unwrap();
        }
    }

    fn are_there(&self) -> usize {
        self.0.iter().filter(|(path, _)| path.exists()).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_ends_a_run_and_the_next_goes_on() {
    let mut lab = Lab::new(1, 4).await;
    let first = lab.collect(|options| options.most_requests = Some(1)).await;
    assert!(first.is_partial && first.dropped.count > 0, "{first:?}");
    assert_eq!(first.deleted.count, 0, "{first:?}");
    let packs = lab.packs("").len() as u64;
    // What was condemned stays so, also for the next owner.
    lab.reopen().await;
    let second = lab.collect(|_| ()).await;
    assert_eq!(second.deleted.count, first.dropped.count, "{second:?}");
    assert!(!second.is_partial && second.dropped.count == 0);
    assert_eq!(lab.packs("").len() as u64, packs - second.deleted.count);
    lab.check().await;
    let lab = Lab::new(8, 3).await;
    let timed = lab.collect(|options| options.most_time = Some(Duration::ZERO));
    let timed = timed.await;
    assert!(timed.is_partial && timed.dropped.count > 0, "{timed:?}");
    assert_eq!(timed.deleted.count, 0, "{timed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_memory_is_short_only_some_packs_are_looked_at() {
    let lab = Lab::new(2, 4).await;
    let few = lab.collect(|options| options.memory.0 = 500).await;
    assert!(few.is_partial && few.dropped.count > 0, "{few:?}");
    lab.check().await;
    let rest = lab.collect(|_| ()).await;
    assert!(!rest.is_partial && rest.dropped.count > 0, "{rest:?}");
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_goes() {
    let mut lab = Lab::new(4, 2).await;
    lab.collect(|_| ()).await;
    let before = lab.packs("");
    // A synchronization whose packs are durable, and no more.
    lab.machine.write(&mut lab.random, 0, 600_000);
    let begin = lab.machine.begin(&mut lab.random);
    let writer = lab.vault().begin(begin).await.unwrap();
    images::send(&*writer, &lab.machine).await.unwrap();
    writer.suspend().await.unwrap();
    let copies = Copies::of(&lab.packs(""), &before);
    let begin = lab.machine.begin(&mut lab.random);
    let writer = lab.vault().begin(begin).await.unwrap();
    writer.abort().await.unwrap();
    lab.reopen().await;
    assert!(lab.collect(|_| ()).await.dropped.count > 0);
    // As if the catalog had never known them.
    copies.put_back();
    let count = copies.0.len() as u64;
    let told = lab.collect(|options| options.dry_run = true).await;
    assert_eq!(told.orphans.count, count, "{told:?}");
    assert_eq!(copies.are_there() as u64, count);
    let done = lab.collect(|_| ()).await;
    assert_eq!((done.orphans, done.lost_points.count), (told.orphans, 0));
    assert_eq!(copies.are_there(), 0);
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_that_the_catalog_lost_is_kept() {
    let mut lab = Lab::new(5, 1).await;
    let before = lab.packs(".map");
    lab.protect(300_000).await;
    let copies = Copies::of(&lab.packs(".map"), &before);
    lab.protect(700_000).await;
    lab.expire_old().await;
    lab.reopen().await;
    lab.collect(|_| ()).await;
    // A complete point that the catalog does not know: here one that expired,
    // which nothing in it tells.
    copies.put_back();
    let kept = lab.collect(|_| ()).await;
    assert_eq!(kept.lost_points.count, copies.0.len() as u64, "{kept:?}");
    assert_eq!(copies.are_there(), copies.0.len());
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_damage_nothing_is_given_back_that_may_be_needed() {
    let mut lab = Lab::new(6, 3).await;
    let modified = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
    // The maps of the point that is there, but not their table.
    let newest = lab.packs(".map").into_iter().max_by_key(modified).unwrap();
    let whole = std::fs::read(&newest).unwrap();
    lab.reopen().await;
    images::change(&newest, |bytes| {
        let end = bytes.len() / 3;
        bytes[48..end].fill(7);
    });
    let options = CollectOptions::default();
    let refused = lab.vault().collect(&options, &NoMonitor).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    let said = refused.to_string();
    assert!(said.contains("nothing is given back"), "{said}");
    std::fs::write(&newest, &whole).unwrap();

    // A pack whose table can't be read stays as a whole.
    lab.reopen().await;
    let data = lab.packs(".data").remove(0);
    images::change(&data, |bytes| {
        let end = bytes.len();
        bytes[end - 60..end - 20].fill(7);
    });
    let report = lab.collect(|_| ()).await;
    assert_eq!(report.unreadable.count, 1, "{report:?}");
    assert!(report.deleted.count > 0 && data.exists(), "{report:?}");
    lab.check().await;
}

#[tokio::test]
async fn one_collection_at_a_time_and_only_by_the_owner() {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let owner = DedupStore::on(Arc::clone(&store), "v");
    let owner = owner.create().await.unwrap();
    let options = CollectOptions::default();
    let empty = owner.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!((empty.roots, empty.packs.count), (0, 0));
    let both = futures::join!(
        owner.collect(&options, &NoMonitor),
        owner.collect(&options, &NoMonitor)
    );
    assert!(both.0.is_ok());
    let second = both.1.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict, "{second}");
    let reader = DedupStore::on(store, "v").open_read_only().await.unwrap();
    let refused = reader.collect(&options, &NoMonitor).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
}

/// Two synchronizations that send the same at the same time store it twice. The
/// index names one copy; who goes by a pack's table may find the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_two_packs_hold_outlives_either() {
    let mut lab = Lab::new(7, 1).await;
    let mut random = fastrand::Rng::with_seed(70);
    let shared = images::noise(&mut random, 40_000);
    let mut machines = ["x", "y", "z"].map(|name| Machine::new(name, 300_000));
    for machine in &mut machines {
        machine.bytes[..shared.len()].copy_from_slice(&shared);
    }
    let [x, y, z] = &mut machines;
    x.write(&mut random, 200_000, 60_000);
    let vault = lab.vault();
    let begins = [x.begin(&mut random), y.begin(&mut random)];
    for (begin, machine) in begins.iter().zip([&*x, &*y]) {
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, machine).await.unwrap();
    }
    let before = lab.packs(".data").len();
    for (begin, machine) in begins.iter().zip([&mut *x, &mut *y]) {
        let (mut group, begin) = ([machine], std::slice::from_ref(begin));
        let committed = lab.history.commit(&vault, &mut random, &mut group, begin);
        committed.await.unwrap();
    }
    assert_eq!(lab.packs(".data").len(), before + 2, "it is stored twice");

    // Nobody needs it any more, and only one of its packs is dead.
    for machine in [&mut *x, &mut *y] {
        machine.write(&mut random, 0, 140_000);
        lab.history.protect_one(&vault, &mut random, machine).await;
    }
    let known = lab.history.known().points;
    let heads = [x.head, y.head, lab.machine.head];
    let old = known.iter().map(|kept| kept.id);
    let old: Vec<_> = old.filter(|id| !heads.contains(&Some(*id))).collect();
    lab.history.expire(&vault, &old).await.unwrap();
    let collected = lab.collect(|options| options.most_dead = u8::MAX).await;
    assert!(collected.deleted.count > 0, "{collected:?}");
    drop(vault);
    lab.reopen().await;
    // Reads the table of the pack that is left.
    lab.check().await;

    // What another now relies on lasts, whatever is remembered of packs.
    let vault = lab.vault();
    z.changed.push(0..300_000);
    lab.history.protect_one(&vault, &mut random, z).await;
    drop(vault);
    lab.reopen().await;
    let read = images::read_back(&lab.vault(), z.head.unwrap()).await;
    assert!(read.unwrap() == z.bytes);
    lab.collect(|options| options.most_dead = 0).await;
    lab.check().await;
}

/// Wherever it is given up, a collection leaves nothing that the next one does
/// not deal with.
#[tokio::test(start_paused = true)]
async fn a_collection_that_is_given_up_anywhere_goes_on() {
    for turns in (0..60).step_by(4) {
        let store = Arc::new(object_store::memory::InMemory::new());
        let policy = Arc::new(crate::model::Restless::new(turns));
        let faulty = crate::faults::FaultyStore::new(store, policy);
        let mut settings = VaultSettings::default();
        settings.pack_bytes = 96 << 10;
        let builder = DedupStore::on(faulty, "v").with_settings(settings);
        let vault = builder.create().await.unwrap();
        let mut random = fastrand::Rng::with_seed(turns);
        let history = History::default();
        let mut machine = Machine::new("a", 500_000);
        machine.write(&mut random, 0, 500_000);
        for _ in 0..4 {
            machine.scribble(&mut random, 4, 100_000);
            history.protect_one(&vault, &mut random, &mut machine).await;
        }
        let points = history.known().points;
        let old: Vec<_> = points[..3].iter().map(|kept| kept.id).collect();
        history.expire(&vault, &old).await.unwrap();
        {
            let collecting = std::pin::pin!(history.collect(&vault));
            let given_up = async {
                for _ in 0..turns * 8 {
                    tokio::task::yield_now().await;
                }
            };
            futures::future::select(collecting, std::pin::pin!(given_up)).await;
        }
        machine.scribble(&mut random, 4, 100_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
        history.check(&vault).await;
        let done = history.collect(&vault).await.unwrap();
        assert_eq!(done.waiting.count, 0, "{done:?}");
        history.check(&vault).await;
        // What was given up may have finished a pack since; then there is an end.
        let mut rounds = 0;
        loop {
            let again = history.collect(&vault).await.unwrap();
            assert_eq!(again.waiting.count, 0, "{again:?}");
            if again.dropped.count == 0 {
                break;
            }
            rounds += 1;
            assert!(rounds < 3, "{again:?}");
        }
    }
}
