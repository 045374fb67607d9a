//! Memory for messages: a bound for all connections together, handed out by
//! turns, so that nobody's share depends on how much others ask for.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", 1996):
//! of those who wait, the one goes next who has had least for its weight.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{ByteCount, Error, Result};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::wire::MESSAGE_LENGTH_MAX;

/// What a message takes at least, in bytes: what is made of it has some weight too.
const LEAST: u64 = 16 << 10;

/// What one peer may have at once is this part of all, but a message at least.
const PART: u64 = 4;

/// One byte of a peer of weight one, in virtual time.
const SCALE: u64 = 1 << 12;

/// Hands out memory.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: u64,
    most_each: u64,
    /// The virtual time: the start of what was handed out last.
    now: u64,
    /// Who has memory, or waits for it.
    peers: HashMap<Arc<str>, Lane>,
}

#[derive(Debug)]
struct Lane {
    weight: NonZeroU32,
    used: u64,
    /// When its next turn starts, in virtual time.
    starts: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    tell: oneshot::Sender<Share>,
}

/// Memory that was handed out; it comes back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    turns: Turns,
    peer: Arc<str>,
    bytes: u64,
    /// Ends with it.
    turn: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(all: ByteCount) -> Result<Self> {
        if all.0 < 2 * MESSAGE_LENGTH_MAX {
            return Err(Error::invalid_input(format!(
                "{all} of memory for messages are too few: {} bytes are needed",
                2 * MESSAGE_LENGTH_MAX
            )));
        }
        Ok(Self(Arc::new(Mutex::new(State {
            free: all.0,
            most_each: (all.0 / PART).max(MESSAGE_LENGTH_MAX),
            now: 0,
            peers: HashMap::new(),
        }))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes are handed out, and how many messages wait.
    pub(super) fn counts(&self) -> (ByteCount, usize) {
        let state = self.lock();
        let lanes = state.peers.values();
        let (used, waiting) = lanes.fold((0, 0), |(used, waiting), lane| {
            (used + lane.used, waiting + lane.waiting.len())
        });
        (ByteCount(used), waiting)
    }

    /// Waits for the memory of a message of so many bytes.
    pub(super) async fn take(
        &self,
        peer: &Arc<str>,
        weight: NonZeroU32,
        length: u64,
    ) -> Result<Share> {
        let bytes = length.clamp(LEAST, MESSAGE_LENGTH_MAX);
        let told = {
            let mut state = self.lock();
            let now = state.now;
            let lane = state.peers.entry(Arc::clone(peer)).or_insert_with(|| Lane {
                weight,
                used: 0,
                starts: now,
                waiting: VecDeque::new(),
            });
            lane.weight = weight;
            let (tell, told) = oneshot::channel();
            lane.waiting.push_back(Waiting { bytes, tell });
            told
        };
        self.hand_out();
        told.await
            .map_err(|_| Error::internal("the memory for messages is gone"))
    }

    /// Gives what is free to who is next.
    fn hand_out(&self) {
        let mut state = self.lock();
        while let Some((peer, bytes)) = state.next() {
            let Some(waiting) = state.grant(&peer, bytes) else {
                break;
            };
            let share = Share {
                turns: self.clone(),
                peer,
                bytes,
                turn: None,
            };
            // Who asked may be gone.
            if let Err(mut share) = waiting.tell.send(share) {
                // Here, as its drop would come back to this.
                state.give_back(&share.peer, share.bytes);
                share.bytes = 0;
            }
        }
        drop(state);
    }
}

impl State {
    /// Who is next and how much it asks for, if that is free. Who is next waits
    /// until there is enough: nobody is passed over for asking for much.
    fn next(&self) -> Option<(Arc<str>, u64)> {
        let lanes = self.peers.iter().filter_map(|(peer, lane)| {
            let bytes = lane.waiting.front()?.bytes;
            (lane.used + bytes <= self.most_each).then_some((lane.starts, peer, bytes))
        });
        let (_, peer, bytes) = lanes.min()?;
        (bytes <= self.free).then(|| (Arc::clone(peer), bytes))
    }

    fn grant(&mut self, peer: &Arc<str>, bytes: u64) -> Option<Waiting> {
        let now = self.now;
        let lane = self.peers.get_mut(peer)?;
        let waiting = lane.waiting.pop_front()?;
        let starts = lane.starts.max(now);
        let passes = bytes.saturating_mul(SCALE) / u64::from(lane.weight.get());
        lane.starts = starts.saturating_add(passes);
        lane.used += bytes;
        self.now = starts;
        self.free -= bytes;
        Some(waiting)
    }

    fn give_back(&mut self, peer: &Arc<str>, bytes: u64) {
        self.free += bytes;
        let now = self.now;
        if let Some(lane) = self.peers.get_mut(peer) {
            lane.used -= bytes;
            // What is ahead of its time is remembered for as long as that takes.
            if lane.used == 0 && lane.waiting.is_empty() && lane.starts <= now {
                self.peers.remove(peer);
            }
        }
        if self
            .peers
            .values()
            .all(|lane| lane.used == 0 && lane.waiting.is_empty())
        {
            self.peers.clear();
        }
    }
}

impl Share {
    /// Gives back what is more than so many bytes need.
    pub(super) fn shrink(&mut self, length: u64) {
        let more = self.bytes.saturating_sub(length.max(LEAST));
        self.bytes -= more;
        self.turns.lock().give_back(&self.peer, more);
        self.turns.hand_out();
    }

    /// Holds a turn for as long.
    pub(super) fn keep(&mut self, turn: OwnedSemaphorePermit) {
        self.turn = Some(turn);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.turn = None;
        if self.bytes == 0 {
            return;
        }
        self.turns.lock().give_back(&self.peer, self.bytes);
        self.turns.hand_out();
    }
}

#[cfg(test)]
mod tests;
