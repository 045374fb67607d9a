//! Goes on after the service was away or full, for as long as an agent is told
//! to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backstop_core::{Backoff, Error, ErrorKind, Event, Result, SourceName};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use crate::agent::Agent;

/// How long what one source waits for may still be waited for.
pub(crate) struct Patience<'a> {
    agent: &'a Agent,
    source: SourceName,
    state: Option<Mutex<State>>,
}

struct State {
    patience: Duration,
    backoff: Backoff,
    /// Failures since the last progress.
    failures: u32,
    /// When it is over, counted from the first of them.
    ends: Option<Instant>,
}

/// Whether a service that said so may do it later, or another one that took its
/// vault over.
pub(crate) fn may_pass(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::Fenced
    )
}

impl<'a> Patience<'a> {
    pub(crate) fn new(agent: &'a Agent, source: &SourceName) -> Result<Self> {
        let state = match agent.settings.patience {
            None => None,
            Some(patience) => Some(Mutex::new(State {
                patience,
                backoff: Backoff::seeded(agent.randomness.generator()?.1),
                failures: 0,
                ends: None,
            })),
        };
        Ok(Self {
            agent,
            source: source.clone(),
            state,
        })
    }

    pub(crate) fn is_none(&self) -> bool {
        self.state.is_none()
    }

    /// Whether something failed since the last progress.
    pub(crate) fn is_tried(&self) -> bool {
        self.with(|state| state.failures > 0).unwrap_or_default()
    }

    /// Whether it failed again before there was any progress.
    pub(crate) fn is_stuck(&self) -> bool {
        self.with(|state| state.failures > 1).unwrap_or_default()
    }

    /// Something was done that need not be done again.
    pub(crate) fn progressed(&self) {
        self.with(|state| {
            state.backoff.reset();
            state.failures = 0;
            state.ends = None;
        });
    }

    /// Waits before the next attempt; gives the error back if there is none.
    pub(crate) async fn wait(&self, error: Error) -> Result<()> {
        let Some((wake, failures)) = self.with(State::failed) else {
            return Err(error);
        };
        let Some((at, delay)) = wake else {
            return Err(error.within(format_args!("given up after {failures} attempts")));
        };
        tracing::warn!(source = %self.source, %error, ?delay, "tried again later");
        self.agent.monitor.tell_event(&Event::Waiting {
            source: self.source.clone(),
            error: error.to_string(),
            delay,
        })?;
        sleep_until(at).await;
        Ok(())
    }

    /// Asks until there is an answer, or an error that does not pass.
    pub(crate) async fn ask<'f, T>(&self, ask: impl Fn() -> BoxFuture<'f, Result<T>>) -> Result<T> {
        loop {
            match ask().await {
                Err(error) if may_pass(error.kind()) => self.wait(error).await?,
                answered => return answered,
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> Option<T> {
        let state = self.state.as_ref()?.lock();
        Some(look(&mut state.unwrap_or_else(PoisonError::into_inner)))
    }
}

impl State {
    /// When to try again, if patience is not over; and how often it was tried.
    /// The last attempt is made when it ends.
    fn failed(&mut self) -> (Option<(Instant, Duration)>, u32) {
        self.failures = self.failures.saturating_add(1);
        let now = from_now(Duration::ZERO);
        let patience = self.patience;
        let ends = *self.ends.get_or_insert_with(|| from_now(patience));
        let left = ends.saturating_duration_since(now);
        if left.is_zero() {
            return (None, self.failures);
        }
        let delay = self.backoff.next_delay().min(left);
        (Some((now + delay, delay)), self.failures)
    }
}

/// An instant by the timers' own time, which tests can hold; held at the end
/// of time.
fn from_now(duration: Duration) -> Instant {
    sleep(duration).deadline()
}
