//! Grants, and the audit of who did what, in the catalog.

use backstop_core::{AuditEntry, AuditRecord, Grant, Result};
use serde::{Deserialize, Serialize};

use crate::catalog::{AUDIT, AUDITED, Batch, GRANTS, numbered_key};
use crate::ledger;
use crate::record;
use crate::vault::Vault;

/// The most audit records that one change removes: a change is one batch.
const MOST_REMOVED: u64 = 10_000;

/// Which audit records there are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Numbers {
    first: u64,
    next: u64,
}

pub(crate) async fn grants(vault: &Vault) -> Result<Vec<Grant>> {
    let mut grants: Vec<Grant> = Vec::new();
    let mut entries = vault.catalog.scan(&[GRANTS]).await?;
    while let Some((_, value)) = entries.next().await? {
        grants.push(record::decode("a grant", &value)?);
    }
    grants.sort_by(|a, b| (&a.agent, &a.source).cmp(&(&b.agent, &b.source)));
    Ok(grants)
}

pub(crate) async fn set(vault: &Vault, grant: &Grant) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let key = vault.catalog.grant_key(&grant.agent, &grant.source);
    let before = vault.catalog.get_durable(&key).await?;
    if let Some(before) = before {
        // One that a newer version has written is not written over.
        record::decode::<Grant>("a grant", &before)?;
    }
    let mut batch = Batch::default();
    batch.put(&key, &record::encode(grant)?);
    ledger::commit(vault, batch, Vec::new()).await
}

pub(crate) async fn remove(vault: &Vault, key: &[u8]) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    if vault.catalog.get_durable(key).await?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.delete(key);
    ledger::commit(vault, batch, Vec::new()).await
}

async fn numbers(vault: &Vault) -> Result<Numbers> {
    let value = vault.catalog.get_durable(AUDITED).await?;
    let decoded = value.map(|value| record::decode("the numbers of the audit", &value));
    Ok(decoded.transpose()?.unwrap_or_default())
}

pub(crate) async fn add(vault: &Vault, records: Vec<AuditRecord>, keep: u64) -> Result<()> {
    vault.writer()?;
    let _one = vault.commit.lock().await;
    let mut numbers = numbers(vault).await?;
    let mut batch = Batch::default();
    for added in &records {
        let key = numbered_key(AUDIT, numbers.next);
        batch.put(&key, &record::encode(added)?);
        numbers.next += 1;
    }
    let first = numbers.next.saturating_sub(keep);
    let first = first.clamp(numbers.first, numbers.first.saturating_add(MOST_REMOVED));
    for number in numbers.first..first {
        batch.delete(&numbered_key(AUDIT, number));
    }
    numbers.first = first;
    if batch.is_empty() {
        return Ok(());
    }
    batch.put(AUDITED, &record::encode(&numbers)?);
    ledger::commit(vault, batch, Vec::new()).await
}

pub(crate) async fn audit(
    vault: &Vault,
    before: Option<u64>,
    most: usize,
) -> Result<Vec<AuditEntry>> {
    let Numbers { first, next } = numbers(vault).await?;
    let mut entries = Vec::new();
    for number in (first..next.min(before.unwrap_or(next))).rev().take(most) {
        let value = vault
            .catalog
            .get_durable(&numbered_key(AUDIT, number))
            .await?;
        // One that went meanwhile was the oldest.
        let Some(value) = value else { break };
        let record = record::decode("an audit record", &value)?;
        entries.push(AuditEntry { number, record });
    }
    Ok(entries)
}
