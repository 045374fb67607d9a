//! Under which ids a synchronization is begun.

use backstop_core::{
    ChunkDigest, InconsistencyReason, PointId, ReplicaStatus, Result, SnapshotId, SynchronizationId,
};

use crate::agent::Agent;
use crate::request::{Changes, StreamRequest};

/// The length of an id, in bytes.
const ID_LENGTH: usize = 16;

/// How many bytes of an id name the changed extents.
pub(crate) const TOLD: usize = 8;

/// A name for the changed extents that are told of images; its last bit is set.
pub(crate) fn told(streams: &[StreamRequest<'_>]) -> [u8; TOLD] {
    let mut all = Vec::new();
    for stream in streams {
        if let Changes::Since { extents, .. } = &stream.changes {
            all.extend((extents.len() as u64).to_le_bytes());
            for extent in extents.iter() {
                all.extend(extent.offset().0.to_le_bytes());
                all.extend(extent.length().0.to_le_bytes());
            }
        }
    }
    let digest = ChunkDigest::of(&all);
    let mut told = [0; TOLD];
    told.copy_from_slice(&digest.as_bytes()[..TOLD]);
    told[TOLD - 1] |= 1;
    told
}

/// Under which ids a synchronization is begun.
///
/// What was finished on the word of changed extents must not count as compared
/// when a check continues; and a check that doubt began must not continue as
/// an express full. So the id's last bit tells whether a base is named with
/// it, for as long as it is unfinished; and with a base its second half names
/// the changed extents, since what others told is not to be relied on.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) id: SynchronizationId,
    pub(crate) snapshot: SnapshotId,
    pub(crate) base: Option<PointId>,
    /// What the server has to know first.
    pub(crate) doubt: Option<InconsistencyReason>,
}

impl Identity {
    /// New ids; the snapshot's may be given. `told` names the changed extents.
    pub(crate) fn new(
        agent: &Agent,
        snapshot: Option<SnapshotId>,
        base: Option<PointId>,
        told: [u8; TOLD],
    ) -> Result<Self> {
        let mut id = agent.randomness.id()?;
        if base.is_some() {
            id[ID_LENGTH - TOLD..].copy_from_slice(&told);
        } else {
            id[ID_LENGTH - 1] &= !1;
        }
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => SnapshotId::from_bytes(agent.randomness.id()?),
        };
        Ok(Self {
            id: SynchronizationId::from_bytes(id),
            snapshot,
            base,
            doubt: None,
        })
    }

    /// The ids of what was begun on this snapshot before, if it can be
    /// continued, or new ones.
    pub(crate) fn find(
        agent: &Agent,
        snapshot: Option<SnapshotId>,
        base: Option<PointId>,
        told: [u8; TOLD],
        status: Option<&ReplicaStatus>,
    ) -> Result<Self> {
        let unfinished = status.and_then(|status| status.unfinished.as_ref());
        if let (Some(snapshot), Some(unfinished)) = (snapshot, unfinished)
            && unfinished.snapshot == snapshot
        {
            let id = unfinished.synchronization;
            let bytes = id.to_bytes();
            let named_base = bytes[ID_LENGTH - 1] & 1 == 1;
            if !named_base || base.is_some() && bytes[ID_LENGTH - TOLD..] == told {
                tracing::info!(synchronization = %id, "continued");
                return Ok(Self {
                    id,
                    snapshot,
                    base: base.filter(|_| named_base),
                    doubt: None,
                });
            }
        }
        Self::new(agent, snapshot, base, told)
    }
}
