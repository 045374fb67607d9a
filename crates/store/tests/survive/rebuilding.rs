//! Rebuilding the index and the catalog from packs alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstop_core::{
    ErrorKind, InconsistencyReason, Maintenance, ManualClock, Marks, NoMonitor, PointId, PointKind,
    Protection, RebuildOptions, RebuildReport, RecoveryStore, ReplicaState, Timestamp,
    VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::{History, holds};
use crate::images::{self, Machine};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn tuned(builder: DedupStoreBuilder) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    builder
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
        .with_clock(Arc::new(ManualClock::at(NOW)))
}

fn at(place: &Path) -> DedupStoreBuilder {
    tuned(DedupStore::at(place.to_str().unwrap()))
}

async fn rebuild(place: &Path) -> (DedupStore, RebuildReport) {
    let options = RebuildOptions::default();
    at(place).rebuild(&options, &NoMonitor).await.unwrap()
}

/// Deletes every catalog.
fn lose_catalogs(place: &Path) {
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("db")
        {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

fn packs(place: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(place.join("packs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut packs: Vec<_> = paths
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect();
    packs.sort();
    packs
}

/// A vault with some points of two machines.
struct Lab {
    folder: tempfile::TempDir,
    vault: Option<DedupStore>,
    history: History,
    random: fastrand::Rng,
    machines: [Machine; 2],
}

impl Lab {
    async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = at(folder.path()).create().await.unwrap();
        let mut lab = Self {
            folder,
            vault: Some(vault),
            history: History::default(),
            random: fastrand::Rng::with_seed(seed),
            machines: [("a", 5_000_000), ("b", 300_000)]
                .map(|(name, length)| Machine::new(name, length)),
        };
        for _ in 0..3 {
            lab.protect(0).await;
            lab.protect(1).await;
        }
        lab
    }

    fn place(&self) -> &Path {
        self.folder.path()
    }

    fn vault(&self) -> DedupStore {
        self.vault.clone().unwrap()
    }

    async fn protect(&mut self, at: usize) -> PointId {
        let vault = self.vault();
        let machine = &mut self.machines[at];
        machine.scribble(&mut self.random, 4, 90_000);
        self.history
            .protect_one(&vault, &mut self.random, machine)
            .await;
        machine.head.unwrap()
    }

    async fn close(&mut self) {
        self.vault.take().unwrap().close().await.unwrap();
    }

    /// Closes the vault, loses its catalog, and rebuilds it.
    async fn rebuild(&mut self) -> RebuildReport {
        self.close().await;
        lose_catalogs(self.place());
        let (vault, report) = rebuild(self.place()).await;
        self.vault = Some(vault);
        report
    }

    async fn check(&self) {
        self.history.check(&self.vault()).await;
    }

    fn points(&self) -> usize {
        self.history.known().points.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_without_its_catalog_is_refused_and_rebuilt_with_all_that_it_knew() {
    let mut lab = Lab::new(1).await;
    let first = lab.history.known().points[0].id;
    let pinned = lab.history.known().points[2].id;
    let marks = Marks {
        pinned: true,
        holds: ["a lawsuit".to_owned()].into(),
    };
    lab.vault().mark(pinned, marks.clone()).await.unwrap();
    lab.history.expire(&lab.vault(), &[first]).await.unwrap();
    let doubt = ReplicaState::Inconsistent {
        reason: InconsistencyReason::Requested,
        since: NOW,
    };
    let name = lab.machines[1].name.clone();
    lab.vault().set_state(&name, doubt.clone()).await.unwrap();
    lab.close().await;
    lose_catalogs(lab.place());
    for refused in [
        at(lab.place()).open().await.unwrap_err(),
        at(lab.place()).open_read_only().await.unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
        assert!(refused.to_string().contains("rebuild"), "{refused}");
    }
    assert!(!lab.place().join("db").exists(), "looking changes nothing");

    let (vault, report) = rebuild(lab.place()).await;
    lab.vault = Some(vault);
    assert_eq!(report.points.len(), lab.points(), "{report:?}");
    assert_eq!(report.expired, [(lab.machines[0].name.clone(), first)]);
    let nothing = [&report.damaged, &report.lost, &report.uncommitted];
    assert!(nothing.iter().all(|none| none.is_empty()), "{report:?}");
    lab.check().await;
    let vault = lab.vault();
    assert_eq!(vault.point(pinned).await.unwrap().marks, marks);
    let replica = vault.replica(&name).await.unwrap().unwrap();
    assert_eq!(replica.state, doubt);

    // It goes on from there, without a check, also after it was opened again.
    lab.protect(0).await;
    lab.close().await;
    lab.vault = Some(at(lab.place()).open().await.unwrap());
    lab.protect(0).await;
    let point = vault_point(&lab, 0).await;
    assert_eq!(point, PointKind::ExpressFull);
    let collected = lab.history.collect(&lab.vault()).await.unwrap();
    assert!(collected.deleted.count > 0, "{collected:?}");
    lab.check().await;
    // And again, over what was collected.
    let report = lab.rebuild().await;
    assert_eq!(report.points.len(), lab.points(), "{report:?}");
    lab.check().await;
    lab.close().await;
}

async fn vault_point(lab: &Lab, machine: usize) -> PointKind {
    let head = lab.machines[machine].head.unwrap();
    lab.vault().point(head).await.unwrap().kind
}

/// A summary takes the place of many pages: what had expired is known by what
/// is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_expired_is_told_apart_however_often_the_ledger_was_summed_up() {
    let mut lab = Lab::new(2).await;
    let mut gone = Vec::new();
    for round in 0..40 {
        let old = lab.protect(0).await;
        lab.protect(0).await;
        lab.history.expire(&lab.vault(), &[old]).await.unwrap();
        gone.push(old);
        if round == 36 {
            let before = packs(lab.place(), "map").len();
            lab.history.collect(&lab.vault()).await.unwrap();
            assert!(packs(lab.place(), "map").len() < before);
        }
        lab.close().await;
        lab.vault = Some(at(lab.place()).open().await.unwrap());
    }
    let report = lab.rebuild().await;
    assert_eq!(report.points.len(), lab.points(), "{report:?}");
    for (_, id) in &report.expired {
        assert!(gone.contains(id));
    }
    // Those of after the collection are still there.
    assert!(report.expired.len() >= 3, "{:?}", report.expired);
    lab.check().await;
    lab.close().await;

    let mut options = RebuildOptions::default();
    options.with_expired = true;
    let (vault, again) = at(lab.place()).rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(again.points.len(), lab.points() + report.expired.len());
    for (source, id) in &again.expired {
        assert!(again.points.contains(&(source.clone(), *id)));
        vault.point(*id).await.unwrap();
    }
    let head = vault
        .replica(&lab.machines[0].name)
        .await
        .unwrap()
        .unwrap()
        .head;
    assert_eq!(head, lab.machines[0].head);
    vault.close().await.unwrap();
    // They are points again: another rebuild needs not be asked for them.
    let (vault, third) = rebuild(lab.place()).await;
    assert_eq!(third.points, again.points);
    assert_eq!(third.expired, []);
    vault.close().await.unwrap();
}

/// What protects the vault outlives its catalog, also when the clock was set
/// forward meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn protection_and_what_can_be_undone_are_known_again() {
    let day = Duration::from_hours(24);
    let mut lab = Lab::new(9).await;
    let mut protection = Protection::default();
    protection.undo_window = day * 30;
    lab.vault().set_protection(protection).await.unwrap();
    let old = lab.history.known().points[0].clone();
    lab.vault().expire(&[old.id]).await.unwrap();
    protection.minimum_retention = day * 10;
    lab.vault().set_protection(protection).await.unwrap();
    lab.close().await;
    lose_catalogs(lab.place());
    let later = Arc::new(ManualClock::at(NOW.after(day * 400)));
    let options = RebuildOptions::default();
    let rebuilding = at(lab.place()).with_clock(Arc::clone(&later) as _);
    let (vault, report) = rebuilding.rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(
        report.undoable,
        [(old.source.clone(), old.id)],
        "{report:?}"
    );
    assert_eq!(vault.protection().await.unwrap(), protection);
    let listed = vault.points(&old.source).await.unwrap();
    assert!(listed.iter().all(|point| point.id != old.id));
    let young = lab.history.known().points[1].id;
    let refused = vault.expire(&[young]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    vault.undo(&[old.id]).await.unwrap();
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn points_that_lack_something_are_told_and_their_replicas_are_in_doubt() {
    let mut lab = Lab::new(3).await;
    let before = packs(lab.place(), "data");
    lab.protect(0).await;
    lab.close().await;
    let fresh: Vec<_> = packs(lab.place(), "data")
        .into_iter()
        .filter(|path| !before.contains(path))
        .collect();
    assert!(!fresh.is_empty());
    std::fs::remove_file(&fresh[0]).unwrap();
    let (vault, report) = rebuild(lab.place()).await;
    let head = lab.machines[0].head.unwrap();
    let name = lab.machines[0].name.clone();
    assert_eq!(report.damaged, [(name.clone(), head)], "{report:?}");
    assert_eq!(report.points.len(), lab.points() - 1);
    assert!(!report.ranges.is_empty());
    assert!(report.ranges.iter().all(|range| range.point == head));
    let replica = vault.replica(&name).await.unwrap().unwrap();
    assert!(
        matches!(
            replica.state,
            ReplicaState::Inconsistent {
                reason: InconsistencyReason::Damaged,
                ..
            }
        ),
        "{replica:?}"
    );
    for kept in lab
        .history
        .known()
        .points
        .iter()
        .filter(|kept| kept.id != head)
    {
        holds(&vault, kept).await;
    }
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_are_read_without_their_tables_and_of_copies_one_that_is_whole() {
    let mut lab = Lab::new(4).await;
    lab.close().await;
    for ending in ["map", "data"] {
        for path in packs(lab.place(), ending) {
            // The table, not the frames.
            images::change(&path, |bytes| {
                let at = bytes.len() - 30;
                bytes[at] ^= 1;
            });
        }
    }
    let (vault, report) = rebuild(lab.place()).await;
    assert_eq!(report.damaged_tables, report.packs.count, "{report:?}");
    assert_eq!(report.points.len(), lab.points(), "{report:?}");
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// Of a chunk that was damaged, and sent again, the vault has two copies. When
/// the first is whole again and the second is damaged, the first counts.
#[tokio::test(flavor = "multi_thread")]
async fn of_copies_one_that_can_be_read_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let flip = |path: &Path| images::change(path, |bytes| bytes[100] ^= 1);
    let history = History::default();
    let mut random = fastrand::Rng::with_seed(5);
    let vault = at(place).create().await.unwrap();
    let mut machine = Machine::new("a", 80_000);
    machine.write(&mut random, 0, 60_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    let first = packs(place, "data");
    assert_eq!(first.len(), 1);
    flip(&first[0]);
    let vault = at(place).open().await.unwrap();
    let options = VerifyOptions::default();
    let found = vault.verify(&options, &NoMonitor).await.unwrap();
    assert_eq!(found.damaged, 1, "{found:?}");
    let mut other = Machine::new("b", 80_000);
    other.bytes.clone_from(&machine.bytes);
    history.protect_one(&vault, &mut random, &mut other).await;
    vault.close().await.unwrap();
    let mut second = packs(place, "data");
    second.retain(|path| !first.contains(path));
    assert_eq!(second.len(), 1, "it was sent again");
    flip(&first[0]);
    flip(&second[0]);
    lose_catalogs(place);
    let (vault, report) = rebuild(place).await;
    assert_eq!(report.points.len(), 2, "{report:?}");
    history.check(&vault).await;
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_committed_is_no_point() {
    let script = Arc::new(Script::default());
    let store: Arc<dyn ObjectStore> =
        FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&script) as _);
    let builder =
        || tuned(DedupStore::on(Arc::clone(&store), "vault")).with_takeover(Takeover::Force);
    let mut random = fastrand::Rng::with_seed(6);
    let history = History::default();
    let vault = builder().create().await.unwrap();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    // Its packs are durable, its commit is not.
    script.rule(|request, path| {
        if request == Request::Put && path.contains("/wal/") {
            Action::Fail
        } else {
            Action::Pass
        }
    });
    let mut lost = machine.clone();
    lost.write(&mut random, 50_000, 9_000);
    let lost_history = History::default();
    let failed = lost_history
        .protect(&vault, &mut random, &mut [&mut lost])
        .await;
    assert!(failed.is_err());
    let unreported = lost_history.known().committing[0].id;
    drop(vault);
    script.pass();
    let vault = builder().open().await.unwrap();
    machine.write(&mut random, 150_000, 9_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    let options = RebuildOptions::default();
    let (vault, report) = builder().rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.uncommitted, [(machine.name.clone(), unreported)]);
    history.check(&vault).await;
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_wakes_after_a_rebuild_can_report_nothing() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let builder =
        || tuned(DedupStore::on(Arc::clone(&store), "vault")).with_takeover(Takeover::Force);
    let mut random = fastrand::Rng::with_seed(7);
    let history = History::default();
    let old = builder().create().await.unwrap();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&old, &mut random, &mut machine).await;
    let options = RebuildOptions::default();
    let (vault, report) = builder().rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.points.len(), 1);
    let mut sleeper = machine.clone();
    sleeper.write(&mut random, 1_000, 5_000);
    let woken = History::default();
    let error = woken
        .protect(&old, &mut random, &mut [&mut sleeper])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    // Nor take away what the new one has.
    machine.write(&mut random, 9_000, 70_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let swept = old
        .collect(&backstop_core::CollectOptions::default(), &NoMonitor)
        .await;
    assert!(swept.is_err(), "{swept:?}");
    history.check(&vault).await;
    // A second rebuild fences the first.
    let (third, _) = builder().rebuild(&options, &NoMonitor).await.unwrap();
    machine.write(&mut random, 9_000, 70_000);
    let error = woken
        .protect(&vault, &mut random, &mut [&mut machine.clone()])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    history.check(&third).await;
    third.close().await.unwrap();
}

/// Whatever request it ends at, the vault is the old or the new.
#[tokio::test(start_paused = true)]
async fn a_rebuild_that_ends_anywhere_changes_nothing_and_begins_anew() {
    let mut random = fastrand::Rng::with_seed(8);
    let made = Arc::new(InMemory::new());
    let on = |store: Arc<dyn ObjectStore>| {
        tuned(DedupStore::on(store, "vault")).with_takeover(Takeover::Force)
    };
    let history = History::default();
    let vault = on(Arc::clone(&made) as _).create().await.unwrap();
    let mut machine = Machine::new("a", 300_000);
    for _ in 0..3 {
        machine.write(&mut random, 0, 200_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    vault.close().await.unwrap();
    let options = RebuildOptions::default();
    let mut turn = 0;
    loop {
        let script = Arc::new(Script::default());
        let store = FaultyStore::new(Arc::new(made.fork()), Arc::clone(&script) as _);
        let store: Arc<dyn ObjectStore> = store;
        let writes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&writes);
        script.rule(move |request, path| {
            let writes = request == Request::Put && !path.contains("lease");
            if writes && counted.fetch_add(1, Ordering::SeqCst) >= turn {
                Action::Fail
            } else {
                Action::Pass
            }
        });
        let rebuilt = on(Arc::clone(&store)).rebuild(&options, &NoMonitor).await;
        script.pass();
        let is_done = rebuilt.is_ok();
        let vault = match rebuilt {
            Ok((vault, _)) => vault,
            Err(_) => on(Arc::clone(&store)).open().await.unwrap(),
        };
        history.check(&vault).await;
        let (after, mut machine) = (history.known(), machine.clone());
        machine.write(&mut random, 1_000, 2_000);
        let later = History::default();
        later.change(|known| *known = after);
        later.protect_one(&vault, &mut random, &mut machine).await;
        vault.close().await.unwrap();
        // What was left is swept away by the next.
        let (vault, _) = on(store).rebuild(&options, &NoMonitor).await.unwrap();
        later.check(&vault).await;
        vault.close().await.unwrap();
        if is_done {
            break;
        }
        turn += 1;
    }
    assert!(turn > 4, "too few requests to mean something");
}
