//! The public suites of the seams, run on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests stop at the first surprise"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstop_core::{ExtentSet, conformance};
use backstop_source_file::{FileSource, FileTarget};

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

#[tokio::test]
async fn a_file_is_a_block_source() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    for length in [0, 1, 4096, 10_000_019] {
        let file = File::create(&path).unwrap();
        file.set_len(length).unwrap();
        let data = noise(usize::try_from(length / 3).unwrap(), 1);
        file.write_all_at(&data, length / 2).unwrap();
        let expected = std::fs::read(&path).unwrap();
        let source = FileSource::open(&path).await.unwrap();
        conformance::block_source(&source, &expected, &ExtentSet::new()).await;
    }
}

/// A new place for each target, with an image of garbage where one is wanted.
fn place(folder: &Path, garbage: bool) -> PathBuf {
    let number = std::fs::read_dir(folder).unwrap().count();
    let place = folder.join(number.to_string());
    std::fs::create_dir(&place).unwrap();
    let path = place.join("back.img");
    if garbage {
        std::fs::write(&path, noise(3_000_000, 2)).unwrap();
    }
    path
}

async fn contents(target: Arc<FileTarget>) -> Vec<u8> {
    std::fs::read(target.path()).unwrap()
}

#[tokio::test]
async fn a_file_is_a_block_target() {
    let folder = tempfile::tempdir().unwrap();
    for direct in [true, false] {
        let create = async || {
            let target = FileTarget::create(place(folder.path(), false)).await;
            Arc::new(target.unwrap().with_direct(direct))
        };
        conformance::block_target(create, contents).await;
        let overwrite = async || {
            let target = FileTarget::overwrite(place(folder.path(), true)).await;
            Arc::new(target.unwrap().with_direct(direct))
        };
        conformance::block_target(overwrite, contents).await;
        let in_place = async || {
            let target = FileTarget::in_place(place(folder.path(), true)).await;
            Arc::new(target.unwrap().with_direct(direct))
        };
        conformance::block_target(in_place, contents).await;
    }
}
