//! Ids that must not meet twice, and draws that nobody should foresee.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use backstop_core::{Error, Result};

/// Where an agent's random bits come from.
pub(crate) enum Randomness {
    /// The operating system.
    System,
    /// A seed, for tests and simulations.
    Seeded(Mutex<fastrand::Rng>),
}

impl Randomness {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// 128 bits for an id.
    pub(crate) fn id(&self) -> Result<[u8; 16]> {
        let mut id = [0; 16];
        match self {
            Self::System => fill(&mut id)?,
            Self::Seeded(random) => random
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .fill(&mut id),
        }
        Ok(id)
    }

    /// A generator for one synchronization, and its seed.
    pub(crate) fn generator(&self) -> Result<(fastrand::Rng, u64)> {
        let id = self.id()?;
        let seed = id
            .iter()
            .fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
        Ok((fastrand::Rng::with_seed(seed), seed))
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the agent's one place that asks the operating system's generator"
)]
fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        Error::unavailable("the operating system gives no random bytes").with_source(error)
    })
}

impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Seeded(_) => "Seeded",
        })
    }
}
