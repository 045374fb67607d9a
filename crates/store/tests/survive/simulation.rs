//! The whole of a vault's life at once, under a seed: machines that synchronize,
//! expire and fold, restores, verification, collection and replication beside
//! them, on a store that fails requests, with owners that are suspended and wake,
//! rebuilds, and a clock that is set forwards and back. Everything runs on one
//! thread and on paused time, so that a seed replays.
//!
//! What must hold: a point that was reported exists and holds its bytes; what is
//! read is never wrong; a collection takes nothing that is needed; an owner that
//! was overridden reports nothing more; nothing is found damaged.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop_core::{
    Clock, CollectOptions, CpuPool, Deduplication, Error, ErrorKind, FoldOptions, Maintenance,
    ManualClock, NoMonitor, RebuildOptions, RecoveryStore, ReplicateOptions, Timestamp,
    VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use futures::future::join_all;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::history::{History, Kept};
use crate::images::{self, Machine};
use crate::model::Restless;
use crate::seeds;

/// Fails requests now and then while it is asked to.
#[derive(Debug)]
struct Weather {
    seed: u64,
    order: Restless,
    is_bad: AtomicBool,
}

impl Policy for Weather {
    fn arrive(&self, request: Request, path: &str) -> (u64, u32) {
        self.order.arrive(request, path)
    }

    fn decide(&self, number: u64, _: Request, _: &str) -> Action {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (number ^ 0xfa11) << 20);
        if !self.is_bad.load(Ordering::SeqCst) || random.u32(..100) >= 4 {
            Action::Pass
        } else if random.bool() {
            Action::Fail
        } else {
            Action::FailAfter
        }
    }
}

/// One machine, its points, and whether something was left unanswered.
struct Actor {
    machine: Machine,
    history: History,
    random: fastrand::Rng,
    /// The owner under which it last settled what was unanswered.
    settled: u64,
}

/// The vault and who works on it.
struct World {
    store: Arc<dyn ObjectStore>,
    weather: Arc<Weather>,
    clock: Arc<ManualClock>,
    seed: u64,
    /// The owner, and how many there were before.
    owner: RefCell<DedupStore>,
    reign: Cell<u64>,
    /// Owners that were overridden.
    asleep: RefCell<Vec<DedupStore>>,
    histories: RefCell<Vec<History>>,
    /// One takes over at a time: two would override each other without end.
    crowning: tokio::sync::Mutex<()>,
    /// Machines that are not done.
    busy: Cell<usize>,
}

fn builder(
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
    settings.memory.nodes = 8 << 10;
    settings.memory.tables = 8 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([key; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::clone(clock) as _)
        .with_takeover(Takeover::Force)
}

/// Errors that a store that fails, or an owner that is overridden, explains.
fn is_weather(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unavailable | ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::Cancelled
    )
}

impl World {
    fn owner(&self) -> (DedupStore, u64) {
        (self.owner.borrow().clone(), self.reign.get())
    }

    fn builder(&self) -> DedupStoreBuilder {
        builder(&self.store, &self.clock, self.seed, 7)
    }

    /// A new owner takes over; the old one sleeps.
    async fn override_owner(&self, rebuild: bool) {
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
                self.weather.is_bad.store(false, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let old = self.owner.replace(opened);
        self.reign.set(self.reign.get() + 1);
        self.asleep.borrow_mut().push(old);
    }

    /// Somebody found the owner in doubt or overridden.
    async fn replace(&self, reign: u64) {
        let _one = self.crowning.lock().await;
        if self.reign.get() == reign {
            self.crown(false).await;
        }
    }

    /// Some point that is known, if there is one.
    fn some_point(&self, random: &mut fastrand::Rng) -> Option<(Kept, History)> {
        let histories = self.histories.borrow();
        let history = &histories[random.usize(..histories.len())];
        let points = history.known().points;
        let kept = points.get(random.usize(..points.len().max(1)))?.clone();
        Some((kept, history.clone()))
    }
}

async fn pause(random: &mut fastrand::Rng) {
    for _ in 0..random.u32(..30) {
        tokio::task::yield_now().await;
    }
    if random.u32(..4) == 0 {
        tokio::time::sleep(Duration::from_millis(random.u64(1..3_000))).await;
    }
}

/// A machine's life: changes, synchronizations, expiry, folding.
async fn live(world: &World, mut actor: Actor, steps: u32) -> Actor {
    for _ in 0..steps {
        pause(&mut actor.random).await;
        let (vault, reign) = world.owner();
        if actor.settled != reign && !settle(world, &mut actor, &vault).await {
            world.replace(reign).await;
            continue;
        }
        actor.settled = reign;
        actor.machine.scribble(&mut actor.random, 3, 40_000);
        let done = match actor.random.u8(..10) {
            0 | 1 => {
                let points = actor.history.known().points;
                let old = points.iter().map(|kept| kept.id);
                let old: Vec<_> = old
                    .filter(|id| Some(*id) != actor.machine.head)
                    .filter(|_| actor.random.bool())
                    .collect();
                actor.history.expire(&vault, &old).await
            }
            2 => {
                let mut options = FoldOptions::default();
                options.worth = 110;
                let folded = vault.fold(&actor.machine.name, &options, &NoMonitor).await;
                match folded {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    folded => folded.map(drop),
                }
            }
            3 => {
                let begin = actor.machine.begin(&mut actor.random);
                match vault.begin(begin).await {
                    Ok(writer) => {
                        let sent = images::send(&*writer, &actor.machine).await;
                        if actor.random.bool() {
                            sent.and(writer.abort().await)
                        } else {
                            sent
                        }
                    }
                    Err(error) => Err(error),
                }
            }
            _ => {
                let mut group = [&mut actor.machine];
                let protected = actor.history.protect(&vault, &mut actor.random, &mut group);
                protected.await.map(drop)
            }
        };
        if let Err(error) = done {
            assert!(is_weather(&error), "{}: {error}", actor.machine.name);
            // What became of it is asked under a new owner.
            actor.settled = u64::MAX;
            world.replace(reign).await;
        }
    }
    world.busy.set(world.busy.get() - 1);
    actor
}

/// Finds out what became of what was not answered; tells whether it could.
async fn settle(world: &World, actor: &mut Actor, vault: &DedupStore) -> bool {
    let reign = world.reign.get();
    match actor.history.settle_with(vault).await {
        Ok(()) => {}
        Err(error) => {
            assert!(is_weather(&error), "settling: {error}");
            return false;
        }
    }
    // A rebuild brings back what no page of the ledger told of yet.
    let listed = match vault.points(&actor.machine.name).await {
        Ok(listed) => listed,
        Err(error) => {
            assert!(is_weather(&error), "listing: {error}");
            return false;
        }
    };
    let known = actor.history.known().points;
    let there = |id| known.iter().any(|kept| kept.id == id);
    if world.reign.get() == reign {
        for kept in &known {
            let is_listed = listed.iter().any(|point| point.id == kept.id);
            assert!(is_listed, "point {} of {} is gone", kept.id, kept.source);
        }
    }
    let back: Vec<_> = listed
        .iter()
        .map(|point| point.id)
        .filter(|id| !there(*id))
        .collect();
    if !back.is_empty()
        && let Err(error) = vault.expire(&back).await
    {
        assert!(is_weather(&error), "expiring again: {error}");
        return false;
    }
    actor.history.catch_up(&mut actor.machine);
    true
}

/// Reads points, through the owner and beside it.
async fn restore(world: &World, mut random: fastrand::Rng, beside: bool) {
    while world.busy.get() > 0 {
        pause(&mut random).await;
        let Some((kept, history)) = world.some_point(&mut random) else {
            continue;
        };
        let (vault, reign) = world.owner();
        let vault = if beside {
            match world.builder().open_read_only().await {
                Ok(vault) => vault,
                Err(error) => {
                    assert!(is_weather(&error), "opening to read: {error}");
                    continue;
                }
            }
        } else {
            vault
        };
        let read = images::read_back(&vault, kept.id).await;
        let is_known = history.known().points.iter().any(|now| now.id == kept.id);
        match read {
            Ok(bytes) => assert!(bytes[..] == kept.image[..], "{} is wrong", kept.id),
            // A reader that slept while the clock jumped, or one of an owner that
            // was overridden, may find packs gone; and what has expired meanwhile.
            Err(error) => assert!(
                is_weather(&error) || !is_known || beside || world.reign.get() != reign,
                "reading {}: {error}",
                kept.id
            ),
        }
        if beside {
            let _ = vault.close().await;
        }
    }
}

/// Collects and verifies.
async fn care(world: &World, mut random: fastrand::Rng) {
    while world.busy.get() > 0 {
        pause(&mut random).await;
        let (vault, reign) = world.owner();
        let ended = if random.bool() {
            let mut options = CollectOptions::default();
            options.most_dead = random.u8(..30);
            options.most_requests = random.bool().then(|| random.u64(1..60));
            let collected = vault.collect(&options, &NoMonitor).await;
            collected.map(|report| assert_eq!(report.unreadable.count, 0, "{report:?}"))
        } else {
            let verified = vault.verify(&VerifyOptions::default(), &NoMonitor).await;
            verified.map(|report| {
                let is_owner = world.reign.get() == reign;
                assert!(
                    !is_owner || (report.damaged == 0 && report.ranges.is_empty()),
                    "{report:?}"
                );
            })
        };
        if let Err(error) = ended {
            let is_old = world.reign.get() != reign;
            assert!(is_weather(&error) || is_old, "care: {error}");
            if error.kind() != ErrorKind::Conflict {
                world.replace(reign).await;
            }
        }
    }
}

/// Copies to a second vault.
async fn replicate(world: &World, second: &DedupStore, mut random: fastrand::Rng) {
    let mut options = ReplicateOptions::default();
    options.most_points = Some(2);
    while world.busy.get() > 0 {
        pause(&mut random).await;
        let (vault, reign) = world.owner();
        match vault.replicate(second, &options, &NoMonitor).await {
            Ok(report) => assert!(
                report.damaged.is_empty() || world.reign.get() != reign,
                "{report:?}"
            ),
            Err(error) => {
                let gone = [ErrorKind::NotFound, ErrorKind::Corrupt].contains(&error.kind());
                assert!(is_weather(&error) || gone, "replicating: {error}");
            }
        }
    }
}

/// The weather, the clock, and new owners.
async fn fate(world: &World, mut random: fastrand::Rng) {
    let hour = Duration::from_hours(1);
    while world.busy.get() > 0 {
        tokio::time::sleep(Duration::from_millis(random.u64(1..4_000))).await;
        world.clock.advance(Duration::from_secs(random.u64(..120)));
        match random.u8(..20) {
            0..5 => world.weather.is_bad.store(true, Ordering::SeqCst),
            5..10 => world.weather.is_bad.store(false, Ordering::SeqCst),
            10 => world.clock.advance(hour * random.u32(1..40)),
            11 => {
                let back = hour.as_millis() as i64 * i64::from(random.u8(1..40));
                world.clock.set(Timestamp(world.clock.now().0 - back));
            }
            12 | 13 => world.override_owner(false).await,
            14 => world.override_owner(true).await,
            15 | 16 => wake(world, &mut random).await,
            _ => {}
        }
    }
    world.weather.is_bad.store(false, Ordering::SeqCst);
}

/// An owner that was overridden wakes and goes on as if nothing had happened.
async fn wake(world: &World, random: &mut fastrand::Rng) {
    let sleeper = {
        let mut asleep = world.asleep.borrow_mut();
        if asleep.is_empty() {
            return;
        }
        let at = random.usize(..asleep.len());
        asleep.swap_remove(at)
    };
    let mut machine = Machine::new("sleeper", 60_000);
    machine.write(random, 0, 30_000);
    let reported = History::default()
        .protect(&sleeper, random, &mut [&mut machine])
        .await;
    assert!(
        reported.is_err(),
        "an overridden owner has reported a point"
    );
    let collected = sleeper
        .collect(&CollectOptions::default(), &NoMonitor)
        .await;
    assert!(
        collected.as_ref().is_err() || collected.as_ref().is_ok_and(|it| it.deleted.count == 0),
        "{collected:?}"
    );
    let _ = sleeper.close().await;
}

async fn simulate(seed: u64) {
    let _seed = seeds::watch(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let weather = Arc::new(Weather {
        seed,
        order: Restless::new(seed),
        is_bad: AtomicBool::new(false),
    });
    let store: Arc<dyn ObjectStore> =
        FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&weather));
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let vault = builder(&store, &clock, seed, 7).create().await.unwrap();
    let other: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let second = builder(&other, &clock, seed, 8).create().await.unwrap();
    let mut actors = Vec::new();
    for (name, length) in [
        ("a", 90_000),
        ("b", 300_000),
        ("c", 4_300_000),
        ("d", 40_000),
    ] {
        let mut machine = Machine::new(name, length);
        if random.bool() {
            machine.deduplication = Deduplication::Vault;
        }
        actors.push(Actor {
            machine,
            history: History::default(),
            random: random.fork(),
            settled: 0,
        });
    }
    let world = Rc::new(World {
        store,
        weather,
        clock,
        seed,
        owner: RefCell::new(vault),
        reign: Cell::new(0),
        asleep: RefCell::default(),
        histories: RefCell::new(actors.iter().map(|actor| actor.history.clone()).collect()),
        crowning: tokio::sync::Mutex::default(),
        busy: Cell::new(actors.len()),
    });
    let lives = actors.into_iter().map(|actor| live(&world, actor, 12));
    let (actors, ..) = futures::join!(
        join_all(lives),
        restore(&world, random.fork(), false),
        restore(&world, random.fork(), true),
        care(&world, random.fork()),
        replicate(&world, &second, random.fork()),
        fate(&world, random.fork()),
    );
    end(&world, actors, &second).await;
}

/// When all is quiet, everything that was reported is there.
async fn end(world: &World, actors: Vec<Actor>, second: &DedupStore) {
    world.override_owner(false).await;
    let (vault, _) = world.owner();
    for mut actor in actors {
        assert!(settle(world, &mut actor, &vault).await);
        actor.history.check(&vault).await;
    }
    vault
        .collect(&CollectOptions::default(), &NoMonitor)
        .await
        .unwrap();
    let verified = vault.verify(&VerifyOptions::default(), &NoMonitor).await;
    let verified = verified.unwrap();
    assert_eq!(
        (verified.damaged, verified.damaged_tables),
        (0, 0),
        "{verified:?}"
    );
    let histories = world.histories.borrow().clone();
    for history in histories {
        history.check(&vault).await;
    }
    let agreement = vault.agrees_with(second).await.unwrap();
    assert!(agreement.different.is_empty(), "{agreement:?}");
    let verified = second.verify(&VerifyOptions::default(), &NoMonitor).await;
    assert_eq!(verified.unwrap().damaged, 0);
    vault.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_whole_life_under_a_seed_soak() {
    for seed in seeds::seeds(seeds::rounds(8, 10_000)) {
        Box::pin(simulate(seed)).await;
    }
}
