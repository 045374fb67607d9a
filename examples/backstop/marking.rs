//! `pin`, `unpin`, `hold` and `release`: what keeps a recovery point whatever
//! the policy says.

use backstop::{DedupStore, ProtectionServer};

use crate::ending::{Ending, Verdict};
use crate::output::Output;
use crate::point_reference::PointReference;
use crate::protection::see_to_locks;
use crate::report::{PointReport, table};

/// What to do to a point.
#[derive(Clone, Copy, Debug)]
pub enum Mark<'a> {
    /// Keep it.
    Pin,
    /// Don't keep it for a pin.
    Unpin,
    /// Keep it for this reason.
    Hold(&'a str),
    /// Don't keep it for this reason.
    Release(&'a str),
}

/// Sets or lifts a mark and shows the point as it is then.
pub async fn mark(
    point: &PointReference,
    mark: Mark<'_>,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let id = point.find(&*server.recovery_service()).await?.id;
    match mark {
        Mark::Pin => server.pin(id).await?,
        Mark::Unpin => server.unpin(id).await?,
        Mark::Hold(reason) => server.hold(id, reason).await?,
        Mark::Release(reason) => server.release(id, reason).await?,
    }
    let point = server.point(id).await?;
    output.print(&PointReport::from(&point), table([&point]))?;
    Ok(Verdict::Done)
}

/// Sets or lifts a hold; where the store locks objects, it goes for these too.
pub async fn hold(
    point: &PointReference,
    hold: Mark<'_>,
    vault: &DedupStore,
    server: &ProtectionServer,
    output: Output,
) -> Ending {
    let verdict = mark(point, hold, server, output).await?;
    see_to_locks(vault, server).await?;
    Ok(verdict)
}
