//! The server's face to who brings data back.

use backstop_core::memory::MemoryTarget;
use backstop_core::{
    ByteCount, ByteOffset, ErrorKind, NewestPoint, NoMonitor, PointId, PointKind, ReplicaState,
    StreamName,
};
use backstop_server::{RestoreOptions, restore_image};

use crate::rig::{Rig, name};

#[tokio::test]
async fn sources_are_told_with_their_newest_points() {
    let rig = Rig::new().await;
    let service = rig.server.recovery_service();
    assert!(service.sources().await.unwrap().is_empty());
    let first = rig.protect("a", 100, None, &[(0, b"one")]).await;
    let second = rig.protect("a", 100, Some(first.id), &[(0, b"two")]).await;
    let other = rig.protect("b", 100, None, &[(0, b"other")]).await;
    rig.server.request_check(&name("b")).await.unwrap();
    let sources = service.sources().await.unwrap();
    let newest = |point: &backstop_core::RecoveryPoint| {
        let (id, time) = (point.id, point.time);
        Some(NewestPoint { id, time })
    };
    assert_eq!(sources.len(), 2);
    assert_eq!(
        (&sources[0].source, sources[0].newest),
        (&name("a"), newest(&second))
    );
    assert_eq!(sources[0].state, ReplicaState::Consistent);
    assert_eq!(
        (&sources[1].source, sources[1].newest),
        (&name("b"), newest(&other))
    );
    assert!(matches!(
        sources[1].state,
        ReplicaState::Inconsistent { .. }
    ));
    assert_eq!(
        service.points(&name("a")).await.unwrap(),
        [first.clone(), second]
    );
    assert!(service.points(&name("c")).await.unwrap().is_empty());
    assert_eq!(service.point(first.id).await.unwrap(), first);
}

#[tokio::test]
async fn a_point_opens_with_its_images_and_is_restored_from_them() {
    let rig = Rig::new().await;
    let service = rig.server.recovery_service();
    let data = rig.bytes(70_000);
    let point = rig.protect("a", 100_000, None, &[(10_000, &data)]).await;
    let open = service.open(point.id).await.unwrap();
    assert_eq!(open.point, point);
    let stream = StreamName::disk();
    let image = open.image(&stream).unwrap();
    let read = image.read(ByteOffset(10_000), ByteCount(70_000)).await;
    assert_eq!(read.unwrap(), data);
    let target = MemoryTarget::new();
    let options = RestoreOptions::default();
    let report = restore_image((point.id, &stream), &**image, &target, options, &NoMonitor).await;
    let report = report.unwrap();
    assert_eq!(
        (report.point, report.data_bytes),
        (point.id, ByteCount(70_000))
    );
    assert_eq!(target.contents().unwrap()[10_000..80_000], data);
    let other = StreamName::new("other").unwrap();
    let error = open.image(&other).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let unknown = PointId::from_bytes([9; 16]);
    let error = service.open(unknown).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn points_expire_together_or_not_at_all() {
    let rig = Rig::new().await;
    let service = rig.server.recovery_service();
    let mut points = vec![rig.protect("a", 100, None, &[(0, b"0")]).await];
    for content in [b"1", b"2"] {
        let base = points.last().map(|point| point.id);
        points.push(rig.protect("a", 100, base, &[(0, content)]).await);
    }
    let ids: Vec<_> = points.iter().map(|point| point.id).collect();
    let left = async || service.points(&name("a")).await.unwrap().len();
    let refused = async |ids: &[PointId]| {
        let error = service.expire(ids).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        error.to_string()
    };
    refused(&ids).await;
    assert_eq!(left().await, 3, "the newest stays, and so do the others");
    rig.server.request_check(&name("a")).await.unwrap();
    let said = refused(&ids[..1]).await;
    assert!(said.contains("consistency check"), "{said}");
    assert_eq!(left().await, 3);
    let request = rig.request("a", 100, Some(ids[2]));
    rig.begin(&request).await;
    let checked = rig.commit(&request, PointKind::ConsistencyCheck).await;
    checked.unwrap();
    let unknown = PointId::from_bytes([9; 16]);
    service.expire(&[ids[0], unknown, ids[1]]).await.unwrap();
    assert_eq!(left().await, 2);
    service.expire(&ids[..2]).await.unwrap();
}
