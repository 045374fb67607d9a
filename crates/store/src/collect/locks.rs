//! Sees to the store's locks on what is needed: locks anew what would come free
//! too early, and puts under legal hold what points with a hold need.
//!
//! Packs of which nothing is needed any more were condemned before this, so their
//! locks end. The catalog's own objects are not locked: they are merged and
//! deleted all the time, and packs, `vault.json` and a key slot are enough to
//! rebuild it.

use std::sync::Arc;

use backstop_core::{CollectOptions, Error, ErrorKind, LockReport, Result};
use futures::future::join_all;

use super::holds;
use crate::builder::HEADER;
use crate::catalog::{Batch, PACKS, numbered_key};
use crate::keys::KEYS;
use crate::object_lock::locks::Term;
use crate::record::{self, PackHold, PackRecord};
use crate::removal;
use crate::vault::Vault;

/// How many objects are locked at once.
pub(super) const AT_ONCE: usize = 16;

/// After so many failures in a row the rest is left to the next run.
const MOST_FAILURES: u64 = 32;

/// A pass over locks or holds.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) report: LockReport,
    failures: u64,
}

impl Pass {
    /// Notes what became of a request.
    pub(super) fn note<T>(&mut self, done: Result<T>) -> Option<T> {
        self.report.requests += 1;
        match done {
            Ok(done) => {
                self.failures = 0;
                Some(done)
            }
            Err(error) => {
                self.failures += 1;
                if error.kind() == ErrorKind::Unsupported {
                    self.failures = MOST_FAILURES;
                }
                self.wrong(&error);
                None
            }
        }
    }

    /// Notes that something went wrong.
    pub(super) fn wrong(&mut self, error: &Error) {
        tracing::warn!(%error, "a lock of the store is not as it should be");
        self.report.problem.get_or_insert_with(|| error.to_string());
    }

    /// Whether it makes no sense to go on.
    pub(super) fn is_over(&self) -> bool {
        self.failures >= MOST_FAILURES
    }
}

/// Sees to locks and holds; one collection at a time. Nothing that goes wrong
/// ends a collection: it is told.
pub(super) async fn see_to(vault: &Arc<Vault>, options: &CollectOptions) -> LockReport {
    let Some(term) = vault.place.locks.term() else {
        return LockReport::default();
    };
    let mut pass = Pass::default();
    if let Err(error) = renew(vault, term, &mut pass).await {
        pass.wrong(&error);
    }
    if let Err(error) = holds::renew(vault, options, &mut pass).await {
        pass.wrong(&error);
    }
    pass.report
}

/// What the records of packs tell.
pub(super) async fn written_down(vault: &Vault) -> Result<LockReport> {
    let mut report = LockReport::default();
    let Some(term) = Term::of(&removal::protection(vault).await?) else {
        return Ok(report);
    };
    let now = vault.clock.now();
    for (_, record) in vault.listed_packs().await? {
        let is_met = record
            .lock
            .is_some_and(|lock| term.is_met(lock.into(), now));
        let count = if is_met {
            &mut report.locked
        } else {
            &mut report.unlocked
        };
        count.add(record.bytes);
        if record.hold == PackHold::On {
            report.held.add(record.bytes);
        }
    }
    Ok(report)
}

/// Writes changed records of packs.
pub(super) async fn put(vault: &Vault, records: &[(u64, PackRecord)]) -> Result<()> {
    let mut batch = Batch::default();
    for (number, record) in records {
        batch.put(&numbered_key(PACKS, *number), &record::encode(record)?);
    }
    vault.catalog.write(batch).await
}

/// What opens the vault: without it packs are worth nothing.
pub(super) async fn openers(vault: &Vault) -> Result<Vec<String>> {
    let mut names = vault.place.list(KEYS).await?;
    names.push(HEADER.to_owned());
    Ok(names)
}

/// Locks anew what would come free within the minimum retention.
async fn renew(vault: &Vault, term: Term, pass: &mut Pass) -> Result<()> {
    let locks = &vault.place.locks;
    let now = vault.clock.now();
    for name in openers(vault).await? {
        let locked = locks.lock(&name, term, now).await;
        pass.note(locked);
    }
    let mut due = Vec::new();
    for (number, record) in vault.listed_packs().await? {
        match record.lock {
            Some(lock) if term.is_met(lock.into(), now) => pass.report.locked.add(record.bytes),
            _ => due.push((number, record)),
        }
    }
    for some in due.chunks(AT_ONCE) {
        if pass.is_over() {
            for (_, record) in some {
                pass.report.unlocked.add(record.bytes);
            }
            continue;
        }
        let locking = some.iter().cloned().map(|(number, record)| async move {
            let name = record.name.path(record.kind);
            let locked = locks.lock(&name, term, now).await;
            (number, record, locked)
        });
        let locked = join_all(locking).await;
        let mut changed = Vec::new();
        for (number, record, locked) in locked {
            match pass.note(locked) {
                Some(locked) => {
                    pass.report.locked.add(record.bytes);
                    pass.report.extended.add(record.bytes);
                    let lock = Some(locked.into());
                    changed.push((number, PackRecord { lock, ..record }));
                }
                None => pass.report.unlocked.add(record.bytes),
            }
        }
        put(vault, &changed).await?;
    }
    // Who loses this locks once more than needed.
    vault.catalog.flush().await
}
