//! One synchronization from its beginning to the eve of its commit.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backstop_core::{
    BeginRequest, BlockSource, ByteCount, Commit, Error, ErrorKind, Event, Extent, ExtentSet,
    InconsistencyReason, Plan, PointFacts, PointKind, Progress, RegionIndex, Result, Sample,
    SourceName, StreamName, StreamSpec, Synchronization,
};
use futures::future::{Either, select};

use crate::agent::Agent;
use crate::identity::{Identity, TOLD, told};
use crate::ledger::Ledger;
use crate::patience::{Patience, may_pass};
use crate::request::{Changes, Request, StreamRequest};
use crate::sample::Sampled;
use crate::watched::{Trouble, Watched};

/// The name under which a point's provenance tells why it was a check.
const CHECK_REASON: &str = "check-reason";

/// A synchronization that has only to be committed.
pub(crate) struct Prepared<'a> {
    request: Request<'a>,
    /// Kept until then, as the service may hold it by this alone.
    run: Run<'a>,
    kind: PointKind,
}

impl<'a> Prepared<'a> {
    /// What there is to be committed.
    pub(crate) fn commit(&self) -> Commit {
        let mut provenance = self.request.provenance.clone();
        let reason = self.run.outcome.check_reason.clone();
        provenance.extend(reason.map(|reason| (CHECK_REASON.to_string(), reason)));
        let facts = PointFacts {
            kind: self.kind,
            consistency: self.request.consistency,
            snapshot_time: self.request.snapshot_time,
            counts: self.run.ledger.counts(),
            sample: self.run.outcome.sample,
            provenance,
            documents: self.request.documents.clone(),
        };
        Commit {
            synchronization: self.run.identity.id,
            facts,
        }
    }

    /// How long its commit may be waited for.
    pub(crate) fn patience(&self) -> &Patience<'a> {
        &self.run.patience
    }

    /// Begins again after a commit failed, since the service may know less than
    /// it was sent, and sends that. Gives whether it may have read more.
    pub(crate) async fn resume(&mut self) -> Result<bool> {
        match self.run.begin(&self.request).await {
            // It may be committed, and the answer lost: that is told by
            // committing again.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            begun => {
                begun?;
                self.kind = self.run.bring(&self.request).await?;
                Ok(true)
            }
        }
    }

    /// Checks that the images still are what was read of them.
    pub(crate) async fn verify_unchanged(&self) -> Result<()> {
        for stream in &self.request.streams {
            stream.image.verify_unchanged().await.map_err(|error| {
                let (name, source) = (&stream.name, &self.request.source);
                error.within(format_args!("image {name} of source {source}"))
            })?;
        }
        Ok(())
    }

    /// Does not commit. It is given up if what was read is of no use, or if
    /// nobody can continue it.
    pub(crate) async fn leave(self, is_torn: bool) {
        if is_torn || self.request.snapshot.is_none() {
            give_up(&*self.run.sync).await;
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
    pub(crate) source: SourceName,
    pub(crate) sync: Arc<dyn Synchronization>,
    pub(crate) ledger: Ledger,
    pub(crate) patience: Patience<'a>,
    identity: Identity,
    outcome: Outcome,
    /// Its sample was compared, and was as it should be.
    is_sampled: bool,
    /// The most that was done, in bytes, and the furthest that was told to be
    /// finished: what was done before is no progress.
    furthest: AtomicU64,
    told: Mutex<(usize, RegionIndex)>,
    /// How calls of `sync` failed.
    trouble: Arc<Trouble>,
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
    Done(PointKind),
    /// They, or the replica, can't be trusted: why, and what the server has to
    /// know first, if it does not yet.
    Doubted(String, Option<InconsistencyReason>),
}

/// Begins or continues a synchronization and transfers what it needs.
#[tracing::instrument(name = "synchronize", skip_all, fields(source = %request.source))]
pub(crate) async fn prepare<'a>(
    agent: &'a Agent,
    mut request: Request<'a>,
) -> Result<Prepared<'a>> {
    let base = request.settle()?;
    let patience = Patience::new(agent, &request.source)?;
    let status = patience.ask(|| agent.service.replica(&request.source));
    let status = status.await?;
    let told = told(&request.streams);
    let mut identity = Identity::find(agent, request.snapshot, base, told, status.as_ref())?;
    let (sync, trouble) = begin(agent, &request, &mut identity, &patience).await?;
    let mut run = Run {
        agent,
        source: request.source.clone(),
        sync,
        ledger: Ledger::default(),
        patience,
        identity,
        outcome: Outcome::default(),
        is_sampled: false,
        furthest: AtomicU64::new(0),
        told: Mutex::default(),
        trouble,
    };
    match run.bring(&request).await {
        Ok(kind) => {
            run.patience.progressed();
            Ok(Prepared { request, run, kind })
        }
        Err(error) => {
            // Nobody can continue what has no snapshot's name.
            if request.snapshot.is_none() {
                give_up(&*run.sync).await;
            }
            Err(error)
        }
    }
}

async fn begin(
    agent: &Agent,
    request: &Request<'_>,
    identity: &mut Identity,
    patience: &Patience<'_>,
) -> Result<(Arc<dyn Synchronization>, Arc<Trouble>)> {
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
    let begun = patience.ask(|| agent.service.begin(begin.clone())).await?;
    // It is durable by now.
    identity.doubt = None;
    let trouble = Arc::default();
    Ok((Arc::new(Watched::new(begun, &trouble)), trouble))
}

impl Run<'_> {
    /// Begins again: goes on where the service says that it stands.
    async fn begin(&mut self, request: &Request<'_>) -> Result<()> {
        let begun = begin(self.agent, request, &mut self.identity, &self.patience);
        (self.sync, self.trouble) = begun.await?;
        Ok(())
    }

    /// Transfers what the synchronization needs; and when the service was
    /// away, what it still needs then.
    async fn bring(&mut self, request: &Request<'_>) -> Result<PointKind> {
        loop {
            let error = match self.transfer(request).await {
                Ok(kind) => return Ok(kind),
                Err(error) => error,
            };
            if !self.may_go_on(&error).await? {
                return Err(error);
            }
            self.patience.wait(error).await?;
            self.begin(request).await?;
        }
    }

    /// Whether the service said what passes, or ends only this session.
    async fn may_go_on(&self, error: &Error) -> Result<bool> {
        if self.patience.is_none() || !self.trouble.took(error.kind()) {
            return Ok(false);
        }
        if error.kind() != ErrorKind::Conflict {
            return Ok(may_pass(error.kind()));
        }
        // The service ended it because something of it was lost, or because
        // somebody began another one, who would be given up in turn.
        let status = self
            .patience
            .ask(|| self.agent.service.replica(&self.source));
        let unfinished = status.await?.and_then(|status| status.unfinished);
        Ok(unfinished.is_some_and(|it| it.synchronization == self.identity.id))
    }

    /// Tells how far it has come.
    pub(crate) fn tell_progress(&self, progress: Progress) -> Result<()> {
        let done = progress.done.0;
        if self.furthest.fetch_max(done, Ordering::Relaxed) < done {
            self.patience.progressed();
        }
        self.agent.monitor.tell_progress(progress)
    }

    /// Tells the service that an image is finished up to a region.
    pub(crate) async fn tell_service(&self, lane: Lane<'_>, next: RegionIndex) -> Result<()> {
        self.sync.progress(lane.stream, next).await?;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told < (lane.stream, next) {
            *told = (lane.stream, next);
            self.patience.progressed();
        }
        Ok(())
    }

    async fn transfer(&mut self, request: &Request<'_>) -> Result<PointKind> {
        let streams = request.streams.iter().enumerate();
        let lanes: Vec<Lane<'_>> = streams
            .map(|(stream, asked)| Lane {
                stream,
                name: &asked.name,
                image: asked.image,
                length: asked.image.geometry().length,
            })
            .collect();
        if self.identity.base.is_some() {
            let (reason, doubt) = match self.attempt(request, &lanes).await? {
                Attempt::Done(kind) => return Ok(kind),
                Attempt::Doubted(reason, doubt) => (reason, doubt),
            };
            self.ledger.forget_content();
            self.outcome.check_reason = Some(reason);
            // Begun again as what it is now.
            self.identity =
                Identity::new(self.agent, Some(self.identity.snapshot), None, [0; TOLD])?;
            self.identity.doubt = doubt;
            (self.furthest, self.told) = Default::default();
            self.begin(request).await?;
        }
        match self.sync.plan().clone() {
            Plan::Initial => {
                self.initial(&lanes).await?;
                Ok(PointKind::Initial)
            }
            Plan::Check { reason } => {
                let reason = self.outcome.check_reason.get_or_insert(reason).clone();
                self.tell_doubt(&reason)?;
                self.check(&lanes).await?;
                Ok(PointKind::ConsistencyCheck)
            }
            Plan::ExpressFull => Err(Error::internal(format!(
                "the service wants an express full of source {} without a base",
                self.source
            ))),
        }
    }

    /// Takes the sample beside sending what changed: nothing is called finished on
    /// the word of a tracker before the sample has shown that it does not lie. What
    /// is sent ends with a sample that raises doubt.
    async fn sample_and_send(
        &self,
        lanes: &[Lane<'_>],
        changed: &[ExtentSet],
    ) -> Result<(Sampled, Result<()>)> {
        let is_trusted = AtomicBool::new(false);
        let sampling = pin!(async {
            let sampled = self.sample(lanes, changed).await?;
            is_trusted.store(doubt(&sampled).is_none(), Ordering::Relaxed);
            Ok::<_, Error>(sampled)
        });
        let sending = pin!(self.express_full(lanes, changed, &is_trusted));
        match select(sampling, sending).await {
            Either::Left((sampled, sending)) => {
                let sampled = sampled?;
                let sent = match doubt(&sampled) {
                    Some(_) => Ok(()),
                    None => sending.await,
                };
                Ok((sampled, sent))
            }
            Either::Right((sent, sampling)) => Ok((sampling.await?, sent)),
        }
    }

    /// Synchronizes by the changed extents that the request tells.
    async fn attempt(&mut self, request: &Request<'_>, lanes: &[Lane<'_>]) -> Result<Attempt> {
        match self.sync.plan().clone() {
            Plan::Initial => {
                self.initial(lanes).await?;
                Ok(Attempt::Done(PointKind::Initial))
            }
            Plan::Check { reason } => Ok(Attempt::Doubted(reason, None)),
            Plan::ExpressFull => {
                let changed: Vec<ExtentSet> = request.streams.iter().map(changed).collect();
                let sent = if self.is_sampled {
                    self.express_full(lanes, &changed, &AtomicBool::new(true))
                        .await
                } else {
                    let (sampled, sent) = self.sample_and_send(lanes, &changed).await?;
                    self.outcome.sample = sampled.sample;
                    if let Some((reason, doubt)) = doubt(&sampled) {
                        return Ok(Attempt::Doubted(reason, Some(doubt)));
                    }
                    self.is_sampled = true;
                    sent
                };
                sent?;
                Ok(Attempt::Done(PointKind::ExpressFull))
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

/// What a sample says against the changed extents, or the replica.
fn doubt(Sampled { sample, damaged }: &Sampled) -> Option<(String, InconsistencyReason)> {
    if *damaged > 0 {
        let reason = format!(
            "the replica lost the data of {damaged} of {} sampled slices",
            damaged + sample.compared
        );
        return Some((reason, InconsistencyReason::Damaged));
    }
    if sample.differed > 0 {
        let reason = format!(
            "{} of {} sampled slices had changed, which the changed extents don't tell",
            sample.differed, sample.compared
        );
        return Some((reason, InconsistencyReason::TrackerMissedChanges));
    }
    None
}
