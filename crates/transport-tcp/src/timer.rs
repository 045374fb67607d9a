//! The time by which the transport's own delays go.

use tokio::time::Instant;

/// Now, by the timers' own time, which tests can hold.
#[allow(
    clippy::disallowed_methods,
    reason = "what is waited for by timers is measured by theirs, and decides nothing else"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
