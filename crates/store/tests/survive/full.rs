//! A full disk: told as such within bounded time; nothing that was reported is
//! lost; it goes on when space is freed.
//!
//! On a small file system of its own, which takes the right to mount one;
//! without it the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use backstop_core::{ErrorKind, RecoveryStore};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};

use crate::history::History;
use crate::images::Machine;

/// SlateDB repeats a failed request three times before it gives up.
const BOUND: Duration = Duration::from_secs(20);

/// A small file system; unmounted when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        let mounted = mounted.is_ok_and(|mounted| mounted.status.success());
        mounted.then_some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(self.folder.path())
            .status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.folder.path().display());
        }
    }
}

fn at(place: &Path) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 1 << 20;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([3; 32]))
        .with_settings(settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    let Some(disk) = SmallDisk::mount(24) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
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
            crate::history::holds(&vault, &kept).await;
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
