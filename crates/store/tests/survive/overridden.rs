//! Rebuilding after owners that failed, died, or were overridden and woke: what
//! they reported counts, and nothing else; and after rebuilds that failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backstop_core::{
    CollectOptions, ErrorKind, Maintenance, ManualClock, NoMonitor, PointId, Protection,
    RebuildOptions, RebuildReport, RecoveryStore, Timestamp, VerifyOptions,
};
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, OperatorKey, Takeover, VaultSettings,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::{History, holds};
use crate::images::Machine;
use crate::rotation::{Gate, gate};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A vault on a store that does what a test says, and one machine.
struct Lab {
    store: Arc<dyn ObjectStore>,
    script: Arc<Script>,
    history: History,
    random: fastrand::Rng,
    machine: Machine,
}

fn on(store: &Arc<dyn ObjectStore>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
        .with_takeover(Takeover::Force)
        .with_clock(Arc::new(ManualClock::at(NOW)))
}

async fn rebuild(store: &Arc<dyn ObjectStore>) -> (DedupStore, RebuildReport) {
    let options = RebuildOptions::default();
    on(store).rebuild(&options, &NoMonitor).await.unwrap()
}

impl Lab {
    async fn new(seed: u64) -> (Self, DedupStore) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let vault = on(&store).create().await.unwrap();
        let mut lab = Self {
            store,
            script: Arc::default(),
            history: History::default(),
            random: fastrand::Rng::with_seed(seed),
            machine: Machine::new("a", 300_000),
        };
        lab.protect(&vault).await;
        (lab, vault)
    }

    /// The store, as it fails by the script.
    fn faulty(&self) -> Arc<dyn ObjectStore> {
        FaultyStore::new(Arc::clone(&self.store), Arc::clone(&self.script))
    }

    async fn protect(&mut self, vault: &DedupStore) -> PointId {
        self.machine.scribble(&mut self.random, 2, 9_000);
        let machine = &mut self.machine;
        self.history
            .protect_one(vault, &mut self.random, machine)
            .await;
        self.machine.head.unwrap()
    }

    /// A point whose commit fails; what it would have been.
    async fn fail(&mut self, vault: &DedupStore) -> (PointId, ErrorKind) {
        let (history, mut machine) = (History::default(), self.machine.clone());
        machine.scribble(&mut self.random, 2, 9_000);
        let failed = history
            .protect(vault, &mut self.random, &mut [&mut machine])
            .await;
        let kind = failed.unwrap_err().kind();
        (history.known().committing[0].id, kind)
    }

    /// Rebuilds it and checks that this was never committed, and all else is there.
    async fn check_uncommitted(&self, ids: &[PointId]) -> DedupStore {
        let (vault, report) = rebuild(&self.store).await;
        let told: Vec<_> = report.uncommitted.iter().map(|(_, id)| *id).collect();
        assert_eq!(told, ids, "{report:?}");
        self.history.check(&vault).await;
        vault
    }

    async fn objects(&self, folder: &str) -> Vec<Path> {
        let folder = Path::from(format!("vault/{folder}"));
        let listed: Vec<_> = self.store.list(Some(&folder)).try_collect().await.unwrap();
        let mut paths: Vec<_> = listed.into_iter().map(|object| object.location).collect();
        paths.sort();
        paths
    }

    /// The packs of maps.
    async fn maps(&self) -> Vec<Path> {
        let mut packs = self.objects("packs").await;
        packs.retain(|path| path.as_ref().contains(".map"));
        packs
    }
}

fn fail(script: &Script, which: impl Fn(&str) -> bool + Send + 'static) {
    script.rule(move |request, path| {
        let writes = matches!(request, Request::Put | Request::Part);
        if writes && which(path) {
            Action::Fail
        } else {
            Action::Pass
        }
    });
}

/// The owner died between the packs and the flush; the next one told nobody of a
/// point, and made none.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_short_is_no_point_though_no_later_one_was_made() {
    let (mut lab, vault) = Lab::new(1).await;
    vault.close().await.unwrap();
    let vault = on(&lab.faulty()).open().await.unwrap();
    fail(&lab.script, |path| path.contains("/wal/"));
    let (lost, _) = lab.fail(&vault).await;
    drop(vault);
    let vault = on(&lab.store).open().await.unwrap();
    assert_eq!(
        vault.point(lost).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    vault.close().await.unwrap();
    let vault = lab.check_uncommitted(&[lost]).await;
    vault.close().await.unwrap();
}

/// The commit failed, and the owner went on: what its record says is no point,
/// also if nothing came after it but a clean end.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_failed_is_no_point_though_its_owner_went_on() {
    for goes_on in [false, true] {
        let (mut lab, vault) = Lab::new(2).await;
        vault.close().await.unwrap();
        let vault = on(&lab.faulty()).open().await.unwrap();
        // The maps and the record are stored, the data is not.
        fail(&lab.script, |path| path.contains(".data"));
        let (lost, _) = lab.fail(&vault).await;
        lab.script.pass();
        if goes_on {
            lab.protect(&vault).await;
            // Nothing but packs may be needed to know it.
            drop(vault);
        } else {
            vault.close().await.unwrap();
        }
        let vault = lab.check_uncommitted(&[lost]).await;
        lab.protect(&vault).await;
        vault.close().await.unwrap();
    }
}

/// An owner that was overridden wakes. Its successor has made no point.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_overridden_owner_writes_is_no_point() {
    let (mut lab, old) = Lab::new(3).await;
    let new = on(&lab.store).open().await.unwrap();
    new.close().await.unwrap();
    let (lost, kind) = lab.fail(&old).await;
    assert_eq!(kind, ErrorKind::Fenced);
    let vault = lab.check_uncommitted(&[lost]).await;
    lab.protect(&vault).await;
    vault.close().await.unwrap();
}

/// Whoever sums up the ledger must not burn the numbers of those who come after.
#[tokio::test(flavor = "multi_thread")]
async fn a_summary_that_never_counted_hides_no_later_point() {
    let (mut lab, vault) = Lab::new(4).await;
    vault.close().await.unwrap();
    let vault = on(&lab.faulty()).open().await.unwrap();
    for _ in 0..34 {
        let state = vault
            .replica(&lab.machine.name)
            .await
            .unwrap()
            .unwrap()
            .state;
        vault.set_state(&lab.machine.name, state).await.unwrap();
        lab.protect(&vault).await;
    }
    let last = vault
        .point(lab.machine.head.unwrap())
        .await
        .unwrap()
        .sequence;
    // Numbers that are given and never committed.
    fail(&lab.script, |path| path.contains(".data"));
    for _ in 0..5 {
        lab.fail(&vault).await;
    }
    // The summary is stored, and does not come to count.
    let is_stored = Arc::new(AtomicBool::new(false));
    let stored = Arc::clone(&is_stored);
    fail(&lab.script, move |path| {
        if path.contains(".map") {
            stored.store(true, Ordering::SeqCst);
        }
        path.contains("/wal/") && stored.load(Ordering::SeqCst)
    });
    let collected = vault.collect(&CollectOptions::default(), &NoMonitor).await;
    collected.unwrap_err();
    assert!(is_stored.load(Ordering::SeqCst));
    drop(vault);
    let vault = on(&lab.store).open().await.unwrap();
    let next = lab.protect(&vault).await;
    let next = vault.point(next).await.unwrap().sequence;
    assert!(next > last + 5, "{next} comes after {last} and the summary");
    vault.close().await.unwrap();
    let (vault, report) = rebuild(&lab.store).await;
    assert_eq!(report.expired, [], "{report:?}");
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// A rebuild that fails leaves nothing that the next one believes.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_failed_is_not_believed() {
    let (mut lab, vault) = Lab::new(5).await;
    let old = lab.machine.head.unwrap();
    lab.protect(&vault).await;
    lab.history.expire(&vault, &[old]).await.unwrap();
    vault.close().await.unwrap();
    let packs = lab.objects("packs").await;
    fail(&lab.script, |path| path.ends_with("vault.json"));
    let mut options = RebuildOptions::default();
    options.with_expired = true;
    let rebuilt = on(&lab.faulty()).rebuild(&options, &NoMonitor).await;
    rebuilt.unwrap_err();
    assert_eq!(lab.objects("packs").await, packs, "nothing came into packs");
    // The vault goes on with what it had; then another rebuild.
    let vault = on(&lab.store).open().await.unwrap();
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    let (vault, report) = rebuild(&lab.store).await;
    assert_eq!(report.expired, [(lab.machine.name.clone(), old)]);
    assert_eq!(report.uncommitted, [], "{report:?}");
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// Of two rebuilds at once one wins, and what is reported by it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_rebuilds_one_wins() {
    // Where the first one stops while the second goes on to its end.
    for stop in ["db-1/rebuild", "/vault.json"] {
        let (mut lab, vault) = Lab::new(6).await;
        vault.close().await.unwrap();
        let Gate { reached, go_on } = gate(&lab.script, move |request, path| {
            request == Request::Put && path.ends_with(stop)
        });
        let first = on(&lab.faulty());
        let first = tokio::spawn(async move {
            let options = RebuildOptions::default();
            first.rebuild(&options, &NoMonitor).await
        });
        reached.await.unwrap();
        let (second, _) = rebuild(&lab.store).await;
        lab.protect(&second).await;
        go_on.send(()).unwrap();
        let error = first.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "at {stop}: {error}");
        lab.protect(&second).await;
        lab.history.check(&second).await;
        second.close().await.unwrap();
        let vault = on(&lab.store).open().await.unwrap();
        lab.history.check(&vault).await;
        lab.protect(&vault).await;
        vault.close().await.unwrap();
    }
}

/// The first event of a vault, and whatever rebuilt catalogs begin with.
#[tokio::test(flavor = "multi_thread")]
async fn protection_outlives_rebuilds_in_a_row() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let vault = on(&store).create().await.unwrap();
    let mut protection = Protection::default();
    protection.minimum_retention = Duration::from_hours(24 * 10);
    protection.undo_window = Duration::from_hours(24 * 20);
    vault.set_protection(protection).await.unwrap();
    for name in ["anna", "otto"] {
        let key = OperatorKey::generate().unwrap().public().unwrap();
        vault.add_operator(name, key).await.unwrap();
    }
    vault.need_operators(2).await.unwrap();
    let operators = vault.operators().await.unwrap();
    // It dies at once.
    drop(vault);
    for round in 0..4 {
        let later = Arc::new(ManualClock::at(
            NOW.after(Duration::from_hours(2000 * round)),
        ));
        let options = RebuildOptions::default();
        let rebuilding = on(&store).with_clock(later);
        let (vault, _) = rebuilding.rebuild(&options, &NoMonitor).await.unwrap();
        assert_eq!(vault.protection().await.unwrap(), protection);
        assert_eq!(vault.operators().await.unwrap(), operators);
        if round % 2 == 0 {
            vault.close().await.unwrap();
        }
    }
}

/// Packs that were missing in a rebuild, and come back: nothing was lost for it.
#[tokio::test(flavor = "multi_thread")]
async fn packs_that_come_back_after_a_rebuild_bring_their_points() {
    let (mut lab, vault) = Lab::new(7).await;
    let before = lab.objects("packs").await;
    let late = lab.protect(&vault).await;
    vault.close().await.unwrap();
    let mut away = Vec::new();
    for path in lab.objects("packs").await {
        if !before.contains(&path) {
            let bytes = lab.store.get(&path).await.unwrap().bytes().await.unwrap();
            lab.store.delete(&path).await.unwrap();
            away.push((path, bytes));
        }
    }
    // A day later: what an owner that woke has written since would be no point.
    let later = Arc::new(ManualClock::at(NOW.after(Duration::from_hours(24))));
    let options = RebuildOptions::default();
    let rebuilding = on(&lab.store).with_clock(later);
    let (vault, report) = rebuilding.rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.points.len(), 1, "{report:?}");
    // It goes on without them.
    let mut machine = Machine::new("b", 90_000);
    machine.scribble(&mut lab.random, 2, 9_000);
    let history = lab.history.clone();
    history
        .protect_one(&vault, &mut lab.random, &mut machine)
        .await;
    vault.close().await.unwrap();
    for (path, bytes) in away {
        lab.store.put(&path, bytes.into()).await.unwrap();
    }
    let (vault, report) = rebuild(&lab.store).await;
    assert_eq!(report.unseen, [(lab.machine.name.clone(), late)]);
    assert_eq!((report.points.len(), &report.uncommitted[..]), (3, &[][..]));
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// Damages all frames of a pack, and not its table.
fn damage(bytes: &mut [u8]) {
    let end = bytes.len() - 16;
    let table = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
    for byte in &mut bytes[48..end - table as usize] {
        *byte ^= 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_read_are_counted() {
    for table_too in [false, true] {
        let (mut lab, vault) = Lab::new(8).await;
        lab.protect(&vault).await;
        vault.close().await.unwrap();
        let path = lab.maps().await.remove(0);
        let bytes = lab.store.get(&path).await.unwrap().bytes().await.unwrap();
        let mut bytes = bytes.to_vec();
        if table_too {
            // One byte of what the last frame holds: a record, or a page.
            let end = bytes.len() - 16;
            let table = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
            bytes[end - table as usize - 20] ^= 1;
            bytes[end - 1] ^= 1;
        } else {
            damage(&mut bytes);
        }
        lab.store.put(&path, bytes.into()).await.unwrap();
        let (vault, report) = rebuild(&lab.store).await;
        assert!(report.damaged_records > 0, "{report:?}");
        assert_eq!(report.damaged_tables > 0, table_too, "{report:?}");
        vault.close().await.unwrap();
    }
}

/// A page that is damaged is not all that tells of something for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_is_replaced_by_the_next_collection() {
    let (mut lab, vault) = Lab::new(9).await;
    let before = lab.maps().await;
    let mut protection = Protection::default();
    protection.undo_window = Duration::from_hours(24 * 20);
    vault.set_protection(protection).await.unwrap();
    // The page stands in a pack of its own.
    let mut fresh = lab.maps().await;
    fresh.retain(|path| !before.contains(path));
    assert_eq!(fresh.len(), 1);
    let bytes = lab
        .store
        .get(&fresh[0])
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let mut bytes = bytes.to_vec();
    damage(&mut bytes);
    lab.store.put(&fresh[0], bytes.into()).await.unwrap();
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    let vault = on(&lab.store).open().await.unwrap();
    let options = CollectOptions::default();
    vault.collect(&options, &NoMonitor).await.unwrap();
    drop(vault);
    let (vault, _) = rebuild(&lab.store).await;
    assert_eq!(vault.protection().await.unwrap(), protection);
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// What heals is relied on by who finds it on its way: if it is lost, he is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_relies_on_what_heals_is_told_if_it_is_lost() {
    let (lab, other) = Lab::new(10).await;
    let here: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let script = Arc::new(Script::default());
    let faulty: Arc<dyn ObjectStore> = FaultyStore::new(Arc::clone(&here), Arc::clone(&script));
    let vault = on(&faulty).with_credential(Credential::key([6; 32]));
    let vault = vault.create().await.unwrap();
    let options = backstop_core::ReplicateOptions::default();
    other.replicate(&vault, &options, &NoMonitor).await.unwrap();
    let folder = Path::from("vault/packs");
    let packs: Vec<_> = here.list(Some(&folder)).try_collect().await.unwrap();
    for pack in packs {
        if pack.location.as_ref().contains(".data") {
            let bytes = here
                .get(&pack.location)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap();
            let mut bytes = bytes.to_vec();
            damage(&mut bytes);
            here.put(&pack.location, bytes.into()).await.unwrap();
        }
    }
    let found = vault.verify(&VerifyOptions::default(), &NoMonitor).await;
    assert!(found.unwrap().damaged > 0);
    // The healing waits with its pack; a machine that holds the same comes.
    let puts = AtomicUsize::new(0);
    let (reach, reached) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = std::sync::Mutex::new(may_go_on);
    let mut reach = Some(reach);
    script.rule(move |request, path| {
        let is_pack = matches!(request, Request::Put | Request::Part) && path.contains(".data");
        if !is_pack || puts.fetch_add(1, Ordering::SeqCst) > 0 {
            return Action::Pass;
        }
        if let Some(reach) = reach.take() {
            reach.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        Action::Fail
    });
    let healed = vault.clone();
    let healing = tokio::spawn(async move { healed.heal_from(&other).await });
    reached.await.unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let mut machine = Machine::new("b", 300_000);
    machine.bytes.clone_from(&lab.machine.bytes);
    let whole = 0..machine.bytes.len();
    machine.changed = std::iter::once(whole).collect();
    let history = History::default();
    let relying = async {
        let mut group = [&mut machine];
        history.protect(&vault, &mut random, &mut group).await
    };
    let release = async {
        tokio::task::yield_now().await;
        go_on.send(()).unwrap();
    };
    let (relied, ()) = futures::join!(relying, release);
    let healed = healing.await.unwrap();
    healed.unwrap_err();
    // It may have come too late to rely on it; then it holds.
    if relied.is_ok() {
        for kept in history.known().points {
            holds(&vault, &kept).await;
        }
    }
}
