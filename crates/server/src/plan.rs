//! How the changes of a synchronization are to be found. Pure.

use backstop_core::{
    BeginRequest, Plan, PointKind, RecoveryPoint, ReplicaRecord, ReplicaState, StreamSpec,
};

/// Decides the plan of a synchronization from what is known of the replica.
///
/// `head` is the replica's newest point, if it has one. An express full is
/// safe only where nothing else could have changed: every doubt is a check,
/// and says what it is.
pub(crate) fn plan(
    request: &BeginRequest,
    record: Option<&ReplicaRecord>,
    head: Option<&RecoveryPoint>,
) -> Plan {
    let (Some(record), Some(head)) = (record, head) else {
        return Plan::Initial;
    };
    match doubt(request, record, head) {
        Some(reason) => Plan::Check { reason },
        None => Plan::ExpressFull,
    }
}

/// The kind of point that a plan is for.
pub(crate) fn kind(plan: &Plan) -> PointKind {
    match plan {
        Plan::Initial => PointKind::Initial,
        Plan::ExpressFull => PointKind::ExpressFull,
        Plan::Check { .. } => PointKind::ConsistencyCheck,
    }
}

/// Whether a synchronization by this plan reads and checks what is stored.
pub(crate) fn verifies(plan: &Plan, record: Option<&ReplicaRecord>) -> bool {
    match (plan, record.map(|record| &record.state)) {
        (Plan::Check { .. }, Some(ReplicaState::Inconsistent { reason, .. })) => {
            reason.doubts_stored_data()
        }
        _ => false,
    }
}

/// What speaks against trusting the changed extents.
fn doubt(request: &BeginRequest, record: &ReplicaRecord, head: &RecoveryPoint) -> Option<String> {
    match &record.state {
        ReplicaState::Consistent => {}
        state => return Some(format!("the replica of {} is {state}", request.source)),
    }
    let Some(base) = request.base else {
        return Some(format!(
            "no changed extents are known of {}: there is no tracker, or it lost trust",
            request.source
        ));
    };
    if base != head.id {
        return Some(format!(
            "the changed extents are since point {base}, but the replica's head is {}",
            head.id
        ));
    }
    images_differ(&request.streams, head)
}

/// How the images are not those of the head.
fn images_differ(streams: &[StreamSpec], head: &RecoveryPoint) -> Option<String> {
    for spec in streams {
        match head.streams.iter().find(|stream| stream.name == spec.name) {
            None => return Some(format!("image {} was not in point {}", spec.name, head.id)),
            Some(stream) if stream.length != spec.length => {
                return Some(format!(
                    "image {} had {} bytes in point {} and has {} now",
                    spec.name, stream.length, head.id, spec.length
                ));
            }
            Some(_) => {}
        }
    }
    let gone = head
        .streams
        .iter()
        .find(|stream| streams.iter().all(|spec| spec.name != stream.name))?;
    Some(format!("image {} of point {} is gone", gone.name, head.id))
}
