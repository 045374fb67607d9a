//! What keeps points from being removed, under random sequences with crashes
//! and clocks that lie; and what several operators have to approve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{
    Clock, CollectOptions, CpuPool, Error, ErrorKind, Maintenance, ManualClock, Marks, NoMonitor,
    PointId, Protection, RecoveryStore, Result, Timestamp, VaultTime,
};
use backstop_store::{
    Approved, Credential, DedupStore, DedupStoreBuilder, GuardedAction, OperatorKey, Takeover,
    VaultSettings,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::{History, Kept, holds};
use crate::images::Machine;
use crate::seeds;

const START: Timestamp = Timestamp(1_700_000_000_000);
const DAY: Duration = Duration::from_hours(24);

fn builder(store: &Arc<dyn ObjectStore>, clock: &Arc<ManualClock>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::clone(clock) as _)
        .with_takeover(Takeover::Force)
}

fn protection(retention: Duration, window: Duration) -> Protection {
    let mut protection = Protection::default();
    protection.minimum_retention = retention;
    protection.undo_window = window;
    protection
}

/// A point, when it was committed, and since when and until when it is expired.
type Point = (Kept, Timestamp, Option<(Timestamp, Timestamp)>);

/// What must be so, by the rules alone.
struct Model {
    time: VaultTime,
    protection: Protection,
    /// In the order of their commits.
    points: Vec<Point>,
    pinned: BTreeMap<PointId, bool>,
}

impl Model {
    fn may_expire(&self, now: &VaultTime, at: usize) -> bool {
        let (kept, committed, expired) = &self.points[at];
        expired.is_some()
            || (at + 1 < self.points.len()
                && !self.pinned.contains_key(&kept.id)
                && now.time >= committed.after(self.protection.minimum_retention))
    }

    fn listed(&self, is_expired: bool) -> Vec<PointId> {
        let points = self.points.iter();
        let listed = points.filter(|(_, _, expired)| expired.is_some() == is_expired);
        listed.map(|(kept, ..)| kept.id).collect()
    }
}

async fn play(seed: u64, steps: u32) {
    let _seed = seeds::watch(seed);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::at(START));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut vault = builder(&store, &clock).create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", 150_000);
    let source = machine.name.clone();
    let mut model = Model {
        time: VaultTime::starting(START),
        protection: Protection::default(),
        points: Vec::new(),
        pinned: BTreeMap::new(),
    };
    for _ in 0..steps {
        match random.u8(..12) {
            // Mostly it goes on; now and then it is set.
            0 => clock.set(START.after(Duration::from_hours(random.u64(..24 * 400)))),
            1 | 2 => clock.advance(Duration::from_hours(random.u64(..60))),
            _ => clock.advance(Duration::from_mins(random.u64(..600))),
        }
        let now = model.time.at(clock.now());
        let pick = |random: &mut fastrand::Rng| {
            let all = 0..model.points.len();
            all.filter(|_| random.u8(..4) == 0).collect::<Vec<_>>()
        };
        match random.u8(..14) {
            0..4 => {
                machine.scribble(&mut random, 2, 30_000);
                history.protect_one(&vault, &mut random, &mut machine).await;
                let kept = history.known().points.last().unwrap().clone();
                model.points.push((kept, now.time, None));
                model.time = now;
            }
            4..7 => {
                let chosen = pick(&mut random);
                let ids: Vec<PointId> = chosen.iter().map(|at| model.points[*at].0.id).collect();
                let expired = vault.expire(&ids).await;
                if !chosen.iter().all(|at| model.may_expire(&now, *at)) {
                    assert_eq!(expired.unwrap_err().kind(), ErrorKind::Conflict);
                    continue;
                }
                expired.unwrap();
                let fresh = chosen.iter().filter(|at| model.points[**at].2.is_none());
                if fresh.clone().count() > 0 {
                    model.time = now;
                }
                let window = model.protection.undo_window;
                let until = (now.time, now.time.after(window));
                for at in fresh.copied().collect::<Vec<_>>() {
                    model.points[at].2 = Some(until);
                }
                if window.is_zero() {
                    model.points.retain(|(kept, _, expired)| {
                        expired != &Some(until) || !ids.contains(&kept.id)
                    });
                }
            }
            7 | 8 => {
                let chosen = pick(&mut random);
                let ids: Vec<PointId> = chosen.iter().map(|at| model.points[*at].0.id).collect();
                vault.undo(&ids).await.unwrap();
                for at in chosen {
                    if model.points[at].2.take().is_some() {
                        model.time = now;
                    }
                }
            }
            9 => {
                let to = protection(DAY * random.u32(..6), DAY * random.u32(..6));
                let set = vault.set_protection(to).await;
                if to.minimum_retention < model.protection.minimum_retention {
                    assert_eq!(set.unwrap_err().kind(), ErrorKind::Conflict);
                } else {
                    set.unwrap();
                    (model.protection, model.time) = (to, now);
                }
            }
            10 => {
                if let Some(at) = pick(&mut random).first().copied() {
                    let id = model.points[at].0.id;
                    let pinned = !model.pinned.contains_key(&id);
                    let marks = Marks {
                        pinned,
                        ..Marks::default()
                    };
                    let marked = vault.mark(id, marks).await;
                    if model.points[at].2.is_some() {
                        assert_eq!(marked.unwrap_err().kind(), ErrorKind::NotFound);
                    } else {
                        marked.unwrap();
                        model.time = now;
                        if pinned {
                            model.pinned.insert(id, true);
                        } else {
                            model.pinned.remove(&id);
                        }
                    }
                }
            }
            11 => {
                let options = CollectOptions::default();
                let report = vault.collect(&options, &NoMonitor).await.unwrap();
                let before = model.points.len();
                let (protection, time) = (model.protection, now.time);
                model.points.retain(|(_, _, expired)| {
                    expired.is_none_or(|(at, until)| protection.undo_until(at, until) > time)
                });
                model.time = now;
                assert_eq!(report.purged, (before - model.points.len()) as u64);
                for (kept, _, expired) in &model.points {
                    if expired.is_none() {
                        holds(&vault, kept).await;
                    }
                }
            }
            _ => {
                // As a crash does.
                drop(vault);
                vault = builder(&store, &clock).open().await.unwrap();
            }
        }
        let listed = vault.points(&source).await.unwrap();
        let listed: Vec<PointId> = listed.iter().map(|point| point.id).collect();
        assert_eq!(listed, model.listed(false));
        let expired = vault.expired(&source).await.unwrap();
        let expired: Vec<PointId> = expired.iter().map(|point| point.point.id).collect();
        assert_eq!(expired, model.listed(true));
    }
    let all = model.listed(true);
    vault.undo(&all).await.unwrap();
    for (kept, ..) in &model.points {
        holds(&vault, kept).await;
    }
    vault.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn points_go_when_they_may_and_come_back_while_they_can_soak() {
    for seed in seeds::seeds(seeds::rounds(12, 600)) {
        play(seed, 60).await;
    }
}

/// A vault with two operators who have to approve, and two points.
struct Board {
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
    vault: DedupStore,
    keys: [OperatorKey; 2],
    points: Vec<PointId>,
}

const NAMES: [&str; 2] = ["anna", "ben"];

impl Board {
    async fn new() -> Self {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let clock = Arc::new(ManualClock::at(START));
        let vault = builder(&store, &clock).create().await.unwrap();
        let mut random = fastrand::Rng::with_seed(3);
        let history = History::default();
        let mut machine = Machine::new("a", 100_000);
        for _ in 0..2 {
            machine.scribble(&mut random, 2, 30_000);
            history.protect_one(&vault, &mut random, &mut machine).await;
        }
        let keys = [[1; 32], [2; 32]].map(OperatorKey::from_bytes);
        for (name, key) in NAMES.iter().zip(&keys) {
            vault
                .add_operator(name, key.public().unwrap())
                .await
                .unwrap();
        }
        vault
            .set_protection(protection(Duration::ZERO, DAY * 7))
            .await
            .unwrap();
        let mut marks = Marks::default();
        marks
            .holds
            .extend(["lawsuit".to_owned(), "audit".to_owned()]);
        let points: Vec<PointId> = history.known().points.iter().map(|kept| kept.id).collect();
        vault.mark(points[0], marks).await.unwrap();
        vault.need_operators(2).await.unwrap();
        Self {
            store,
            clock,
            vault,
            keys,
            points,
        }
    }

    async fn ask(&self, action: GuardedAction) -> String {
        let asked = self.vault.request_approval(action, NAMES[0], &self.keys[0]);
        asked.await.unwrap().id
    }

    async fn approve(&self, id: &str, as_name: usize, with_key: usize) -> Result<Approved> {
        let requests = self.vault.approval_requests().await.unwrap();
        let request = requests.iter().find(|request| request.id == id);
        let request = request.ok_or_else(|| Error::not_found("it does not wait"))?;
        let approval = self.keys[with_key].approve(NAMES[as_name], request)?;
        self.vault.approve(id, approval).await
    }

    fn lift(&self) -> GuardedAction {
        GuardedAction::LiftMarks {
            point: self.points[0],
            pinned: false,
            holds: ["lawsuit".to_owned()].into(),
        }
    }

    async fn holds(&self) -> usize {
        let point = self.vault.point(self.points[0]).await.unwrap();
        point.marks.holds.len()
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn two_operators_do_what_one_may_not() {
    let board = Board::new().await;
    let vault = &board.vault;
    // One alone may do none of it.
    let third = OperatorKey::from_bytes([3; 32]).public().unwrap();
    assert_eq!(
        kind(vault.mark(board.points[0], Marks::default()).await),
        ErrorKind::Conflict
    );
    let shorter = protection(Duration::ZERO, DAY);
    assert_eq!(
        kind(vault.set_protection(shorter).await),
        ErrorKind::Conflict
    );
    assert_eq!(kind(vault.need_operators(1).await), ErrorKind::Conflict);
    assert_eq!(
        kind(vault.add_operator("eve", third).await),
        ErrorKind::Conflict
    );
    assert_eq!(
        kind(vault.remove_operator("ben").await),
        ErrorKind::Conflict
    );
    let added = vault.add_key(&Credential::key([8; 32])).await.unwrap();
    assert_eq!(kind(vault.remove_key(&added.id).await), ErrorKind::Conflict);
    let other = Credential::key([9; 32]);
    assert_eq!(
        kind(vault.replace_key(&added.id, &other).await),
        ErrorKind::Conflict
    );
    assert_eq!(vault.key_slots().await.unwrap().len(), 2);
    // What protects more is done by one.
    let more = protection(DAY, DAY * 8);
    vault.set_protection(more).await.unwrap();
    let mut marks = vault.point(board.points[0]).await.unwrap().marks;
    marks.pinned = true;
    vault.mark(board.points[0], marks).await.unwrap();
    assert_eq!(board.holds().await, 2);

    // Asked by one, approved by another: done, once.
    let id = board.ask(board.lift()).await;
    assert_eq!(kind(board.approve(&id, 0, 0).await), ErrorKind::Conflict);
    assert_eq!(kind(board.approve(&id, 1, 0).await), ErrorKind::WrongKey);
    assert_eq!(board.holds().await, 2);
    let waiting = vault.approval_requests().await.unwrap();
    let replay = board.keys[1].approve("ben", &waiting[0]).unwrap();
    let done = vault.approve(&id, replay.clone()).await.unwrap();
    assert_eq!(done, Approved::Done(board.lift()));
    assert_eq!(board.holds().await, 1);
    assert_eq!(
        kind(vault.approve(&id, replay.clone()).await),
        ErrorKind::NotFound
    );
    // An approval is of its own request only.
    let mut marks = vault.point(board.points[0]).await.unwrap().marks;
    marks.holds.insert("lawsuit".to_owned());
    vault.mark(board.points[0], marks).await.unwrap();
    let again = board.ask(board.lift()).await;
    assert_eq!(
        kind(vault.approve(&again, replay).await),
        ErrorKind::WrongKey
    );
    assert_eq!(board.holds().await, 2);

    // It is kept over an opening.
    let board = Board {
        vault: builder(&board.store, &board.clock).open().await.unwrap(),
        ..board
    };
    board.approve(&again, 1, 1).await.unwrap();
    assert_eq!(board.holds().await, 1);
    for action in [
        GuardedAction::ShortenUndo { seconds: 3600 },
        GuardedAction::RemoveKey {
            slot: added.id.clone(),
        },
        GuardedAction::AddOperator {
            name: "eve".to_owned(),
            key: third,
        },
        GuardedAction::RemoveOperator {
            name: "eve".to_owned(),
        },
        GuardedAction::NeedFewerOperators { needed: 1 },
    ] {
        let id = board.ask(action.clone()).await;
        let done = board.approve(&id, 1, 1).await.unwrap();
        assert_eq!(done, Approved::Done(action));
    }
    let vault = &board.vault;
    let now = vault.protection().await.unwrap();
    assert_eq!(now, protection(DAY, Duration::from_hours(1)));
    assert_eq!(vault.key_slots().await.unwrap().len(), 1);
    let operators = vault.operators().await.unwrap();
    assert_eq!((operators.needed, operators.registered.len()), (1, 2));
    let asked = vault.request_approval(board.lift(), NAMES[0], &board.keys[0]);
    assert_eq!(kind(asked.await), ErrorKind::Conflict);
    vault.mark(board.points[0], Marks::default()).await.unwrap();
}

#[tokio::test]
async fn what_was_asked_for_too_long_ago_or_by_nobody_is_not_done() {
    let board = Board::new().await;
    let vault = &board.vault;
    let id = board.ask(board.lift()).await;
    let waiting = vault.approval_requests().await.unwrap();
    let late = board.keys[1].approve("ben", &waiting[0]).unwrap();
    board.clock.advance(DAY);
    assert_eq!(kind(vault.approve(&id, late).await), ErrorKind::Conflict);
    assert!(vault.approval_requests().await.unwrap().is_empty());
    assert_eq!(board.holds().await, 2);
    let stranger = OperatorKey::generate().unwrap();
    for (name, kind_of) in [("anna", ErrorKind::WrongKey), ("eve", ErrorKind::NotFound)] {
        let asked = vault.request_approval(board.lift(), name, &stranger).await;
        assert_eq!(kind(asked), kind_of);
    }
    // What can't be done is not even asked for.
    let unknown = GuardedAction::LiftMarks {
        point: board.points[1],
        pinned: true,
        holds: [].into(),
    };
    let too_few = GuardedAction::RemoveOperator {
        name: "ben".to_owned(),
    };
    for action in [unknown, too_few] {
        let asked = vault.request_approval(action, NAMES[0], &board.keys[0]);
        assert_eq!(kind(asked.await), ErrorKind::Conflict);
    }
    // Approvals of one who is known no more count for nothing.
    let id = board
        .ask(GuardedAction::AddOperator {
            name: "eve".to_owned(),
            key: stranger.public().unwrap(),
        })
        .await;
    board.approve(&id, 1, 1).await.unwrap();
    let lift = board.ask(board.lift()).await;
    let eves = vault
        .request_approval(
            GuardedAction::RemoveOperator {
                name: "anna".to_owned(),
            },
            "eve",
            &stranger,
        )
        .await
        .unwrap();
    board.approve(&eves.id, 1, 1).await.unwrap();
    let left = board.approve(&lift, 1, 1).await.unwrap();
    assert_eq!(left, Approved::Waiting(1));
    assert_eq!(board.holds().await, 2);
    // Needing more than there are would lock all out.
    assert_eq!(kind(vault.need_operators(3).await), ErrorKind::Conflict);
}

/// A store may keep objects whatever it is asked: that is no failure.
#[tokio::test]
async fn packs_that_the_store_keeps_are_told_and_tried_again() {
    let script = Arc::new(Script::default());
    let faulty = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&script));
    let store: Arc<dyn ObjectStore> = faulty;
    let clock = Arc::new(ManualClock::at(START));
    let vault = builder(&store, &clock).create().await.unwrap();
    let mut random = fastrand::Rng::with_seed(4);
    let history = History::default();
    let mut machine = Machine::new("a", 400_000);
    for _ in 0..3 {
        machine.write(&mut random, 0, 400_000);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    let points: Vec<PointId> = history.known().points.iter().map(|kept| kept.id).collect();
    history.expire(&vault, &points[..2]).await.unwrap();
    script.rule(|request, path| match request {
        Request::Delete if path.starts_with("vault/packs/") => Action::Refuse,
        _ => Action::Pass,
    });
    let kept = history.collect(&vault).await.unwrap();
    assert!(kept.locked.count > 0 && kept.deleted.count == 0, "{kept:?}");
    history.check(&vault).await;
    let again = history.collect(&vault).await.unwrap();
    assert_eq!((again.locked, again.dropped.count), (kept.locked, 0));
    // What was given up is given up: what it held is stored anew.
    machine.write(&mut random, 0, 400_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    drop(vault);
    script.pass();
    let vault = builder(&store, &clock).open().await.unwrap();
    let gone = history.collect(&vault).await.unwrap();
    assert_eq!((gone.locked.count, gone.deleted), (0, kept.locked));
    history.check(&vault).await;
}
