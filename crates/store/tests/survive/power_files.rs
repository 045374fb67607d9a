//! Power loss on local files: a real vault's system calls are traced, and for
//! chosen instants the folder is built as it would be if only what was synced
//! survived.
//!
//! That takes `strace`, and the right to trace. What it does not show: torn
//! sectors inside one write, and a disk that lies about its cache.

use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use backstop_core::{ErrorKind, Result};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};

use crate::history::{History, Known};
use crate::images::Machine;
use crate::replay::Disk;
use crate::rights::{demand, is_left_out, run};
use crate::second_self::{command, said, say};
use crate::seeds;
use crate::trace::{self, Call};

fn at(place: &Path) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    settings.checkpoint_bytes = 64 << 10;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings)
}

const DISK: usize = 400_000;

/// A vault's life; `tell` is called whenever something was reported or asked.
async fn life(place: &Path, seed: u64, tell: &(dyn Fn(&Known) + Sync)) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let history = History::default();
    let vault = at(place).create().await?;
    history.change(|known| known.created = true);
    tell(&history.known());
    let (mut a, mut b) = (Machine::new("a", DISK), Machine::new("b", 200_000));
    a.write(&mut random, 50_000, 250_000);
    let first = history.protect(&vault, &mut random, &mut [&mut a]).await?;
    tell(&history.known());
    a.scribble(&mut random, 4, 9_000);
    history.protect(&vault, &mut random, &mut [&mut a]).await?;
    tell(&history.known());
    b.write(&mut random, 0, 100_000);
    history
        .protect(&vault, &mut random, &mut [&mut a, &mut b])
        .await?;
    tell(&history.known());
    history.expire(&vault, &first).await?;
    tell(&history.known());
    history.collect(&vault).await?;
    vault.close().await?;
    drop(vault);
    let vault = at(place).open().await?;
    b.scribble(&mut random, 2, 2_000);
    history.protect(&vault, &mut random, &mut [&mut b]).await?;
    tell(&history.known());
    vault.close().await
}

/// The child: lives, and says each time that something was reported.
pub(crate) async fn traced_life(place: &str, seed: u64) {
    let told = Mutex::new(0);
    let tell = |_: &Known| {
        let mut told = told.lock().unwrap();
        *told += 1;
        say(&format!("told {told}"));
    };
    life(Path::new(place), seed, &tell).await.unwrap();
}

/// What is known after each telling of the same life.
async fn knowledge(seed: u64) -> Vec<Known> {
    let folder = tempfile::tempdir().unwrap();
    let all = Mutex::new(vec![Known::default()]);
    let tell = |known: &Known| all.lock().unwrap().push(known.clone());
    life(folder.path(), seed, &tell).await.unwrap();
    all.into_inner().unwrap()
}

/// Traces a life.
fn traced(place: &Path, seed: u64) -> Vec<Call> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut lead = vec!["strace"];
    lead.extend(trace::OPTIONS);
    lead.push(log.path().to_str().unwrap());
    let mut command = command("life", place, seed, &lead);
    let ended = command.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "a traced life failed: {said}");
    trace::read(&std::fs::read_to_string(log.path()).unwrap())
}

/// Opens what survived: everything told is there; what was under way is there
/// or not; and it goes on.
async fn check(disk: &Disk, all: &[Known], told: usize, mut random: Option<fastrand::Rng>) {
    let folder = tempfile::tempdir().unwrap();
    let by_chance = random.is_some();
    disk.after_power_loss(folder.path(), &mut random);
    let files = crate::images::files(folder.path());
    let sizes: Vec<_> = files
        .iter()
        .map(|(p, b)| format!("{p} {}", b.len()))
        .collect();
    let survived = Survived {
        by_chance,
        told,
        sizes,
    };
    let vault = match at(folder.path()).open().await {
        Err(error) if error.kind() == ErrorKind::NotFound && told == 0 => {
            at(folder.path()).create().await.unwrap()
        }
        opened => opened.expect("a vault opens after power loss"),
    };
    let history = History::default();
    history.change(|known| *known = all[told].clone());
    if let Some(next) = all.get(told + 1) {
        // What is told next may be durable already.
        let before = &all[told].points;
        let new = next
            .points
            .iter()
            .filter(|new| before.iter().all(|old| old.id != new.id));
        let gone = before
            .iter()
            .filter(|old| next.points.iter().all(|new| new.id != old.id));
        let (new, gone) = (new.cloned().collect(), gone.map(|old| old.id).collect());
        history.change(|known| (known.committing, known.expiring) = (new, gone));
    }
    history.check(&vault).await;
    let mut machine = Machine::new("a", DISK);
    let mut random = fastrand::Rng::with_seed(9);
    machine.write(&mut random, 10_000, 60_000);
    history.catch_up(&mut machine);
    history.protect_one(&vault, &mut random, &mut machine).await;
    history.check(&vault).await;
    vault.close().await.unwrap();
    drop(survived);
}

/// What was left after a cut; printed if what follows panics.
struct Survived {
    by_chance: bool,
    told: usize,
    sizes: Vec<String>,
}

impl Drop for Survived {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (by_chance, told) = (self.by_chance, self.told);
            eprintln!("after {told} tellings, some survived by chance: {by_chance}; it held:");
            eprintln!("{}", self.sizes.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_synced_survives_and_that_is_enough_soak() {
    if is_left_out("strace") {
        return;
    }
    demand("strace", run("strace", &["-f", "-o", "/dev/null", "true"]));
    for seed in seeds::seeds(seeds::rounds(1, 10)) {
        let _seed = seeds::watch(seed);
        let folder = tempfile::tempdir().unwrap();
        let calls = traced(folder.path(), seed);
        let all = knowledge(seed).await;
        let syncs = calls
            .iter()
            .filter(|call| matches!(call, Call::SyncEnds { .. }));
        let syncs = syncs.count();
        assert!(syncs > 20, "only {syncs} syncs were traced");
        // The folder itself is the caller's.
        let mut disk = Disk::new(folder.path().to_str().unwrap());
        let mut told = 0;
        let mut random = fastrand::Rng::with_seed(seed);
        let cuts = seeds::rounds(40, 400) as usize;
        for call in &calls {
            disk.apply(call);
            let mut cut = random.usize(..calls.len()) < cuts;
            if let Call::Said { line } = call
                && said(line).is_some_and(|line| line.starts_with("told "))
            {
                told += 1;
                cut = true;
            }
            if cut {
                check(&disk, &all, told, None).await;
                check(&disk, &all, told, Some(random.fork())).await;
            }
        }
        assert_eq!(told, all.len() - 1, "everything that was told was traced");
    }
}
