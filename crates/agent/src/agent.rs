//! The agent: its parts, and what it is asked to do.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use backstop_core::{
    BlockSource, Chunker, Codecs, Commit, CpuPool, Error, ErrorKind, Monitor, NoMonitor,
    ProtectionService, RecoveryPoint, Result, SourceName, StreamName,
};

use crate::patience::may_pass;
use crate::randomness::Randomness;
use crate::request::{Changes, Request};
use crate::settings::AgentSettings;
use crate::synchronize::{Prepared, prepare};

/// Synchronizes data sources with a protection service.
///
/// *Atomic*: a recovery point appears as a whole, when the returned future is
/// ready, or not at all. *Cancelling* by dropping the future stops everything
/// at once (CPU work under way ends by itself) and leaves nothing visible; if
/// that happens during the commit, the point may exist. *Concurrent*: one
/// agent may synchronize several sources at once, each with memory of its own;
/// the CPU pool is shared. Two synchronizations of one source at once give
/// each other up.
pub struct Agent {
    pub(crate) service: Arc<dyn ProtectionService>,
    pub(crate) cpu: CpuPool,
    pub(crate) monitor: Arc<dyn Monitor>,
    pub(crate) settings: AgentSettings,
    pub(crate) codecs: Arc<Codecs>,
    pub(crate) chunker: Chunker,
    pub(crate) randomness: Randomness,
}

impl Agent {
    /// An agent of this service, with default settings, a CPU pool of its own
    /// and no monitor.
    pub fn new(service: Arc<dyn ProtectionService>) -> Self {
        let settings = AgentSettings::default();
        Self {
            service,
            cpu: CpuPool::default(),
            monitor: Arc::new(NoMonitor),
            codecs: Arc::new(Codecs::new(settings.compression_level)),
            settings,
            chunker: Chunker::default(),
            randomness: Randomness::System,
        }
    }

    /// The same agent with its CPU work on this pool, to share a bound with
    /// others.
    pub fn with_cpu_pool(mut self, cpu: CpuPool) -> Self {
        self.cpu = cpu;
        self
    }

    /// The same agent telling this monitor what it does.
    pub fn with_monitor(mut self, monitor: Arc<dyn Monitor>) -> Self {
        self.monitor = monitor;
        self
    }

    /// The same agent with these settings.
    pub fn with_settings(mut self, settings: AgentSettings) -> Self {
        self.codecs = Arc::new(Codecs::new(settings.compression_level));
        self.settings = settings;
        self
    }

    /// The same agent drawing its ids, samples and delays from a seed, so that a
    /// simulation replays. Two agents of one service must not share a seed:
    /// their synchronizations would have the same ids.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.randomness = Randomness::seeded(seed);
        self
    }

    /// Brings the replica of a source that is one image up to date, and makes
    /// a crash-consistent recovery point. Without a replica everything is
    /// sent, whatever `changes` says.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a bad name or changed
    /// extents outside the image; those of the source, but blocks that can't
    /// be read are recorded in the point; [`Conflict`](ErrorKind::Conflict),
    /// and no point is made, if the source
    /// [finds](BlockSource::verify_unchanged) that it changed while it was
    /// read; those of the service.
    pub async fn protect(
        &self,
        name: &str,
        image: &dyn BlockSource,
        changes: Changes,
    ) -> Result<RecoveryPoint> {
        let request = Request::new(SourceName::new(name)?);
        self.synchronize(request.with_stream(StreamName::disk(), image, changes))
            .await
    }

    /// Compares the replica of a source that is one image with the source,
    /// sends what differs, and makes a recovery point.
    ///
    /// # Errors
    /// As [`protect`](Self::protect).
    pub async fn check(&self, name: &str, image: &dyn BlockSource) -> Result<RecoveryPoint> {
        self.protect(name, image, Changes::Unknown).await
    }

    /// Brings a replica up to date and makes a recovery point, as the request
    /// says.
    ///
    /// An interrupted synchronization of the same snapshot is continued after
    /// the regions that the server knows to be finished; its counts are then
    /// those of this run alone. With [`patience`](AgentSettings::patience) that
    /// is done by itself, as long as the images are there.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a request that does not
    /// fit together; else as [`protect`](Self::protect).
    pub async fn synchronize(&self, request: Request<'_>) -> Result<RecoveryPoint> {
        let prepared = prepare(self, request).await?;
        let points = self.commit(vec![prepared]).await?;
        points.into_iter().next().ok_or_else(no_point)
    }

    /// Brings the replicas of several sources up to date, one after the other,
    /// and makes their recovery points visible together or not at all; in the
    /// order of the requests.
    ///
    /// # Errors
    /// As [`synchronize`](Self::synchronize);
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a source is named twice.
    pub async fn protect_group(&self, requests: Vec<Request<'_>>) -> Result<Vec<RecoveryPoint>> {
        let mut names = BTreeSet::new();
        for request in &requests {
            if !names.insert(&request.source) {
                let sentence = format!("source {} is in the group twice", request.source);
                return Err(Error::invalid_input(sentence));
            }
        }
        let mut prepared = Vec::with_capacity(requests.len());
        for request in requests {
            match prepare(self, request).await {
                Ok(one) => prepared.push(one),
                Err(error) => {
                    leave(prepared, false).await;
                    return Err(error);
                }
            }
        }
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        self.commit(prepared).await
    }

    /// Commits, unless an image changed while it was read: a point of that
    /// would be of no instant.
    async fn commit(&self, mut prepared: Vec<Prepared<'_>>) -> Result<Vec<RecoveryPoint>> {
        let mut is_verified = false;
        loop {
            // Not again before a commit is repeated: its answer may be all that is
            // missing, and the point is what was read then.
            if !is_verified {
                prepared = verified(prepared).await?;
            }
            let error = match self.commit_verified(&prepared).await {
                Ok(points) => return Ok(points),
                Err(error) => error,
            };
            // Nothing was changed; of other failures the outcome is unknown.
            if error.kind() == ErrorKind::Conflict {
                leave(prepared, false).await;
                return Err(error);
            }
            let Some(first) = prepared.first() else {
                return Err(error);
            };
            // A service that was started again knows nothing that is under way.
            let may_pass = may_pass(error.kind()) || error.kind() == ErrorKind::NotFound;
            if first.patience().is_none() || !may_pass {
                return Err(error);
            }
            first.patience().wait(error).await?;
            match resume(&mut prepared).await {
                Ok(has_read) => is_verified = !has_read,
                Err(error) => {
                    leave(prepared, false).await;
                    return Err(error);
                }
            }
        }
    }

    /// Commits, and asks again while the service is unavailable: a commit may
    /// be repeated, so that a lost answer costs nothing.
    async fn commit_verified(&self, prepared: &[Prepared<'_>]) -> Result<Vec<RecoveryPoint>> {
        let commits: Vec<Commit> = prepared.iter().map(Prepared::commit).collect();
        let mut attempt = 1;
        loop {
            match self.service.commit(commits.clone()).await {
                Ok(points) if points.len() == commits.len() => return Ok(points),
                Ok(_) => return Err(no_point()),
                Err(error)
                    if error.kind() == ErrorKind::Unavailable
                        && attempt < self.settings.commit_attempts =>
                {
                    tracing::warn!(attempt, %error, "the commit is tried again");
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Gives them back if their images are what was read; else leaves them.
async fn verified(prepared: Vec<Prepared<'_>>) -> Result<Vec<Prepared<'_>>> {
    let mut torn = vec![false; prepared.len()];
    let mut failure = None;
    for (one, torn) in prepared.iter().zip(&mut torn) {
        if let Err(error) = one.verify_unchanged().await {
            *torn = error.kind() == ErrorKind::Conflict;
            failure = Some(failure.unwrap_or(error));
        }
    }
    let Some(error) = failure else {
        return Ok(prepared);
    };
    for (one, is_torn) in prepared.into_iter().zip(torn) {
        one.leave(is_torn).await;
    }
    Err(error)
}

async fn resume(prepared: &mut [Prepared<'_>]) -> Result<bool> {
    let mut has_read = false;
    for one in prepared {
        has_read |= one.resume().await?;
    }
    Ok(has_read)
}

async fn leave(prepared: Vec<Prepared<'_>>, is_torn: bool) {
    for one in prepared {
        one.leave(is_torn).await;
    }
}

fn no_point() -> Error {
    Error::internal("the service committed, but did not give every recovery point")
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("settings", &self.settings)
            .field("randomness", &self.randomness)
            .finish_non_exhaustive()
    }
}
