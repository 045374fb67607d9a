//! Who was let recover what, and who did what.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    AccessService, Actor, AuditEntry, AuditRecord, Audited, ChunkDigest, Error, ErrorKind, Grant,
    MOST_AUDIT_RECORDS, Result, Role, SourceName, Timestamp,
};
use tokio::sync::MutexGuard;
use tracing::instrument;

use crate::checks;
use crate::server::{ProtectionServer, Shared};

/// The most grants of a vault.
const MOST_GRANTS: usize = 4096;

/// How many refusals of an hour, and openings by agents, are noted: of one
/// certificate, and of all.
const MOST_OF_ONE: u32 = 16;
const MOST_OF_ALL: u32 = 256;

/// How long grants are known: another owner of the vault may have changed them.
const KNOWN_MILLIS: i64 = 5_000;

const HOUR_MILLIS: i64 = 3_600_000;

/// What a server keeps at hand of it.
#[derive(Default)]
pub(crate) struct AccessState {
    /// The vault's grants, once they were asked for.
    grants: tokio::sync::Mutex<Option<Known>>,
    refusals: Mutex<Hourly>,
    openings: Mutex<Hourly>,
}

/// The vault's grants, and when they were read.
struct Known {
    grants: Vec<Grant>,
    at: Timestamp,
}

/// How often something was noted of whom in this hour.
#[derive(Default)]
struct Hourly {
    hour: i64,
    all: u32,
    by: HashMap<ChunkDigest, u32>,
}

impl Hourly {
    /// Counts one; tells whether it is to be noted.
    fn count(&mut self, who: ChunkDigest, now: Timestamp) -> bool {
        let hour = now.0.div_euclid(HOUR_MILLIS);
        if hour != self.hour {
            *self = Self {
                hour,
                ..Self::default()
            };
        }
        let own = self.by.get(&who).copied().unwrap_or_default();
        if self.all >= MOST_OF_ALL || own >= MOST_OF_ONE {
            return false;
        }
        self.all += 1;
        self.by.insert(who, own + 1);
        true
    }
}

/// What changes grants runs to its end when its caller goes away: they must not be
/// read anew in the middle of it.
async fn to_its_end(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    tokio::spawn(work)
        .await
        .map_err(|error| Error::internal("a grant was not changed").with_source(error))?
}

/// Implements [`AccessService`] over a server's vault.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) server: ProtectionServer,
}

impl Access {
    fn shared(&self) -> &Shared {
        &self.server.shared
    }

    /// The grants, held so that they don't change.
    async fn known(&self) -> Result<MutexGuard<'_, Option<Known>>> {
        let shared = self.shared();
        let now = shared.clock.now();
        let mut known = shared.access.grants.lock().await;
        // A clock that was set back makes them old too.
        let is_fresh =
            |known: &Known| (0..KNOWN_MILLIS).contains(&now.0.saturating_sub(known.at.0));
        if !known.as_ref().is_some_and(is_fresh) {
            let grants = shared.store.grants().await?;
            *known = Some(Known { grants, at: now });
        }
        Ok(known)
    }

    async fn grant_now(&self, by: &Actor, grant: Grant) -> Result<()> {
        let mut known = self.known().await?;
        let grants = known.iter().flat_map(|known| &known.grants);
        let others =
            grants.filter(|other| other.agent != grant.agent || other.source != grant.source);
        if others.count() >= MOST_GRANTS {
            return Err(Error::new(
                ErrorKind::Full,
                format!("there are {MOST_GRANTS} grants; withdraw some first"),
            ));
        }
        self.add(by, Audited::Granted(grant.clone())).await?;
        // Asked for anew, whatever becomes of it.
        *known = None;
        self.shared().store.set_grant(grant).await
    }

    async fn withdraw_now(&self, by: &Actor, agent: &str, source: &SourceName) -> Result<()> {
        let mut known = self.known().await?;
        let what = Audited::Withdrawn {
            agent: agent.to_owned(),
            source: source.clone(),
        };
        self.add(by, what).await?;
        *known = None;
        self.shared().store.remove_grant(agent, source).await
    }

    async fn add(&self, by: &Actor, what: Audited) -> Result<()> {
        let shared = self.shared();
        let record = AuditRecord {
            time: shared.clock.now(),
            who: by.clone(),
            what,
        };
        shared
            .store
            .add_audit(vec![record], MOST_AUDIT_RECORDS)
            .await
    }
}

#[async_trait]
impl AccessService for Access {
    async fn is_granted(&self, agent: &str, source: &SourceName) -> Result<bool> {
        let now = self.shared().clock.now();
        let known = self.known().await?;
        let mut grants = known.iter().flat_map(|known| &known.grants);
        Ok(
            grants
                .any(|grant| grant.agent == agent && grant.source == *source && now < grant.until),
        )
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        let known = self.known().await?;
        Ok(known
            .iter()
            .flat_map(|known| &known.grants)
            .cloned()
            .collect())
    }

    #[instrument(skip_all, fields(agent = grant.agent, source = %grant.source), err(level = "debug"))]
    async fn grant(&self, by: &Actor, grant: Grant) -> Result<()> {
        checks::name("agent", &grant.agent)?;
        let (access, by) = (self.clone(), by.clone());
        to_its_end(async move { access.grant_now(&by, grant).await }).await
    }

    #[instrument(skip_all, fields(agent, %source), err(level = "debug"))]
    async fn withdraw(&self, by: &Actor, agent: &str, source: &SourceName) -> Result<()> {
        let (access, by) = (self.clone(), by.clone());
        let (agent, source) = (agent.to_owned(), source.clone());
        to_its_end(async move { access.withdraw_now(&by, &agent, &source).await }).await
    }

    async fn note(&self, by: &Actor, what: Audited) -> Result<()> {
        let shared = self.shared();
        // Nobody can push out what was done by doing something again and again.
        let counted = match (&what, by.role) {
            (Audited::Refused { .. }, _) => Some(&shared.access.refusals),
            (Audited::Opened { .. }, Role::Agent) => Some(&shared.access.openings),
            _ => None,
        };
        if let Some(counted) = counted {
            let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
            if !counted.count(by.certificate, shared.clock.now()) {
                return Ok(());
            }
        }
        self.add(by, what).await
    }

    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        self.shared().store.audit(before, most).await
    }
}
