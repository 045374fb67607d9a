//! `kill -9` of the real process at random instants of protecting, expiring and
//! collecting: every point that was reported restores bit for bit, nothing
//! half-made is visible, and the next run needs no help.
//!
//! `BACKSTOP_SEED` replays a run's choices (not the scheduler's),
//! `BACKSTOP_CRASH_ROUNDS` sets their number.

#![cfg(all(
    feature = "agent",
    feature = "server",
    feature = "source-file",
    feature = "store"
))]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test: it stops at the first surprise, tells its seed, and times a real process"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backstop::{
    ByteOffset, Credential, DedupStore, PointId, ProtectionServer, RecoveryStore, SourceName,
};

const KEY: [u8; 32] = [42; 32];
const LENGTH: usize = 12 << 20;

struct Lab {
    folder: tempfile::TempDir,
    random: fastrand::Rng,
    image: Vec<u8>,
    /// What the extents since the last known head are.
    dirty: Option<Vec<(usize, usize)>>,
    /// The content of every point that may be in the vault.
    points: BTreeMap<PointId, Vec<u8>>,
}

fn backstop() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("examples/backstop");
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

impl Lab {
    fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), KEY).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut image = vec![0; LENGTH];
        random.fill(&mut image[..LENGTH / 2]);
        let lab = Self {
            folder,
            random,
            image,
            dirty: None,
            points: BTreeMap::new(),
        };
        std::fs::write(lab.path("image"), &lab.image).unwrap();
        assert!(lab.start(&["init"]).wait().unwrap().success());
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let (vault, key) = (self.path("vault"), self.path("key"));
        Command::new(backstop())
            .arg("--vault")
            .arg(vault)
            .arg("--key-file")
            .arg(key)
            .arg("--json")
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("BACKSTOP_PASSPHRASE")
            .stdout(Stdio::from(File::create(self.path("told")).unwrap()))
            .stderr(Stdio::from(File::create(self.path("said")).unwrap()))
            .spawn()
            .unwrap()
    }

    /// Runs to the end, or kills after a while; tells what it reported.
    fn run(&self, arguments: &[&str], kill_after: Option<Duration>) -> Option<serde_json::Value> {
        let mut child = self.start(arguments);
        if let Some(after) = kill_after {
            // The instant of the kill is the point of the test.
            std::thread::sleep(after);
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(self.path("said")).unwrap();
        assert!(
            status.code().is_none_or(|code| code == 0),
            "{arguments:?} ended with {status}: {said}"
        );
        assert!(
            kill_after.is_some() || status.success(),
            "{arguments:?}: {said}"
        );
        status
            .success()
            .then(|| serde_json::from_slice(&std::fs::read(self.path("told")).unwrap()).unwrap())
    }

    fn change(&mut self) {
        let file = File::options()
            .write(true)
            .open(self.path("image"))
            .unwrap();
        let mut changed = Vec::new();
        for _ in 0..self.random.usize(1..30) {
            let length = self.random.usize(1..12_000);
            let at = self.random.usize(..LENGTH - length);
            if self.random.u8(..4) == 0 {
                self.image[at..at + length].fill(0);
            } else {
                self.random.fill(&mut self.image[at..at + length]);
            }
            file.write_all_at(&self.image[at..at + length], at as u64)
                .unwrap();
            changed.push((at, length));
        }
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(changed);
        }
    }

    /// Opens the vault as nobody's helper and checks every point in it.
    async fn verify(&self) -> Vec<PointId> {
        let vault = DedupStore::at(self.path("vault").to_str().unwrap())
            .with_credential(Credential::key(KEY))
            .open_read_only()
            .await
            .unwrap();
        let listed = vault.points(&SourceName::new("vm").unwrap()).await.unwrap();
        let server = ProtectionServer::builder()
            .with_vault(vault.clone())
            .build()
            .await
            .unwrap();
        for point in &listed {
            // A point may have been committed without the report reaching us:
            // then it holds the image as it is.
            let expected = self.points.get(&point.id).unwrap_or(&self.image);
            let image = server.open(point.id).await.unwrap();
            let found = image
                .read(ByteOffset(0), image.geometry().length)
                .await
                .unwrap();
            assert!(
                found == expected[..],
                "point {} is not what it was",
                point.id
            );
        }
        vault.close().await.unwrap();
        listed.iter().map(|point| point.id).collect()
    }
}

fn rounds(default: u32) -> u32 {
    std::env::var("BACKSTOP_CRASH_ROUNDS").map_or(default, |rounds| rounds.parse().unwrap())
}

async fn survive(rounds: u32) {
    let seed =
        std::env::var("BACKSTOP_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("BACKSTOP_SEED={seed}, {rounds} rounds");
    let mut lab = Lab::new(seed);
    let started = std::time::Instant::now();
    let first = lab
        .run(&["protect", "vm", "--image", "image"], None)
        .unwrap();
    let mut usual = started.elapsed();
    let id = |value: &serde_json::Value| value["id"].as_str().unwrap().parse::<PointId>().unwrap();
    lab.points.insert(id(&first), lab.image.clone());
    lab.dirty = Some(Vec::new());
    let (mut killed, mut finished, mut unreported) = (0, 0, 0);
    for round in 0..rounds {
        let kill = lab.random.u8(..5) != 0;
        let after = kill.then(|| usual.mul_f64(lab.random.f64() * 1.2));
        if lab.random.u8(..5) == 0 {
            let before = lab.verify().await;
            lab.run(
                &["expire", "vm", "--keep-last", "3", "--min-age", "0s"],
                after,
            );
            let now = lab.verify().await;
            let kept = &before[before.len().saturating_sub(3)..];
            assert!(
                now == before || now == kept,
                "round {round}: half an expiry: {before:?} to {now:?}"
            );
            lab.points.retain(|id, _| now.contains(id));
            continue;
        }
        if lab.random.u8(..5) == 0 {
            let before = lab.verify().await;
            lab.run(&["collect", "--most-dead", "3"], after);
            assert_eq!(lab.verify().await, before, "round {round}: a collection");
            continue;
        }
        lab.change();
        let mut arguments = vec!["protect", "vm", "--image", "image"];
        if let Some(dirty) = lab
            .dirty
            .as_ref()
            .filter(|_| lab.random.clone().u8(..8) != 0)
        {
            let mut text = String::new();
            for (at, length) in dirty {
                writeln!(text, "{at} {length}").unwrap();
            }
            std::fs::write(lab.path("extents"), text).unwrap();
            arguments.extend(["--extents", "extents"]);
        }
        let started = std::time::Instant::now();
        let reported = lab.run(&arguments, after);
        match &reported {
            Some(point) => {
                finished += 1;
                if after.is_none() {
                    usual = (usual + started.elapsed()) / 2;
                }
                lab.points.insert(id(point), lab.image.clone());
            }
            None => killed += 1,
        }
        let listed = lab.verify().await;
        for id in lab.points.keys() {
            assert!(
                listed.contains(id),
                "round {round}: reported point {id} is gone"
            );
        }
        let new: Vec<_> = listed
            .iter()
            .filter(|id| !lab.points.contains_key(id))
            .collect();
        assert!(new.len() <= 1, "round {round}: {new:?} came from nowhere");
        if let Some(id) = new.first() {
            unreported += 1;
            lab.points.insert(**id, lab.image.clone());
        }
        if reported.is_some() || !new.is_empty() {
            lab.dirty = Some(Vec::new());
        }
    }
    println!("{finished} finished, {killed} killed, of these {unreported} after their commit");
    assert!(
        rounds < 20 || killed > 0 && finished > 0,
        "the kills miss their aim"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_nothing_reported_is_lost() {
    survive(rounds(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_killed_at_any_instant() {
    if std::env::var_os("BACKSTOP_SOAK").is_some() {
        survive(rounds(3000)).await;
    }
}
