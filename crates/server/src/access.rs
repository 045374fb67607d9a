//! Who was let recover what, and who did what.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    AccessService, Actor, AuditEntry, AuditRecord, Audited, ChunkDigest, Error, ErrorKind, Grant,
    MOST_AUDIT_RECORDS, Result, SourceName, Timestamp,
};
use tokio::sync::MutexGuard;
use tracing::instrument;

use crate::checks;
use crate::server::{ProtectionServer, Shared};

/// The most grants of a vault.
const MOST_GRANTS: usize = 4096;

/// How many refusals of an hour are noted: of one certificate, and of all.
const MOST_REFUSALS_OF_ONE: u32 = 16;
const MOST_REFUSALS: u32 = 256;

const HOUR_MILLIS: i64 = 3_600_000;

/// What a server keeps at hand of it.
#[derive(Default)]
pub(crate) struct AccessState {
    /// The vault's grants, once they were asked for.
    grants: tokio::sync::Mutex<Option<Vec<Grant>>>,
    refusals: Mutex<Refusals>,
}

/// Who was refused how often in this hour.
#[derive(Default)]
struct Refusals {
    hour: i64,
    all: u32,
    by: HashMap<ChunkDigest, u32>,
}

impl Refusals {
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
        if self.all >= MOST_REFUSALS || own >= MOST_REFUSALS_OF_ONE {
            return false;
        }
        self.all += 1;
        self.by.insert(who, own + 1);
        true
    }
}

/// Implements [`AccessService`] over a server's vault.
pub(crate) struct Access {
    pub(crate) server: ProtectionServer,
}

impl Access {
    fn shared(&self) -> &Shared {
        &self.server.shared
    }

    /// The grants, held so that they don't change.
    async fn known(&self) -> Result<MutexGuard<'_, Option<Vec<Grant>>>> {
        let shared = self.shared();
        let mut grants = shared.access.grants.lock().await;
        if grants.is_none() {
            *grants = Some(shared.store.grants().await?);
        }
        Ok(grants)
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
        let mut grants = known.iter().flatten();
        Ok(
            grants
                .any(|grant| grant.agent == agent && grant.source == *source && now < grant.until),
        )
    }

    async fn grants(&self) -> Result<Vec<Grant>> {
        Ok(self.known().await?.iter().flatten().cloned().collect())
    }

    #[instrument(skip_all, fields(agent = grant.agent, source = %grant.source), err(level = "debug"))]
    async fn grant(&self, by: &Actor, grant: Grant) -> Result<()> {
        checks::name("agent", &grant.agent)?;
        let mut known = self.known().await?;
        let grants = known.iter().flatten();
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

    #[instrument(skip_all, fields(agent, %source), err(level = "debug"))]
    async fn withdraw(&self, by: &Actor, agent: &str, source: &SourceName) -> Result<()> {
        let mut known = self.known().await?;
        let what = Audited::Withdrawn {
            agent: agent.to_owned(),
            source: source.clone(),
        };
        self.add(by, what).await?;
        *known = None;
        self.shared().store.remove_grant(agent, source).await
    }

    async fn note(&self, by: &Actor, what: Audited) -> Result<()> {
        if let Audited::Refused { .. } = what {
            let shared = self.shared();
            let refusals = shared.access.refusals.lock();
            let mut refusals = refusals.unwrap_or_else(PoisonError::into_inner);
            if !refusals.count(by.certificate, shared.clock.now()) {
                return Ok(());
            }
        }
        self.add(by, what).await
    }

    async fn audit(&self, before: Option<u64>, most: usize) -> Result<Vec<AuditEntry>> {
        self.shared().store.audit(before, most).await
    }
}
