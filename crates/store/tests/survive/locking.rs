//! Locks of a store on the objects of a vault: what is locked, or held, brings
//! back alone what it is locked or held for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::{
    Clock, CollectOptions, CpuPool, Error, ErrorKind, LockMode, LockReport, Maintenance,
    ManualClock, Marks, NoMonitor, PointId, Protection, RebuildOptions, Result, Timestamp,
};
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, LockState, LockedUntil, ObjectLock, Takeover,
    VaultSettings,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::history::{History, Kept, holds};
use crate::images::Machine;
use crate::seeds;

const START: Timestamp = Timestamp(1_700_000_000_000);
const DAY: Duration = Duration::from_hours(24);
const RETENTION: Duration = Duration::from_hours(24 * 8);

/// Locks of objects, as a store keeps them.
#[derive(Debug, Default)]
struct Locked {
    states: Mutex<BTreeMap<Path, LockState>>,
    /// So many calls are answered; then the store does not answer.
    answers: AtomicU32,
    calls: AtomicU32,
}

const ALL: u32 = u32::MAX;

impl Locked {
    fn ask(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let left =
            self.answers
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                    ALL => Some(ALL),
                    left => left.checked_sub(1),
                });
        left.map(drop)
            .map_err(|_| Error::unavailable("the store does not answer"))
    }

    fn states(&self) -> BTreeMap<Path, LockState> {
        self.states.lock().unwrap().clone()
    }

    /// The objects that are locked at least until a date.
    fn until(&self, date: Timestamp) -> Vec<Path> {
        let states = self.states().into_iter();
        let locked = states.filter(|(_, state)| state.locked.is_some_and(|at| at.until >= date));
        locked.map(|(path, _)| path).collect()
    }

    fn held(&self) -> Vec<Path> {
        let held = self.states().into_iter().filter(|(_, state)| state.held);
        held.map(|(path, _)| path).collect()
    }
}

#[async_trait]
impl ObjectLock for Locked {
    async fn lock(&self, object: &Path, to: LockedUntil) -> Result<LockedUntil> {
        self.ask()?;
        let mut states = self.states.lock().unwrap();
        let state = states.entry(object.clone()).or_default();
        match state.locked {
            Some(there) if there.covers(&to) => Ok(there),
            Some(there) if !to.covers(&there) => Err(Error::invalid_input("it is locked firmer")),
            _ => {
                state.locked = Some(to);
                Ok(to)
            }
        }
    }

    async fn set_hold(&self, object: &Path, is_held: bool) -> Result<()> {
        self.ask()?;
        let mut states = self.states.lock().unwrap();
        states.entry(object.clone()).or_default().held = is_held;
        Ok(())
    }

    async fn state(&self, object: &Path) -> Result<LockState> {
        self.ask()?;
        Ok(self.states().get(object).copied().unwrap_or_default())
    }
}

struct Lab {
    store: Arc<InMemory>,
    locks: Arc<Locked>,
    clock: Arc<ManualClock>,
}

impl Lab {
    fn new() -> Self {
        let locks = Arc::<Locked>::default();
        locks.answers.store(ALL, Ordering::SeqCst);
        Self {
            store: Arc::new(InMemory::new()),
            locks,
            clock: Arc::new(ManualClock::at(START)),
        }
    }

    fn on(&self, store: &Arc<InMemory>) -> DedupStoreBuilder {
        let mut settings = VaultSettings::default();
        settings.pack_bytes = 64 << 10;
        DedupStore::on(Arc::clone(store) as _, "vault")
            .with_credential(Credential::key([7; 32]))
            .with_settings(settings)
            .with_cpu_pool(CpuPool::inline())
            .with_clock(Arc::clone(&self.clock) as _)
            .with_takeover(Takeover::Force)
    }

    fn builder(&self) -> DedupStoreBuilder {
        self.on(&self.store)
            .with_object_lock(Arc::clone(&self.locks) as _)
    }

    async fn make(&self, mode: LockMode) -> DedupStore {
        let vault = self.builder().create().await.unwrap();
        vault.set_protection(protection(mode)).await.unwrap();
        vault
    }

    async fn objects(&self) -> Vec<Path> {
        let all: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        all.into_iter().map(|object| object.location).collect()
    }

    /// What these objects bring back, and nothing else.
    async fn rebuilt_from(&self, kept: &[Path]) -> DedupStore {
        let copy = Arc::new(InMemory::new());
        for path in self.objects().await {
            if kept.contains(&path) {
                let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
                copy.put(&path, bytes.into()).await.unwrap();
            }
        }
        let options = RebuildOptions::default();
        let rebuilt = self.on(&copy).rebuild(&options, &NoMonitor).await;
        rebuilt.unwrap().0
    }
}

fn protection(mode: LockMode) -> Protection {
    let mut protection = Protection::default();
    protection.minimum_retention = RETENTION;
    protection.object_lock = Some(mode);
    protection
}

fn held_by(name: &str) -> Marks {
    let mut marks = Marks::default();
    marks.holds.insert(name.to_owned());
    marks
}

async fn play(seed: u64, steps: u32) {
    let _seed = seeds::watch(seed);
    let lab = Lab::new();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut vault = lab.make(LockMode::Governance).await;
    let history = History::default();
    let mut machines = ["a", "b"].map(|name| Machine::new(name, 300_000));
    let mut marked: Vec<Kept> = Vec::new();
    for _ in 0..steps {
        let machine = &mut machines[random.usize(..2)];
        let points = history.known().points;
        match random.u8(..12) {
            0..4 => {
                machine.scribble(&mut random, 3, 80_000);
                history.protect_one(&vault, &mut random, machine).await;
            }
            4 | 5 => {
                let ids: Vec<PointId> = points.iter().map(|kept| kept.id).collect();
                let kept = vault.kept_until(&ids).await.unwrap();
                let heads = machines.each_ref().map(|machine| machine.head);
                let may = ids.iter().zip(kept).filter(|(id, kept)| {
                    let is_marked = marked.iter().any(|marked| marked.id == **id);
                    kept.is_none() && !is_marked && !heads.contains(&Some(**id))
                });
                let chosen: Vec<PointId> = may
                    .map(|(id, _)| *id)
                    .filter(|_| random.u8(..3) > 0)
                    .collect();
                history.expire(&vault, &chosen).await.unwrap();
            }
            6 if !points.is_empty() => {
                let kept = points[random.usize(..points.len())].clone();
                vault.mark(kept.id, held_by("lawsuit")).await.unwrap();
                marked.retain(|marked| marked.id != kept.id);
                marked.push(kept);
            }
            7 if !marked.is_empty() => {
                let at = random.usize(..marked.len());
                let kept = marked.swap_remove(at);
                vault.mark(kept.id, Marks::default()).await.unwrap();
            }
            8 => {
                if random.bool() {
                    vault.close().await.unwrap();
                }
                drop(vault);
                vault = lab.builder().open().await.unwrap();
            }
            9 => {
                // A store that goes away in the middle of it.
                let answers = random.u32(..12);
                lab.locks.answers.store(answers, Ordering::SeqCst);
                let collected = history.collect(&vault).await.unwrap().locks;
                let is_short = lab.locks.answers.swap(ALL, Ordering::SeqCst) == 0;
                assert!(is_short || collected.problem.is_none(), "{collected:?}");
            }
            _ => {
                // Two, so that what waited for a hold to be lifted goes too.
                history.collect(&vault).await.unwrap();
                let report = history.collect(&vault).await.unwrap();
                check(&lab, &history, &marked, &report.locks).await;
                assert_eq!(report.locked.count, 0, "{report:?}");
            }
        }
        lab.clock.advance(Duration::from_hours(random.u64(..48)));
    }
    let report = history.collect(&vault).await.unwrap();
    check(&lab, &history, &marked, &report.locks).await;
    vault.close().await.unwrap();
}

/// What must be so after a collection during which the store answered.
async fn check(lab: &Lab, history: &History, marked: &[Kept], locks: &LockReport) {
    assert_eq!(locks.problem, None);
    assert_eq!((locks.unlocked.count, locks.unheld.count), (0, 0));
    let now = lab.clock.now();
    let most = now.after(RETENTION + RETENTION / 4);
    for (path, state) in lab.locks.states() {
        assert!(state.locked.is_none_or(|at| at.until <= most), "{path}");
    }
    // What is locked for the minimum retention brings every point back.
    let rebuilt = lab
        .rebuilt_from(&lab.locks.until(now.after(RETENTION)))
        .await;
    for kept in &history.known().points {
        holds(&rebuilt, kept).await;
    }
    rebuilt.close().await.unwrap();
    // What is under legal hold brings back what it is held for.
    let held = lab.locks.held();
    if marked.is_empty() {
        assert_eq!(held, []);
        return;
    }
    let rebuilt = lab.rebuilt_from(&held).await;
    for kept in marked {
        holds(&rebuilt, kept).await;
    }
    rebuilt.close().await.unwrap();
    // Nothing is held that is not there: nobody would ever lift it.
    let there = lab.objects().await;
    let packs = held.iter().filter(|path| path.as_ref().contains("/packs/"));
    for path in packs.clone() {
        assert!(there.contains(path), "{path} is held, and was deleted");
    }
    assert_eq!(packs.count() as u64, locks.held.count);
}

#[tokio::test]
async fn what_is_locked_or_held_brings_points_back_alone() {
    for seed in seeds::seeds(8) {
        play(seed, 40).await;
    }
}

#[tokio::test]
async fn locks_become_firmer_and_a_pack_is_locked_anew_once_a_quarter() {
    let lab = Lab::new();
    let vault = lab.make(LockMode::Governance).await;
    let mut random = fastrand::Rng::with_seed(4);
    let history = History::default();
    let mut machine = Machine::new("a", 200_000);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let options = CollectOptions::default();
    let mut renewed = 0;
    let days = 32u32;
    let mut packs = 0;
    for _ in 0..days {
        lab.clock.advance(DAY);
        let locks = vault.collect(&options, &NoMonitor).await.unwrap().locks;
        packs = locks.locked.count;
        renewed += locks.extended.count;
    }
    // At the end of each quarter of the minimum retention of eight days, and
    // not every day.
    let quarters = u64::from(days) / 3 + 1;
    assert!(
        renewed >= packs * 9 && renewed <= packs * (quarters + 1),
        "{renewed} times for {packs} packs"
    );

    let firmer = protection(LockMode::Compliance);
    vault.set_protection(firmer).await.unwrap();
    let weaker = vault.set_protection(protection(LockMode::Governance)).await;
    assert_eq!(weaker.unwrap_err().kind(), ErrorKind::Conflict);
    let locks = vault.lock_objects().await.unwrap();
    // The page that tells of the change came after it.
    assert_eq!(
        (locks.extended.count, locks.locked.count),
        (packs, packs + 1)
    );
    let there = lab.objects().await;
    let states = lab.locks.states();
    for path in there
        .iter()
        .filter(|path| path.as_ref().contains("/packs/"))
    {
        let locked = states[path].locked.unwrap();
        assert_eq!(locked.mode, LockMode::Compliance, "{path}");
    }
    vault.close().await.unwrap();
}

#[tokio::test]
async fn without_what_locks_it_is_told() {
    let lab = Lab::new();
    let vault = lab.on(&lab.store).create().await.unwrap();
    let refused = vault.set_protection(protection(LockMode::Compliance)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(vault.protection().await.unwrap(), Protection::default());
    let seen = vault.lock_objects().await.unwrap();
    assert_eq!(seen, LockReport::default());
    vault.close().await.unwrap();

    let vault = lab.builder().open().await.unwrap();
    vault
        .set_protection(protection(LockMode::Compliance))
        .await
        .unwrap();
    vault.close().await.unwrap();
    // By somebody who does not know of it.
    let vault = lab.on(&lab.store).open().await.unwrap();
    let history = History::default();
    let mut random = fastrand::Rng::with_seed(5);
    let mut machine = Machine::new("a", 100_000);
    machine.write(&mut random, 0, 100_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let locks = history.collect(&vault).await.unwrap().locks;
    assert!(locks.unlocked.count > 0 && locks.extended.count == 0);
    assert!(locks.problem.unwrap().contains("locks no objects"));
    vault.close().await.unwrap();
    let vault = lab.builder().open().await.unwrap();
    let locks = history.collect(&vault).await.unwrap().locks;
    assert_eq!(locks.unlocked.count, 0);
    vault.close().await.unwrap();
}

#[tokio::test]
async fn a_rebuild_finds_holds_again_and_lifts_what_none_needs() {
    let lab = Lab::new();
    let vault = lab.make(LockMode::Governance).await;
    let mut random = fastrand::Rng::with_seed(6);
    let history = History::default();
    let mut machine = Machine::new("a", 300_000);
    machine.write(&mut random, 0, 300_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let point = history.known().points[0].clone();
    vault.mark(point.id, held_by("lawsuit")).await.unwrap();
    let locks = vault.lock_objects().await.unwrap();
    assert!(locks.held.count > 0);
    vault.close().await.unwrap();
    let options = RebuildOptions::default();
    let (vault, _) = lab.builder().rebuild(&options, &NoMonitor).await.unwrap();
    let again = vault.lock_objects().await.unwrap();
    assert_eq!((again.held, again.problem), (locks.held, None));
    vault.mark(point.id, Marks::default()).await.unwrap();
    vault.lock_objects().await.unwrap();
    assert_eq!(lab.locks.held(), []);
    vault.close().await.unwrap();
}
