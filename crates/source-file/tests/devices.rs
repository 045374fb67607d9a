//! Block devices, bad media and full disks, on loop devices and a small tmpfs:
//! with the right to have them, or left out by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests stop at the first surprise"
)]

#[path = "../../../tests/rights/mod.rs"]
mod rights;

use std::fs::File;
use std::os::unix::fs::FileExt;

use backstop_core::{BlockSource, BlockTarget, ByteCount, ByteOffset, ErrorKind, Extent};
use backstop_source_file::{FileSource, FileTarget};
use bytes::Bytes;

use crate::rights::{Loop, SmallDisk, demand, has_own_mounts, is_left_out, run};

fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

#[tokio::test]
async fn a_device_is_read_written_and_zeroed() {
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    // A last page that is not whole, of whole sectors.
    let length = (9 << 20) + 1024;
    let garbage = random(length, 1);
    std::fs::write(&backing, &garbage).unwrap();
    let Some(device) = Loop::over(&backing) else {
        return;
    };

    let source = FileSource::open(&device.path).await.unwrap();
    assert_eq!(source.geometry().length, ByteCount::from(length));
    assert_eq!(
        source.snapshot_id(),
        None,
        "nothing tells that a device stayed as it was"
    );
    source.verify_unchanged().await.unwrap();
    let all = Extent::whole(ByteCount::from(length));
    assert_eq!(source.data_extents(all).await.unwrap(), [all]);
    assert_eq!(
        source.read(ByteOffset(0), all.length()).await.unwrap(),
        garbage
    );

    let error = FileTarget::overwrite(&device.path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = FileTarget::create(&device.path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");

    let target = FileTarget::device(&device.path).await.unwrap();
    let error = target
        .prepare(ByteCount::from(length + 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let image = length - 700;
    target.prepare(ByteCount::from(image)).await.unwrap();
    let data = Bytes::from(random(image, 2));
    let hole = 3_000_001..7_500_003;
    let end = hole.end as u64;
    target
        .write(ByteOffset(0), data.slice(..hole.start))
        .await
        .unwrap();
    let range = Extent::between(ByteOffset(hole.start as u64), ByteOffset(end));
    target.zero(range).await.unwrap();
    target
        .write(ByteOffset(end), data.slice(hole.end..))
        .await
        .unwrap();
    target.finish().await.unwrap();
    drop(target);

    let mut expected = data.to_vec();
    expected[hole].fill(0);
    expected.extend(&garbage[image..]);
    let source = FileSource::open(&device.path).await.unwrap();
    assert!(source.read(ByteOffset(0), all.length()).await.unwrap() == expected);
}

#[tokio::test]
async fn a_mounted_device_is_not_written_to() {
    let test = "a_mounted_device_is_not_written_to";
    if is_left_out("e2fsprogs") || !has_own_mounts(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (backing, mounted) = (folder.path().join("backing"), folder.path().join("mounted"));
    File::create(&backing).unwrap().set_len(16 << 20).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    let Some(device) = Loop::over(&backing) else {
        return;
    };
    let place = mounted.to_string_lossy();
    run("mkfs.ext4", &["-q", &device.path]).unwrap();
    demand("mount", run("mount", &[&device.path, &place]));
    let refused = FileTarget::device(&device.path).await;
    run("umount", &[&place]).unwrap();
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("in use"), "{error}");
}

#[tokio::test]
async fn a_bad_block_is_unreadable_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    let file = File::create(&backing).unwrap();
    file.write_all_at(&random(8 << 20, 3), 0).unwrap();
    file.sync_all().unwrap();
    let Some(device) = Loop::over(&backing) else {
        return;
    };
    // The kernel answers EIO where a loop device's file has ended.
    file.set_len(6 << 20).unwrap();
    let source = FileSource::open(&device.path).await.unwrap();
    assert_eq!(source.geometry().length, ByteCount(8 << 20));
    let bad = Extent::new(ByteOffset(6 << 20), ByteCount(1 << 20)).unwrap();
    let error = source.read(bad.offset(), bad.length()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&device.path) && text.contains(&bad.to_string()),
        "{text}"
    );

    let good = Extent::new(ByteOffset(5 << 20), ByteCount(1 << 20)).unwrap();
    assert_eq!(
        source
            .read(good.offset(), good.length())
            .await
            .unwrap()
            .len(),
        1 << 20
    );
    let error = source.read_extents(&[good, bad, good]).await.unwrap_err();
    assert!(error.to_string().contains(&bad.to_string()), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_stays_told() {
    if !has_own_mounts("a_full_disk_is_told_and_stays_told") {
        return;
    }
    for direct in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let small = SmallDisk::mount(folder.path(), 8 << 10);
        let path = small.path("back.img");
        let target = FileTarget::create(&path).await.unwrap().with_direct(direct);
        target.prepare(ByteCount(64 << 20)).await.unwrap();
        let data = Bytes::from(random(1 << 20, 4));
        let mut first = None;
        for megabyte in 0..64 {
            if let Err(error) = target.write(ByteOffset(megabyte << 20), data.clone()).await {
                first = Some(error);
                break;
            }
        }
        let finished = target.finish().await.unwrap_err();
        let first = first.expect("the queue is shorter than the image");
        for error in [&first, &finished] {
            assert_eq!(error.kind(), ErrorKind::Full, "{error}");
            assert!(error.to_string().contains("back.img"), "{error}");
        }
        drop(target);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "the draft is gone"
        );
    }
}
