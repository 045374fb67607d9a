//! Changes of what the vault keeps and for how long, as they go into the
//! catalog: expiry and its undoing, removal for good, marks, protection, and who
//! has to approve.
//!
//! All of them go through [`commit`], one batch for those that happen together.

use backstop_core::{Protection, Result};

use crate::approvals::{ApprovalRequest, approval_key};
use crate::catalog::{self, Batch, Catalog, OPERATORS, PROTECTION};
use crate::ledger::{self, Event, PER_EVENT};
use crate::operators::Operators;
use crate::record::{self, PointRecord};
use crate::vault::Vault;

/// A change. Records are as they are after it.
#[derive(Debug)]
pub(crate) enum Change {
    /// A point has expired, and can be brought back.
    Expired(PointRecord),
    /// An expired point is back.
    Undone(PointRecord),
    /// A point, expired or not, is gone for good.
    Removed(PointRecord),
    /// A point has other marks.
    Marked(PointRecord),
    /// The vault is protected otherwise.
    Protected(Protection),
    /// There are other operators, or another number of them is needed.
    Operators(Operators),
    /// A request waits for approvals, those that it has among it.
    Asked(ApprovalRequest),
    /// The request with this id waits no more.
    Answered(String),
}

/// Makes changes, durably and all together. The commit lock is held.
pub(crate) async fn commit(vault: &Vault, changes: &[Change]) -> Result<()> {
    let mut batch = Batch::default();
    for change in changes {
        add(&mut batch, &vault.catalog, change).await?;
    }
    ledger::commit(vault, batch, events(changes)).await?;
    for change in changes {
        if let Change::Protected(protection) = change {
            vault.place.locks.follow(protection);
        }
    }
    Ok(())
}

/// Brings what changed into a pack at once: what protects the vault must outlive
/// its catalog from the moment that it is told. The commit lock is held.
pub(crate) async fn keep(vault: &Vault) -> Result<()> {
    ledger::settle_now(vault).await.map_err(|error| {
        error.within(
            "the change was made, and stands in the catalog alone until the next commit, \
             collection or closing",
        )
    })
}

/// What a rebuild has to know of changes. Requests that wait are none of it.
fn events(changes: &[Change]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut removed = Vec::new();
    for change in changes {
        match change {
            Change::Expired(record) => events.extend(record.expiry.map(|expiry| Event::Expired {
                point: record.point.id,
                expiry,
            })),
            Change::Undone(record) => events.push(Event::Undone {
                point: record.point.id,
            }),
            Change::Removed(record) => removed.push(record.point.id),
            Change::Marked(record) => events.push(Event::Marked {
                point: record.point.id,
                marks: record.point.marks.clone(),
            }),
            Change::Protected(protection) => events.push(Event::Protected {
                protection: *protection,
            }),
            Change::Operators(operators) => events.push(Event::Operators {
                operators: operators.clone(),
            }),
            Change::Asked(_) | Change::Answered(_) => {}
        }
    }
    let removed = removed.chunks(PER_EVENT).map(|points| Event::Removed {
        points: points.to_vec(),
    });
    events.extend(removed);
    events
}

async fn add(batch: &mut Batch, catalog: &Catalog, change: &Change) -> Result<()> {
    let keys = |record: &PointRecord| {
        let (source, sequence) = (&record.point.source, record.point.sequence);
        let there = catalog.point_key(source, sequence);
        (there, catalog.expired_key(source, sequence))
    };
    match change {
        Change::Expired(record) => {
            let (there, expired) = keys(record);
            batch.delete(&there);
            place(batch, &expired, record)?;
        }
        Change::Undone(record) => {
            let (there, expired) = keys(record);
            batch.delete(&expired);
            place(batch, &there, record)?;
        }
        Change::Removed(record) => {
            let (there, expired) = keys(record);
            let place = if record.expiry.is_some() {
                expired
            } else {
                there
            };
            batch.delete(&place);
            batch.delete(&catalog::id_key(record.point.id));
            // A rebuild may have found two points of one synchronization.
            let key = catalog::synchronization_key(record.point.synchronization);
            if catalog
                .get(&key)
                .await?
                .is_some_and(|names| names[..] == place)
            {
                batch.delete(&key);
            }
        }
        Change::Marked(record) => {
            let (there, _) = keys(record);
            batch.put(&there, &record::encode(record)?);
        }
        Change::Protected(protection) => batch.put(PROTECTION, &record::encode(protection)?),
        Change::Operators(operators) => batch.put(OPERATORS, &record::encode(operators)?),
        Change::Asked(request) => {
            batch.put(&approval_key(&request.id), &record::encode(request)?);
        }
        Change::Answered(id) => batch.delete(&approval_key(id)),
    }
    Ok(())
}

/// Puts a point's record where it belongs now.
fn place(batch: &mut Batch, key: &[u8], record: &PointRecord) -> Result<()> {
    batch.put(key, &record::encode(record)?);
    batch.put(&catalog::id_key(record.point.id), key);
    let synchronization = record.point.synchronization;
    batch.put(&catalog::synchronization_key(synchronization), key);
    Ok(())
}
