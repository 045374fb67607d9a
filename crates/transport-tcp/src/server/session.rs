//! What a connection has begun.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{
    ByteCount, Error, Plan, RegionAddress, RegionIndex, Result, SourceName, Synchronization,
    SynchronizationId, Timestamp,
};
use tokio::sync::watch;

use super::Shared;
use super::admission::Place;
use super::images::Images;
use super::turns::Share;
use crate::limits;
use crate::status::{ConnectionStatus, SynchronizationStatus};
use crate::tls::Peer;

/// A synchronization that was begun over a connection.
pub(super) struct Session {
    pub(super) id: SynchronizationId,
    pub(super) source: SourceName,
    pub(super) synchronization: Arc<dyn Synchronization>,
    pub(super) since: Timestamp,
    /// How many regions each image has.
    pub(super) regions: Vec<u64>,
    /// Held until it ends.
    pub(super) _place: Place,
    pub(super) received: AtomicU64,
    /// Regions of all images that are dealt with.
    pub(super) done: AtomicU64,
}

impl Session {
    /// For each stream, the first region that is not dealt with for good.
    pub(super) fn resume_at(&self) -> Vec<RegionIndex> {
        let streams = 0..self.regions.len();
        streams
            .map(|stream| self.synchronization.resume_at(stream))
            .collect()
    }

    /// Images come in their order: those before this one are dealt with.
    pub(super) fn is_at(&self, next: &RegionAddress) {
        let before = self.regions.iter().take(next.stream);
        let done = before.sum::<u64>().saturating_add(next.region.0);
        self.done.fetch_max(done, Ordering::Relaxed);
    }

    fn status(&self) -> SynchronizationStatus {
        let plan = match self.synchronization.plan() {
            Plan::Initial => "initial",
            Plan::ExpressFull => "express-full",
            Plan::Check { .. } => "check",
        };
        let regions = self.regions.iter().sum();
        SynchronizationStatus {
            id: self.id,
            source: self.source.clone(),
            plan: plan.to_owned(),
            since: self.since,
            received: ByteCount(self.received.load(Ordering::Relaxed)),
            regions_done: self.done.load(Ordering::Relaxed).min(regions),
            regions,
        }
    }
}

/// What the calls of one connection share.
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    /// The peer's name, for those that count by it.
    pub(super) name: Arc<str>,
    pub(super) images: Images,
    from: SocketAddr,
    since: Timestamp,
    sessions: Mutex<Sessions>,
    is_gone: watch::Sender<bool>,
}

#[derive(Default)]
struct Sessions {
    next: u64,
    open: HashMap<u64, Arc<Session>>,
}

impl Caller {
    pub(super) fn new(shared: Arc<Shared>, peer: Peer, from: SocketAddr) -> Self {
        let name: Arc<str> = peer.name.as_str().into();
        Self {
            since: shared.clock.now(),
            images: Images::of(&shared.readings, &name),
            shared,
            name,
            peer,
            from,
            sessions: Mutex::default(),
            is_gone: watch::Sender::new(false),
        }
    }

    /// The connection has ended.
    pub(super) fn goes(&self) {
        self.is_gone.send_replace(true);
    }

    /// Waits until the connection has ended.
    pub(super) async fn gone(&self) {
        let mut gone = self.is_gone.subscribe();
        // The sender lives as long as this.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the memory of a message of so many bytes.
    ///
    /// Who holds some must not wait for more: see [`exchange`](Self::exchange).
    pub(super) async fn take(&self, length: u64) -> Result<Share> {
        let weight = self.shared.gate.weight(&self.peer);
        self.shared.memory.take(&self.name, weight, length).await
    }

    /// Gives some back and waits for some of another length.
    pub(super) async fn exchange(&self, share: Share, length: u64) -> Result<Share> {
        drop(share);
        self.take(length).await
    }

    pub(super) fn has_room(&self) -> Result<()> {
        if self.lock().open.len() < limits::SESSIONS {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{} has {} synchronizations under way; end one of them first",
            self.peer,
            limits::SESSIONS
        )))
    }

    pub(super) fn keep(&self, session: Session) -> u64 {
        let mut sessions = self.lock();
        // Begun again, it is the same one.
        sessions.open.retain(|_, other| other.id != session.id);
        let number = sessions.next;
        sessions.next += 1;
        sessions.open.insert(number, Arc::new(session));
        number
    }

    pub(super) fn session(&self, number: u64) -> Result<Arc<Session>> {
        let found = self.lock().open.get(&number).cloned();
        found.ok_or_else(|| {
            Error::conflict(format!(
                "synchronization {number} of this connection has ended, or was begun again"
            ))
        })
    }

    pub(super) fn forget(&self, ids: &[SynchronizationId]) {
        let mut sessions = self.lock();
        sessions.open.retain(|_, other| !ids.contains(&other.id));
    }

    pub(super) fn has_sessions(&self) -> bool {
        !self.lock().open.is_empty()
    }

    pub(super) fn status(&self) -> ConnectionStatus {
        let mut synchronizations: Vec<_> = {
            let sessions = self.lock();
            let open = sessions.open.values();
            open.map(|session| session.status()).collect()
        };
        synchronizations.sort_by_key(|one| one.since);
        ConnectionStatus {
            peer: self.peer.to_string(),
            from: self.from,
            since: self.since,
            synchronizations,
        }
    }
}
