//! Damage to packs of data and of maps, and its end by a check: the head is
//! whole again, and so is every older point that shares what was damaged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::conformance::{StoreUnderTest, recovery_store_heals};
use backstop_core::{
    ByteCount, ChunkDigest, ErrorKind, Maintenance, NoMonitor, PointKind, REGION_LENGTH,
    RecoveryStore, RegionIndex, ReplicaWriter, Result, StreamName, VerifyOptions, WHOLE_REGION,
    region_count,
};
use backstop_store::DedupStore;

use crate::damage::at;
use crate::faults::{Action, Request};
use crate::history::{History, Kept, holds};
use crate::images::{self, Machine};
use crate::reading::scripted;

const DISK: usize = 9_000_000;

/// A closed vault on local files with two points that share most of their data.
struct Subject {
    folder: tempfile::TempDir,
    history: History,
    machine: Machine,
    random: fastrand::Rng,
    /// The packs of the first point, and of the second.
    packs: [BTreeSet<String>; 2],
}

impl Subject {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vault = at(folder.path()).create().await.unwrap();
        let mut subject = Self {
            folder,
            history: History::default(),
            machine: Machine::new("a", DISK),
            random: fastrand::Rng::with_seed(31),
            packs: Default::default(),
        };
        for start in [0, 4_000_000, 8_500_000] {
            subject.machine.write(&mut subject.random, start, 700_000);
        }
        subject.protect(&vault).await;
        subject.packs[0] = subject.packs_now();
        subject.machine.write(&mut subject.random, 300_000, 5000);
        subject
            .machine
            .write(&mut subject.random, 8_000_000, 90_000);
        subject.protect(&vault).await;
        vault.close().await.unwrap();
        let new = subject.packs_now();
        subject.packs[1] = &new - &subject.packs[0];
        subject
    }

    fn packs_now(&self) -> BTreeSet<String> {
        let files = images::files(self.folder.path());
        files
            .into_keys()
            .filter(|file| file.starts_with("packs/"))
            .collect()
    }

    /// The only pack of a kind that a point brought.
    fn pack(&self, point: usize, kind: &str) -> String {
        let mut packs = self.packs[point].iter().filter(|pack| pack.ends_with(kind));
        let pack = packs.next().unwrap();
        assert_eq!(packs.next(), None);
        pack.clone()
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        images::change(&self.folder.path().join(path), change);
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.folder.path().join(path)).unwrap();
    }

    async fn open(&self) -> DedupStore {
        at(self.folder.path()).open().await.unwrap()
    }

    async fn protect(&mut self, vault: &DedupStore) {
        let mut group = [&mut self.machine];
        let done = self
            .history
            .protect(vault, &mut self.random, &mut group)
            .await;
        done.unwrap();
    }

    fn points(&self) -> Vec<Kept> {
        self.history.known().points
    }

    /// A check, committed; gives how many bytes differed.
    async fn check(&mut self, vault: &DedupStore, verify: bool) -> Result<usize> {
        let mut begin = self.machine.begin(&mut self.random);
        begin.kind = PointKind::ConsistencyCheck;
        begin.verify = verify;
        let writer = vault.begin(begin.clone()).await?;
        let sent = send_differences(&*writer, &self.machine).await?;
        let mut group = [&mut self.machine];
        self.history
            .commit(vault, &mut self.random, &mut group, &[begin])
            .await?;
        Ok(sent)
    }

    /// Checks that all is whole, also after everything was read anew.
    async fn is_whole(&self, vault: DedupStore) {
        let points = self.points();
        for kept in &points {
            holds(&vault, kept).await;
        }
        vault.close().await.unwrap();
        for backwards in [false, true] {
            let vault = at(self.folder.path()).open_read_only().await.unwrap();
            let mut points = points.clone();
            if backwards {
                points.reverse();
            }
            for kept in &points {
                holds(&vault, kept).await;
            }
            vault.close().await.unwrap();
        }
    }
}

/// Sends what the slices don't tell to be equal, as an agent does.
pub(crate) async fn send_differences(
    writer: &dyn ReplicaWriter,
    machine: &Machine,
) -> Result<usize> {
    let mut sent = 0;
    let regions = region_count(ByteCount(machine.bytes.len() as u64));
    for region in writer.resume_at(0).0..regions {
        let start = RegionIndex(region).start().0 as usize;
        let end = (start + REGION_LENGTH as usize).min(machine.bytes.len());
        let mut differing: Vec<Range<usize>> = Vec::new();
        let mut at = start;
        for slice in writer
            .slices(&images::address(region), WHOLE_REGION)
            .await?
        {
            let run = start + slice.start as usize;
            let run = run..run + slice.length as usize;
            differing.extend(data_of(machine, at..run.start));
            at = run.end;
            if slice.digest != Some(ChunkDigest::of(&machine.bytes[run.clone()])) {
                differing.push(run);
            }
        }
        differing.extend(data_of(machine, at..end));
        differing = merged(differing);
        sent += differing.iter().map(ExactSizeIterator::len).sum::<usize>();
        images::send_region(writer, machine, &differing, region).await?;
        writer.progress(0, RegionIndex(region + 1)).await?;
    }
    Ok(sent)
}

/// A range, if it is no zeros.
fn data_of(machine: &Machine, range: Range<usize>) -> Option<Range<usize>> {
    let zeros = machine.bytes[range.clone()].iter().all(|byte| *byte == 0);
    (!zeros).then_some(range)
}

fn merged(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

/// How many bytes of a point are missing.
async fn missing(vault: &DedupStore, kept: &Kept) -> u64 {
    let image = vault.open(kept.id, &StreamName::disk()).await.unwrap();
    let length = image.geometry().length;
    let mut missing = 0;
    for region in 0..region_count(length) {
        let range = RegionIndex(region).extent(length);
        match image.recover(range).await {
            Ok(found) => {
                missing += found
                    .missing
                    .iter()
                    .map(|(part, _)| part.length().0)
                    .sum::<u64>();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                missing += range.length().0;
            }
        }
    }
    missing
}

fn is_of(pack: &str, kind: &str) -> bool {
    Path::new(pack).extension().is_some_and(|end| end == kind)
}

/// Overwrites bytes of a few frames.
fn scratch(bytes: &mut [u8]) {
    let length = bytes.len();
    for place in [length / 5, length / 2, length * 4 / 5] {
        bytes[place..place + 100].fill(0x5a);
    }
}

/// Damages the nodes of a map pack, or all of its frames.
fn damage_maps(pack: &mut [u8], all: bool) {
    let mut at = 48;
    let number = |pack: &[u8], at: usize| {
        let bytes = pack[at..at + 4].try_into().unwrap();
        u32::from_le_bytes(bytes) as usize
    };
    // The footer begins with the length of the table, which follows the frames.
    let footer = pack.len() - 16;
    let end = footer - number(pack, footer);
    // The header of a frame: length of the payload, that of the plain bytes,
    // what it is.
    while at < end && (all || pack[at + 8] == 2) {
        let length = number(pack, at);
        pack[at + 12] ^= 1;
        at += 12 + length + 16;
    }
    assert!(at > 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifying_check_heals_every_point_that_shares_a_damaged_chunk() {
    for removed in [false, true] {
        let mut subject = Subject::new().await;
        let pack = subject.pack(0, ".data");
        if removed {
            subject.remove(&pack);
        } else {
            subject.change(&pack, |bytes| scratch(bytes));
        }
        let vault = subject.open().await;
        let points = subject.points();
        let lost = [
            missing(&vault, &points[0]).await,
            missing(&vault, &points[1]).await,
        ];
        assert!(lost[0] > 0 && lost[1] > 0, "{lost:?}");
        vault.close().await.unwrap();
        // Nothing is known of it when the check begins.
        let vault = subject.open().await;
        let sent = subject.check(&vault, true).await.unwrap();
        assert!(sent as u64 >= lost[1], "{sent} of {lost:?}");
        if removed {
            // Of one chunk the change wrote over a part, which is nowhere else.
            for point in &points {
                let left = missing(&vault, point).await;
                assert!(left > 0 && left <= 256 << 10, "{left} of {lost:?}");
            }
            subject
                .history
                .change(|known| drop(known.points.drain(..2)));
        }
        subject.is_whole(vault).await;
        // Once more there is nothing to heal.
        let vault = subject.open().await;
        assert_eq!(subject.check(&vault, true).await.unwrap(), 0);
        subject.is_whole(vault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_trusts_names_reads_nothing_and_heals_what_was_found() {
    let mut subject = Subject::new().await;
    subject.change(&subject.pack(0, ".data"), |bytes| scratch(bytes));
    let vault = subject.open().await;
    let sent = subject.check(&vault, false).await.unwrap();
    let points = subject.points();
    let lost = missing(&vault, &points[2]).await;
    assert!(lost > sent as u64, "{lost} {sent}");
    // The reads have found it.
    let sent = subject.check(&vault, false).await.unwrap();
    assert!(sent as u64 >= lost, "{sent} {lost}");
    subject.is_whole(vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_goes_around_damaged_maps_and_writes_them_anew() {
    for (point, all) in [(0, false), (0, true), (1, false), (1, true)] {
        for verify in [false, true] {
            let mut subject = Subject::new().await;
            subject.change(&subject.pack(point, ".map"), |bytes| {
                damage_maps(bytes, all);
            });
            let vault = subject.open().await;
            let sent = subject.check(&vault, verify).await.unwrap();
            assert!(sent > 0, "{point} {all} {verify}");
            // Of the point's own nodes not all are made again, and its manifest
            // is nowhere else.
            subject
                .history
                .change(|known| drop(known.points.remove(point)));
            subject.is_whole(vault).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_maps_and_lost_data_are_healed_together() {
    for verify in [false, true] {
        let mut subject = Subject::new().await;
        for pack in subject.packs_now() {
            if is_of(&pack, "map") {
                subject.remove(&pack);
            } else {
                subject.change(&pack, |bytes| scratch(bytes));
            }
        }
        let vault = subject.open().await;
        subject.check(&vault, verify).await.unwrap();
        subject
            .history
            .change(|known| drop(known.points.drain(..2)));
        subject.is_whole(vault).await;
    }
}

/// What an ordinary check reads of data packs is their tables.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_verifying_check_reads_what_is_stored() {
    let (script, at) = scripted();
    let mut random = fastrand::Rng::with_seed(43);
    let vault = at().create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", DISK);
    machine.write(&mut random, 0, 5_000_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    let mut reads = Vec::new();
    for verify in [false, true] {
        let vault = at().open().await.unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        script.rule(move |request, path| {
            if request == Request::Get && is_of(path, "data") {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Action::Pass
        });
        let mut begin = machine.begin(&mut random);
        begin.kind = PointKind::ConsistencyCheck;
        begin.verify = verify;
        let writer = vault.begin(begin).await.unwrap();
        assert_eq!(send_differences(&*writer, &machine).await.unwrap(), 0);
        script.pass();
        vault.close().await.unwrap();
        reads.push(asked.load(Ordering::SeqCst));
    }
    assert!(reads[0] <= 1 && reads[1] > 1, "{reads:?}");
}

/// An express full can't go around what it does not compare.
/// What was found bad is sent again, also when the vault was opened anew since; and
/// once that was stored, it is known to be whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_to_be_bad_is_known_after_a_restart() {
    let mut subject = Subject::new().await;
    let pack = subject.pack(0, ".data");
    subject.change(&pack, |bytes| scratch(bytes));
    let vault = subject.open().await;
    let options = VerifyOptions::default();
    let told = vault.verify(&options, &NoMonitor).await.unwrap();
    assert!(told.damaged > 0, "{told:?}");
    vault.close().await.unwrap();

    // Everything is written again as it is: what counts as held is not stored.
    let everything = 0..DISK;
    let mut added = Vec::new();
    for _ in 0..2 {
        let vault = subject.open().await;
        subject.machine.changed.push(everything.clone());
        subject.protect(&vault).await;
        let head = subject.machine.head.unwrap();
        let point = vault.point(head).await.unwrap();
        added.push(point.plain_bytes_added.unwrap().0);
        vault.close().await.unwrap();
    }
    assert!(added[0] > 0 && added[1] == 0, "{added:?}");
    let vault = subject.open().await;
    let told = vault.verify(&options, &NoMonitor).await.unwrap();
    assert_eq!(told.damaged, 0, "{told:?}");
    subject.is_whole(vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_express_full_over_damaged_maps_is_refused() {
    let mut subject = Subject::new().await;
    for pack in subject.packs_now() {
        if is_of(&pack, "map") {
            subject.remove(&pack);
        }
    }
    let vault = subject.open().await;
    let begin = subject.machine.begin(&mut subject.random);
    let error = vault.begin(begin).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Where an interrupted check has lost what it wrote, it starts over rather
/// than taking that for compared.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_check_that_lost_its_maps_starts_over() {
    let mut subject = Subject::new().await;
    subject.machine.write(&mut subject.random, 100_000, 3000);
    let mut begin = subject.machine.begin(&mut subject.random);
    begin.kind = PointKind::ConsistencyCheck;
    begin.verify = true;
    let vault = subject.open().await;
    let writer = vault.begin(begin.clone()).await.unwrap();
    let mut half = subject.machine.clone();
    half.bytes.truncate(REGION_LENGTH as usize);
    send_differences(&*writer, &half).await.unwrap();
    writer.suspend().await.unwrap();
    vault.close().await.unwrap();
    // What it wrote, inner nodes too, is lost.
    for pack in &subject.packs_now() - &(&subject.packs[0] | &subject.packs[1]) {
        subject.remove(&pack);
    }
    let vault = subject.open().await;
    let mut ended = Vec::new();
    for _ in 0..3 {
        let writer = vault.begin(begin.clone()).await.unwrap();
        ended.push(writer.resume_at(0).0);
        match send_differences(&*writer, &subject.machine).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}"),
        }
    }
    assert_eq!(ended, [1, 0], "it starts over");
    let mut group = [&mut subject.machine];
    subject
        .history
        .commit(&vault, &mut subject.random, &mut group, &[begin])
        .await
        .unwrap();
    subject.is_whole(vault).await;
}

/// What an interrupted check knew to be lost is known to the one that goes on:
/// what it relies on is read first.
#[tokio::test(flavor = "multi_thread")]
async fn a_continued_check_remembers_that_maps_are_lost() {
    for all in [false, true] {
        let mut subject = Subject::new().await;
        for pack in subject.packs_now() {
            subject.change(&pack, |bytes| {
                if is_of(&pack, "map") {
                    damage_maps(bytes, all);
                } else {
                    scratch(bytes);
                }
            });
        }
        let vault = subject.open().await;
        let mut begin = subject.machine.begin(&mut subject.random);
        begin.kind = PointKind::ConsistencyCheck;
        let writer = vault.begin(begin.clone()).await.unwrap();
        let mut first = subject.machine.clone();
        first.bytes.truncate(REGION_LENGTH as usize);
        send_differences(&*writer, &first).await.unwrap();
        writer.suspend().await.unwrap();
        vault.close().await.unwrap();
        let vault = subject.open().await;
        let writer = vault.begin(begin.clone()).await.unwrap();
        assert_eq!(writer.resume_at(0).0, 1, "{all}");
        send_differences(&*writer, &subject.machine).await.unwrap();
        let mut group = [&mut subject.machine];
        subject
            .history
            .commit(&vault, &mut subject.random, &mut group, &[begin])
            .await
            .unwrap();
        subject
            .history
            .change(|known| drop(known.points.drain(..2)));
        subject.is_whole(vault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_on_local_files_heals_as_the_contract_says() {
    let folder = tempfile::tempdir().unwrap();
    recovery_store_heals(
        async || Arc::new(at(folder.path()).create().await.unwrap()) as Arc<dyn StoreUnderTest>,
        async |_| {
            for (path, mut bytes) in images::files(folder.path()) {
                if is_of(&path, "data") {
                    let end = bytes.len();
                    bytes[48..end].fill(0x77);
                    std::fs::write(folder.path().join(path), bytes).unwrap();
                }
            }
        },
    )
    .await;
}
