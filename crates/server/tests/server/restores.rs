//! Recovery: whole, around damage, cancelled, and of huge holes.

use std::sync::Arc;

use backstop_core::memory::{Effect, FaultTarget, Faults, MemoryTarget, Operation};
use backstop_core::{
    BlockTarget, ByteCount, ByteOffset, ErrorKind, Event, Extent, NoMonitor, Piece, PieceContent,
    PointKind, REGION_LENGTH, RecoveryPoint, RegionUpdate, RetentionPolicy, SliceContent,
    StreamName,
};
use backstop_server::{RestoreOptions, RestoreReport};
use futures::StreamExt;

use crate::rig::{Clumsy, Listener, Rig, address, spec, write};

const REGION: u64 = REGION_LENGTH as u64;
const LENGTH: u64 = 5 * REGION + 4321;

fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
}

/// A point with data in the first, the third and the last region.
async fn protected(rig: &Rig) -> (RecoveryPoint, Vec<u8>) {
    let mut image = vec![0; usize::try_from(LENGTH).unwrap()];
    let places: [(u64, usize); 5] = [
        (0, 300_000),
        (1_000_000, 70_000),
        (2 * REGION + 5, 1),
        (2 * REGION + 100_000, 2_500_000),
        (5 * REGION + 4000, 321),
    ];
    let data: Vec<(u64, Vec<u8>)> = places
        .into_iter()
        .map(|(at, length)| (at, rig.bytes(length)))
        .collect();
    for (at, bytes) in &data {
        let at = usize::try_from(*at).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let data: Vec<(u64, &[u8])> = data.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    (rig.protect("vm", LENGTH, None, &data).await, image)
}

async fn restore(rig: &Rig, point: &RecoveryPoint, target: &dyn BlockTarget) -> RestoreReport {
    let options = RestoreOptions::default();
    rig.server
        .restore_with(point.id, None, target, options, &*rig.monitor)
        .await
        .unwrap()
}

fn assert_sound(target: &MemoryTarget) {
    assert_eq!(target.violations(), Vec::<String>::new());
    assert!(target.is_finished() && target.is_covered());
}

#[tokio::test]
async fn a_point_comes_back_bit_for_bit() {
    let rig = Rig::new().await;
    let (point, image) = protected(&rig).await;
    for regions_in_flight in [0, 1, 3, 100] {
        let target = MemoryTarget::new();
        let options = RestoreOptions { regions_in_flight };
        let monitor = Listener::default();
        let restored = rig
            .server
            .restore_with(point.id, None, &target, options, &monitor)
            .await;
        let report = restored.unwrap();
        assert!(target.contents().unwrap() == image);
        assert_sound(&target);
        assert_eq!(
            (report.bytes, report.data_bytes),
            (ByteCount(LENGTH), ByteCount(2_870_322))
        );
        assert!(report.missing.is_empty());
        let progress = monitor.progress.lock().unwrap();
        assert!(
            progress.len() <= 3 + 2,
            "at most once for each region with data, and for each hole of regions"
        );
        let last = progress.last().unwrap();
        assert_eq!(
            (last.done, last.total),
            (ByteCount(LENGTH), ByteCount(LENGTH))
        );
        assert!(progress.windows(2).all(|pair| pair[0].done <= pair[1].done));
        assert!(
            target.write_calls() <= 9,
            "neighbouring chunks are written together"
        );
    }
    let report = rig
        .server
        .restore(point.id, MemoryTarget::new())
        .await
        .unwrap();
    assert_eq!(report.point, point.id);
    let opened = rig.server.open(point.id).await.unwrap();
    let bytes = opened.read(ByteOffset(100), ByteCount(4096)).await.unwrap();
    assert_eq!(bytes[..], image[100..4196]);
}

/// A host may run any operation on any thread of its runtime.
#[tokio::test]
async fn operations_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: &F) {}
    let rig = Rig::new().await;
    let (point, _) = protected(&rig).await;
    let (server, monitor) = (rig.server.clone(), NoMonitor);
    let target = MemoryTarget::new();
    let options = RestoreOptions::default();
    spawnable(&server.restore(point.id, MemoryTarget::new()));
    spawnable(&server.restore_with(point.id, None, &target, options, &monitor));
    spawnable(&server.expire(&point.source, &RetentionPolicy::default()));
    spawnable(&server.hold(point.id, "audit"));
    spawnable(&server.open(point.id));
    spawnable(&server.request_check(&point.source));
}

#[tokio::test]
async fn an_empty_image_of_a_tebibyte_is_one_hole() {
    let rig = Rig::new().await;
    let point = rig.protect("huge", 1 << 40, None, &[]).await;
    let target = MemoryTarget::new();
    let report = restore(&rig, &point, &target).await;
    assert_eq!(report.bytes, ByteCount(1 << 40));
    assert_eq!((target.zero_calls(), target.write_calls()), (1, 0));
    assert!(
        rig.faults.calls(Operation::SourceExtents) < 20,
        "looks grow while there are only holes"
    );
    let told = rig.monitor.progress.lock().unwrap().last().copied();
    let done = told.map(|progress| (progress.done, progress.total));
    assert_eq!(
        done,
        Some((ByteCount(1 << 40), ByteCount(1 << 40))),
        "holes count"
    );
    assert_sound(&target);

    let somewhere = (1 << 39) + 12_345;
    let point = rig
        .protect("huge", 1 << 40, Some(point.id), &[(somewhere, b"needle")])
        .await;
    let target = MemoryTarget::new();
    let report = restore(&rig, &point, &target).await;
    assert_eq!(report.data_bytes, ByteCount(6));
    assert_eq!((target.zero_calls(), target.write_calls()), (2, 1));
    assert_eq!(
        target.read(extent(somewhere - 1, 8)).unwrap(),
        b"\0needle\0"
    );
    assert_sound(&target);
}

#[tokio::test]
async fn an_image_without_bytes_comes_back() {
    let rig = Rig::new().await;
    let point = rig.protect("empty", 0, None, &[]).await;
    let target = MemoryTarget::new();
    let _report = restore(&rig, &point, &target).await;
    assert_eq!((target.zero_calls(), target.write_calls()), (0, 0));
    assert_sound(&target);
}

#[tokio::test]
async fn damage_costs_its_own_range() {
    let rig = Rig::new().await;
    let (point, mut image) = protected(&rig).await;
    // The second chunk of 64 KiB of the first region.
    rig.store
        .damage(point.id, &StreamName::disk(), ByteOffset(70_000))
        .unwrap();
    let target = MemoryTarget::new();
    let report = restore(&rig, &point, &target).await;
    image[65_536..131_072].fill(0);
    assert!(
        target.contents().unwrap() == image,
        "the missing range is zeros"
    );
    assert_sound(&target);
    assert_eq!(report.missing.len(), 1);
    let missing = &report.missing[0];
    assert_eq!(
        (missing.extent, missing.kind),
        (extent(65_536, 65_536), ErrorKind::Corrupt)
    );
    assert!(missing.reason.contains("damaged"), "{}", missing.reason);
    let events = rig.monitor.events.lock().unwrap().clone();
    assert!(
        matches!(&events[..], [Event::CheckNeeded { .. }, Event::Missing { extent, .. }] if *extent == missing.extent),
        "{events:?}"
    );

    // The short way does the same, and doesn't call it a success.
    let error = rig
        .server
        .restore(point.id, MemoryTarget::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let said = error.to_string();
    assert!(
        said.contains("65536 bytes in 1 ranges") && said.contains("65536+65536"),
        "{said}"
    );
}

#[tokio::test]
async fn a_damaged_map_costs_its_own_region() {
    let rig = Rig::new().await;
    let (point, mut image) = protected(&rig).await;
    rig.faults
        .inject_next(Operation::SourceExtents, Effect::Fail(ErrorKind::Corrupt));
    rig.faults
        .inject(Operation::Recover, 3, Effect::Fail(ErrorKind::Corrupt));
    let target = MemoryTarget::new();
    let options = RestoreOptions {
        regions_in_flight: 1,
    };
    let report = rig
        .server
        .restore_with(point.id, None, &target, options, &*rig.monitor)
        .await;
    let report = report.unwrap();
    let third = 2 * usize::try_from(REGION).unwrap();
    image[third..third + usize::try_from(REGION).unwrap()].fill(0);
    assert!(target.contents().unwrap() == image);
    assert_sound(&target);
    assert_eq!(report.missing.len(), 1);
    assert_eq!(report.missing[0].extent, extent(2 * REGION, REGION));
}

#[tokio::test]
async fn neighbouring_damage_is_one_range_and_all_of_it_is_counted() {
    let rig = Rig::new().await;
    let data = rig.bytes(1 << 20);
    let point = rig.protect("vm", 1 << 20, None, &[(0, &data)]).await;
    // Chunks of 64 KiB: all but the first and the fifth.
    let lost = |chunk: u64| chunk != 0 && chunk != 4;
    for chunk in (0..16).filter(|chunk| lost(*chunk)) {
        rig.store
            .damage(point.id, &StreamName::disk(), ByteOffset(chunk << 16))
            .unwrap();
    }
    let target = MemoryTarget::new();
    let report = restore(&rig, &point, &target).await;
    let extents: Vec<Extent> = report.missing.iter().map(|range| range.extent).collect();
    assert_eq!(
        extents,
        [extent(1 << 16, 3 << 16), extent(5 << 16, 11 << 16)]
    );
    assert_eq!(report.missing_bytes(), ByteCount(14 << 16));
    assert_eq!(report.missing_ranges(), 2);
    let events = rig.monitor.events.lock().unwrap();
    let told = events
        .iter()
        .filter(|event| matches!(event, Event::Missing { .. }));
    assert_eq!(told.count(), 14, "the monitor is told of each");
}

#[tokio::test]
async fn a_panic_of_a_monitor_fails_its_restore_alone() {
    let rig = Rig::new().await;
    let (point, _) = protected(&rig).await;
    rig.store
        .damage(point.id, &StreamName::disk(), ByteOffset(70_000))
        .unwrap();
    for on_events in [false, true] {
        let (target, options) = (MemoryTarget::new(), RestoreOptions::default());
        let monitor = Clumsy { on_events };
        let restored = rig
            .server
            .restore_with(point.id, None, &target, options, &monitor)
            .await;
        assert_eq!(restored.unwrap_err().kind(), ErrorKind::Internal);
        assert!(!target.is_finished());
    }
    let target = MemoryTarget::new();
    assert_eq!(restore(&rig, &point, &target).await.missing.len(), 1);
}

#[tokio::test]
async fn blocks_that_the_source_could_not_read_are_told_apart() {
    let rig = Rig::new().await;
    let request = rig.request("vm", 100_000, None);
    let begun = rig.begin(&request).await;
    write(&*begun, 0, b"readable").await;
    let unreadable = Piece {
        start: 4096,
        length: 8192,
        content: PieceContent::Data(SliceContent::Unreadable),
    };
    let update = RegionUpdate {
        at: address(0),
        pieces: vec![unreadable],
        chunks: Vec::new(),
    };
    begun.write(update).await.unwrap();
    let point = rig.commit(&request, PointKind::Initial).await.unwrap();
    let error = rig
        .server
        .restore(point.id, MemoryTarget::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable);
    let target = MemoryTarget::new();
    let report = restore(&rig, &point, &target).await;
    assert_eq!(report.missing[0].extent, extent(4096, 8192));
    assert_eq!(report.missing[0].kind, ErrorKind::Unreadable);
    assert_sound(&target);
}

#[tokio::test]
async fn a_vault_that_does_not_answer_fails_the_restore() {
    let rig = Rig::new().await;
    let (point, _) = protected(&rig).await;
    rig.faults
        .inject_next(Operation::Recover, Effect::Fail(ErrorKind::Unavailable));
    let target = MemoryTarget::new();
    let options = RestoreOptions::default();
    let restored = rig
        .server
        .restore_with(point.id, None, &target, options, &*rig.monitor)
        .await;
    assert_eq!(restored.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!target.is_finished(), "only a whole image is finished");
}

#[tokio::test]
async fn a_full_target_fails_the_restore() {
    let rig = Rig::new().await;
    let (point, _) = protected(&rig).await;
    for operation in [
        Operation::TargetPrepare,
        Operation::TargetWrite,
        Operation::TargetZero,
        Operation::TargetFinish,
    ] {
        let faults = Faults::none();
        faults.inject_next(operation, Effect::Fail(ErrorKind::Full));
        let memory = Arc::new(MemoryTarget::new());
        let target = FaultTarget::new(Arc::clone(&memory) as Arc<dyn BlockTarget>, faults);
        let error = rig.server.restore(point.id, target).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full);
        assert!(!memory.is_finished());
    }
}

#[tokio::test]
async fn a_cancelled_restore_leaves_the_server_as_it_was() {
    let rig = Rig::new().await;
    let (point, image) = protected(&rig).await;
    rig.faults.inject_next(Operation::Recover, Effect::Hang);
    let cancelled = MemoryTarget::new();
    {
        let options = RestoreOptions::default();
        let hung = rig
            .server
            .restore_with(point.id, None, &cancelled, options, &*rig.monitor);
        futures::pin_mut!(hung);
        for _ in 0..100 {
            assert!(futures::poll!(&mut hung).is_pending());
        }
    }
    assert!(!cancelled.is_finished());
    assert!(cancelled.write_calls() > 0, "the other regions went on");
    let target = MemoryTarget::new();
    let _report = restore(&rig, &point, &target).await;
    assert!(target.contents().unwrap() == image);
    // The source is not held: it can be protected and expired as before.
    rig.protect("vm", LENGTH, Some(point.id), &[]).await;
}

#[tokio::test]
async fn one_of_several_images_is_named() {
    let rig = Rig::new().await;
    let mut request = rig.request("machine", 0, None);
    request.streams = vec![spec("boot", 50), spec("root", 70)];
    let begun = rig.begin(&request).await;
    write(&*begun, 10, b"first").await;
    let point = rig.commit(&request, PointKind::Initial).await.unwrap();
    let error = rig.server.open(point.id).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("boot, root"), "{error}");
    let error = rig
        .server
        .restore(point.id, MemoryTarget::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let boot = StreamName::new("boot").unwrap();
    let image = rig.server.open_stream(point.id, &boot).await.unwrap();
    assert_eq!(
        image.read(ByteOffset(10), ByteCount(5)).await.unwrap()[..],
        *b"first"
    );
    let target = MemoryTarget::new();
    let options = RestoreOptions::default();
    let report = rig
        .server
        .restore_with(point.id, Some(&boot), &target, options, &*rig.monitor)
        .await;
    assert_eq!(report.unwrap().stream, boot);
    assert_eq!(target.contents().unwrap()[10..15], *b"first");
    let differing = rig
        .server
        .compare((point.id, &boot), (point.id, &boot))
        .await
        .unwrap();
    assert_eq!(differing.count().await, 0);
    assert_eq!(rig.server.statistics().await.unwrap().points, 1);
    assert_eq!(rig.server.sources().await.unwrap().len(), 1);
}
