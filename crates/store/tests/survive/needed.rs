//! What a collection must not take away, or must know before it does: cases that
//! were made to have a needed byte deleted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop_core::{
    CollectOptions, ErrorKind, FoldOptions, Maintenance, ManualClock, NoMonitor, RebuildOptions,
    RecoveryStore, RegionIndex, Timestamp, VerifyOptions,
};
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, Operation, Takeover, VaultSettings,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::History;
use crate::images::{self, Machine};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn tuned(builder: DedupStoreBuilder) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    builder
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
}

/// A vault on local files.
struct Lab {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    history: History,
    random: fastrand::Rng,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(NOW)),
            history: History::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn at(&self) -> DedupStoreBuilder {
        tuned(DedupStore::at(self.folder.path().to_str().unwrap()))
            .with_clock(Arc::clone(&self.clock) as _)
    }

    async fn protect(&mut self, vault: &DedupStore, machine: &mut Machine) {
        let protecting = self.history.protect_one(vault, &mut self.random, machine);
        protecting.await;
    }

    fn packs(&self, ending: &str) -> Vec<PathBuf> {
        let packs = std::fs::read_dir(self.folder.path().join("packs")).unwrap();
        let mut packs: Vec<_> = packs
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(ending))
            .collect();
        packs.sort();
        packs
    }
}

/// Flips a bit in each node of a map pack; gives what it was.
fn lose_nodes(pack: &PathBuf) -> Vec<u8> {
    let whole = std::fs::read(pack).unwrap();
    let mut bytes = whole.clone();
    let number = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap()) as usize;
    let footer = whole.len() - 16;
    let end = footer - number(footer);
    let (mut at, mut lost) = (48, 0);
    while at < end {
        if whole[at + 8] == 2 {
            bytes[at + 12] ^= 1;
            lost += 1;
        }
        at += 12 + number(at) + 16;
    }
    assert!(lost > 0, "{} holds no node", pack.display());
    std::fs::write(pack, bytes).unwrap();
    whole
}

/// Folded maps are forgotten where they are lost; a point's lost map must not be
/// taken for looked at because of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_points_lost_map_stops_a_collection_beside_folded_maps_too() {
    for folded_too in [false, true] {
        let mut lab = Lab::new(11);
        let vault = lab.at().create().await.unwrap();
        let mut machine = Machine::new("a", 2 << 20);
        machine.write(&mut lab.random, 0, 1 << 20);
        lab.protect(&vault, &mut machine).await;
        for _ in 0..12 {
            for _ in 0..12 {
                let at = lab.random.usize(..200) * 4096;
                machine.write(&mut lab.random, at, 4096);
            }
            lab.protect(&vault, &mut machine).await;
        }
        let before = lab.packs(".map");
        let points = lab.history.known().points;
        let old: Vec<_> = points.iter().map(|kept| kept.id).collect();
        let (_, old) = old.split_last().unwrap();
        lab.history.expire(&vault, old).await.unwrap();
        let mut options = FoldOptions::default();
        options.worth = 101;
        let folded = vault.fold(&machine.name, &options, &NoMonitor).await;
        assert_eq!(folded.unwrap().folded, 1);
        vault.close().await.unwrap();
        drop(vault);

        let modified = |path: &&PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        let of_head = before.iter().max_by_key(modified).unwrap().clone();
        let mut losses = vec![of_head];
        if folded_too {
            let all = lab.packs(".map");
            losses.extend(all.into_iter().filter(|pack| !before.contains(pack)));
        }
        // Not all of the new ones hold nodes: the last is the ledger's.
        let losses = losses.into_iter().filter(holds_nodes);
        let losses: Vec<_> = losses.map(|pack| (lose_nodes(&pack), pack)).collect();
        assert_eq!(losses.len(), 1 + usize::from(folded_too));

        let vault = lab.at().open().await.unwrap();
        let options = CollectOptions::default();
        for dry_run in [true, false] {
            let mut options = options;
            options.dry_run = dry_run;
            let refused = vault.collect(&options, &NoMonitor).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        }
        vault.close().await.unwrap();
        drop(vault);
        // The disk gives it again: nothing that it needs may be gone.
        for (whole, pack) in losses {
            std::fs::write(pack, whole).unwrap();
        }
        let vault = lab.at().open().await.unwrap();
        lab.history.check(&vault).await;
        vault.collect(&options, &NoMonitor).await.unwrap();
        lab.history.check(&vault).await;
    }
}

fn holds_nodes(pack: &PathBuf) -> bool {
    let bytes = std::fs::read(pack).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let footer = bytes.len() - 16;
    let end = footer - number(footer);
    let mut at = 48;
    while at < end {
        if bytes[at + 8] == 2 {
            return true;
        }
        at += 12 + number(at) + 16;
    }
    false
}

/// A vault in memory, whose owner dies before the first object of a pack goes.
struct Dying {
    inner: Arc<InMemory>,
    script: Arc<Script>,
    died: Arc<AtomicBool>,
}

impl Dying {
    fn new() -> Self {
        Self {
            inner: Arc::new(InMemory::new()),
            script: Arc::default(),
            died: Arc::default(),
        }
    }

    fn at(&self) -> DedupStoreBuilder {
        let store = FaultyStore::new(Arc::clone(&self.inner) as _, Arc::clone(&self.script));
        tuned(DedupStore::on(store, "v")).with_takeover(Takeover::Force)
    }

    /// The vault as it is found by others.
    fn inner(&self) -> DedupStoreBuilder {
        let store = Arc::clone(&self.inner) as Arc<dyn ObjectStore>;
        tuned(DedupStore::on(store, "v")).with_takeover(Takeover::Force)
    }

    /// Nothing happens any more from when a pack is to be deleted.
    fn dies_at_deletion(&self) {
        let died = Arc::clone(&self.died);
        self.script.rule(move |request, path| {
            if request == Request::Delete && path.contains("packs/") {
                died.store(true, Ordering::SeqCst);
            }
            if died.load(Ordering::SeqCst) {
                Action::Vanish
            } else {
                Action::Pass
            }
        });
    }

    /// Collects until it dies.
    async fn collect(&self, vault: &DedupStore) {
        let options = CollectOptions::default();
        let collecting = vault.collect(&options, &NoMonitor);
        let ended = tokio::time::timeout(Duration::from_mins(1), collecting).await;
        assert!(ended.is_err(), "it did not die: {ended:?}");
        assert!(self.died.load(Ordering::SeqCst));
    }

    async fn packs(&self) -> Vec<(object_store::path::Path, bytes::Bytes)> {
        let mut packs = Vec::new();
        let prefix = object_store::path::Path::from("v/packs");
        let listed = self.inner.list_with_delimiter(Some(&prefix)).await.unwrap();
        for facts in listed.objects {
            let object = self.inner.get(&facts.location).await.unwrap();
            packs.push((facts.location, object.bytes().await.unwrap()));
        }
        packs
    }

    /// What a rebuild from packs alone knows to be condemned: how many packs a
    /// collection deletes without having found them dead itself.
    async fn condemned_by_rebuild(&self) -> u64 {
        let options = RebuildOptions::default();
        let (vault, report) = self.inner().rebuild(&options, &NoMonitor).await.unwrap();
        assert!(report.damaged.is_empty() && report.lost.is_empty());
        let mut options = CollectOptions::default();
        options.most_dead = u8::MAX;
        let report = vault.collect(&options, &NoMonitor).await.unwrap();
        assert_eq!(report.dropped.count, 0, "{report:?}");
        report.deleted.count
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_condemned_stands_in_a_pack_before_the_first_object_goes() {
    let dying = Dying::new();
    let mut random = fastrand::Rng::with_seed(12);
    let history = History::default();
    let vault = dying.at().create().await.unwrap();
    let mut machine = Machine::new("a", 500_000);
    for _ in 0..3 {
        machine.write(&mut random, 0, 500_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    let points = history.known().points;
    let old: Vec<_> = points[..2].iter().map(|kept| kept.id).collect();
    history.expire(&vault, &old).await.unwrap();
    dying.dies_at_deletion();
    dying.collect(&vault).await;
    drop(vault);
    assert!(dying.condemned_by_rebuild().await > 0);
    let vault = dying.inner().open().await.unwrap();
    history.check(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_left_is_condemned_in_a_pack_before_it_goes() {
    let dying = Dying::new();
    let mut random = fastrand::Rng::with_seed(13);
    let history = History::default();
    let vault = dying.at().create().await.unwrap();
    let mut machine = Machine::new("a", 500_000);
    machine.write(&mut random, 0, 500_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let before = dying.packs().await;
    let mut other = Machine::new("b", 400_000);
    other.write(&mut random, 0, 400_000);
    // It dies when its packs are there, and the catalog is to know of them.
    dying.script.rule(|_, path| {
        if path.contains("/db/") {
            Action::Vanish
        } else {
            Action::Pass
        }
    });
    let begin = other.begin(&mut random);
    let writer = vault.begin(begin).await.unwrap();
    images::send(&*writer, &other).await.unwrap();
    let suspending = tokio::time::timeout(Duration::from_secs(30), writer.suspend());
    assert!(suspending.await.is_err(), "it did not die");
    drop((writer, vault));
    dying.script.pass();
    let mut left = dying.packs().await;
    left.retain(|pack| !before.contains(pack));
    assert!(left.len() > 1);
    let vault = dying.at().open().await.unwrap();
    let mut options = CollectOptions::default();
    options.dry_run = true;
    let told = vault.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(told.orphans.count, left.len() as u64, "{told:?}");
    dying.dies_at_deletion();
    dying.collect(&vault).await;
    drop(vault);
    assert_eq!(dying.condemned_by_rebuild().await, left.len() as u64);
    let vault = dying.inner().open().await.unwrap();
    history.check(&vault).await;
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_changes_nothing_beside_a_synchronization() {
    let script = Arc::new(Script::default());
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&script));
    let mut settings = VaultSettings::default();
    // All that is sent waits.
    settings.pack_bytes = 32 << 20;
    let vault = DedupStore::on(store, "v").with_settings(settings);
    let vault = vault.create().await.unwrap();
    let mut random = fastrand::Rng::with_seed(14);
    let history = History::default();
    let mut machine = Machine::new("a", 6 << 20);
    for _ in 0..2 {
        machine.write(&mut random, 0, 3 << 20);
        machine.write(&mut random, 5 << 20, 90_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    machine.write(&mut random, 0, 2 << 20);
    machine.write(&mut random, 5 << 20, 70_000);
    let begin = machine.begin(&mut random);
    let writer = vault.begin(begin.clone()).await.unwrap();
    let changes = machine.changes();
    images::send_region(&*writer, &machine, &changes, 0)
        .await
        .unwrap();
    // What waits to be written anyway.
    tokio::time::sleep(Duration::from_mins(30)).await;
    let changed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&changed);
    script.rule(move |request, path| {
        if !matches!(request, Request::Get | Request::List) && !path.contains("lease") {
            eprintln!("{request:?} {path}");
            noted.store(true, Ordering::SeqCst);
        }
        Action::Pass
    });
    let mut options = CollectOptions::default();
    options.dry_run = true;
    let told = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(!changed.load(Ordering::SeqCst), "it changed something");
    script.pass();
    assert_eq!(told.roots, 3, "{told:?}");
    images::send_region(&*writer, &machine, &changes, 1)
        .await
        .unwrap();
    writer.progress(0, RegionIndex(2)).await.unwrap();
    let (mut group, begins) = ([&mut machine], [begin]);
    let committed = history.commit(&vault, &mut random, &mut group, &begins);
    committed.await.unwrap();
    history.check(&vault).await;
}

/// Nobody will go on with it, and what it needs is not known.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_unfinished_synchronization_holds_up_no_collection() {
    let mut lab = Lab::new(15);
    let vault = lab.at().create().await.unwrap();
    let mut machine = Machine::new("a", 500_000);
    for _ in 0..2 {
        machine.write(&mut lab.random, 0, 500_000);
        lab.protect(&vault, &mut machine).await;
    }
    let old = lab.history.known().points[0].id;
    lab.history.expire(&vault, &[old]).await.unwrap();
    let before = lab.packs(".map");
    let mut others = ["b", "c"].map(|name| Machine::new(name, 300_000));
    let mut begins = Vec::new();
    for other in &mut others {
        other.write(&mut lab.random, 0, 300_000);
        let begin = other.begin(&mut lab.random);
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, other).await.unwrap();
        writer.suspend().await.unwrap();
        begins.push((begin, lab.packs(".map")));
    }
    vault.close().await.unwrap();
    drop(vault);
    let (_, with_first) = &begins[0];
    for pack in with_first.iter().filter(|pack| !before.contains(pack)) {
        lose_nodes(pack);
    }
    let vault = lab.at().open().await.unwrap();
    let mut options = CollectOptions::default();
    options.dry_run = true;
    vault.collect(&options, &NoMonitor).await.unwrap();
    let there = vault.replica(&others[0].name).await.unwrap().unwrap();
    assert!(there.unfinished.is_some(), "a dry run changes nothing");
    options.dry_run = false;
    let report = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(report.deleted.count > 0, "{report:?}");
    assert!(vault.replica(&others[0].name).await.unwrap().is_none());
    // The other one goes on where it was, the first one starts over.
    for (other, (begin, _)) in others.iter_mut().zip(begins) {
        let writer = vault.begin(begin.clone()).await.unwrap();
        let at = writer.resume_at(0);
        assert_eq!(
            at.0,
            u64::from(other.name.as_str() == "c"),
            "{}",
            other.name
        );
        images::send(&*writer, other).await.unwrap();
        let (mut group, begins) = ([other], [begin]);
        let committed = lab
            .history
            .commit(&vault, &mut lab.random, &mut group, &begins);
        committed.await.unwrap();
    }
    lab.history.check(&vault).await;
    vault.collect(&options, &NoMonitor).await.unwrap();
    lab.history.check(&vault).await;
}

/// What it has sent is needed as long as somebody may go on with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_goes_on_with_is_given_up_after_its_time() {
    let mut lab = Lab::new(16);
    let vault = lab.at().create().await.unwrap();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut lab.random, 0, 300_000);
    lab.protect(&vault, &mut machine).await;
    let mut other = Machine::new("b", 300_000);
    other.write(&mut lab.random, 0, 300_000);
    let begin = other.begin(&mut lab.random);
    let writer = vault.begin(begin.clone()).await.unwrap();
    images::send(&*writer, &other).await.unwrap();
    writer.suspend().await.unwrap();
    let options = CollectOptions::default();
    // The vault believes in three days for each change at most.
    for _ in 0..9 {
        lab.clock.advance(Duration::from_hours(72));
        let report = vault.collect(&options, &NoMonitor).await.unwrap();
        assert_eq!(
            (report.given_up, report.dropped.count),
            (0, 0),
            "{report:?}"
        );
    }
    lab.clock.advance(Duration::from_hours(72));
    let mut dry = options;
    dry.dry_run = true;
    let told = vault.collect(&dry, &NoMonitor).await.unwrap();
    assert!(told.given_up == 1 && told.dropped.count > 0, "{told:?}");
    let there = vault.replica(&other.name).await.unwrap();
    assert!(
        there.unwrap().unfinished.is_some(),
        "a dry run changes nothing"
    );
    let report = vault.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(
        (report.given_up, report.dropped),
        (1, told.dropped),
        "{report:?}"
    );
    assert!(vault.replica(&other.name).await.unwrap().is_none());
    let writer = vault.begin(begin.clone()).await.unwrap();
    assert_eq!(writer.resume_at(0).0, 0, "it starts over");
    images::send(&*writer, &other).await.unwrap();
    let (mut group, begins) = ([&mut other], [begin]);
    let committed = lab
        .history
        .commit(&vault, &mut lab.random, &mut group, &begins);
    committed.await.unwrap();
    lab.history.check(&vault).await;
}

/// The index named a copy that goes; the one that stays is damaged, which nobody
/// has noticed.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_copy_does_not_take_the_place_of_one_that_goes() {
    let mut lab = Lab::new(17);
    let vault = lab.at().create().await.unwrap();
    let shared = images::noise(&mut lab.random, 40_000);
    let mut machines = ["x", "y", "z"].map(|name| Machine::new(name, 300_000));
    for machine in &mut machines {
        machine.bytes[..shared.len()].copy_from_slice(&shared);
    }
    let [x, y, z] = &mut machines;
    x.write(&mut lab.random, 200_000, 60_000);
    let begins = [x.begin(&mut lab.random), y.begin(&mut lab.random)];
    for (begin, machine) in begins.iter().zip([&*x, &*y]) {
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, machine).await.unwrap();
    }
    for (begin, machine) in begins.iter().zip([&mut *x, &mut *y]) {
        let (mut group, begin) = ([machine], std::slice::from_ref(begin));
        let committed = lab
            .history
            .commit(&vault, &mut lab.random, &mut group, begin);
        committed.await.unwrap();
    }
    let packs = lab.packs(".data");
    assert_eq!(packs.len(), 2, "it is stored twice");
    let size = |path: &&PathBuf| std::fs::metadata(path).unwrap().len();
    let stays = packs.iter().max_by_key(size).unwrap().clone();
    for machine in [&mut *x, &mut *y] {
        machine.write(&mut lab.random, 0, 140_000);
        lab.protect(&vault, machine).await;
    }
    let known = lab.history.known().points;
    let heads = [x.head, y.head];
    let old = known.iter().map(|kept| kept.id);
    let old: Vec<_> = old.filter(|id| !heads.contains(&Some(*id))).collect();
    lab.history.expire(&vault, &old).await.unwrap();
    vault.close().await.unwrap();
    drop(vault);
    // The first frame is the first chunk, which all three have.
    images::change(&stays, |bytes| bytes[48 + 12 + 10] ^= 1);

    let vault = lab.at().open().await.unwrap();
    let mut options = CollectOptions::default();
    options.most_dead = u8::MAX;
    let collected = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(
        collected.deleted.count > 0 && stays.exists(),
        "{collected:?}"
    );
    z.changed.push(0..300_000);
    lab.protect(&vault, z).await;
    vault.close().await.unwrap();
    drop(vault);
    let vault = lab.at().open().await.unwrap();
    lab.history.check(&vault).await;
    options.most_dead = 0;
    vault.collect(&options, &NoMonitor).await.unwrap();
    lab.history.check(&vault).await;
}

/// A pack went out of use for its copies stand elsewhere; before it goes, these are
/// found to be damaged.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_whole_copy_is_kept_when_its_pack_goes() {
    let mut lab = Lab::new(19);
    let vault = lab.at().create().await.unwrap();
    let shared = images::noise(&mut lab.random, 40_000);
    let mut machines = ["x", "y"].map(|name| Machine::new(name, 300_000));
    for machine in &mut machines {
        machine.bytes[..shared.len()].copy_from_slice(&shared);
    }
    let [x, y] = &mut machines;
    let begins = [x.begin(&mut lab.random), y.begin(&mut lab.random)];
    for (begin, machine) in begins.iter().zip([&*x, &*y]) {
        let writer = vault.begin(begin.clone()).await.unwrap();
        images::send(&*writer, machine).await.unwrap();
    }
    let mut packs = Vec::new();
    for (begin, machine) in begins.iter().zip([&mut *x, &mut *y]) {
        let (mut group, begin) = ([machine], std::slice::from_ref(begin));
        let committed = lab
            .history
            .commit(&vault, &mut lab.random, &mut group, begin);
        committed.await.unwrap();
        packs.push(lab.packs(".data"));
    }
    assert_eq!(packs[1].len(), 2, "it is stored twice");
    let mut second = packs[1].iter().filter(|pack| !packs[0].contains(pack));
    let second = second.next().unwrap();
    let old = x.head.unwrap();
    x.write(&mut lab.random, 0, 300_000);
    lab.protect(&vault, x).await;
    lab.history.expire(&vault, &[old]).await.unwrap();
    let disk = backstop_core::StreamName::disk();
    let reading = vault.open(y.head.unwrap(), &disk).await.unwrap();
    let mut options = CollectOptions::default();
    options.most_dead = u8::MAX;
    let waits = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(
        waits.dropped.count > 0 && waits.deleted.count == 0,
        "{waits:?}"
    );
    drop(reading);
    images::change(second, |bytes| bytes[48 + 12 + 10] ^= 1);
    let all = VerifyOptions::default();
    let told = vault.verify(&all, &NoMonitor).await.unwrap();
    assert_eq!(told.damaged, 1, "{told:?}");
    // What is known of it outlives the process.
    vault.close().await.unwrap();
    drop(vault);
    let vault = lab.at().open().await.unwrap();
    let gone = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(gone.deleted.count > 0 && !packs[0][0].exists(), "{gone:?}");
    lab.history.check(&vault).await;
    let told = vault.verify(&all, &NoMonitor).await.unwrap();
    assert_eq!(told.damaged, 0, "{told:?}");
    vault.collect(&options, &NoMonitor).await.unwrap();
    vault.close().await.unwrap();
    drop(vault);
    let vault = lab.at().open().await.unwrap();
    lab.history.check(&vault).await;
}

/// A frame that can't be healed keeps its pack, and costs no more than itself at
/// the next runs.
#[tokio::test(start_paused = true)]
async fn a_pack_that_cannot_be_moved_is_not_read_again_and_again() {
    let inner = Arc::new(InMemory::new());
    let at = || {
        let store = Arc::clone(&inner) as Arc<dyn ObjectStore>;
        DedupStore::on(store, "v").with_takeover(Takeover::Force)
    };
    let mut random = fastrand::Rng::with_seed(18);
    let history = History::default();
    let vault = at().create().await.unwrap();
    let mut machine = Machine::new("a", 4 << 20);
    machine.write(&mut random, 0, 2 << 20);
    machine.write(&mut random, 2 << 20, 1 << 20);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let prefix = object_store::path::Path::from("v/packs");
    let listed = inner.list_with_delimiter(Some(&prefix)).await.unwrap();
    let mut packs = listed.objects.iter().map(|facts| facts.location.clone());
    let pack = packs.find(|path| path.extension() == Some("data")).unwrap();
    // Of the old pack a bit at the end is still needed.
    machine.write(&mut random, 0, 2 << 20);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let old = history.known().points[0].id;
    history.expire(&vault, &[old]).await.unwrap();
    vault.close().await.unwrap();
    let whole = inner.get(&pack).await.unwrap().bytes().await.unwrap();
    let mut bytes = whole.to_vec();
    let at_end = bytes.len() - 20_000;
    bytes[at_end] ^= 1;
    inner.put(&pack, bytes.into()).await.unwrap();

    let mut asked = Vec::new();
    for _ in 0..3 {
        let vault = at().open().await.unwrap();
        let mut options = CollectOptions::default();
        options.most_dead = 0;
        let report = vault.collect(&options, &NoMonitor).await.unwrap();
        let usage = vault.usage().by_operation()[&Operation::Collect];
        asked.push((usage.bytes_received, report.written.0));
        assert_eq!(report.unreadable.count, 1, "{report:?}");
        vault.close().await.unwrap();
    }
    // All that is needed of it takes half a mebibyte, that frame 64 KiB at most.
    assert!(asked[0].0 > 600_000, "{asked:?}");
    assert!(asked[1].0 < 200_000 && asked[2].0 < 200_000, "{asked:?}");
    assert_eq!((asked[1].1, asked[2].1), (0, 0), "{asked:?}");
    // The disk comes to itself.
    inner.put(&pack, whole.into()).await.unwrap();
    let vault = at().open().await.unwrap();
    let mut options = CollectOptions::default();
    options.most_dead = 0;
    let report = vault.collect(&options, &NoMonitor).await.unwrap();
    assert_eq!(
        (report.unreadable.count, report.rewritten.count),
        (0, 1),
        "{report:?}"
    );
    history.check(&vault).await;
}
