//! How long to wait before something is tried again: longer each time, and not
//! as long as everybody else who waits for the same.

use std::time::Duration;

/// Delays that grow by factor 2 from a first one to a most.
///
/// Each is drawn at random from its upper half, so that many who lost the same
/// server at the same instant come back spread.
///
/// ```
/// use std::time::Duration;
/// use backstop_core::Backoff;
///
/// let mut backoff = Backoff::seeded(7).with_first(Duration::from_secs(1));
/// assert!(backoff.next_delay() >= Duration::from_millis(500));
/// assert!(backoff.next_delay() >= Duration::from_secs(1));
/// backoff.reset();
/// assert!(backoff.next_delay() <= Duration::from_secs(1));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    /// Delays since the last success.
    given: u32,
    random: fastrand::Rng,
}

/// Shorter ones would be no waiting.
const SHORTEST: Duration = Duration::from_millis(1);

impl Backoff {
    /// Delays from 500 ms to 60 s, drawn by a seed: those who share one come
    /// back together.
    pub fn seeded(seed: u64) -> Self {
        Self {
            first: Duration::from_millis(500),
            most: Duration::from_mins(1),
            given: 0,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The same with another first delay; at least 1 ms.
    pub fn with_first(mut self, first: Duration) -> Self {
        self.first = first.max(SHORTEST);
        self
    }

    /// The same with another longest delay, also for the first; at least 1 ms.
    pub fn with_most(mut self, most: Duration) -> Self {
        self.most = most.max(SHORTEST);
        self
    }

    /// How long to wait after one failure more.
    pub fn next_delay(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.given).unwrap_or(u32::MAX);
        let delay = self.first.saturating_mul(factor).min(self.most);
        self.given = self.given.saturating_add(1);
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random.u64(nanos / 2..=nanos))
    }

    /// It succeeded: the next delay is a first one.
    pub fn reset(&mut self) {
        self.given = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delays_grow_by_two_within_their_upper_half(
            seed: u64,
            first in 0..10_000_000_000_u64,
            most in 0..10_000_000_000_000_u64,
            count in 1..100_usize,
        ) {
            let (first, most) = (Duration::from_nanos(first), Duration::from_nanos(most));
            let mut backoff = Backoff::seeded(seed).with_first(first).with_most(most);
            for round in 0..2 {
                let mut whole = first.max(SHORTEST);
                for number in 0..count {
                    whole = whole.min(most.max(SHORTEST));
                    let delay = backoff.next_delay();
                    prop_assert!(delay <= whole, "{round} {number}: {delay:?} of {whole:?}");
                    let half = whole / 2;
                    prop_assert!(delay >= half, "{round} {number}: {delay:?} of {whole:?}");
                    whole = whole.saturating_mul(2);
                }
                backoff.reset();
            }
        }

        #[test]
        fn a_seed_replays(seed: u64) {
            let (mut one, mut other) = (Backoff::seeded(seed), Backoff::seeded(seed));
            for _ in 0..20 {
                prop_assert_eq!(one.next_delay(), other.next_delay());
            }
        }
    }

    /// No tenth of the range in which 64 agents come back has more than a
    /// quarter of them.
    #[test]
    fn many_come_back_spread() {
        for failures in 1..10 {
            let mut tenths = [0; 10];
            for agent in 0..64 {
                let mut backoff = Backoff::seeded(agent);
                let delay = (0..failures).map(|_| backoff.next_delay()).last().unwrap();
                let whole = Duration::from_millis(500)
                    .saturating_mul(1 << (failures - 1))
                    .min(Duration::from_mins(1));
                let place = 2.0 * delay.as_secs_f64() / whole.as_secs_f64() - 1.0;
                let tenth = (0..9).find(|tenth| place < f64::from(tenth + 1) / 10.0);
                tenths[usize::try_from(tenth.unwrap_or(9)).unwrap()] += 1;
            }
            assert!(tenths.iter().all(|&of| of <= 16), "{failures}: {tenths:?}");
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut backoff = Backoff::seeded(1)
            .with_first(Duration::MAX)
            .with_most(Duration::MAX);
        for _ in 0..100 {
            assert!(backoff.next_delay() >= Duration::from_nanos(u64::MAX / 2));
        }
    }
}
