//! In which states replicas are after a rebuild.

use std::collections::BTreeMap;

use backstop_core::{ReplicaState, SourceName};

use crate::record::PointRecord;

/// States of replicas, and with which sequence each was told.
pub(super) type Told = BTreeMap<SourceName, (u64, ReplicaState)>;

/// Takes what was told last.
pub(super) fn tell(told: &mut Told, source: &SourceName, sequence: u64, state: &ReplicaState) {
    let known = told
        .entry(source.clone())
        .or_insert_with(|| (sequence, state.clone()));
    if sequence >= known.0 {
        *known = (sequence, state.clone());
    }
}

/// The states by what was told apart from points, and by the points that stay:
/// one that is lost says nothing of what remains.
pub(super) fn of<'a>(told: &Told, staying: impl IntoIterator<Item = &'a PointRecord>) -> Told {
    let mut states = told.clone();
    for record in staying {
        let point = &record.point;
        tell(&mut states, &point.source, point.sequence, &record.state);
    }
    states
}
