//! What was asked of the store by month, kept in the catalog: a process that is
//! asked what a vault costs has mostly done nothing itself.
//!
//! An owner adds what it has asked to the record of the month, with what it
//! writes anyway: when it closes, and at most once an hour with a change that it
//! makes durable. What comes after the last of these is not kept: a killed
//! process's last requests, and those that the end of closing takes. Readers
//! keep nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use backstop_core::{ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Requests, UsageByOperation};
use crate::catalog::{Batch, Catalog, USAGE};
use crate::dedup_store::DedupStore;
use crate::record;
use crate::vault::Vault;

/// How often it is kept, if anything is written.
const INTERVAL: Duration = Duration::from_hours(1);

/// What all owners of a vault have asked of its store in one month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MonthUsage {
    /// As 2026-11, in UTC, by the vault's clock: when it was kept.
    pub month: String,
    /// By operation.
    pub operations: UsageByOperation,
}

/// The record of a month.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    operations: UsageByOperation,
}

/// What of an open vault's usage is kept already.
#[derive(Debug)]
pub(crate) struct Keeping {
    at: Timestamp,
    saved: UsageByOperation,
}

impl Keeping {
    pub(crate) fn since(at: Timestamp) -> Self {
        Self {
            at,
            saved: BTreeMap::new(),
        }
    }
}

fn month_of(time: Timestamp) -> String {
    let time = time.to_string();
    let day = time.split_once('T').map_or(&*time, |(day, _)| day);
    let month = day.rsplit_once('-').map_or(day, |(month, _)| month);
    month.to_owned()
}

fn key(month: &str) -> Vec<u8> {
    [&[USAGE], month.as_bytes()].concat()
}

/// What was asked that is not kept yet.
fn since(usage: &UsageByOperation, saved: &UsageByOperation) -> UsageByOperation {
    let each = usage.iter().map(|(operation, requests)| {
        let saved = saved.get(operation).copied().unwrap_or_default();
        (*operation, requests.since(&saved))
    });
    each.filter(|(_, requests)| *requests != Requests::default())
        .collect()
}

/// Adds what is not kept yet to a batch that is written anyway.
async fn keep(vault: &Vault, keeping: &mut Keeping, batch: &mut Batch) -> Result<()> {
    let now = vault.clock.now();
    let key = key(&month_of(now));
    let mut kept = match vault.catalog.get(&key).await? {
        Some(value) => record::decode::<Kept>("the record of a month's requests", &value)?,
        None => Kept::default(),
    };
    let usage = vault.place.meter.usage().by_operation();
    for (operation, requests) in since(&usage, &keeping.saved) {
        *kept.operations.entry(operation).or_default() += requests;
    }
    batch.put(&key, &record::encode(&kept)?);
    *keeping = Keeping {
        at: now,
        saved: usage,
    };
    Ok(())
}

/// A report is not worth failing for.
fn untold(vault: &Vault, error: &backstop_core::Error) {
    tracing::warn!(vault = %vault.place.name, %error, "what was asked of the store is not kept");
}

/// Adds what is not kept yet to a batch, at most once an hour and a month.
pub(crate) async fn keep_if_due(vault: &Vault, batch: &mut Batch) {
    let now = vault.clock.now();
    // Who finds it locked is being served by another's batch.
    let Ok(mut keeping) = vault.keeping.try_lock() else {
        return;
    };
    let is_due = now.since(keeping.at) >= INTERVAL || month_of(now) != month_of(keeping.at);
    if is_due
        && !batch.is_empty()
        && let Err(error) = keep(vault, &mut keeping, batch).await
    {
        untold(vault, &error);
    }
}

/// Keeps what is not kept yet, for the flush that closes the catalog.
pub(crate) async fn keep_last(vault: &Vault) {
    let mut keeping = vault.keeping.lock().await;
    let mut batch = Batch::default();
    let kept = match keep(vault, &mut keeping, &mut batch).await {
        Ok(()) => vault.catalog.write(batch).await,
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        untold(vault, &error);
    }
}

/// All months that are kept, the oldest first. A record that is damaged is left
/// out, and told by `tracing`.
async fn months(catalog: &Catalog) -> Result<Vec<MonthUsage>> {
    let mut months = Vec::new();
    let mut entries = catalog.scan(&[USAGE]).await?;
    while let Some((key, value)) = entries.next().await? {
        let month = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        match record::decode::<Kept>("the record of a month's requests", &value) {
            Ok(Kept { operations }) => months.push(MonthUsage { month, operations }),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(month, %error, "what was asked of the store is not known");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(months)
}

impl DedupStore {
    /// What the owners of this vault have asked of its store, by month, the
    /// oldest first. What this process has asked since it was last kept is not
    /// in it, nor what readers ask; [`usage`](Self::usage) tells that of this
    /// process.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn usage_by_month(&self) -> Result<Vec<MonthUsage>> {
        let _listing = self.vault.place.meter.begin(super::Operation::List);
        months(&self.vault.catalog).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (millis, month) in [
            (0, "1970-01"),
            (951_782_400_000, "2000-02"),
            (1_796_083_199_999, "2026-11"),
            (1_796_083_200_000, "2026-12"),
            (-1, "1969-12"),
        ] {
            assert_eq!(month_of(Timestamp(millis)), month);
        }
    }
}
