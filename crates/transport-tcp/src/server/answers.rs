//! What is done for each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use backstop_core::{
    BeginRequest, Error, ErrorKind, RecoveryPoint, RegionAddress, Result, SourceName,
    SynchronizationId, region_count,
};
use bytes::Bytes;

use super::access;
use super::admission::Turn;
use super::recovery;
use super::session::{Caller, Session};
use super::turns::Share;
use super::{Shared, Stage};
use crate::limits;
use crate::wire::Call;
use crate::wire::control::{
    self, Begin, Beginning, Committed, ReplicaAnswer, ReplicaQuestion, decode, encode,
};
use crate::wire::region::{self, Place};

/// Who has begun the synchronization of a source that is under way. One for each
/// source, so that there are no more than sources.
#[derive(Debug, Default)]
pub(super) struct Begun {
    of_sources: HashMap<SourceName, SynchronizationId>,
    by: HashMap<SynchronizationId, String>,
}

impl Begun {
    fn is_of_another(&self, id: SynchronizationId, agent: &str) -> bool {
        self.by.get(&id).is_some_and(|by| by != agent)
    }

    fn begin(&mut self, source: SourceName, id: SynchronizationId, agent: &str) {
        if let Some(before) = self.of_sources.insert(source, id) {
            self.by.remove(&before);
        }
        self.by.insert(id, agent.to_owned());
    }

    fn end(&mut self, source: &SourceName, id: SynchronizationId) {
        self.by.remove(&id);
        if self.of_sources.get(source) == Some(&id) {
            self.of_sources.remove(source);
        }
    }
}

/// Answers one call; gives the memory that the answer takes with it.
pub(super) async fn answer(
    caller: &Arc<Caller>,
    call: Call,
    message: Bytes,
    share: Share,
) -> Result<(Bytes, Share)> {
    match call {
        Call::Sources
        | Call::Points
        | Call::Point
        | Call::Open
        | Call::Extents
        | Call::Read
        | Call::Close
        | Call::Expire => recovery::answer(caller, call, message, share).await,
        Call::Grant | Call::Grants | Call::Withdraw | Call::Audit => {
            Ok((access::answer(caller, call, &message).await?, share))
        }
        Call::Status => {
            access::may_operate(caller, call)?;
            Ok((encode(&caller.shared.status())?, share))
        }
        Call::Slices | Call::BlockDigests => {
            // The answer is the larger one.
            let mut share = caller.exchange(share, limits::ANSWER).await?;
            let answer = protect(caller, call, message).await?;
            share.shrink(answer.len() as u64);
            Ok((answer, share))
        }
        _ => Ok((protect(caller, call, message).await?, share)),
    }
}

async fn protect(caller: &Arc<Caller>, call: Call, message: Bytes) -> Result<Bytes> {
    match call {
        Call::Replica => replica(caller, &message).await,
        Call::Begin => begin(caller, &message).await,
        Call::Commit => commit(caller, message).await,
        Call::Needed => {
            let (place, digests) = region::decode_needed(message)?;
            let session = caller.session(place.session)?;
            let needed = session.synchronization.needed(&place.at, &digests).await?;
            Ok(region::encode_bits(&needed))
        }
        Call::Write => write(caller, message).await,
        Call::Slices => {
            let (place, ranges) = region::decode_ranges(message)?;
            let [within] = ranges[..] else {
                return Err(Error::invalid_input(
                    "slices are asked for within one range",
                ));
            };
            let session = caller.session(place.session)?;
            let slices = session.synchronization.slices(&place.at, within).await?;
            Ok(region::encode_slices(&slices))
        }
        Call::BlockDigests => {
            let (place, ranges) = region::decode_ranges(message)?;
            let session = caller.session(place.session)?;
            let digests = session.synchronization.block_digests(&place.at, &ranges);
            Ok(region::encode_digests(&digests.await?))
        }
        Call::Progress => {
            let place = Place::decode(message)?;
            let session = caller.session(place.session)?;
            let telling = session
                .synchronization
                .progress(place.at.stream, place.at.region);
            telling.await?;
            session.is_at(&place.at);
            Ok(region::encode_regions(&session.resume_at()))
        }
        _ => {
            let place = Place::decode(message)?;
            let session = caller.session(place.session)?;
            session.synchronization.abort().await?;
            caller.forget(&[session.id]);
            caller.shared.connections.ended();
            Ok(Bytes::new())
        }
    }
}

async fn replica(caller: &Caller, message: &[u8]) -> Result<Bytes> {
    let question: ReplicaQuestion = decode("a question for a replica", message)?;
    let shared = &caller.shared;
    shared.gate.may_protect(&caller.peer, &question.source)?;
    let status = shared.service.replica(&question.source).await?;
    encode(&ReplicaAnswer::from(status))
}

async fn begin(caller: &Caller, message: &[u8]) -> Result<Bytes> {
    let begin: Begin = decode("the beginning of a synchronization", message)?;
    let shared = &caller.shared;
    shared.gate.may_protect(&caller.peer, &begin.source)?;
    caller.has_room()?;
    let request = BeginRequest::from(begin);
    let (id, source) = (request.id, request.source.clone());
    let regions = request
        .streams
        .iter()
        .map(|stream| region_count(stream.length));
    let regions = regions.collect();
    refuse_others(caller, &[id])?;
    refuse_when_stopping(shared)?;
    let place = match shared.admission.begin(&caller.name, &source, id).await {
        Turn::Now(place) => place,
        Turn::Wait(position) => {
            let wait = position as u64;
            return encode(&Beginning::Wait { wait });
        }
    };
    refuse_when_stopping(shared)?;
    let synchronization = shared.service.begin(request).await?;
    // What it has begun is put away with the others.
    refuse_when_stopping(shared)?;
    {
        let mut begun = shared.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.begin(source.clone(), id, &caller.peer.to_string());
    }
    let plan = synchronization.plan().clone();
    let session = Session {
        id,
        source,
        synchronization,
        since: shared.clock.now(),
        regions,
        _place: place,
        received: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    let resume_at = session.resume_at();
    for (stream, region) in resume_at.iter().copied().enumerate() {
        session.is_at(&RegionAddress { stream, region });
    }
    let begun = control::Begun::new(caller.keep(session), &plan, resume_at);
    encode(&Beginning::Begun(begun))
}

/// Those that are under way may end.
fn refuse_when_stopping(shared: &Shared) -> Result<()> {
    if *shared.stage.borrow() == Stage::Open {
        return Ok(());
    }
    Err(Error::unavailable(
        "this protection server is stopping; try again later",
    ))
}

/// What is known to be another agent's is as good as unknown.
fn refuse_others(caller: &Caller, ids: &[SynchronizationId]) -> Result<()> {
    let begun = caller.shared.begun.lock();
    let begun = begun.unwrap_or_else(PoisonError::into_inner);
    let other = ids
        .iter()
        .find(|id| begun.is_of_another(**id, &caller.peer.to_string()));
    match other {
        None => Ok(()),
        Some(id) => {
            tracing::warn!(peer = %caller.peer, synchronization = %id, "it is another agent's");
            Err(Error::not_found(format!(
                "there is no synchronization {id}"
            )))
        }
    }
}

async fn commit(caller: &Caller, message: Bytes) -> Result<Bytes> {
    let commits = control::decode_commits(message)?;
    let ids: Vec<_> = commits
        .iter()
        .map(|commit| commit.synchronization)
        .collect();
    refuse_others(caller, &ids)?;
    let shared = &caller.shared;
    let points = shared.service.commit(commits).await?;
    // An identity can't be guessed; who knows one all the same learns nothing.
    let own = |point: &RecoveryPoint| shared.gate.may_protect(&caller.peer, &point.source);
    if let Some(error) = points.iter().find_map(|point| own(point).err()) {
        tracing::error!(peer = %caller.peer, %error, "another agent's synchronization was committed");
        return Err(Error::new(
            ErrorKind::Forbidden,
            "a synchronization that was named is no one of this agent's",
        ));
    }
    caller.forget(&ids);
    shared.connections.ended();
    {
        let mut begun = shared.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for (point, id) in points.iter().zip(ids) {
            begun.end(&point.source, id);
        }
    }
    encode(&Committed { points })
}

async fn write(caller: &Caller, message: Bytes) -> Result<Bytes> {
    let length = message.len() as u64;
    let update = region::decode_update(message)?;
    let session = caller.session(update.place.session)?;
    let codecs = Arc::clone(&caller.shared.codecs);
    let checking = move || codecs.decompress_with(|decompressor| update.check(decompressor));
    let checked = caller.shared.cpu.run(checking).await?;
    let (_, update) = checked.map_err(|error| {
        tracing::warn!(peer = %caller.peer, %error, "what was sent is not what it is said to be");
        // Nothing that is stored is damaged.
        Error::invalid_input(error.to_string())
    })?;
    let outcome = session.synchronization.write(update).await?;
    session.received.fetch_add(length, Ordering::Relaxed);
    Ok(region::encode_outcome(outcome))
}
