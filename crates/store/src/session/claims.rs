//! Maps that are on their way into the catalog: a collection must know them as
//! needed, even where the session has gone on to others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::map::tree::ImageMap;

/// The maps that are claimed.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    claimed: BTreeMap<u64, Vec<ImageMap>>,
}

/// Claims maps until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    number: u64,
}

impl Claims {
    pub(super) fn claim(&self, maps: &[ImageMap]) -> Claim<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.claimed.insert(number, maps.to_vec());
        Claim {
            claims: self,
            number,
        }
    }

    pub(super) fn all(&self) -> Vec<ImageMap> {
        self.lock().claimed.values().flatten().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.lock().claimed.remove(&self.number);
    }
}
