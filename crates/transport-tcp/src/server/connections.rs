//! Who is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::session::Caller;
use crate::status::ConnectionStatus;

/// The connections of a server, in the order of connecting.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    /// Changes when one has gone, or has nothing under way any more.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Open {
    next: u64,
    callers: BTreeMap<u64, Arc<Caller>>,
}

/// A connection that is counted, until it is dropped.
pub(super) struct Counted {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(self: &Arc<Self>, caller: Arc<Caller>) -> Counted {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.callers.insert(number, caller);
        Counted {
            connections: Arc::clone(self),
            number,
        }
    }

    pub(super) fn status(&self) -> Vec<ConnectionStatus> {
        let callers: Vec<_> = self.lock().callers.values().cloned().collect();
        callers.iter().map(|caller| caller.status()).collect()
    }

    /// Says that something has ended.
    pub(super) fn ended(&self) {
        self.changed.send_replace(());
    }

    /// Waits until no synchronization is under way.
    pub(super) async fn idle(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let callers: Vec<_> = self.lock().callers.values().cloned().collect();
            if !callers.iter().any(|caller| caller.has_sessions()) {
                return;
            }
            drop(callers);
            // The sender lives as long as this.
            let _ = changed.changed().await;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.lock().callers.remove(&self.number);
        self.connections.ended();
    }
}
