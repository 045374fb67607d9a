//! All at once, on real threads and real files: four machines synchronize and
//! let old points expire, two readers restore, one through the owner and one
//! beside it, while everything is verified and collected, over and over.
//!
//! What must hold: nothing that is needed is deleted, and every point is right.
//! Threads don't replay; the seed is that of what is written.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backstop_core::{
    ByteCount, ByteOffset, CollectOptions, ErrorKind, Maintenance, NoMonitor, RecoveryStore,
    StreamName, VerifyOptions,
};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, VaultSettings};

use crate::history::{History, Kept};
use crate::images::Machine;
use crate::seeds;

fn at(place: &Path) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 512 << 10;
    settings.checkpoint_bytes = 1 << 20;
    DedupStore::at(place.to_str().unwrap())
        .with_credential(Credential::key([5; 32]))
        .with_settings(settings)
}

/// So many points of each machine stay.
const KEPT: usize = 4;

/// What was done.
#[derive(Debug, Default)]
struct Done {
    points: [AtomicU64; 4],
    expired: AtomicU64,
    restored: [AtomicU64; 2],
    /// Restored although they had expired meanwhile.
    expired_meanwhile: AtomicU64,
    verified: AtomicU64,
    collected: AtomicU64,
    deleted: AtomicU64,
    rewritten: AtomicU64,
}

impl Done {
    /// Whether somebody did nothing yet.
    fn lacks_something(&self) -> bool {
        let each = self.points.iter().chain(&self.restored).chain([
            &self.expired,
            &self.verified,
            &self.collected,
            &self.deleted,
            &self.rewritten,
        ]);
        let mut counts = each.map(|count| count.load(Ordering::SeqCst));
        counts.any(|count| count == 0)
    }
}

fn add(to: &AtomicU64, more: u64) {
    to.fetch_add(more, Ordering::SeqCst);
}

/// What all of them share.
struct Crowd {
    vault: DedupStore,
    histories: Vec<History>,
    done: Done,
    until: Instant,
    /// A slow machine is given so long for each to have done something.
    at_last: Instant,
}

impl Crowd {
    fn goes_on(&self) -> bool {
        let now = Instant::now();
        now < self.until || now < self.at_last && self.done.lacks_something()
    }

    async fn synchronize(&self, at: usize, mut machine: Machine, mut random: fastrand::Rng) {
        let history = &self.histories[at];
        while self.goes_on() {
            let longest = 200_000.min(machine.bytes.len() / 4);
            machine.scribble(&mut random, 4, longest);
            history
                .protect_one(&self.vault, &mut random, &mut machine)
                .await;
            add(&self.done.points[at], 1);
            let points = history.known().points;
            let old = points.len().saturating_sub(KEPT);
            if old > 1 {
                let old: Vec<_> = points[..old].iter().map(|kept| kept.id).collect();
                history.expire(&self.vault, &old).await.unwrap();
                add(&self.done.expired, old.len() as u64);
            }
        }
    }

    async fn restore(&self, beside: Option<&Path>, mut random: fastrand::Rng) {
        while self.goes_on() {
            let history = &self.histories[random.usize(..self.histories.len())];
            let points = history.known().points;
            // The oldest are the next to go.
            let Some(kept) = points.get(random.usize(..KEPT)) else {
                tokio::task::yield_now().await;
                continue;
            };
            let is_known = || history.known().points.iter().any(|now| now.id == kept.id);
            let vault = match beside {
                Some(place) => at(place).open_read_only().await.unwrap(),
                None => self.vault.clone(),
            };
            match vault.open(kept.id, &StreamName::disk()).await {
                Err(error) => {
                    let is_gone = error.kind() == ErrorKind::NotFound && !is_known();
                    // An expiry that is not answered yet.
                    let is_going = history.known().expiring.contains(&kept.id);
                    assert!(is_gone || is_going, "opening {}: {error}", kept.id);
                }
                Ok(image) => {
                    self.read(&*image, kept).await;
                    add(&self.done.restored[usize::from(beside.is_some())], 1);
                    add(&self.done.expired_meanwhile, u64::from(!is_known()));
                }
            }
            if beside.is_some() {
                vault.close().await.unwrap();
            }
        }
    }

    /// Reads all of a point in parts.
    async fn read(&self, image: &dyn backstop_core::Recovery, kept: &Kept) {
        let mut at = 0;
        for part in kept.image.chunks(300_000) {
            let length = ByteCount(part.len() as u64);
            let read = image.read(ByteOffset(at), length).await;
            let read = read.unwrap_or_else(|error| panic!("{} at {at}: {error}", kept.id));
            assert!(read[..] == *part, "{} is wrong at {at}", kept.id);
            at += part.len() as u64;
        }
    }

    async fn verify(&self) {
        while self.goes_on() {
            let report = self
                .vault
                .verify(&VerifyOptions::default(), &NoMonitor)
                .await;
            let report = report.unwrap();
            assert_eq!(
                (report.damaged, report.damaged_tables, report.ranges.len()),
                (0, 0, 0),
                "{report:?}"
            );
            add(&self.done.verified, 1);
        }
    }

    async fn collect(&self) {
        let mut options = CollectOptions::default();
        options.most_dead = 5;
        while self.goes_on() {
            let report = self.vault.collect(&options, &NoMonitor).await.unwrap();
            assert_eq!(report.unreadable.count, 0, "{report:?}");
            add(&self.done.collected, 1);
            add(&self.done.deleted, report.deleted.count);
            add(&self.done.rewritten, report.rewritten.count);
        }
    }
}

async fn crowd(seed: u64, lasts: Duration) {
    let _seed = seeds::watch(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let names = [
        ("a", 500_000),
        ("b", 900_000),
        ("c", 1_500_000),
        ("d", 4_600_000),
    ];
    let crowd = Crowd {
        vault: at(place).create().await.unwrap(),
        histories: names.iter().map(|_| History::default()).collect(),
        done: Done::default(),
        until: Instant::now() + lasts,
        at_last: Instant::now() + lasts * 10,
    };
    let crowd = std::sync::Arc::new(crowd);
    let mut tasks = tokio::task::JoinSet::new();
    for (at, (name, length)) in names.into_iter().enumerate() {
        let (crowd, random) = (std::sync::Arc::clone(&crowd), random.fork());
        let machine = Machine::new(name, length);
        tasks.spawn(async move { crowd.synchronize(at, machine, random).await });
    }
    for beside in [false, true] {
        let (crowd, random) = (std::sync::Arc::clone(&crowd), random.fork());
        let beside = beside.then(|| place.to_owned());
        tasks.spawn(async move { crowd.restore(beside.as_deref(), random).await });
    }
    let verifying = std::sync::Arc::clone(&crowd);
    tasks.spawn(async move { verifying.verify().await });
    let collecting = std::sync::Arc::clone(&crowd);
    tasks.spawn(async move { collecting.collect().await });
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let Crowd { vault, done, .. } = &*crowd;
    eprintln!("{} s: {done:?}", lasts.as_secs());
    assert!(!done.lacks_something(), "somebody did nothing: {done:?}");
    for history in &crowd.histories {
        history.check(vault).await;
    }
    vault.close().await.unwrap();
    let reader = at(place).open_read_only().await.unwrap();
    for history in &crowd.histories {
        history.check(&reader).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_at_once_takes_nothing_from_each_other_soak() {
    let seconds = seeds::rounds(6, 600);
    for seed in seeds::seeds(1) {
        crowd(seed, Duration::from_secs(seconds)).await;
    }
}
