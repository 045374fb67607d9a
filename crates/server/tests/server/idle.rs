//! Agents that go away.

use std::time::Duration;

use backstop_core::memory::{Effect, Operation};
use backstop_core::{ErrorKind, Plan, PointKind, RegionIndex, WHOLE_REGION};

use crate::rig::{Rig, address, name, write};

const LENGTH: u64 = 9 << 20;
const LONG: Duration = Duration::from_hours(24);
const ALMOST: Duration = Duration::from_secs(24 * 3600 - 1);

#[tokio::test]
async fn an_idle_synchronization_is_suspended_and_continues() {
    let rig = Rig::new().await;
    let request = rig.request("vm", LENGTH, None);
    let begun = rig.begin(&request).await;
    write(&*begun, 5, b"data").await;
    begun.progress(0, RegionIndex(1)).await.unwrap();
    rig.clock.advance(ALMOST);
    assert_eq!(
        rig.server.release_idle().await.unwrap(),
        0,
        "not long enough"
    );
    begun.slices(&address(0), WHOLE_REGION).await.unwrap();
    rig.clock.advance(ALMOST);
    assert_eq!(rig.server.release_idle().await.unwrap(), 0, "it was called");
    rig.clock.advance(Duration::from_secs(1));

    // Whoever begins next sees to it.
    rig.begin(&rig.request("other", LENGTH, None)).await;
    let error = begun.slices(&address(0), WHOLE_REGION).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let error = rig.commit(&request, PointKind::Initial).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        rig.server.release_idle().await.unwrap(),
        0,
        "the other is not idle"
    );

    let begun = rig.begin(&request).await;
    assert_eq!(*begun.plan(), Plan::Initial);
    assert_eq!(begun.resume_at(0), RegionIndex(1));
    assert_eq!(
        begun.slices(&address(0), WHOLE_REGION).await.unwrap().len(),
        1
    );
    rig.commit(&request, PointKind::Initial).await.unwrap();
}

#[tokio::test]
async fn a_call_under_way_is_not_idle() {
    let rig = Rig::new().await;
    let request = rig.request("vm", LENGTH, None);
    let begun = rig.begin(&request).await;
    rig.faults
        .inject_next(Operation::WriterCompare, Effect::Hang);
    {
        let at = address(0);
        let hung = begun.slices(&at, WHOLE_REGION);
        futures::pin_mut!(hung);
        assert!(futures::poll!(&mut hung).is_pending());
        rig.clock.advance(LONG);
        assert_eq!(rig.server.release_idle().await.unwrap(), 0);
    }
    // Its end counts too.
    assert_eq!(rig.server.release_idle().await.unwrap(), 0);
    rig.clock.advance(LONG);
    assert_eq!(rig.server.release_idle().await.unwrap(), 1);
}

#[tokio::test]
async fn one_that_can_not_be_kept_stops_no_other() {
    let rig = Rig::new().await;
    for source in ["a", "b", "c"] {
        rig.begin(&rig.request(source, LENGTH, None)).await;
    }
    rig.clock.advance(LONG);
    rig.faults
        .inject_next(Operation::WriterSuspend, Effect::FailAfter(ErrorKind::Full));
    let error = rig.server.release_idle().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(rig.faults.calls(Operation::WriterSuspend), 3);
    assert_eq!(rig.server.release_idle().await.unwrap(), 0);
    // Nothing of it is in the way of the next.
    rig.protect("a", LENGTH, None, &[]).await;
    assert_eq!(rig.server.points(&name("a")).await.unwrap().len(), 1);
}
