//! A full disk, during any operation: told as such within bounded time; nothing
//! that was reported is lost; it goes on when space is freed.
//!
//! On a small file system of its own, which takes the right to mount one.

use std::path::Path;
use std::time::{Duration, Instant};

use backstop_core::{Error, ErrorKind, Maintenance, Marks, PointKind, RecoveryStore, Result};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};

use crate::history::{History, holds};
use crate::images::{self, Machine};
use crate::rights::{SmallDisk, has_own_mounts};

/// SlateDB repeats a failed request three times before it gives up.
const BOUND: Duration = Duration::from_secs(20);

fn at(place: &Path) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 1 << 20;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([3; 32]))
        .with_settings(settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    if !has_own_mounts("full::a_full_disk_is_told_and_survived") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path(), 24 << 10);
    let (place, ballast) = (disk.path("vault"), disk.path("ballast"));
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let mut random = fastrand::Rng::with_seed(41);
    let history = History::default();
    let mut vault = at(&place).create().await.unwrap();
    let mut machine = Machine::new("a", 6_000_000);
    machine.write(&mut random, 0, 3_000_000);
    history.protect_one(&vault, &mut random, &mut machine).await;

    for episode in 0..3 {
        // Until it is full.
        let error = loop {
            machine.write(&mut random, 1_000_000, 3_500_000);
            let start = Instant::now();
            let mut group = [&mut machine];
            let done = history.protect(&vault, &mut random, &mut group).await;
            let took = start.elapsed();
            assert!(
                took < BOUND,
                "a synchronization on a full disk took {took:?}"
            );
            if let Err(error) = done {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        // Old points are read as ever.
        for kept in history.known().points {
            holds(&vault, &kept).await;
        }
        // Space is freed; it goes on, in the same process where the catalog
        // is not in doubt.
        if episode == 0 {
            std::fs::remove_file(&ballast).unwrap();
        } else {
            break;
        }
        let probe = machine.begin(&mut random);
        let goes_on = vault.begin(probe).await.is_ok();
        eprintln!("after a full disk the same process goes on: {goes_on}");
        if !goes_on {
            drop(vault);
            let force = at(&place).with_takeover(Takeover::Force);
            vault = force.open().await.unwrap();
        }
        history.check(&vault).await;
        history.catch_up(&mut machine);
        history.protect_one(&vault, &mut random, &mut machine).await;
        history.check(&vault).await;
    }

    // Still full, and the process ends: reading needs no space.
    let start = Instant::now();
    let _ = vault.close().await;
    assert!(
        start.elapsed() < BOUND,
        "closing took {:?}",
        start.elapsed()
    );
    drop(vault);
    let freed = disk.path("vault/packs");
    let unfinished = std::fs::read_dir(freed).unwrap().filter(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".unfinished")
    });
    assert_eq!(
        unfinished.count(),
        0,
        "unfinished packs stay on a full disk"
    );
}

/// What is done to a vault beside an express full.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Check,
    Expire,
    Mark,
    AddKey,
    Close,
    Open,
}

const SPARE_KEY: [u8; 32] = [4; 32];

/// The vault on the full disk, and what is known of it.
struct Full<'a> {
    place: &'a Path,
    vault: DedupStore,
    history: History,
    random: fastrand::Rng,
    machine: Machine,
}

impl Full<'_> {
    async fn attempt(&mut self, operation: Operation) -> Result<()> {
        let (vault, history) = (&self.vault, &self.history);
        match operation {
            Operation::Check => {
                let mut begin = self.machine.begin(&mut self.random);
                begin.kind = PointKind::ConsistencyCheck;
                begin.verify = true;
                let writer = vault.begin(begin.clone()).await?;
                images::send(&*writer, &self.machine).await?;
                let (mut group, begins) = ([&mut self.machine], [begin]);
                let committed = history.commit(vault, &mut self.random, &mut group, &begins);
                committed.await.map(drop)
            }
            Operation::Expire => {
                let oldest = history.known().points[0].id;
                history.expire(vault, &[oldest]).await
            }
            Operation::Mark => {
                let oldest = history.known().points[0].id;
                let marks = Marks {
                    pinned: true,
                    ..Marks::default()
                };
                vault.mark(oldest, marks).await
            }
            Operation::AddKey => vault.add_key(&Credential::key(SPARE_KEY)).await.map(drop),
            Operation::Close => vault.close().await,
            Operation::Open => {
                // As after a process that died.
                self.vault = at(self.place).with_takeover(Takeover::Force).open().await?;
                Ok(())
            }
        }
    }

    async fn reads_right_or_tells(&self, vault: &DedupStore) {
        for kept in self.history.known().points {
            let start = Instant::now();
            match images::read_back(vault, kept.id).await {
                Ok(read) => assert!(read[..] == kept.image[..], "wrong data"),
                Err(error) => is_told("reading", start.elapsed(), &error),
            }
        }
    }

    /// Opens the vault again if it asks for that.
    async fn go_on(&mut self) {
        let probe = self.machine.begin(&mut self.random);
        if self.vault.begin(probe).await.is_err() {
            let force = at(self.place).with_takeover(Takeover::Force);
            self.vault = force.open().await.unwrap();
        }
    }
}

fn is_told(doing: &str, took: Duration, error: &Error) {
    assert!(took < BOUND, "{doing} on a full disk took {took:?}");
    assert_eq!(error.kind(), ErrorKind::Full, "{doing}: {error}");
    assert!(error.context().contains("no space is left"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_tells_of_a_full_disk_and_goes_on_when_there_is_space() {
    if !has_own_mounts("full::every_operation_tells_of_a_full_disk_and_goes_on_when_there_is_space")
    {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path(), 24 << 10);
    let place = disk.path("vault");

    let ballast = disk.fill();
    let start = Instant::now();
    let refused = at(&place).create().await.map(drop).unwrap_err();
    is_told("making a vault", start.elapsed(), &refused);
    std::fs::remove_file(ballast).unwrap();
    let mut full = Full {
        place: &place,
        vault: at(&place).create().await.unwrap(),
        history: History::default(),
        random: fastrand::Rng::with_seed(43),
        machine: Machine::new("a", 3_000_000),
    };
    for _ in 0..5 {
        full.machine.write(&mut full.random, 0, 1_000_000);
        let mut group = [&mut full.machine];
        let done = full
            .history
            .protect(&full.vault, &mut full.random, &mut group);
        done.await.unwrap();
    }

    for operation in [
        Operation::Check,
        Operation::Expire,
        Operation::Mark,
        Operation::AddKey,
        Operation::Close,
        Operation::Open,
    ] {
        let doing = format!("{operation:?}");
        full.machine.write(&mut full.random, 1_000_000, 500_000);
        let ballast = disk.fill();
        let start = Instant::now();
        match full.attempt(operation).await {
            Err(error) => is_told(&doing, start.elapsed(), &error),
            // Closing has nothing to write where nothing was written.
            Ok(()) => assert!(
                matches!(operation, Operation::Close),
                "{doing} took no space"
            ),
        }
        // What can be read is right. Not everything can: a catalog that could
        // not write answers nothing more, until it is opened again.
        if !matches!(operation, Operation::Close) {
            full.reads_right_or_tells(&full.vault).await;
        }
        let reader = at(&place).open_read_only().await.unwrap();
        full.history.check(&reader).await;
        reader.close().await.unwrap();

        std::fs::remove_file(ballast).unwrap();
        full.go_on().await;
        full.history.check(&full.vault).await;
        full.history.catch_up(&mut full.machine);
        full.attempt(operation).await.unwrap();
        full.go_on().await;
        full.history.check(&full.vault).await;
    }
    let spare = at(&place).with_credential(Credential::key(SPARE_KEY));
    let vault = spare.open_read_only().await.unwrap();
    full.history.check(&vault).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_may_not_be_written_is_read() {
    if !has_own_mounts("full::a_vault_that_may_not_be_written_is_read") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path(), 24 << 10);
    let place = disk.path("vault");
    let mut random = fastrand::Rng::with_seed(47);
    let history = History::default();
    let vault = at(&place).create().await.unwrap();
    let mut machine = Machine::new("a", 3_000_000);
    machine.write(&mut random, 0, 1_000_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    vault.close().await.unwrap();
    drop(vault);
    disk.allow_no_writes();
    let reader = at(&place).open_read_only().await.unwrap();
    history.check(&reader).await;
    reader.close().await.unwrap();
    let error = at(&place).open().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
