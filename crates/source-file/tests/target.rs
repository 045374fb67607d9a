//! Writing images: against a model, and under names that are taken, lost or
//! fought for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests stop at the first surprise and say what they skip"
)]

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use backstop_core::{BlockTarget, BufferPool, ByteCount, ByteOffset, ErrorKind, Extent};
use backstop_source_file::FileTarget;
use bytes::Bytes;
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

/// Random bytes whose address is aligned, or off by some bytes.
fn random_bytes(random: &mut fastrand::Rng, length: usize, off: usize) -> Bytes {
    let mut buffer = BufferPool::new(length + off, 0).take(length + off);
    random.fill(&mut buffer);
    buffer.freeze().slice(off..)
}

/// How a target is made in a folder that may hold an image of garbage.
#[derive(Clone, Copy, Debug)]
enum Place {
    Create,
    Overwrite,
    Within,
}

async fn target(place: Place, path: &Path, length: u64, random: &mut fastrand::Rng) -> FileTarget {
    let mut garbage = vec![0; usize::try_from(length).unwrap() + random.usize(..9000)];
    random.fill(&mut garbage);
    match place {
        Place::Create => FileTarget::create(path).await,
        Place::Overwrite => {
            std::fs::write(path, garbage).unwrap();
            FileTarget::overwrite(path).await
        }
        Place::Within => {
            std::fs::write(path, garbage).unwrap();
            FileTarget::in_place(path).await
        }
    }
    .unwrap()
}

fn operations() -> impl Strategy<Value = Vec<(bool, u64, u64, usize)>> {
    // Some aligned, some not; short and long ones.
    let position = prop_oneof![0u64..6_000_000, (0u64..1500).prop_map(|page| page * 4096)];
    let length = prop_oneof![
        1u64..20_000,
        (1u64..700).prop_map(|page| page * 4096),
        1u64..5_000_000
    ];
    prop::collection::vec(
        (
            any::<bool>(),
            position,
            length,
            prop_oneof![Just(0usize), 1usize..4096],
        ),
        0..14,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_of_writes_and_zeros_equals_a_model(
        length in 0u64..6_000_000, operations in operations(), direct: bool,
        place in prop_oneof![Just(Place::Create), Just(Place::Overwrite), Just(Place::Within)], seed: u64,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("back.img");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut model = vec![0; usize::try_from(length).unwrap()];
        runtime().block_on(async {
            let target = target(place, &path, length, &mut random).await
                .with_sync(false).with_direct(direct);
            target.prepare(ByteCount(length)).await.unwrap();
            target.zero(Extent::whole(ByteCount(length))).await.unwrap();
            for (is_write, at, run, off) in operations {
                let range = extent(at, run).intersection(Extent::whole(ByteCount(length)));
                let start = usize::try_from(range.offset().0).unwrap();
                let Some(part) = model.get_mut(start..start + usize::try_from(range.length().0).unwrap()) else {
                    continue;
                };
                if is_write {
                    let data = random_bytes(&mut random, part.len(), off);
                    part.copy_from_slice(&data);
                    target.write(range.offset(), data).await.unwrap();
                } else {
                    part.fill(0);
                    target.zero(range).await.unwrap();
                }
            }
            target.finish().await.unwrap();
        });
        prop_assert!(std::fs::read(&path).unwrap() == model, "the image differs");
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
    }

    /// As a restore writes: regions side by side, each in pieces of chunks
    /// whose ends lie anywhere.
    #[test]
    fn ragged_pieces_of_concurrent_regions_equal_a_model(seed: u64, direct: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("back.img");
        let mut random = fastrand::Rng::with_seed(seed);
        let region = 700_001;
        let model = random_bytes(&mut random, region * 7 + 5, 0);
        runtime().block_on(async {
            let target = FileTarget::create(&path).await.unwrap().with_sync(false).with_direct(direct);
            target.prepare(ByteCount::from(model.len())).await.unwrap();
            let regions = (0..model.len()).step_by(region).map(|start| {
                let (target, mut random) = (&target, random.fork());
                let mut rest = model.slice(start..model.len().min(start + region));
                async move {
                    let mut at = start;
                    while !rest.is_empty() {
                        let piece = rest.split_to(rest.len().min(random.usize(1..200_000)));
                        let length = piece.len();
                        target.write(ByteOffset(at as u64), piece).await.unwrap();
                        at += length;
                    }
                }
            });
            join_all(regions).await;
            target.finish().await.unwrap();
        });
        prop_assert!(std::fs::read(&path).unwrap() == model, "the image differs");
    }
}

#[tokio::test]
async fn holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.img");
    let target = FileTarget::create(&path).await.unwrap();
    target.prepare(ByteCount(1 << 33)).await.unwrap();
    target
        .write(ByteOffset(1 << 32), vec![1; 4096].into())
        .await
        .unwrap();
    target.zero(extent(0, 1 << 32)).await.unwrap();
    target
        .zero(extent((1 << 32) + 4096, (1 << 32) - 4096))
        .await
        .unwrap();
    target.finish().await.unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!(metadata.len(), 1 << 33);
    assert!(
        metadata.blocks() * 512 <= 1 << 20,
        "{} blocks",
        metadata.blocks()
    );
}

#[tokio::test]
async fn nothing_has_the_name_before_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("back.img");
    let names = || std::fs::read_dir(folder.path()).unwrap().count();

    let target = FileTarget::create(&path).await.unwrap();
    target.prepare(ByteCount(5000)).await.unwrap();
    target
        .write(ByteOffset(0), vec![7; 5000].into())
        .await
        .unwrap();
    assert!(!path.exists());
    let error = FileTarget::create(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    drop(target);
    assert_eq!(names(), 0, "a dropped target leaves nothing");

    // What a killed process left is used again.
    std::fs::write(folder.path().join(".back.img.partial"), [9; 9999]).unwrap();
    // The writer of the dropped target may hold its file a moment longer.
    let target = FileTarget::create(&path).await.unwrap();
    target.prepare(ByteCount(3)).await.unwrap();
    target.zero(extent(0, 3)).await.unwrap();
    target.finish().await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), [0; 3]);
    assert_eq!(names(), 1);
    let error = target.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    drop(target);
    assert!(path.exists());

    let error = FileTarget::create(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(
        error.to_string().contains("not overwritten unless told"),
        "{error}"
    );

    // A replaced image stays until the new one is whole.
    let target = FileTarget::overwrite(&path).await.unwrap();
    target.prepare(ByteCount(1)).await.unwrap();
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), [0; 3]);
    let target = FileTarget::overwrite(&path).await.unwrap();
    target.prepare(ByteCount(1)).await.unwrap();
    target
        .write(ByteOffset(0), Bytes::from_static(b"x"))
        .await
        .unwrap();
    target.finish().await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
}

#[tokio::test]
async fn a_name_taken_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("back.img");
    let target = FileTarget::create(&path).await.unwrap();
    target.prepare(ByteCount(0)).await.unwrap();
    std::fs::write(&path, "mine").unwrap();
    let error = target.finish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    drop(target);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[tokio::test]
async fn wrong_places_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("file"), "x").unwrap();
    symlink(path("file"), path("link")).unwrap();
    let kind = |result: backstop_core::Result<FileTarget>| result.unwrap_err().kind();
    assert_eq!(
        kind(FileTarget::create(path("no/where")).await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(FileTarget::create(path("link")).await),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(FileTarget::create("/").await),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(FileTarget::overwrite(path("link")).await),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(FileTarget::overwrite(folder.path()).await),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(FileTarget::in_place(path("link")).await),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(FileTarget::in_place(path("none")).await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(FileTarget::device(path("file")).await),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        kind(FileTarget::device("/dev/null").await),
        ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn calls_out_of_order_or_place_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = FileTarget::create(folder.path().join("back.img"))
        .await
        .unwrap();
    let error = target
        .write(ByteOffset(0), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(
        target.finish().await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    target.prepare(ByteCount(10)).await.unwrap();
    assert_eq!(
        target.prepare(ByteCount(20)).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    let error = target
        .write(ByteOffset(10), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert_eq!(
        target.zero(extent(9, 2)).await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    target.finish().await.unwrap();
}
