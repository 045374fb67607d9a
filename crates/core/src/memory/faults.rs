//! A plan of faults that wrappers share: by script ("fail the third write")
//! or by seed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Error, ErrorKind, Result};

/// A kind of call that can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// `BlockSource::read` and `read_extents`.
    SourceRead,
    /// `BlockSource::data_extents`.
    SourceExtents,
    /// `BlockSource::verify_unchanged`.
    SourceVerify,
    /// `BlockTarget::prepare`.
    TargetPrepare,
    /// `BlockTarget::write`.
    TargetWrite,
    /// `BlockTarget::zero`.
    TargetZero,
    /// `BlockTarget::finish`.
    TargetFinish,
    /// `RecoveryStore::begin`.
    StoreBegin,
    /// `RecoveryStore::commit`.
    StoreCommit,
    /// `RecoveryStore::open`.
    StoreOpen,
    /// `RecoveryStore::set_state`.
    StoreSetState,
    /// The calls of `RecoveryStore` that only look.
    StoreQuery,
    /// `ReplicaWriter::needed`.
    WriterNeeded,
    /// `ReplicaWriter::write`.
    WriterWrite,
    /// `ReplicaWriter::slices` and `block_digests`.
    WriterCompare,
    /// `ReplicaWriter::progress`.
    WriterProgress,
    /// `ReplicaWriter::suspend`.
    WriterSuspend,
    /// `ReplicaWriter::abort`.
    WriterAbort,
    /// `Recovery::recover` and reads of an opened point.
    Recover,
    /// `Maintenance::expire`.
    Expire,
    /// `Maintenance::undo`.
    Undo,
    /// `Maintenance::set_protection`.
    SetProtection,
    /// The calls of `Maintenance` that only look.
    Look,
    /// `Maintenance::mark`.
    Mark,
    /// `Maintenance::collect`.
    Collect,
    /// `Maintenance::verify`.
    Verify,
    /// `Maintenance::fold`.
    Fold,
    /// `Maintenance::statistics`.
    Statistics,
}

/// What befalls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and nothing is done.
    Fail(ErrorKind),
    /// It is done, and its answer is lost.
    FailAfter(ErrorKind),
    /// It gives way to other tasks this often before it begins.
    Delay(u32),
    /// It is never done and never answers.
    Hang,
}

/// How often a seeded plan strikes, in calls of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Calls that fail with nothing done.
    pub fail: u32,
    /// Calls that are done and whose answer is lost.
    pub fail_after: u32,
    /// Calls that are delayed.
    pub delay: u32,
}

/// A plan of faults. Clones are the same plan, so that several wrappers can
/// follow one.
#[derive(Clone, Debug)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    calls: BTreeMap<Operation, u64>,
    script: BTreeMap<(Operation, u64), Effect>,
    random: Option<(fastrand::Rng, FaultRates)>,
    injected: u64,
}

impl Faults {
    /// A plan without faults, to inject some.
    pub fn none() -> Self {
        Self::with_random(None)
    }

    /// A plan by seed: the same calls in the same order meet the same faults.
    /// Failures are [`Unavailable`](ErrorKind::Unavailable).
    pub fn seeded(seed: u64, rates: FaultRates) -> Self {
        Self::with_random(Some((fastrand::Rng::with_seed(seed), rates)))
    }

    fn with_random(random: Option<(fastrand::Rng, FaultRates)>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                calls: BTreeMap::new(),
                script: BTreeMap::new(),
                random,
                injected: 0,
            })),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the `nth` call of this kind from the plan's beginning, counted
    /// from one, meet a fault.
    pub fn inject(&self, operation: Operation, nth: u64, effect: Effect) {
        self.state().script.insert((operation, nth), effect);
    }

    /// Lets the next call of this kind meet a fault.
    pub fn inject_next(&self, operation: Operation, effect: Effect) {
        let next = self.calls(operation) + 1;
        self.inject(operation, next, effect);
    }

    /// How many calls of this kind there were.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state().calls.get(&operation).copied().unwrap_or(0)
    }

    /// How many faults there were.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// Makes a call under the plan: for wrappers of other seams.
    ///
    /// # Errors
    /// Those of the call and of the plan.
    pub async fn around<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (nth, effect) = self.next(operation);
        let fault = |kind, what: fmt::Arguments<'_>| {
            Err(Error::new(
                kind,
                format!("call {nth} of {operation:?} {what} as planned"),
            ))
        };
        match effect {
            Some(Effect::Fail(kind)) => return fault(kind, format_args!("failed")),
            Some(Effect::FailAfter(kind)) => {
                call.await?;
                return fault(kind, format_args!("lost its answer"));
            }
            Some(Effect::Delay(turns)) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Some(Effect::Hang) => std::future::pending().await,
            None => {}
        }
        call.await
    }

    fn next(&self, operation: Operation) -> (u64, Option<Effect>) {
        let mut state = self.state();
        let calls = state.calls.entry(operation).or_default();
        *calls += 1;
        let nth = *calls;
        let scripted = state.script.remove(&(operation, nth));
        let effect = scripted.or_else(|| state.random.as_mut().and_then(draw));
        state.injected += u64::from(effect.is_some());
        (nth, effect)
    }
}

fn draw((random, rates): &mut (fastrand::Rng, FaultRates)) -> Option<Effect> {
    let drawn = random.u32(..1000);
    let fail_after = rates.fail + rates.fail_after;
    if drawn < rates.fail {
        Some(Effect::Fail(ErrorKind::Unavailable))
    } else if drawn < fail_after {
        Some(Effect::FailAfter(ErrorKind::Unavailable))
    } else if drawn < fail_after + rates.delay {
        Some(Effect::Delay(random.u32(1..8)))
    } else {
        None
    }
}
