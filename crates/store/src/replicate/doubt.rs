//! Doubt of the other vault about its own replica: that something stored there
//! is damaged, or what an agent told there after a failover. What this vault
//! knows of its replica says nothing of that, so it never ends it in passing.

use backstop_core::{PointKind, RecoveryStore, ReplicaState, Result, SourceName};

use crate::dedup_store::DedupStore;
use crate::record::{PointRecord, ReplicaEntry};
use crate::vault::Vault;

/// Whether what is stored of a replica is in doubt: then the next point is
/// copied whole, and what is there is read before it is relied on.
pub(super) fn is_about_data(state: &ReplicaState) -> bool {
    matches!(state, ReplicaState::Inconsistent { reason, .. } if reason.doubts_stored_data())
}

/// The state of a replica after a point was copied to it.
pub(super) fn state_after(before: &ReplicaState, record: &PointRecord) -> ReplicaState {
    let is_checked = record.point.kind != PointKind::ExpressFull;
    let stays = matches!(before, ReplicaState::Inconsistent { .. })
        && record.state == ReplicaState::Consistent
        && !is_about_data(before)
        && !is_checked;
    if stays {
        // It was made from what is in doubt there.
        before.clone()
    } else {
        record.state.clone()
    }
}

/// Where both have the same newest point, doubt about it comes over too; tells
/// whether the other vault is in doubt that this one does not share.
pub(super) async fn comes_over(from: &Vault, to: &DedupStore, source: &SourceName) -> Result<bool> {
    let here = from.replica_entry(source).await?;
    let there = to.vault.replica_entry(source).await?;
    let (Some(here), Some(there)) = (here, there) else {
        return Ok(false);
    };
    if here.head != there.head || here.state == there.state {
        return Ok(false);
    }
    let in_doubt = |entry: &ReplicaEntry| matches!(entry.state, ReplicaState::Inconsistent { .. });
    if !in_doubt(&there) {
        to.set_state(source, here.state).await?;
        return Ok(false);
    }
    Ok(true)
}
