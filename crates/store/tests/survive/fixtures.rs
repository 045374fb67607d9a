//! Vaults that an earlier version has written, kept as they are: each release
//! opens, restores, verifies, collects and rebuilds them.
//!
//! `tests/fixtures/format-N.vaults` has two small vaults of format N, as files:
//! a name (its length in two bytes, little-endian), then the content (its length
//! in four), and so on. `open/` is not encrypted; `sealed/` is, by a raw key of 32
//! times the byte 7, was rotated once, and has a second slot for a passphrase. The one of the format
//! that is not released yet is written anew with
//!
//! ```text
//! BACKSTOP_WRITE_FIXTURES=1 cargo test -p backstop-store --test survive fixtures
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{
    CollectOptions, CpuPool, Maintenance, ManualClock, Marks, NoMonitor, PointId, Protection,
    RebuildOptions, RecoveryStore, SourceName, Timestamp, VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::history::{History, Kept, holds};
use crate::images::Machine;

const START: Timestamp = Timestamp(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

/// The formats that there are fixtures of.
const FORMATS: [u32; 1] = [0];

fn file(format: u32) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(format!("format-{format}.vaults"))
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

fn builder(store: &Arc<InMemory>, prefix: &str, clock: &Arc<ManualClock>) -> DedupStoreBuilder {
    let credential = match prefix {
        "open" => Credential::None,
        _ => Credential::key([7; 32]),
    };
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 24 << 10;
    DedupStore::on(Arc::clone(store) as _, prefix)
        .with_credential(credential)
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::clone(clock) as _)
}

/// What is done to each vault of a fixture, and what it holds after that. By
/// seeds alone, so that it need not be kept beside the fixture.
struct Story {
    random: fastrand::Rng,
    machine: Machine,
    points: Vec<Kept>,
    next: u8,
}

impl Story {
    fn new() -> Self {
        Self {
            random: fastrand::Rng::with_seed(0xf0),
            machine: Machine::new("a", 20_000),
            points: Vec::new(),
            next: 0,
        }
    }

    /// The machine changes. Points have ids that are known beforehand.
    fn change(&mut self) {
        self.next += 1;
        let at = usize::from(self.next) * 3000;
        self.machine.write(&mut self.random, at, 4000);
        self.points.push(Kept {
            id: PointId::from_bytes([self.next; 16]),
            source: self.machine.name.clone(),
            image: self.machine.bytes.clone().into(),
        });
    }

    /// What there is at the end: the first point expired, and can be brought back.
    fn whole() -> Vec<Kept> {
        let mut story = Self::new();
        for _ in 0..3 {
            story.change();
        }
        story.points
    }

    async fn commit(&mut self, vault: &DedupStore) {
        self.change();
        let begin = self.machine.begin(&mut self.random.clone());
        let writer = vault.begin(begin.clone()).await.unwrap();
        crate::images::send(&*writer, &self.machine).await.unwrap();
        let mut point = crate::images::new_point(&mut self.random.clone(), &begin);
        point.id = PointId::from_bytes([self.next; 16]);
        let committed = vault.commit(vec![point]).await.unwrap();
        self.machine.head = Some(committed[0].id);
        self.machine.changed.clear();
    }
}

/// Writes a vault of the format of now.
async fn write(store: &Arc<InMemory>, prefix: &str) {
    let clock = clock();
    let vault = builder(store, prefix, &clock).create().await.unwrap();
    let mut story = Story::new();
    story.commit(&vault).await;
    clock.advance(HOUR);
    let mut protection = Protection::default();
    protection.undo_window = HOUR * 24 * 365;
    vault.set_protection(protection).await.unwrap();
    story.commit(&vault).await;
    if prefix == "sealed" {
        vault.rotate_key().await.unwrap();
        let passphrase = Credential::passphrase("correct horse").unwrap();
        vault.add_key(&passphrase).await.unwrap();
    }
    story.commit(&vault).await;
    vault.expire(&[story.points[0].id]).await.unwrap();
    let mut marks = Marks::default();
    marks.holds.insert("lawsuit".to_owned());
    vault.mark(story.points[1].id, marks).await.unwrap();
    vault.close().await.unwrap();
}

async fn pack(store: &Arc<InMemory>) -> Vec<u8> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let mut out = Vec::new();
    for object in listed {
        let name = object.location.as_ref();
        let got = store.get(&object.location).await.unwrap();
        let bytes = got.bytes().await.unwrap();
        out.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        out.extend(bytes);
    }
    out
}

async fn unpack(mut bytes: &[u8]) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let mut take = |length: usize| {
        let (taken, rest) = bytes.split_at(length);
        bytes = rest;
        (taken.to_vec(), rest.is_empty())
    };
    loop {
        let length = u16::from_le_bytes(take(2).0.try_into().unwrap());
        let name = String::from_utf8(take(length.into()).0).unwrap();
        let length = u32::from_le_bytes(take(4).0.try_into().unwrap());
        let (content, is_last) = take(length as usize);
        store.put(&Path::from(name), content.into()).await.unwrap();
        if is_last {
            return store;
        }
    }
}

/// That a vault of a fixture is what it was.
async fn check(vault: &DedupStore) {
    let points = Story::whole();
    let source = SourceName::new("a").unwrap();
    let ids = |points: &[Kept]| points.iter().map(|kept| kept.id).collect::<Vec<_>>();
    let listed = vault.points(&source).await.unwrap();
    let listed_ids: Vec<_> = listed.iter().map(|point| point.id).collect();
    assert_eq!(listed_ids, ids(&points[1..]));
    assert!(listed[0].marks.holds.contains("lawsuit"));
    let expired = vault.expired(&source).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].point.id, points[0].id);
    for kept in &points[1..] {
        holds(vault, kept).await;
    }
    let options = VerifyOptions::default();
    let verified = vault.verify(&options, &NoMonitor).await.unwrap();
    assert!(verified.frames > 0);
    assert_eq!((verified.damaged, verified.damaged_tables), (0, 0));
    assert_eq!(verified.unavailable.count, 0);
}

#[tokio::test]
async fn vaults_of_each_format_are_opened() {
    if std::env::var_os("BACKSTOP_WRITE_FIXTURES").is_some() {
        let store = Arc::new(InMemory::new());
        for prefix in ["open", "sealed"] {
            write(&store, prefix).await;
        }
        let newest = FORMATS[FORMATS.len() - 1];
        std::fs::create_dir_all(file(newest).parent().unwrap()).unwrap();
        std::fs::write(file(newest), pack(&store).await).unwrap();
    }
    for format in FORMATS {
        let bytes = std::fs::read(file(format)).unwrap();
        for prefix in ["open", "sealed"] {
            let clock = clock();
            clock.advance(HOUR * 2);
            let store = unpack(&bytes).await;
            let vault = builder(&store, prefix, &clock).open_read_only().await;
            let vault = vault.unwrap();
            assert_eq!(vault.is_encrypted(), prefix == "sealed");
            check(&vault).await;
            vault.close().await.unwrap();
            // As its owner: it goes on as if this had made it.
            let vault = builder(&store, prefix, &clock).open().await.unwrap();
            check(&vault).await;
            let history = History::default();
            let mut random = fastrand::Rng::with_seed(7);
            let mut machine = Machine::new("b", 30_000);
            machine.write(&mut random, 0, 30_000);
            history.protect_one(&vault, &mut random, &mut machine).await;
            let options = CollectOptions::default();
            vault.collect(&options, &NoMonitor).await.unwrap();
            check(&vault).await;
            history.check(&vault).await;
            let first = Story::whole()[0].clone();
            vault.undo(&[first.id]).await.unwrap();
            holds(&vault, &first).await;
            vault.close().await.unwrap();
            // From its packs alone.
            let store = unpack(&bytes).await;
            let options = RebuildOptions::default();
            let rebuilt = builder(&store, prefix, &clock).rebuild(&options, &NoMonitor);
            let (vault, report) = rebuilt.await.unwrap();
            assert!(report.lost.is_empty() && report.damaged.is_empty());
            check(&vault).await;
            vault.close().await.unwrap();
        }
        let store = unpack(&bytes).await;
        let passphrase = Credential::passphrase("correct horse").unwrap();
        let by_passphrase = builder(&store, "sealed", &clock()).with_credential(passphrase);
        let vault = by_passphrase.open_read_only().await.unwrap();
        check(&vault).await;
        vault.close().await.unwrap();
    }
}
