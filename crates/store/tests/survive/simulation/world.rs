//! The vault of a simulation, its owners, the weather, and what happened.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop_core::{CpuPool, Error, ErrorKind, ManualClock, NoMonitor, PointId, RebuildOptions};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;

use crate::faults::{Action, Policy, Request};
use crate::history::{History, Kept};
use crate::model::Restless;

/// Fails requests now and then while it is asked to, and notes all of them.
#[derive(Debug)]
pub(super) struct Weather {
    seed: u64,
    order: Restless,
    is_bad: AtomicBool,
    storms: AtomicU64,
    failed: AtomicU64,
    noted: Option<Mutex<Vec<String>>>,
}

impl Weather {
    pub(super) fn new(seed: u64, notes: bool) -> Arc<Self> {
        Arc::new(Self {
            seed,
            order: Restless::new(seed),
            is_bad: false.into(),
            storms: 0.into(),
            failed: 0.into(),
            noted: notes.then(Mutex::default),
        })
    }

    pub(super) fn turn(&self, is_bad: bool) {
        let was_bad = self.is_bad.swap(is_bad, Ordering::SeqCst);
        if is_bad && !was_bad {
            self.storms.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// What was asked of the store, in order.
    pub(super) fn noted(&self) -> Vec<String> {
        let noted = self.noted.as_ref();
        noted.map_or_else(Vec::new, |noted| noted.lock().unwrap().clone())
    }
}

impl Policy for Weather {
    fn arrive(&self, request: Request, path: &str, length: u64) -> (u64, u32) {
        if let Some(noted) = &self.noted {
            let mut noted = noted.lock().unwrap();
            noted.push(format!("{request:?} {path} {length}"));
        }
        self.order.arrive(request, path, length)
    }

    fn decide(&self, number: u64, _: Request, _: &str) -> Action {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (number ^ 0xfa11) << 20);
        if !self.is_bad.load(Ordering::SeqCst) || random.u32(..100) >= 4 {
            return Action::Pass;
        }
        self.failed.fetch_add(1, Ordering::SeqCst);
        if random.bool() {
            Action::Fail
        } else {
            Action::FailAfter
        }
    }
}

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) points: u64,
    pub(super) expired: u64,
    pub(super) folds: u64,
    pub(super) restores: u64,
    /// Reads that went on after their point had expired.
    pub(super) read_on: u64,
    /// Collections that deleted packs.
    pub(super) collections: u64,
    pub(super) verifications: u64,
    pub(super) replicated: u64,
    pub(super) overridden: u64,
    pub(super) woken: u64,
    pub(super) rebuilds: u64,
    pub(super) storms: u64,
    pub(super) failed_requests: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        let pairs = self.each().into_iter().zip(other.each());
        for ((_, mine), (_, theirs)) in pairs {
            *mine += *theirs;
        }
    }

    fn each(&mut self) -> [(&'static str, &mut u64); 13] {
        [
            ("points", &mut self.points),
            ("expired", &mut self.expired),
            ("folds", &mut self.folds),
            ("restores", &mut self.restores),
            ("read_on", &mut self.read_on),
            ("collections", &mut self.collections),
            ("verifications", &mut self.verifications),
            ("replicated", &mut self.replicated),
            ("overridden", &mut self.overridden),
            ("woken", &mut self.woken),
            ("rebuilds", &mut self.rebuilds),
            ("storms", &mut self.storms),
            ("failed_requests", &mut self.failed_requests),
        ]
    }

    /// What never happened.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let mut all = self.clone();
        let missing = all.each().into_iter().filter(|(_, count)| **count == 0);
        missing.map(|(name, _)| name).collect()
    }
}

/// The vault and who works on it.
pub(super) struct World {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) weather: Arc<Weather>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) seed: u64,
    /// The owner, and how many there were before.
    pub(super) owner: RefCell<DedupStore>,
    pub(super) reign: Cell<u64>,
    /// Owners that were overridden.
    pub(super) asleep: RefCell<Vec<DedupStore>>,
    pub(super) histories: RefCell<Vec<History>>,
    /// One takes over at a time: two would override each other without end.
    pub(super) crowning: tokio::sync::Mutex<()>,
    /// Machines that are not done.
    pub(super) busy: Cell<usize>,
    /// Points that a rebuild brought back though their commit failed half way:
    /// never reported, and not whole.
    pub(super) half_made: RefCell<HashSet<PointId>>,
    /// How often the clock was set.
    pub(super) jumps: Cell<u64>,
    pub(super) tally: RefCell<Tally>,
}

pub(super) fn builder(
    store: &Arc<dyn ObjectStore>,
    clock: &Arc<ManualClock>,
    seed: u64,
    key: u8,
) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 64 << 10;
    settings.checkpoint_bytes = if seed.is_multiple_of(2) {
        60 << 10
    } else {
        u64::MAX
    };
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([key; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::clone(clock) as _)
        .with_takeover(Takeover::Force)
}

/// Errors that a store that fails, or an owner that is overridden, explains.
pub(super) fn is_weather(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Cancelled
    )
}

impl World {
    pub(super) fn owner(&self) -> (DedupStore, u64) {
        (self.owner.borrow().clone(), self.reign.get())
    }

    pub(super) fn builder(&self) -> DedupStoreBuilder {
        builder(&self.store, &self.clock, self.seed, 7)
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Tally)) {
        what(&mut self.tally.borrow_mut());
    }

    fn was_reported(&self, id: PointId) -> bool {
        let histories = self.histories.borrow();
        let mut known = histories.iter().flat_map(|history| history.known().points);
        known.any(|kept| kept.id == id)
    }

    pub(super) fn is_half_made(&self, id: PointId) -> bool {
        self.half_made.borrow().contains(&id)
    }

    /// What happened in all.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = self.tally.borrow().clone();
        tally.storms = self.weather.storms.load(Ordering::SeqCst);
        tally.failed_requests = self.weather.failed.load(Ordering::SeqCst);
        tally
    }

    /// A new owner takes over; the old one sleeps.
    pub(super) async fn override_owner(&self, rebuild: bool) {
        let _one = self.crowning.lock().await;
        self.crown(rebuild).await;
    }

    async fn crown(&self, rebuild: bool) {
        let mut failures = 0;
        let opened = loop {
            let opened = if rebuild {
                let options = RebuildOptions::default();
                let rebuilt = self.builder().rebuild(&options, &NoMonitor).await;
                rebuilt.map(|(vault, report)| {
                    assert!(report.lost.is_empty(), "{report:?}");
                    for (_, id) in &report.damaged {
                        assert!(!self.was_reported(*id), "{id}: {report:?}");
                        self.half_made.borrow_mut().insert(*id);
                    }
                    self.count(|tally| tally.rebuilds += 1);
                    vault
                })
            } else {
                self.builder().open().await
            };
            match opened {
                Ok(vault) => break vault,
                Err(error) => assert!(is_weather(&error), "opening: {error}"),
            }
            failures += 1;
            if failures > 2 {
                // Storms end.
                self.weather.turn(false);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.count(|tally| tally.overridden += 1);
        let old = self.owner.replace(opened);
        self.reign.set(self.reign.get() + 1);
        self.asleep.borrow_mut().push(old);
    }

    /// Somebody found the owner in doubt or overridden.
    pub(super) async fn replace(&self, reign: u64) {
        let _one = self.crowning.lock().await;
        if self.reign.get() == reign {
            self.crown(false).await;
        }
    }

    /// Some point that is known, if there is one.
    pub(super) fn some_point(&self, random: &mut fastrand::Rng) -> Option<(Kept, History)> {
        let histories = self.histories.borrow();
        let history = &histories[random.usize(..histories.len())];
        let points = history.known().points;
        let kept = points.get(random.usize(..points.len().max(1)))?.clone();
        Some((kept, history.clone()))
    }
}
