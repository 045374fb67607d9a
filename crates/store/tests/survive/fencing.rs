//! Two owners: an old one that sleeps while a new one takes over, and wakes.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{ErrorKind, Maintenance, ManualClock, PointId, RecoveryStore, Timestamp};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::history::{History, Kept, holds};
use crate::images::{self, Machine};
use crate::second_self::{SecondSelf, say};
use crate::seeds;

fn at(place: &str) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    DedupStore::at(place)
        .with_credential(Credential::key([3; 32]))
        .with_settings(settings)
}

const DISK: usize = 500_000;

/// The machine of the old owner, as it is at its `round`-th point.
fn old_machine(seed: u64, round: u64) -> Machine {
    let mut machine = Machine::new("old", DISK);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..round {
        machine.scribble(&mut random, 5, 60_000);
    }
    machine
}

/// The child: makes points until it can't any more, and says which.
pub(crate) async fn old_owner(place: &str, seed: u64) {
    let vault = at(place).open().await.unwrap();
    let mut random = fastrand::Rng::with_seed(seed ^ 0x01d);
    let mut head = None;
    for round in 1.. {
        let mut machine = old_machine(seed, round);
        machine.head = head;
        machine.changed = std::iter::once(0..DISK).collect();
        let history = History::default();
        match history
            .protect(&vault, &mut random, &mut [&mut machine])
            .await
        {
            Ok(points) => {
                head = machine.head;
                say(&format!("point {} {round}", points[0]));
            }
            Err(error) => {
                say(&format!("error {:?} {error}", error.kind()));
                break;
            }
        }
    }
    // It may try whatever it likes now.
    let expired = match head {
        Some(head) => vault.expire(&[head]).await.is_ok(),
        None => false,
    };
    say(&format!("expired {expired}"));
    say(&format!("closed {}", vault.close().await.is_ok()));
    // Stays until it is told to go, so that its lock is still there.
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

fn packs(place: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(place.join("packs")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn kept_of_old(line: &str, seed: u64) -> Option<Kept> {
    let (id, round) = line.strip_prefix("point ")?.split_once(' ')?;
    let machine = old_machine(seed, round.parse().unwrap());
    Some(Kept {
        id: id.parse::<PointId>().unwrap(),
        source: machine.name,
        image: machine.bytes.into(),
    })
}

async fn take_over(seed: u64) {
    let _seed = seeds::watch(seed);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    at(place).create().await.unwrap().close().await.unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut old = SecondSelf::start("owner", folder.path(), seed);
    let mut reported = Vec::new();
    for _ in 0..=random.u32(1..5) {
        reported.extend(kept_of_old(&old.hear().unwrap(), seed));
    }
    // Somewhere in its next synchronization or commit.
    std::thread::sleep(Duration::from_micros(random.u64(..60_000)));
    old.suspend();

    let refused = at(place).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    let vault = at(place)
        .with_takeover(Takeover::Force)
        .open()
        .await
        .unwrap();
    let history = History::default();
    let mut machine = Machine::new("new", DISK);
    machine.write(&mut random, 0, 300_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let before: Vec<_> = vault.points(&old_machine(seed, 0).name).await.unwrap();
    let before_packs = packs(folder.path());

    old.wake();
    let mut refusal = None;
    loop {
        let line = old.hear().expect("the old owner ends");
        reported.extend(kept_of_old(&line, seed));
        if line.starts_with("error ") {
            refusal = Some(line.clone());
        }
        assert_ne!(line, "expired true", "a fenced owner removed a point");
        if line.starts_with("closed ") {
            break;
        }
    }
    let refusal = refusal.expect("the old owner is refused");
    // Whether its pack under way was swept or its catalog was fenced.
    assert!(refusal.starts_with("error Fenced"), "{refusal}");

    // Nothing visible has changed, and the new owner goes on.
    assert_eq!(
        vault.points(&old_machine(seed, 0).name).await.unwrap(),
        before
    );
    let after_packs = packs(folder.path());
    let lost: Vec<_> = before_packs.difference(&after_packs).collect();
    assert!(
        lost.iter().all(|name| name.ends_with(".unfinished")),
        "packs {lost:?} are gone"
    );
    machine.scribble(&mut random, 4, 50_000);
    history.protect_one(&vault, &mut random, &mut machine).await;
    let refused = at(place).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    vault.close().await.unwrap();
    drop(vault);
    old.input.write_all(b"go\n").unwrap();

    let vault = at(place).open().await.unwrap();
    history.check(&vault).await;
    for kept in &reported {
        holds(&vault, kept).await;
    }
    vault.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_slept_through_a_takeover_changes_nothing_soak() {
    for seed in seeds::seeds(seeds::rounds(3, 60)) {
        take_over(seed).await;
    }
}

fn on(store: &Arc<dyn ObjectStore>, clock: &Arc<ManualClock>) -> DedupStoreBuilder {
    DedupStore::on(Arc::clone(store), "vault").with_clock(Arc::clone(clock) as _)
}

#[tokio::test]
async fn a_lease_refuses_and_a_fence_decides() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let mut random = fastrand::Rng::with_seed(5);
    let old = on(&store, &clock).create().await.unwrap();
    let history = History::default();
    let mut machine = Machine::new("a", DISK);
    machine.write(&mut random, 0, 200_000);
    history.protect_one(&old, &mut random, &mut machine).await;

    let refused = on(&store, &clock).open().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");

    // The old owner is in the middle of a synchronization.
    machine.write(&mut random, 100_000, 200_000);
    let begin = machine.begin(&mut random);
    let writer = old.begin(begin.clone()).await.unwrap();
    images::send(&*writer, &machine).await.unwrap();

    let force = on(&store, &clock).with_takeover(Takeover::Force);
    let new = force.open().await.unwrap();
    history.check(&new).await;
    let mut other = Machine::new("b", DISK);
    other.write(&mut random, 0, 150_000);
    history.protect_one(&new, &mut random, &mut other).await;

    let late = images::new_point(&mut random, &begin);
    let fenced = old.commit(vec![late]).await.unwrap_err();
    assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
    history.check(&new).await;

    // The old one's end takes nothing from the new one.
    let _ = old.close().await;
    drop(old);
    let refused = on(&store, &clock).open().await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    history.protect_one(&new, &mut random, &mut machine).await;
    history.check(&new).await;
    new.close().await.unwrap();
    let last = on(&store, &clock).open().await.unwrap();
    history.check(&last).await;
}

/// An owner that has nothing to write when it ends still is not the owner any
/// more.
#[tokio::test]
async fn an_idle_fenced_owner_does_not_give_the_lease_away() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    let old = on(&store, &clock).create().await.unwrap();
    let force = on(&store, &clock).with_takeover(Takeover::Force);
    let new = force.open().await.unwrap();
    let _ = old.close().await;
    let refused = on(&store, &clock).open().await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
    new.close().await.unwrap();
}
