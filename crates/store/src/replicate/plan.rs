//! Which points are to be copied, in which steps.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backstop_core::{Error, PointId, Result, SourceName};

use super::{origin, records};
use crate::record::PointRecord;
use crate::vault::Vault;

/// What is to be copied.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Points that are committed together, in the order of their commits.
    pub(super) steps: Vec<Vec<PointRecord>>,
    pub(super) sources: BTreeSet<SourceName>,
    /// How many points the other vault has already.
    pub(super) held: u64,
    /// How many it lacks that are older than its newest.
    pub(super) passed_over: u64,
}

/// All points of a vault, by their ids.
pub(super) async fn points(vault: &Vault) -> Result<HashMap<PointId, PointRecord>> {
    let records = records(vault).await?.into_iter();
    Ok(records.map(|record| (record.point.id, record)).collect())
}

impl Plan {
    pub(super) async fn make(from: &Vault, to: &Vault, sources: &[SourceName]) -> Result<Self> {
        let mut here: BTreeMap<SourceName, Vec<PointRecord>> = BTreeMap::new();
        for record in records(from).await? {
            let source = &record.point.source;
            if sources.is_empty() || sources.contains(source) {
                here.entry(source.clone()).or_default().push(record);
            }
        }
        if let Some(missing) = sources.iter().find(|source| !here.contains_key(source)) {
            return Err(Error::not_found(format!(
                "source {missing} has no recovery point in the vault at {}",
                from.place.name
            )));
        }
        let there = points(to).await?;
        let mut plan = Self::default();
        let mut fresh = Vec::new();
        for (source, mut records) in here {
            records.sort_by_key(|record| record.point.sequence);
            let held = |record: &PointRecord| there.contains_key(&record.point.id);
            let newest = records.iter().rposition(held);
            let head = to.replica_entry(&source).await?.and_then(|it| it.head);
            let common = newest.map(|at| records[at].point.id);
            let mut begin = newest.map_or(0, |at| at + 1);
            if head != common {
                // It may have come from here, and expired here since.
                let head_there = head.and_then(|head| there.get(&head));
                let sequence = head_there
                    .and_then(|it| origin::sequence_in(&it.point.provenance, &from.header.id));
                let Some(sequence) = sequence else {
                    return Err(parted(to, &source, head));
                };
                let newer = records.partition_point(|it| it.point.sequence <= sequence);
                begin = begin.max(newer);
            }
            let known = records[..begin]
                .iter()
                .filter(|record| held(record))
                .count();
            plan.held += known as u64;
            plan.passed_over += (begin - known) as u64;
            fresh.extend(records.drain(begin..));
            plan.sources.insert(source);
        }
        fresh.sort_by_key(|record| record.point.sequence);
        for record in fresh {
            match plan.steps.last_mut() {
                Some(step) if record.group.is_some() && step[0].group == record.group => {
                    step.push(record);
                }
                _ => plan.steps.push(vec![record]),
            }
        }
        Ok(plan)
    }
}

fn parted(to: &Vault, source: &SourceName, head: Option<PointId>) -> Error {
    let place = &to.place.name;
    Error::conflict(match head {
        Some(head) => format!(
            "the newest recovery point of {source} in the vault at {place}, {head}, never was one of \
             this vault: the two have gone their own ways; replicate into another vault"
        ),
        None => format!(
            "the vault at {place} holds recovery points of {source} and no newest one; rebuild it"
        ),
    })
}
