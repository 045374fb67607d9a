//! Who is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::session::Caller;
use crate::status::ConnectionStatus;
use crate::tls::Peer;

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

    /// How many a peer has.
    pub(super) fn of(&self, peer: &Peer) -> usize {
        let open = self.lock();
        let all = open.callers.values();
        all.filter(|caller| caller.peer.name == peer.name && caller.peer.role == peer.role)
            .count()
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

/// Calls at work, of all connections.
#[derive(Default)]
pub(super) struct Calls(watch::Sender<usize>);

/// A call at work, until it is dropped.
pub(super) struct AtWork<'a>(&'a Calls);

impl Calls {
    pub(super) fn count(&self) -> AtWork<'_> {
        self.0.send_modify(|calls| *calls += 1);
        AtWork(self)
    }

    /// Waits until none is.
    pub(super) async fn end(&self) {
        let mut calls = self.0.subscribe();
        // The sender lives as long as this.
        let _ = calls.wait_for(|calls| *calls == 0).await;
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|calls| *calls -= 1);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.lock().callers.remove(&self.number);
        self.connections.ended();
    }
}
