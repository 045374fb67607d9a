//! Damage to each kind of object of a vault: a clear error that names it,
//! recovery of everything else, and exactly the missing ranges told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use backstop_core::{
    ByteCount, ByteOffset, Error, ErrorKind, Extent, PointId, RecoveryStore, RegionIndex,
    StreamName, region_count,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::history::{History, Kept, holds};
use crate::images::{self, Machine};

pub(crate) fn at(place: &Path) -> DedupStoreBuilder {
    DedupStore::at(place.to_str().unwrap()).with_credential(Credential::key([3; 32]))
}

/// A closed vault on local files with a point or two.
struct Subject {
    folder: tempfile::TempDir,
    points: Vec<Kept>,
}

const DISK: usize = 9_000_000;

async fn subject() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let vault = at(folder.path()).create().await.unwrap();
    let points = protect(&vault).await;
    Subject { folder, points }
}

/// Makes a point, and closes the vault.
async fn protect(vault: &DedupStore) -> Vec<Kept> {
    let history = History::default();
    let mut random = fastrand::Rng::with_seed(31);
    let mut machine = Machine::new("a", DISK);
    machine.write(&mut random, 0, 700_000);
    machine.write(&mut random, 4_000_000, 700_000);
    history.protect_one(vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    history.known().points
}

/// What becomes of a data pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Removed,
    Halved,
    Emptied,
}

/// A vault whose only data pack was lost, the pack's name, and what was there.
async fn with_lost_pack(
    loss: Loss,
    local: bool,
) -> (DedupStore, String, Kept, Option<tempfile::TempDir>) {
    let kept_of = |points: Vec<Kept>| points.into_iter().next().unwrap();
    let named = |path: &str| {
        let (_, file) = path.rsplit_once('/').unwrap();
        file.trim_end_matches(".data").to_owned()
    };
    if local {
        let subject = subject().await;
        let pack = subject.file(".data");
        match loss {
            Loss::Removed => subject.remove(&pack),
            Loss::Halved => subject.change(&pack, |bytes| bytes.truncate(bytes.len() / 2)),
            Loss::Emptied => subject.change(&pack, Vec::clear),
        }
        let vault = subject.open().await.unwrap();
        let Subject { folder, points } = subject;
        return (vault, named(&pack), kept_of(points), Some(folder));
    }
    let store = Arc::new(InMemory::new());
    let at = || DedupStore::on(Arc::clone(&store) as _, "vault");
    let points = protect(&at().create().await.unwrap()).await;
    let mut packs = store.list(Some(&"vault/packs".into()));
    let pack = loop {
        let pack = packs.try_next().await.unwrap().unwrap().location;
        if pack.extension() == Some("data") {
            break pack;
        }
    };
    let bytes = store.get(&pack).await.unwrap().bytes().await.unwrap();
    match loss {
        Loss::Removed => store.delete(&pack).await.unwrap(),
        Loss::Halved => {
            let half = bytes.slice(..bytes.len() / 2);
            store.put(&pack, half.into()).await.map(drop).unwrap();
        }
        Loss::Emptied => {
            let nothing = Vec::new();
            store.put(&pack, nothing.into()).await.map(drop).unwrap();
        }
    }
    let vault = at().open_read_only().await.unwrap();
    (vault, named(pack.as_ref()), kept_of(points), None)
}

impl Subject {
    /// The only file whose path contains `part`.
    fn file(&self, part: &str) -> String {
        let files = images::files(self.folder.path());
        let found: Vec<_> = files.keys().filter(|path| path.contains(part)).collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        found[0].clone()
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        images::change(&self.folder.path().join(path), change);
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.folder.path().join(path)).unwrap();
    }

    async fn open(&self) -> backstop_core::Result<DedupStore> {
        at(self.folder.path()).open_read_only().await
    }
}

/// Reads around damage: checks what is found against the image, and gives the
/// missing ranges with their errors.
async fn recover(vault: &DedupStore, kept: &Kept) -> Vec<(Extent, Error)> {
    let image = vault.open(kept.id, &StreamName::disk()).await.unwrap();
    let length = image.geometry().length;
    let mut missing = Vec::new();
    for region in 0..region_count(length) {
        let range = RegionIndex(region).extent(length);
        let found = image.recover(range).await.unwrap();
        let mut covered = vec![false; range.length().to_usize().unwrap()];
        let place = |extent: &Extent| {
            let start = (extent.offset().0 - range.offset().0) as usize;
            start..start + extent.length().0 as usize
        };
        for (extent, data) in &found.data {
            let from = extent.offset().0 as usize;
            assert!(
                kept.image[from..from + data.len()] == data[..],
                "wrong data"
            );
            covered[place(extent)].fill(true);
        }
        for (extent, _) in &found.missing {
            covered[place(extent)].fill(true);
        }
        let first = range.offset().0 as usize;
        for (at, covered) in covered.iter().enumerate() {
            assert!(
                *covered || kept.image[first + at] == 0,
                "{at} of {range} is no hole"
            );
        }
        missing.extend(found.missing);
    }
    missing
}

fn bytes_of(missing: &[(Extent, Error)]) -> u64 {
    missing.iter().map(|(extent, _)| extent.length().0).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_frame_costs_its_own_range_and_is_named() {
    let subject = subject().await;
    let pack = subject.file(".data");
    // The header of a pack has 48 bytes, that of a frame 12.
    subject.change(&pack, |bytes| bytes[48 + 12 + 100] ^= 4);
    let vault = subject.open().await.unwrap();
    let kept = &subject.points[0];
    let missing = recover(&vault, kept).await;
    let lost = bytes_of(&missing);
    assert!(lost > 0 && lost <= 256 << 10, "{lost} bytes are missing");
    for (_, error) in &missing {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let name = pack.trim_start_matches("packs/").trim_end_matches(".data");
        assert!(
            error.to_string().contains(name),
            "{error} does not name {name}"
        );
    }
    // A plain read of a missing range fails, and of all others succeeds.
    let image = vault.open(kept.id, &StreamName::disk()).await.unwrap();
    let gone: BTreeMap<u64, u64> = missing
        .iter()
        .map(|(extent, _)| (extent.offset().0, extent.end().0))
        .collect();
    for at in (0..DISK as u64 - 4096).step_by(16 << 10) {
        let hit = gone.iter().any(|(from, to)| at < *to && at + 4096 > *from);
        let read = image.read(ByteOffset(at), ByteCount(4096)).await;
        assert_eq!(read.is_err(), hit, "at {at}");
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_or_missing_data_pack_is_told_range_by_range() {
    // Of each change the second half is zeros, and may be a hole.
    let whole: u64 = 700_000;
    for (loss, local) in [Loss::Removed, Loss::Halved, Loss::Emptied]
        .into_iter()
        .flat_map(|loss| [(loss, true), (loss, false)])
    {
        let (vault, name, kept, _folder) = with_lost_pack(loss, local).await;
        let missing = recover(&vault, &kept).await;
        let lost = bytes_of(&missing);
        if loss == Loss::Halved {
            assert!(lost > whole / 4 && lost < whole, "{lost} {local}");
        } else {
            assert!(lost >= whole, "{lost} {loss:?} {local}");
        }
        for (_, error) in &missing {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(
                error.to_string().contains(&name),
                "{error} does not name {name}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_costs_nothing_while_the_index_is_whole() {
    for part in [".data", ".map"] {
        let subject = subject().await;
        let pack = subject.file(part);
        subject.change(&pack, |bytes| {
            let end = bytes.len();
            bytes[end - 60..].fill(0xee);
        });
        let vault = subject.open().await.unwrap();
        assert!(recover(&vault, &subject.points[0]).await.is_empty());
        holds(&vault, &subject.points[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_map_pack_is_an_error_that_names_it() {
    for removed in [false, true] {
        let subject = subject().await;
        let pack = subject.file(".map");
        if removed {
            subject.remove(&pack);
        } else {
            subject.change(&pack, |bytes| {
                let end = bytes.len();
                bytes[48..end - 16].iter_mut().for_each(|byte| *byte ^= 1);
            });
        }
        let vault = subject.open().await.unwrap();
        // It is still listed.
        let listed = vault.points(&subject.points[0].source).await.unwrap();
        assert_eq!(listed.len(), 1);
        let error = images::read_back(&vault, subject.points[0].id)
            .await
            .unwrap_err();
        // Not "not found": a restore goes on with the next region.
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let name = pack.trim_start_matches("packs/").trim_end_matches(".map");
        assert!(
            error.to_string().contains(name),
            "{error} does not name {name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_header_or_key_slot_is_named_and_opens_nothing() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Change, &str, &[ErrorKind]); 5] = [
        (
            "vault.json",
            |b| b.truncate(20),
            "vault.json",
            &[ErrorKind::Corrupt],
        ),
        (
            "vault.json",
            Vec::clear,
            "vault.json",
            &[ErrorKind::Corrupt],
        ),
        ("keys/", |b| b.truncate(30), "keys/", &[ErrorKind::Corrupt]),
        (
            "keys/",
            |b| {
                // A digit of the sealed key.
                let at = b.len() - 10;
                b[at] = if b[at] == b'0' { b'1' } else { b'0' };
            },
            "vault",
            &[ErrorKind::WrongKey],
        ),
        (
            "vault.json",
            |b| {
                let text = String::from_utf8(b.clone()).unwrap();
                *b = text.replace("\"format\":0", "\"format\":7").into_bytes();
            },
            "newer",
            &[ErrorKind::Unsupported],
        ),
    ];
    for (part, change, says, kinds) in cases {
        let subject = subject().await;
        subject.change(&subject.file(part), change);
        for error in [
            subject.open().await.map(drop).unwrap_err(),
            at(subject.folder.path())
                .open()
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
            assert!(error.to_string().contains(says), "{error}");
        }
    }
    let subject = subject().await;
    subject.remove("vault.json");
    let error = subject.open().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

/// Every catalog object, flipped, cut and removed: an error or the right
/// answer, never another.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalog_is_an_error_or_does_not_matter() {
    let subject = subject().await;
    let files = images::files(subject.folder.path());
    let mut told = 0;
    for (path, before) in files.iter().filter(|(path, _)| path.starts_with("db/")) {
        for damage in 0..3 {
            let full = subject.folder.path().join(path);
            let mut bytes = before.clone();
            match damage {
                0 if !bytes.is_empty() => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x20;
                }
                1 => bytes.truncate(bytes.len() / 2),
                _ => {}
            }
            if damage == 2 {
                std::fs::remove_file(&full).unwrap();
            } else {
                std::fs::write(&full, &bytes).unwrap();
            }
            told += u32::from(!answers_rightly(&subject, path, damage).await);
            // As it was, without what the reader registered.
            for found in images::files(subject.folder.path()).keys() {
                if !files.contains_key(found) {
                    let removed = std::fs::remove_file(subject.folder.path().join(found));
                    // It may be taking its registration back just now.
                    let is_gone =
                        |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
                    assert!(removed.as_ref().err().is_none_or(is_gone), "{removed:?}");
                }
            }
            std::fs::write(&full, before).unwrap();
        }
    }
    assert!(told > 0, "no damage mattered");
    let vault = subject.open().await.unwrap();
    holds(&vault, &subject.points[0]).await;
}

/// Whether a vault with a damaged catalog gave its point; if not, it said so.
async fn answers_rightly(subject: &Subject, path: &str, damage: u32) -> bool {
    let kept = &subject.points[0];
    let kinds = [
        ErrorKind::Corrupt,
        ErrorKind::Unavailable,
        ErrorKind::NotFound,
    ];
    let refused = |error: Error| {
        let kind = error.kind();
        assert!(
            kinds.contains(&kind),
            "{path}, damage {damage}: {kind:?} {error}"
        );
        assert!(error.to_string().contains("catalog"), "{path}: {error}");
        false
    };
    let vault = match subject.open().await {
        Ok(vault) => vault,
        Err(error) => return refused(error),
    };
    match vault.points(&kept.source).await {
        Err(error) => return refused(error),
        Ok(points) => {
            let ids: Vec<PointId> = points.iter().map(|point| point.id).collect();
            if damage == 2 && ids.is_empty() {
                // Something is missing, and that is told.
                assert_eq!(vault.missing_log(), Some(path));
                return false;
            }
            assert_eq!(
                ids,
                [kept.id],
                "{path}, damage {damage}: the point is not told"
            );
        }
    }
    match images::read_back(&vault, kept.id).await {
        Ok(read) => {
            assert!(read[..] == kept.image[..], "{path}: wrong data");
            true
        }
        Err(error) => refused(error),
    }
}

/// SlateDB takes a log that is gone for the end of its logs. Nobody may write
/// after that, and a reader is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_log_is_told_and_written_over_by_nobody() {
    let subject = subject().await;
    for round in 0..4 {
        let vault = at(subject.folder.path()).open().await.unwrap();
        assert_eq!(vault.missing_log(), None);
        let mut random = fastrand::Rng::with_seed(131 + round);
        let mut machine = Machine::new(&format!("b{round}"), DISK);
        machine.write(&mut random, 0, 7_000);
        History::default()
            .protect(&vault, &mut random, &mut [&mut machine])
            .await
            .unwrap();
        vault.close().await.unwrap();
    }
    let files = images::files(subject.folder.path());
    let logs: Vec<_> = files.keys().filter(|p| p.starts_with("db/wal/")).collect();
    assert!(logs.len() > 10, "{logs:?}");
    let (newest, others) = logs.split_last().unwrap();
    for log in others {
        subject.remove(log);
        let error = at(subject.folder.path()).open().await.map(drop);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(log.as_str()), "{error}");
        let reader = subject.open().await.unwrap();
        assert_eq!(reader.missing_log(), Some(log.as_str()));
        reader.close().await.unwrap();
        std::fs::write(subject.folder.path().join(log), &files[*log]).unwrap();
    }
    // Brought back, all is as it was.
    let vault = at(subject.folder.path()).open().await.unwrap();
    assert_eq!(vault.replicas().await.unwrap().len(), 5);
    holds(&vault, &subject.points[0]).await;
    vault.close().await.unwrap();
    assert!(newest > others.last().unwrap());
}
