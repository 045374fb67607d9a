//! Reading images: against a model, and of files that are no image or do not
//! stay as they are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests stop at the first surprise and say what they skip"
)]

use std::fs::File;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use backstop_core::{BlockSource, ByteCount, ByteOffset, ErrorKind, Extent, is_zero};
use backstop_source_file::FileSource;
use futures::future::join_all;
use proptest::prelude::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap()
}

fn extent(offset: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(offset), ByteCount(length)).unwrap()
}

/// Writes runs of random data, leaving holes, and gives the whole content.
fn make_image(path: &Path, length: u64, runs: &[(u64, u64)], seed: u64) -> Vec<u8> {
    let file = File::create(path).unwrap();
    file.set_len(length).unwrap();
    let mut model = vec![0; usize::try_from(length).unwrap()];
    let mut random = fastrand::Rng::with_seed(seed);
    for &(at, run) in runs {
        let at = at.min(length);
        let data: Vec<u8> = (0..run.min(length - at)).map(|_| random.u8(..)).collect();
        file.write_all_at(&data, at).unwrap();
        model[usize::try_from(at).unwrap()..][..data.len()].copy_from_slice(&data);
    }
    model
}

fn part(model: &[u8], extent: Extent) -> &[u8] {
    &model[usize::try_from(extent.offset().0).unwrap()..]
        [..usize::try_from(extent.length().0).unwrap()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn reads_equal_a_model(length in 0u64..9_000_000,
                           runs in prop::collection::vec((0u64..9_000_000, 1u64..300_000), 0..6),
                           wanted in prop::collection::vec((0u64..9_000_000, 0u64..5_000_000), 1..12),
                           seed: u64, direct: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let model = make_image(&path, length, &runs, seed);
        let wanted: Vec<Extent> = wanted.iter()
            .map(|&(at, run)| extent(at, run).intersection(Extent::whole(ByteCount(length))))
            .map(|e| if e.is_empty() { extent(0, 0) } else { e })
            .collect();
        runtime().block_on(async {
            let source = FileSource::open(&path).await.unwrap().with_direct(direct);
            prop_assert_eq!(source.geometry().length, ByteCount(length));
            let one_by_one = join_all(wanted.iter().map(|e| source.read(e.offset(), e.length()))).await;
            let together = source.read_extents(&wanted).await.unwrap();
            prop_assert_eq!(together.len(), wanted.len());
            for ((alone, batched), e) in one_by_one.into_iter().zip(&together).zip(&wanted) {
                prop_assert_eq!(&alone.unwrap()[..], part(&model, *e));
                prop_assert_eq!(&batched[..], part(&model, *e));
            }
            for range in &wanted {
                let mut hole_from = range.offset();
                for data in source.data_extents(*range).await.unwrap() {
                    prop_assert!(range.contains(data) && !data.is_empty() && data.offset() >= hole_from);
                    prop_assert!(is_zero(part(&model, Extent::between(hole_from, data.offset()))));
                    hole_from = data.end();
                }
                prop_assert!(is_zero(part(&model, Extent::between(hole_from, range.end()))));
            }
            source.verify_unchanged().await.unwrap();
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn holes_of_a_sparse_file_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.img");
    make_image(&path, 1 << 30, &[(512 << 20, 4096)], 1);
    let source = FileSource::open(&path).await.unwrap();
    let data = source.data_extents(extent(0, 1 << 30)).await.unwrap();
    let total: u64 = data.iter().map(|e| e.length().0).sum();
    assert!(
        total <= 1 << 20,
        "{data:?}: does this file system tell holes?"
    );
}

#[tokio::test]
async fn what_is_no_image_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    make_image(&path("disk.img"), 4096, &[], 0);
    symlink(path("disk.img"), path("link")).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(path("pipe"))
        .status();
    assert!(made.unwrap().success());
    for (name, kind, words) in [
        (
            "link",
            ErrorKind::InvalidInput,
            "a symbolic link; give the path it points to",
        ),
        ("folder", ErrorKind::InvalidInput, "a directory"),
        ("pipe", ErrorKind::InvalidInput, "a pipe"),
        ("none", ErrorKind::NotFound, "does not exist"),
        ("disk.img/x", ErrorKind::NotFound, "disk.img/x"),
    ] {
        let error = FileSource::open(path(name)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = FileSource::open("/dev/null").await.unwrap_err();
    assert!(error.to_string().contains("a character device"), "{error}");
}

#[tokio::test]
async fn reading_outside_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    make_image(&path, 5000, &[], 0);
    let source = FileSource::open(&path).await.unwrap();
    for (at, length) in [(0, 5001), (5001, 0), (4999, 2), (u64::MAX, 1)] {
        let error = source
            .read(ByteOffset(at), ByteCount(length))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let error = source
        .read_extents(&[extent(0, 5), extent(4999, 2)])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("4999+2"), "{error}");
    assert!(
        source
            .read(ByteOffset(5000), ByteCount(0))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(source.read_extents(&[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn an_image_that_does_not_stay_as_it_is_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    make_image(&path, 1 << 20, &[(0, 1 << 20)], 3);
    let source = FileSource::open(&path).await.unwrap();
    let id = source.snapshot_id().unwrap();
    assert_eq!(
        FileSource::open(&path).await.unwrap().snapshot_id(),
        Some(id)
    );
    source.verify_unchanged().await.unwrap();

    // Times of change have a grain; set one that differs for certain.
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = source.verify_unchanged().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_ne!(
        FileSource::open(&path).await.unwrap().snapshot_id(),
        Some(id)
    );

    file.set_len(8192).unwrap();
    let error = source
        .read(ByteOffset(4096), ByteCount(8192))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().contains("had 1048576 bytes") && error.to_string().contains("8192 now"),
        "{error}"
    );
    let error = source.verify_unchanged().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        source
            .read(ByteOffset(4096), ByteCount(4096))
            .await
            .unwrap()
            .len(),
        4096
    );
}
