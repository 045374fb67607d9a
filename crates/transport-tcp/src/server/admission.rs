//! Who may synchronize now, and who waits for its turn.
//!
//! What is counted are agents that have synchronizations under way, not the
//! synchronizations: those of a group are begun one after the other and end
//! together, so that two groups that each wait for room for one more would wait
//! for ever.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstop_core::{Clock, SourceName, SynchronizationId, Timestamp};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long one call waits before the agent is told its position.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Who does not ask again for so long has given up its place.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(20);

/// Lets so many agents synchronize at once.
#[derive(Debug)]
pub(super) struct Admission {
    most: usize,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Changes when somebody may go on.
    turns: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The synchronizations under way of each agent.
    running: HashMap<Arc<str>, usize>,
    /// Agents, in the order in which they came.
    waiting: VecDeque<Waiting>,
}

/// An agent that waits, with what it wants to begin first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) agent: Arc<str>,
    pub(super) source: SourceName,
    pub(super) id: SynchronizationId,
    pub(super) since: Timestamp,
    last: Timestamp,
}

/// What an agent that wants to begin is told.
#[derive(Debug)]
pub(super) enum Turn {
    /// Go on; the place is held until this is dropped.
    Now(Place),
    /// Ask again: so many have to go first, itself included.
    Wait(usize),
}

/// A synchronization that is under way.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    agent: Arc<str>,
}

impl Admission {
    pub(super) fn new(most: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            most: most.max(1),
            clock,
            state: Mutex::default(),
            turns: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that wait, in the order in which they came.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        self.lock().waiting.iter().cloned().collect()
    }

    /// Waits for a turn, but not longer than an agent should be without news.
    pub(super) async fn begin(
        self: &Arc<Self>,
        agent: &Arc<str>,
        source: &SourceName,
        id: SynchronizationId,
    ) -> Turn {
        let mut turns = self.turns.subscribe();
        let admitted = timeout(TOLD_EVERY, async {
            loop {
                turns.mark_unchanged();
                if let Turn::Now(place) = self.ask(agent, source, id) {
                    return place;
                }
                if turns.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        });
        match admitted.await {
            Ok(place) => Turn::Now(place),
            Err(_) => self.ask(agent, source, id),
        }
    }

    fn ask(self: &Arc<Self>, agent: &Arc<str>, source: &SourceName, id: SynchronizationId) -> Turn {
        let now = self.clock.now();
        let mut state = self.lock();
        let room = self.most.saturating_sub(state.running.len());
        // A clock that was set back counts from then on.
        let is_there = |one: &Waiting| {
            one.agent == *agent || now < one.last || now.since(one.last) < FORGOTTEN_AFTER
        };
        state.waiting.retain(is_there);
        let at = state.waiting.iter().position(|one| one.agent == *agent);
        let before = at.unwrap_or(state.waiting.len());
        if before < room || state.running.contains_key(agent) {
            if let Some(at) = at {
                state.waiting.remove(at);
            }
            *state.running.entry(Arc::clone(agent)).or_default() += 1;
            return Turn::Now(Place {
                admission: Arc::clone(self),
                agent: Arc::clone(agent),
            });
        }
        match at {
            Some(at) => state.waiting[at].last = now,
            None => state.waiting.push_back(Waiting {
                agent: Arc::clone(agent),
                source: source.clone(),
                id,
                since: now,
                last: now,
            }),
        }
        Turn::Wait(before - room + 1)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        if let Some(running) = state.running.get_mut(&self.agent) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&self.agent);
            }
        }
        drop(state);
        self.admission.turns.send_modify(|turns| *turns += 1);
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ManualClock;

    use super::*;

    fn name(name: &str) -> (Arc<str>, SourceName) {
        (name.into(), SourceName::new(name).unwrap())
    }

    fn id(number: u8) -> SynchronizationId {
        SynchronizationId::from_bytes([number; 16])
    }

    fn admission(most: usize) -> (Arc<Admission>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let admission = Admission::new(most, Arc::clone(&clock) as _);
        (Arc::new(admission), clock)
    }

    async fn ask(admission: &Arc<Admission>, agent: &str, number: u8) -> Turn {
        let (agent, source) = name(agent);
        admission.begin(&agent, &source, id(number)).await
    }

    fn position(turn: &Turn) -> usize {
        match turn {
            Turn::Now(_) => 0,
            Turn::Wait(position) => *position,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_came_first_go_first() {
        let (admission, _) = admission(1);
        let first = ask(&admission, "a", 1).await;
        assert_eq!(position(&first), 0);
        let second = ask(&admission, "b", 2).await;
        let third = ask(&admission, "c", 3).await;
        assert_eq!((position(&second), position(&third)), (1, 2));
        // One more of who is in needs no turn: it may be of a group.
        let more = ask(&admission, "a", 4).await;
        assert_eq!(position(&more), 0);
        drop(first);
        assert_eq!(position(&ask(&admission, "c", 3).await), 2);
        let asking = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { ask(&admission, "b", 2).await }
        });
        tokio::task::yield_now().await;
        drop(more);
        let second = asking.await.unwrap();
        assert_eq!(position(&second), 0, "at once, not when it asks again");
        assert_eq!(position(&ask(&admission, "c", 3).await), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_went_away_is_not_waited_for() {
        let (admission, clock) = admission(1);
        let first = ask(&admission, "a", 1).await;
        assert_eq!(position(&ask(&admission, "b", 2).await), 1);
        clock.advance(Duration::from_secs(15));
        assert_eq!(position(&ask(&admission, "c", 3).await), 2);
        drop(first);
        clock.advance(Duration::from_secs(10));
        let third = ask(&admission, "c", 3).await;
        assert_eq!(position(&third), 0);
        assert!(admission.waiting().is_empty());
    }
}
