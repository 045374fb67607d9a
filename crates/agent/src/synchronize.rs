//! One synchronization from its beginning to the eve of its commit.

use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backstop_core::{
    BeginRequest, BlockSource, ByteCount, ChunkDigest, Commit, Error, Event, Extent, ExtentSet,
    InconsistencyReason, Plan, PointFacts, PointId, PointKind, ReplicaStatus, Result, Sample,
    SnapshotId, SourceName, StreamName, StreamSpec, Synchronization, SynchronizationId,
};
use futures::future::{Either, select};

use crate::agent::Agent;
use crate::ledger::Ledger;
use crate::request::{Changes, Request, StreamRequest};
use crate::sample::Sampled;

/// The name under which a point's provenance tells why it was a check.
const CHECK_REASON: &str = "check-reason";

/// A synchronization that has only to be committed.
pub(crate) struct Prepared<'a> {
    pub(crate) commit: Commit,
    source: SourceName,
    images: Vec<(StreamName, &'a dyn BlockSource)>,
    /// Whether a later run can name the same snapshot.
    is_named: bool,
    /// Kept until then, as the service may hold it by this alone.
    synchronization: Arc<dyn Synchronization>,
}

impl Prepared<'_> {
    /// Checks that the images still are what was read of them.
    pub(crate) async fn verify_unchanged(&self) -> Result<()> {
        for (name, image) in &self.images {
            image.verify_unchanged().await.map_err(|error| {
                error.within(format_args!("image {name} of source {}", self.source))
            })?;
        }
        Ok(())
    }

    /// Does not commit. It is given up if what was read is of no use, or if
    /// nobody can continue it.
    pub(crate) async fn leave(self, is_torn: bool) {
        if is_torn || !self.is_named {
            give_up(&*self.synchronization).await;
        }
    }
}

async fn give_up(synchronization: &dyn Synchronization) {
    if let Err(error) = synchronization.abort().await {
        tracing::debug!(%error, "a synchronization could not be given up");
    }
}

/// One image of a synchronization.
#[derive(Clone, Copy)]
pub(crate) struct Lane<'a> {
    pub(crate) stream: usize,
    pub(crate) name: &'a StreamName,
    pub(crate) image: &'a dyn BlockSource,
    pub(crate) length: ByteCount,
}

/// A synchronization under way.
pub(crate) struct Run<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) source: &'a SourceName,
    pub(crate) sync: Arc<dyn Synchronization>,
    pub(crate) ledger: Ledger,
    identity: Identity,
}

/// What came of transferring.
#[derive(Default)]
struct Outcome {
    sample: Sample,
    /// Why everything was compared, if it was.
    check_reason: Option<String>,
}

/// How an attempt by changed extents ended.
enum Attempt {
    Done(PointKind, Outcome),
    /// They, or the replica, can't be trusted; and what the server has to know
    /// first, if it does not yet.
    Doubted(Outcome, Option<InconsistencyReason>),
}

/// The length of an id, in bytes.
const ID_LENGTH: usize = 16;

/// How many bytes of an id name the changed extents.
const TOLD: usize = 8;

/// A name for the changed extents that are told of images; its last bit is set.
fn told(streams: &[StreamRequest<'_>]) -> [u8; TOLD] {
    let mut all = Vec::new();
    for stream in streams {
        if let Changes::Since { extents, .. } = &stream.changes {
            all.extend((extents.len() as u64).to_le_bytes());
            for extent in extents.iter() {
                all.extend(extent.offset().0.to_le_bytes());
                all.extend(extent.length().0.to_le_bytes());
            }
        }
    }
    let digest = ChunkDigest::of(&all);
    let mut told = [0; TOLD];
    told.copy_from_slice(&digest.as_bytes()[..TOLD]);
    told[TOLD - 1] |= 1;
    told
}

/// Under which ids a synchronization is begun.
///
/// What was finished on the word of changed extents must not count as compared
/// when a check continues; and a check that doubt began must not continue as
/// an express full. So the id's last bit tells whether a base is named with
/// it, for as long as it is unfinished; and with a base its second half names
/// the changed extents, since what others told is not to be relied on.
#[derive(Clone)]
struct Identity {
    id: SynchronizationId,
    snapshot: SnapshotId,
    base: Option<PointId>,
    /// What the server has to know first.
    doubt: Option<InconsistencyReason>,
}

impl Identity {
    /// New ids; the snapshot's may be given. `told` names the changed extents.
    fn new(
        agent: &Agent,
        snapshot: Option<SnapshotId>,
        base: Option<PointId>,
        told: [u8; TOLD],
    ) -> Result<Self> {
        let mut id = agent.randomness.id()?;
        if base.is_some() {
            id[ID_LENGTH - TOLD..].copy_from_slice(&told);
        } else {
            id[ID_LENGTH - 1] &= !1;
        }
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => SnapshotId::from_bytes(agent.randomness.id()?),
        };
        Ok(Self {
            id: SynchronizationId::from_bytes(id),
            snapshot,
            base,
            doubt: None,
        })
    }

    /// The ids of what was begun on this snapshot before, if it can be
    /// continued, or new ones.
    fn find(
        agent: &Agent,
        snapshot: Option<SnapshotId>,
        base: Option<PointId>,
        told: [u8; TOLD],
        status: Option<&ReplicaStatus>,
    ) -> Result<Self> {
        let unfinished = status.and_then(|status| status.unfinished.as_ref());
        if let (Some(snapshot), Some(unfinished)) = (snapshot, unfinished)
            && unfinished.snapshot == snapshot
        {
            let id = unfinished.synchronization;
            let bytes = id.to_bytes();
            let named_base = bytes[ID_LENGTH - 1] & 1 == 1;
            if !named_base || base.is_some() && bytes[ID_LENGTH - TOLD..] == told {
                tracing::info!(synchronization = %id, "continued");
                return Ok(Self {
                    id,
                    snapshot,
                    base: base.filter(|_| named_base),
                    doubt: None,
                });
            }
        }
        Self::new(agent, snapshot, base, told)
    }
}

/// Begins or continues a synchronization and transfers what it needs.
#[tracing::instrument(name = "synchronize", skip_all, fields(source = %request.source))]
pub(crate) async fn prepare<'a>(agent: &Agent, mut request: Request<'a>) -> Result<Prepared<'a>> {
    let base = request.settle()?;
    let status = agent.service.replica(&request.source).await?;
    let told = told(&request.streams);
    let identity = Identity::find(agent, request.snapshot, base, told, status.as_ref())?;
    let mut run = Run {
        agent,
        source: &request.source,
        sync: begin(agent, &request, &identity).await?,
        ledger: Ledger::default(),
        identity,
    };
    let (kind, outcome) = match run.transfer(&request).await {
        Ok(done) => done,
        Err(error) => {
            // Nobody can continue what has no snapshot's name.
            if request.snapshot.is_none() {
                give_up(&*run.sync).await;
            }
            return Err(error);
        }
    };
    let mut provenance = request.provenance.clone();
    let reason = outcome.check_reason;
    provenance.extend(reason.map(|reason| (CHECK_REASON.to_string(), reason)));
    let facts = PointFacts {
        kind,
        consistency: request.consistency,
        snapshot_time: request.snapshot_time,
        counts: run.ledger.counts(),
        sample: outcome.sample,
        provenance,
        documents: request.documents.clone(),
    };
    Ok(Prepared {
        commit: Commit {
            synchronization: run.identity.id,
            facts,
        },
        synchronization: run.sync,
        is_named: request.snapshot.is_some(),
        images: request
            .streams
            .into_iter()
            .map(|stream| (stream.name, stream.image))
            .collect(),
        source: request.source,
    })
}

async fn begin(
    agent: &Agent,
    request: &Request<'_>,
    identity: &Identity,
) -> Result<Arc<dyn Synchronization>> {
    let streams = request.streams.iter().map(|stream| StreamSpec {
        name: stream.name.clone(),
        length: stream.image.geometry().length,
    });
    let begin = BeginRequest {
        id: identity.id,
        source: request.source.clone(),
        snapshot: identity.snapshot,
        streams: streams.collect(),
        base: identity.base,
        doubt: identity.doubt.clone(),
    };
    agent.service.begin(begin).await
}

impl Run<'_> {
    async fn transfer(&mut self, request: &Request<'_>) -> Result<(PointKind, Outcome)> {
        let streams = request.streams.iter().enumerate();
        let lanes: Vec<Lane<'_>> = streams
            .map(|(stream, asked)| Lane {
                stream,
                name: &asked.name,
                image: asked.image,
                length: asked.image.geometry().length,
            })
            .collect();
        let mut outcome = Outcome::default();
        if self.identity.base.is_some() {
            let (doubted, doubt) = match self.attempt(request, &lanes).await? {
                Attempt::Done(kind, outcome) => return Ok((kind, outcome)),
                Attempt::Doubted(doubted, doubt) => (doubted, doubt),
            };
            outcome = doubted;
            self.ledger.forget_content();
            // Begun again as what it is now.
            self.identity =
                Identity::new(self.agent, Some(self.identity.snapshot), None, [0; TOLD])?;
            self.identity.doubt = doubt;
            self.sync = begin(self.agent, request, &self.identity).await?;
        }
        match self.sync.plan().clone() {
            Plan::Initial => {
                self.initial(&lanes).await?;
                Ok((PointKind::Initial, outcome))
            }
            Plan::Check { reason } => {
                let reason = outcome.check_reason.get_or_insert(reason);
                self.tell_doubt(reason)?;
                self.check(&lanes).await?;
                Ok((PointKind::ConsistencyCheck, outcome))
            }
            Plan::ExpressFull => Err(Error::internal(format!(
                "the service wants an express full of source {} without a base",
                self.source
            ))),
        }
    }

    /// Synchronizes by the changed extents that the request tells.
    async fn attempt(&self, request: &Request<'_>, lanes: &[Lane<'_>]) -> Result<Attempt> {
        let doubted = |sample, reason, doubt| {
            let outcome = Outcome {
                sample,
                check_reason: Some(reason),
            };
            Ok(Attempt::Doubted(outcome, doubt))
        };
        match self.sync.plan().clone() {
            Plan::Initial => {
                self.initial(lanes).await?;
                Ok(Attempt::Done(PointKind::Initial, Outcome::default()))
            }
            Plan::Check { reason } => doubted(Sample::default(), reason, None),
            Plan::ExpressFull => {
                let changed: Vec<ExtentSet> = request.streams.iter().map(changed).collect();
                // Beside each other: nothing is called finished on the word of a
                // tracker before the sample has shown that it does not lie.
                let is_trusted = AtomicBool::new(false);
                let sampling = pin!(async {
                    let sampled = self.sample(lanes, &changed).await?;
                    let is_sound = sampled.damaged == 0 && sampled.sample.differed == 0;
                    is_trusted.store(is_sound, Ordering::Relaxed);
                    Ok::<_, Error>(sampled)
                });
                let sending = pin!(self.express_full(lanes, &changed, &is_trusted));
                let (Sampled { sample, damaged }, sending) = match select(sampling, sending).await {
                    Either::Left((sampled, sending)) => (sampled?, Either::Left(sending)),
                    Either::Right((sent, sampling)) => {
                        (sampling.await?, Either::Right(ready(sent)))
                    }
                };
                if damaged > 0 {
                    let reason = format!(
                        "the replica lost the data of {damaged} of {} sampled slices",
                        damaged + sample.compared
                    );
                    return doubted(sample, reason, Some(InconsistencyReason::Damaged));
                }
                if sample.differed > 0 {
                    let reason = format!(
                        "{} of {} sampled slices had changed, which the changed extents don't tell",
                        sample.differed, sample.compared
                    );
                    let doubt = InconsistencyReason::TrackerMissedChanges;
                    return doubted(sample, reason, Some(doubt));
                }
                sending.await?;
                let outcome = Outcome {
                    sample,
                    check_reason: None,
                };
                Ok(Attempt::Done(PointKind::ExpressFull, outcome))
            }
        }
    }

    fn tell_doubt(&self, reason: &str) -> Result<()> {
        tracing::info!(reason, "everything is compared");
        let event = Event::CheckNeeded {
            source: self.source.clone(),
            reason: reason.to_string(),
        };
        self.agent.monitor.tell_event(&event)
    }
}

/// What may have changed of an image.
fn changed(stream: &StreamRequest<'_>) -> ExtentSet {
    match &stream.changes {
        Changes::Since { extents, .. } => extents.clone(),
        // Anything.
        Changes::Unknown => [Extent::whole(stream.image.geometry().length)]
            .into_iter()
            .collect(),
    }
}
