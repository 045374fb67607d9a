//! Who works on the vault of a simulation: machines, readers, collection and
//! verification, replication, and fate.

use std::time::Duration;

use backstop_core::{
    ByteCount, ByteOffset, Clock, CollectOptions, ErrorKind, FoldOptions, Maintenance, NoMonitor,
    PointId, RecoveryStore, ReplicaState, ReplicateOptions, Result, StreamName, Timestamp,
    VerifyOptions,
};
use backstop_store::DedupStore;

use super::world::{World, is_weather};
use crate::history::{History, Kept};
use crate::images::{self, Machine};

/// One machine, its points, and whether something was left unanswered.
pub(super) struct Actor {
    pub(super) machine: Machine,
    pub(super) history: History,
    pub(super) random: fastrand::Rng,
    /// The owner under which it last settled what was unanswered.
    pub(super) settled: u64,
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
pub(super) async fn live(world: &World, mut actor: Actor, steps: u32) -> Actor {
    for _ in 0..steps {
        pause(&mut actor.random).await;
        let (vault, reign) = world.owner();
        if actor.settled != reign
            && let Err(error) = settle(world, &mut actor, &vault).await
        {
            assert!(is_weather(&error), "settling: {error}");
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
                let expired = actor.history.expire(&vault, &old).await;
                if expired.is_ok() {
                    world.count(|tally| tally.expired += old.len() as u64);
                }
                expired
            }
            2 => {
                let mut options = FoldOptions::default();
                options.worth = 110;
                let folded = vault.fold(&actor.machine.name, &options, &NoMonitor).await;
                match folded {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    folded => folded.map(|report| {
                        world.count(|tally| tally.folds += u64::from(report.folded > 0));
                    }),
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
                let protected = protected.await;
                protected.map(|points| world.count(|it| it.points += points.len() as u64))
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

/// Finds out what became of what was not answered, if the weather allows it.
pub(super) async fn settle(world: &World, actor: &mut Actor, vault: &DedupStore) -> Result<()> {
    let reign = world.reign.get();
    actor.history.settle_with(vault).await?;
    // A commit that failed half way may be there all the same, in doubt.
    actor.history.change(|known| {
        let half_made = |kept: &mut Kept| world.is_half_made(kept.id);
        let unreported = known.points.extract_if(.., half_made);
        known.unreported.extend(unreported);
    });
    let listed = vault.points(&actor.machine.name).await?;
    let known = actor.history.known().points;
    let there = |id| known.iter().any(|kept| kept.id == id);
    if world.reign.get() == reign {
        for kept in &known {
            let is_listed = listed.iter().any(|point| point.id == kept.id);
            assert!(is_listed, "point {} of {} is gone", kept.id, kept.source);
        }
    }
    // A rebuild brings back what no page of the ledger told of yet, and commits
    // that never happened, if their packs are whole.
    let back = listed.iter().map(|point| point.id);
    let mut back: Vec<_> = back.filter(|id| !there(*id)).collect();
    let newest = listed.last().map(|point| point.id);
    if let Some(newest) = back.pop_if(|id| Some(*id) == newest)
        && !world.is_half_made(newest)
    {
        let mut unreported = actor.history.known().unreported.into_iter();
        let kept = unreported.find(|kept| kept.id == newest);
        let kept = kept.unwrap_or_else(|| panic!("{newest} came from nowhere"));
        actor.history.change(|known| known.points.push(kept));
    }
    if newest.is_some_and(|newest| world.is_half_made(newest)) {
        // As a check ends it; what follows starts from the point before.
        let state = if actor
            .history
            .known()
            .points
            .iter()
            .any(|kept| kept.source == actor.machine.name)
        {
            ReplicaState::Consistent
        } else {
            ReplicaState::Pending
        };
        vault.set_state(&actor.machine.name, state).await?;
    }
    if !back.is_empty() {
        vault.expire(&back).await?;
    }
    actor.history.catch_up(&mut actor.machine);
    Ok(())
}

/// Reads points, through the owner and beside it, slowly: they may expire
/// meanwhile, and what they need may be collected.
pub(super) async fn restore(world: &World, mut random: fastrand::Rng, beside: bool) {
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
        let is_known = || history.known().points.iter().any(|now| now.id == kept.id);
        let mut read = Reading {
            began: world.clock.now(),
            jumps: world.jumps.get(),
            is_open: false,
        };
        let ended = read.whole(&vault, &kept, &mut random).await;
        match ended {
            Ok(()) => world.count(|tally| {
                tally.restores += 1;
                tally.read_on += u64::from(!is_known());
            }),
            Err(error) => {
                // One of an owner that was overridden may find packs gone.
                let is_old = world.reign.get() != reign;
                let had_expired = !read.is_open && (!is_known() || beside);
                let overslept = beside && read.overslept(world);
                assert!(
                    is_weather(&error) || is_old || had_expired || overslept,
                    "reading {}, opened {}: {error}",
                    kept.id,
                    read.is_open
                );
            }
        }
        if beside {
            let _ = vault.close().await;
        }
    }
}

/// A read under way.
struct Reading {
    began: Timestamp,
    jumps: u64,
    is_open: bool,
}

impl Reading {
    /// Reads a whole point in parts, with pauses, and compares.
    async fn whole(
        &mut self,
        vault: &DedupStore,
        kept: &Kept,
        random: &mut fastrand::Rng,
    ) -> Result<()> {
        let image = vault.open(kept.id, &StreamName::disk()).await?;
        self.is_open = true;
        let parts = kept.image.chunks(kept.image.len().div_ceil(4));
        let mut at = 0;
        for part in parts {
            let length = part.len() as u64;
            let read = image.read(ByteOffset(at), ByteCount(length)).await?;
            assert!(read[..] == *part, "{} is wrong at {at}", kept.id);
            at += length;
            pause(random).await;
        }
        Ok(())
    }

    /// Whether the clock was moved so far that a registration may be over.
    fn overslept(&self, world: &World) -> bool {
        let passed = world.clock.now().since(self.began);
        world.jumps.get() != self.jumps || passed > Duration::from_mins(30)
    }
}

/// Collects and verifies.
pub(super) async fn care(world: &World, mut random: fastrand::Rng) {
    while world.busy.get() > 0 {
        pause(&mut random).await;
        let (vault, reign) = world.owner();
        let ended = if random.bool() {
            let mut options = CollectOptions::default();
            options.most_dead = random.u8(..30);
            options.most_requests = random.bool().then(|| random.u64(1..60));
            let collected = vault.collect(&options, &NoMonitor).await;
            collected.map(|report| {
                assert_eq!(report.unreadable.count, 0, "{report:?}");
                world.count(|tally| tally.collections += u64::from(report.deleted.count > 0));
            })
        } else {
            let verified = vault.verify(&VerifyOptions::default(), &NoMonitor).await;
            verified.map(|report| {
                world.count(|tally| tally.verifications += 1);
                let is_owner = world.reign.get() == reign;
                assert!(
                    !is_owner || (report.damaged == 0 && report.ranges.is_empty()),
                    "{report:?}"
                );
            })
        };
        if let Err(error) = ended {
            let is_old = world.reign.get() != reign;
            // A check heals what is half made.
            let is_half_made = !world.half_made.borrow().is_empty();
            let is_told = is_half_made && error.kind() == ErrorKind::Corrupt;
            assert!(is_weather(&error) || is_old || is_told, "care: {error}");
            if error.kind() != ErrorKind::Conflict {
                world.replace(reign).await;
            }
        }
    }
}

/// Copies to a second vault.
pub(super) async fn replicate(world: &World, second: &DedupStore, mut random: fastrand::Rng) {
    let mut options = ReplicateOptions::default();
    options.most_points = Some(2);
    while world.busy.get() > 0 {
        pause(&mut random).await;
        let (vault, reign) = world.owner();
        match vault.replicate(second, &options, &NoMonitor).await {
            Ok(report) => {
                let is_old = world.reign.get() != reign;
                let is_known = |(_, id): &(_, PointId)| world.is_half_made(*id);
                let damaged = report.damaged.iter().any(|point| !is_known(point));
                assert!(!damaged || is_old, "{report:?}");
                world.count(|tally| tally.replicated += report.points.len() as u64);
            }
            Err(error) => {
                let gone = [ErrorKind::NotFound, ErrorKind::Corrupt].contains(&error.kind());
                assert!(is_weather(&error) || gone, "replicating: {error}");
            }
        }
    }
}

/// The weather, the clock, and new owners.
pub(super) async fn fate(world: &World, mut random: fastrand::Rng) {
    let hour = Duration::from_hours(1);
    while world.busy.get() > 0 {
        tokio::time::sleep(Duration::from_millis(random.u64(1..1_500))).await;
        world.clock.advance(Duration::from_secs(random.u64(..120)));
        match random.u8(..20) {
            0..5 => world.weather.turn(true),
            5..10 => world.weather.turn(false),
            10 => {
                world.jumps.set(world.jumps.get() + 1);
                world.clock.advance(hour * random.u32(1..40));
            }
            11 => {
                world.jumps.set(world.jumps.get() + 1);
                let back = hour.as_millis() as i64 * i64::from(random.u8(1..40));
                world.clock.set(Timestamp(world.clock.now().0 - back));
            }
            12 => world.override_owner(false).await,
            13 | 14 => world.override_owner(true).await,
            15..18 => wake(world, &mut random).await,
            _ => {}
        }
    }
    world.weather.turn(false);
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
    world.count(|tally| tally.woken += 1);
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
