//! Power loss on an object store, at every request of a vault's whole life.
//!
//! What a store has answered is durable. At request number k the process is
//! dead: nothing it asks for is done or answered any more, and of the requests
//! that were under way each was done or not, by seed. Then the vault is opened
//! on what is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use backstop_core::{ErrorKind, Maintenance, ManualClock, RecoveryStore, Result, Timestamp};
use backstop_store::{Credential, DedupStore, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::Notify;

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::history::History;
use crate::images::Machine;
use crate::seeds;

/// Cuts the power when a certain request arrives, of all stores that it is the
/// policy of.
#[derive(Debug)]
pub(crate) struct PowerCut {
    at: u64,
    seed: u64,
    /// Whether reads count too.
    counts_reads: bool,
    pub(crate) arrived: AtomicU64,
    dead: AtomicBool,
    pub(crate) died: Notify,
}

impl PowerCut {
    pub(crate) fn new(at: u64, seed: u64, counts_reads: bool) -> Arc<Self> {
        Arc::new(Self {
            at,
            seed,
            counts_reads,
            arrived: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
        })
    }
}

impl Policy for PowerCut {
    fn arrive(&self, request: Request, _: &str, _: u64) -> (u64, u32) {
        let reads = matches!(request, Request::Get | Request::List);
        let counts = self.counts_reads || !reads;
        let before = self.arrived.fetch_add(counts.into(), Ordering::SeqCst);
        let number = before + u64::from(counts);
        let mut random = fastrand::Rng::with_seed(self.seed ^ number << 20);
        if counts && number == self.at {
            self.dead.store(true, Ordering::SeqCst);
            self.died.notify_one();
        }
        (number, random.u32(..4))
    }

    fn decide(&self, number: u64, _: Request, _: &str) -> Action {
        let mut random = fastrand::Rng::with_seed(self.seed ^ number << 21);
        if !self.dead.load(Ordering::SeqCst) {
            Action::Pass
        } else if number <= self.at && random.bool() {
            Action::VanishAfter
        } else {
            Action::Vanish
        }
    }
}

/// Small packs and checkpoints, so that a short life has all steps.
pub(crate) fn settings() -> VaultSettings {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    settings.checkpoint_bytes = 64 << 10;
    settings
}

pub(crate) fn builder(
    store: Arc<dyn ObjectStore>,
    clock: &Arc<ManualClock>,
) -> backstop_store::DedupStoreBuilder {
    DedupStore::on(store, "vault")
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings())
        .with_clock(Arc::clone(clock) as _)
}

const DISK: usize = 9 << 20;

/// A vault's life: create, initial, express full, a group, checkpoints,
/// expiry, its undoing, collection, folding, rotation, close, and a short second
/// run, in which what has expired goes for good and packs are sealed anew.
async fn life(
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
    history: History,
    seed: u64,
) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let vault = builder(Arc::clone(&store), &clock).create().await?;
    history.change(|known| known.created = true);
    let (mut a, mut b) = (Machine::new("a", 600_000), Machine::new("b", 300_000));
    a.write(&mut random, 100_000, 150_000);
    let first = history.protect(&vault, &mut random, &mut [&mut a]).await?;
    a.scribble(&mut random, 4, 9_000);
    history.protect(&vault, &mut random, &mut [&mut a]).await?;
    a.scribble(&mut random, 3, 5_000);
    b.write(&mut random, 0, 100_000);
    history
        .protect(&vault, &mut random, &mut [&mut a, &mut b])
        .await?;
    // Three regions of which each is worth a checkpoint.
    let mut c = Machine::new("c", DISK);
    for region in 0..3 {
        c.write(&mut random, ((region * 4) << 20) + 500_000, 120_000);
    }
    history.protect(&vault, &mut random, &mut [&mut c]).await?;
    let mut protection = backstop_core::Protection::default();
    protection.undo_window = Duration::from_mins(1);
    vault.set_protection(protection).await?;
    let oldest = history.known().points[..1].to_vec();
    history.expire(&vault, &first).await?;
    history.undo(&vault, &oldest).await?;
    history.expire(&vault, &first).await?;
    history.collect(&vault).await?;
    let mut options = backstop_core::FoldOptions::default();
    options.worth = 101;
    vault
        .fold(&a.name, &options, &backstop_core::NoMonitor)
        .await?;
    vault.rotate_key().await?;
    vault.close().await?;
    clock.advance(Duration::from_mins(1));
    let vault = builder(store, &clock).open().await?;
    b.scribble(&mut random, 2, 2_000);
    history.protect(&vault, &mut random, &mut [&mut b]).await?;
    let purged = history.collect(&vault).await?.purged;
    assert_eq!(purged, first.len() as u64);
    vault.close().await
}

/// Lives until the power is cut at a request; gives how many there were.
fn live_and_die(store: &Arc<dyn ObjectStore>, history: &History, at: u64, seed: u64) -> u64 {
    let cut = PowerCut::new(at, seed, true);
    let faulty = FaultyStore::new(Arc::clone(store), Arc::clone(&cut));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
    runtime.block_on(async {
        let life = life(faulty, clock, history.clone(), seed);
        tokio::select! {
            done = life => done.expect("a life without faults succeeds"),
            () = cut.died.notified() => {}
        }
    });
    // Nothing of the dead process goes on.
    runtime.shutdown_background();
    cut.arrived.load(Ordering::SeqCst)
}

/// Opens what survived, checks it, and goes on with no help.
/// Says whether the long synchronization could have been continued.
async fn recover(store: &Arc<dyn ObjectStore>, history: &History, seed: u64) -> bool {
    let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_600_000)));
    let opened = match builder(Arc::clone(store), &clock).open().await {
        Err(error) if error.kind() == ErrorKind::NotFound && !history.known().created => {
            let made = builder(Arc::clone(store), &clock).create().await;
            made.expect("a vault that was not made can be made")
                .close()
                .await
                .unwrap();
            builder(Arc::clone(store), &clock).open().await
        }
        opened => opened,
    };
    let vault = opened.expect("a vault opens after power loss");
    history.check(&vault).await;
    let left = vault.replica(&Machine::new("c", 0).name).await.unwrap();
    let resumable = left.is_some_and(|left| left.unfinished.is_some());
    let mut random = fastrand::Rng::with_seed(seed);
    for (name, length) in [("a", 600_000), ("c", DISK)] {
        let mut machine = Machine::new(name, length);
        machine.write(&mut random, 50_000, 70_000);
        history.catch_up(&mut machine);
        let next = history
            .protect(&vault, &mut random, &mut [&mut machine])
            .await;
        next.expect("the next synchronization works");
    }
    history.check(&vault).await;
    history
        .collect(&vault)
        .await
        .expect("the next collection works");
    history.check(&vault).await;
    vault.close().await.unwrap();
    let reader = builder(Arc::clone(store), &clock).open_read_only().await;
    history.check(&reader.unwrap()).await;
    resumable
}

fn cut_and_recover(at: u64, seed: u64) -> (u64, bool) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let history = History::default();
    let requests = live_and_die(&store, &history, at, seed);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let resumable = runtime.block_on(recover(&store, &history, seed));
    (requests, resumable)
}

/// Making a vault has few steps and several ways to be cut short: all of them.
#[test]
fn power_loss_while_a_vault_is_made() {
    for seed in seeds::seeds(4) {
        let _seed = seeds::watch(seed);
        for at in 1..=14 {
            cut_and_recover(at, seed);
        }
    }
}

/// Every request of a life, by one seed after another when soaking; otherwise
/// every third.
#[test]
fn power_loss_at_every_step_soak() {
    let (whole, _) = cut_and_recover(u64::MAX, 1);
    let mut resumable = 0;
    assert!(whole > 100, "a life makes only {whole} requests");
    let stride = if seeds::soaking() { 1 } else { 3 };
    for seed in seeds::seeds(seeds::rounds(1, 6)) {
        let _seed = seeds::watch(seed);
        for at in (15..=whole).step_by(stride) {
            resumable += u32::from(cut_and_recover(at, seed).1);
        }
    }
    assert!(resumable > 0, "no cut fell behind a checkpoint");
}
