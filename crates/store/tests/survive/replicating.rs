//! Replication to a second vault: nothing but what it lacks travels, both ends
//! agree, and whatever breaks, another run goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::{
    ByteCount, ErrorKind, InconsistencyReason, Maintenance, ManualClock, Marks, NoMonitor, PointId,
    PointKind, RebuildOptions, RecoveryStore, ReplicaState, ReplicateOptions, ReplicateReport,
    SourceName, Timestamp, VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::{History, holds};
use crate::images::{self, Machine};
use crate::seeds;

fn on(store: &Arc<dyn ObjectStore>, key: u8) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 256 << 10;
    settings.checkpoint_bytes = 200 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([key; 32]))
        .with_settings(settings)
        .with_takeover(Takeover::Force)
        .with_clock(Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))))
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A vault with machines that are protected, and another one.
struct Lab {
    here: DedupStore,
    there: DedupStore,
    stores: [Arc<dyn ObjectStore>; 2],
    history: History,
    random: fastrand::Rng,
    machines: Vec<Machine>,
}

impl Lab {
    async fn new(seed: u64, lengths: &[usize]) -> Self {
        Self::on(seed, lengths, [memory(), memory()]).await
    }

    async fn on(seed: u64, lengths: &[usize], stores: [Arc<dyn ObjectStore>; 2]) -> Self {
        let here = on(&stores[0], 1).create().await.unwrap();
        let there = on(&stores[1], 2).create().await.unwrap();
        let names = ["a", "b", "c"].iter().zip(lengths);
        Self {
            here,
            there,
            stores,
            history: History::default(),
            random: fastrand::Rng::with_seed(seed),
            machines: names
                .map(|(name, length)| Machine::new(name, *length))
                .collect(),
        }
    }

    async fn protect(&mut self, at: usize, changes: usize, longest: usize) -> PointId {
        let machine = &mut self.machines[at];
        machine.scribble(&mut self.random, changes, longest);
        self.history
            .protect_one(&self.here, &mut self.random, machine)
            .await;
        machine.head.unwrap()
    }

    async fn replicate(&self) -> ReplicateReport {
        let options = ReplicateOptions::default();
        let report = self.here.replicate(&self.there, &options, &NoMonitor).await;
        report.unwrap()
    }

    /// Every point of the first vault is in the second, and holds the same.
    async fn check(&self) {
        for kept in self.history.known().points {
            holds(&self.there, &kept).await;
        }
        let agreement = self.here.agrees_with(&self.there).await.unwrap();
        assert!(agreement.different.is_empty(), "{agreement:?}");
        assert_eq!(agreement.only_here, 0, "{agreement:?}");
    }

    async fn state_there(&self, at: usize) -> ReplicaState {
        let name = &self.machines[at].name;
        self.there.replica(name).await.unwrap().unwrap().state
    }

    async fn stored(vault: &DedupStore) -> u64 {
        vault.statistics().await.unwrap().stored_bytes.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_vault_lacks_is_sent_and_nothing_else() {
    let mut lab = Lab::new(1, &[9_000_000]).await;
    lab.protect(0, 30, 400_000).await;
    let past = lab.machines[0].bytes.clone();
    for _ in 0..29 {
        lab.protect(0, 4, 9_000).await;
    }
    let dry = {
        let mut options = ReplicateOptions::default();
        options.dry_run = true;
        lab.here.replicate(&lab.there, &options, &NoMonitor).await
    };
    let first = lab.replicate().await;
    assert_eq!(dry.unwrap().points, first.points);
    assert_eq!(first.points.len(), 30, "{first:?}");
    assert!(first.damaged.is_empty());
    lab.check().await;
    lab.here.close().await.unwrap();
    lab.here = on(&lab.stores[0], 1).open().await.unwrap();
    let stored = Lab::stored(&lab.here).await;
    let share = |sent: u64, of: u64| sent * 1000 / of.max(1);
    let sent = first.bytes_sent.0;
    assert!(share(sent, stored) <= 1050, "{first:?} of {stored}");
    assert!(
        share(first.bytes_added.0, stored) <= 1100,
        "{first:?} of {stored}"
    );

    let head = lab.protect(0, 4, 9_000).await;
    let own = lab.here.point(head).await.unwrap().bytes_added.unwrap();
    let one = lab.replicate().await;
    assert_eq!(one.points.len(), 1);
    assert_eq!(one.held, 30);
    assert!(share(one.bytes_sent.0, own.0) <= 1100, "{one:?} of {own}");
    assert!(share(one.bytes_added.0, own.0) <= 1100, "{one:?} of {own}");
    let none = lab.replicate().await;
    assert_eq!((none.points.len(), none.bytes_sent), (0, ByteCount(0)));
    // What it was before, the other vault has.
    lab.machines[0].revert(&past);
    lab.protect(0, 0, 1).await;
    let back = lab.replicate().await;
    assert!(back.regions > 0, "{back:?}");
    assert_eq!(
        (back.chunks, back.bytes_sent),
        (0, ByteCount(0)),
        "{back:?}"
    );
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_keep_what_they_are_and_an_agent_goes_on_at_the_other_vault() {
    let mut lab = Lab::new(2, &[600_000, 300_000]).await;
    let first = lab.protect(0, 5, 90_000).await;
    let marks = Marks {
        pinned: true,
        holds: ["a lawsuit".to_owned()].into(),
    };
    lab.here.mark(first, marks).await.unwrap();
    lab.protect(0, 2, 5_000).await;
    // Several that belong together.
    let mut group: Vec<_> = lab.machines.iter_mut().collect();
    for machine in &mut group {
        machine.scribble(&mut lab.random, 2, 8_000);
    }
    lab.history
        .protect(&lab.here, &mut lab.random, &mut group)
        .await
        .unwrap();
    // The smallest budget takes groups whole.
    let mut options = ReplicateOptions::default();
    options.most_points = Some(1);
    for _ in 0..2 {
        let report = lab.here.replicate(&lab.there, &options, &NoMonitor).await;
        assert!(report.unwrap().is_partial);
    }
    let report = lab.here.replicate(&lab.there, &options, &NoMonitor).await;
    let report = report.unwrap();
    assert_eq!((report.points.len(), report.is_partial), (2, false));
    lab.check().await;
    for kept in lab.history.known().points {
        let here = lab.here.point(kept.id).await.unwrap();
        let mut there = lab.there.point(kept.id).await.unwrap();
        let origin = there.provenance.remove("backstop.replicated-from");
        assert_eq!(origin, Some(format!("{}:{}", lab.here.id(), here.sequence)));
        assert_eq!(here.marks, there.marks);
        assert_eq!((here.time, here.kind), (there.time, there.kind));
        assert_eq!(here.synchronization, there.synchronization);
        assert_eq!(here.counts, there.counts);
        assert_eq!(here.provenance, there.provenance);
    }
    // The first vault is lost. The agent goes on where it was.
    let machine = &mut lab.machines[0];
    machine.scribble(&mut lab.random, 1, 4_000);
    lab.history
        .protect_one(&lab.there, &mut lab.random, machine)
        .await;
    let head = lab.machines[0].head.unwrap();
    let point = lab.there.point(head).await.unwrap();
    assert_eq!(point.kind, PointKind::ExpressFull);
    // From now on the two have gone their own ways, and the way back is open.
    let refused = lab
        .here
        .replicate(&lab.there, &ReplicateOptions::default(), &NoMonitor)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    let back = lab
        .there
        .replicate(&lab.here, &ReplicateOptions::default(), &NoMonitor)
        .await
        .unwrap();
    assert_eq!(back.points.len(), 1);
    lab.history.check(&lab.here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_carried_goes_on_from_where_it_was() {
    let mut lab = Lab::new(3, &[900_000]).await;
    for _ in 0..3 {
        lab.protect(0, 3, 90_000).await;
    }
    lab.replicate().await;
    // From the disk that was carried into the vault that stays there.
    let far: Arc<dyn ObjectStore> = memory();
    let far = on(&far, 3).create().await.unwrap();
    let options = ReplicateOptions::default();
    lab.there
        .replicate(&far, &options, &NoMonitor)
        .await
        .unwrap();
    let id = lab.protect(0, 2, 5_000).await;
    let report = lab.here.replicate(&far, &options, &NoMonitor).await;
    let report = report.unwrap();
    assert_eq!(report.points, [(lab.machines[0].name.clone(), id)]);
    assert_eq!(report.held, 3);
    lab.history.check(&far).await;
    // What the other's policy let go is not brought back.
    let first = lab.history.known().points[0].id;
    far.expire(&[first]).await.unwrap();
    let report = lab.here.replicate(&far, &options, &NoMonitor).await;
    assert_eq!(report.unwrap().passed_over, 1);
    // What was copied goes on from there, though both others have let it go.
    let before = lab.protect(0, 2, 5_000).await;
    for vault in [&lab.here, &lab.there] {
        let name = &lab.machines[0].name;
        let points = vault.points(name).await.unwrap();
        let old: Vec<_> = points.iter().rev().skip(1).map(|point| point.id).collect();
        vault.expire(&old).await.unwrap();
    }
    lab.protect(0, 2, 5_000).await;
    lab.here.expire(&[before]).await.unwrap();
    let report = lab.here.replicate(&far, &options, &NoMonitor).await;
    assert_eq!(report.unwrap().points.len(), 1);
    holds(&far, lab.history.known().points.last().unwrap()).await;
    let unknown = ReplicateOptions::default();
    let mut unknown = unknown.clone();
    unknown.sources = vec![SourceName::new("nobody").unwrap()];
    let missing = lab.here.replicate(&far, &unknown, &NoMonitor).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let itself = lab.here.replicate(&lab.here, &options, &NoMonitor).await;
    assert_eq!(itself.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn a_replication_broken_at_any_write_goes_on() {
    let seed = seeds::seeds(1)[0];
    let _seed = seeds::watch(seed);
    let script = Arc::new(Script::default());
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&script) as _);
    let stores: [Arc<dyn ObjectStore>; 2] = [memory(), faulty];
    let mut lab = Lab::on(seed, &[5_000_000, 400_000], stores).await;
    for _ in 0..3 {
        lab.protect(0, 6, 200_000).await;
        lab.protect(1, 3, 90_000).await;
    }
    let options = ReplicateOptions::default();
    let mut broken = 0;
    loop {
        let left = Arc::new(AtomicU64::new(broken % 7));
        let counted = Arc::clone(&left);
        script.rule(move |request, path| {
            let writes = request == Request::Put && !path.contains("lease");
            let less = |left: u64| left.checked_sub(1);
            let order = Ordering::SeqCst;
            if writes && counted.fetch_update(order, order, less).is_err() {
                Action::Fail
            } else {
                Action::Pass
            }
        });
        let done = lab.here.replicate(&lab.there, &options, &NoMonitor).await;
        script.pass();
        // What is there is whole, each time.
        let there = on(&lab.stores[1], 2).open().await.unwrap();
        for kept in lab.history.known().points {
            match there.point(kept.id).await {
                Ok(_) => holds(&there, &kept).await,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
            }
        }
        lab.there = there;
        if done.is_ok_and(|report| report.points.is_empty()) {
            break;
        }
        broken += 1;
        assert!(broken < 400, "it does not come forward");
    }
    assert!(broken > 3, "nothing broke");
    lab.check().await;
    // It can be rebuilt as any other.
    let options = RebuildOptions::default();
    let rebuilt = on(&lab.stores[1], 2).rebuild(&options, &NoMonitor).await;
    let (there, report) = rebuilt.unwrap();
    assert_eq!(report.points.len(), 6, "{report:?}");
    lab.there = there;
    lab.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_stops_no_other_point_and_is_healed_from_the_other_vault() {
    let folder = tempfile::tempdir().unwrap();
    let local = || {
        let mut settings = VaultSettings::default();
        settings.pack_bytes = 96 << 10;
        DedupStore::at(folder.path().to_str().unwrap())
            .with_credential(Credential::key([9; 32]))
            .with_settings(settings)
    };
    let mut lab = Lab::new(5, &[700_000, 200_000]).await;
    lab.protect(0, 4, 90_000).await;
    lab.protect(1, 4, 40_000).await;
    lab.protect(0, 1, 5_000).await;
    let second = local().create().await.unwrap();
    let options = ReplicateOptions::default();
    lab.here
        .replicate(&second, &options, &NoMonitor)
        .await
        .unwrap();
    second.close().await.unwrap();
    // One byte of each pack, also of maps.
    let packs = std::fs::read_dir(folder.path().join("packs")).unwrap();
    let mut flipped = 0;
    for pack in packs {
        images::change(&pack.unwrap().path(), |bytes| {
            bytes[80] ^= 1;
            flipped += 1;
        });
    }
    let second = local().open().await.unwrap();
    let verify = VerifyOptions::default();
    let found = second.verify(&verify, &NoMonitor).await.unwrap();
    assert_eq!(found.damaged, flipped, "{found:?}");

    // What is damaged is told, and the rest goes on.
    let third = on(&memory(), 4).create().await.unwrap();
    let report = second.replicate(&third, &options, &NoMonitor).await;
    let report = report.unwrap();
    assert!(!report.damaged.is_empty(), "{report:?}");

    let healed = second.heal_from(&lab.here).await.unwrap();
    assert_eq!((healed.healed, healed.left), (flipped, 0), "{healed:?}");
    lab.history.check(&second).await;
    second.close().await.unwrap();
    let second = local().open().await.unwrap();
    lab.history.check(&second).await;
    let found = second.verify(&verify, &NoMonitor).await.unwrap();
    assert_eq!(found.damaged, 0, "{found:?}");
    assert_eq!(found.points, []);
    // A pack that is gone, too.
    second.close().await.unwrap();
    for ending in ["data", "map"] {
        let packs = std::fs::read_dir(folder.path().join("packs")).unwrap();
        let paths = packs.map(|pack| pack.unwrap().path());
        let mut packs: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|is| is == ending))
            .collect();
        packs.sort();
        std::fs::remove_file(&packs[0]).unwrap();
    }
    let second = local().open().await.unwrap();
    let found = second.verify(&verify, &NoMonitor).await.unwrap();
    assert!(found.damaged > 0, "{found:?}");
    let healed = second.heal_from(&lab.here).await.unwrap();
    assert_eq!(healed.left, 0, "{healed:?}");
    lab.history.check(&second).await;
}

/// What the other vault found out about its own data is not undone in passing.
#[tokio::test(flavor = "multi_thread")]
async fn doubt_of_the_other_vault_ends_by_a_point_that_is_copied_whole() {
    let mut lab = Lab::new(6, &[700_000]).await;
    lab.protect(0, 6, 90_000).await;
    lab.replicate().await;
    lab.there.close().await.unwrap();
    let folder = Path::from("vault/packs");
    let packs: Vec<_> = lab.stores[1]
        .list(Some(&folder))
        .try_collect()
        .await
        .unwrap();
    for pack in packs {
        if pack.location.as_ref().contains(".data") {
            let bytes = lab.stores[1].get(&pack.location).await.unwrap();
            let mut bytes = bytes.bytes().await.unwrap().to_vec();
            bytes[200] ^= 1;
            lab.stores[1]
                .put(&pack.location, bytes.into())
                .await
                .unwrap();
        }
    }
    lab.there = on(&lab.stores[1], 2).open().await.unwrap();
    let name = lab.machines[0].name.clone();
    let doubt = |reason| ReplicaState::Inconsistent {
        reason,
        since: Timestamp(1_700_000_000_000),
    };
    let damaged = doubt(InconsistencyReason::Damaged);
    lab.there.set_state(&name, damaged.clone()).await.unwrap();
    // There is nothing new: it stays, and is told.
    let report = lab.replicate().await;
    assert_eq!(report.in_doubt, std::slice::from_ref(&name), "{report:?}");
    assert_eq!(lab.state_there(0).await, damaged);
    lab.protect(0, 1, 3_000).await;
    let report = lab.replicate().await;
    assert_eq!(report.points.len(), 1, "{report:?}");
    assert_eq!((report.in_doubt.len(), report.damaged.len()), (0, 0));
    assert_eq!(lab.state_there(0).await, ReplicaState::Consistent);
    let newest = lab.history.known().points.pop().unwrap();
    holds(&lab.there, &newest).await;
    lab.there.close().await.unwrap();
    lab.there = on(&lab.stores[1], 2).open().await.unwrap();
    holds(&lab.there, &newest).await;

    // What an agent told there, this vault knows nothing of: a point that was
    // not checked does not end it.
    let missed = doubt(InconsistencyReason::TrackerMissedChanges);
    lab.there.set_state(&name, missed.clone()).await.unwrap();
    lab.protect(0, 1, 3_000).await;
    let report = lab.replicate().await;
    assert_eq!(report.in_doubt, std::slice::from_ref(&name), "{report:?}");
    assert_eq!(lab.state_there(0).await, missed);
    // Doubt of this vault comes over.
    let consistent = ReplicaState::Consistent;
    lab.there.set_state(&name, consistent).await.unwrap();
    lab.here.set_state(&name, missed.clone()).await.unwrap();
    let report = lab.replicate().await;
    assert_eq!(report.in_doubt, []);
    assert_eq!(lab.state_there(0).await, missed);
}
