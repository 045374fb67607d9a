//! Random sequences of operations of three sources against plain images:
//! synchronizations that are committed, given up or left, group commits,
//! expiry, collection beside them, folding, verification, replication, crashes and
//! openings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backstop_core::{CpuPool, Deduplication, ManualClock, Timestamp};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::play::{Play, Step};
use crate::seeds;

/// Lets everything pass, others first now and then.
#[derive(Debug)]
pub(crate) struct Restless {
    seed: u64,
    arrived: AtomicU64,
}

impl Restless {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            arrived: 0.into(),
        }
    }
}

impl Policy for Restless {
    fn arrive(&self, _: Request, _: &str, _: u64) -> (u64, u32) {
        let number = self.arrived.fetch_add(1, Ordering::SeqCst);
        (
            number,
            fastrand::Rng::with_seed(self.seed ^ number << 20).u32(..6),
        )
    }

    fn decide(&self, _: u64, _: Request, _: &str) -> Action {
        Action::Pass
    }
}

fn builder(store: &Arc<dyn ObjectStore>, seed: u64) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    // Every other vault knows what is being written by its sessions alone.
    settings.checkpoint_bytes = if seed.is_multiple_of(2) {
        100 << 10
    } else {
        u64::MAX
    };
    settings.memory.nodes = 8 << 10;
    settings.memory.tables = 8 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))))
        .with_takeover(Takeover::Force)
}

async fn play(seed: u64, steps: u32) {
    let _seed = seeds::watch(seed);
    let restless = FaultyStore::new(Arc::new(InMemory::new()), Arc::new(Restless::new(seed)));
    let store: Arc<dyn ObjectStore> = restless;
    let mut play = Play::start(
        || builder(&store, seed),
        seed,
        [100_000, 900_000, 4_600_000],
    )
    .await;
    // Two that trust each other.
    for at in [1, 2] {
        play.machines[at].deduplication = Deduplication::Vault;
    }
    let mut past: Vec<(usize, Vec<u8>)> = Vec::new();
    for _ in 0..steps {
        let at = play.random.usize(..3);
        let machine = &mut play.machines[at];
        let same = past.iter().filter(|(of, _)| *of == at).map(|(_, was)| was);
        let same: Vec<_> = same.collect();
        match same.get(play.random.usize(..8)) {
            // What nobody may need any more, and is needed again.
            Some(was) => machine.revert(was),
            None => machine.scribble(&mut play.random, 3, 80_000),
        }
        past.push((at, machine.bytes.clone()));
        let step = match play.random.u8(..25) {
            0..5 => Step::Protect(at),
            5 => Step::ProtectAll,
            6 | 7 => Step::Leave {
                machine: at,
                abort: play.random.bool(),
            },
            8 => Step::Continue(at),
            9 | 10 => {
                let old = play.old_points().into_iter();
                Step::Expire(old.filter(|_| play.random.bool()).collect())
            }
            11 => Step::Crash,
            12 => Step::Collect,
            13 => {
                let points = play.history.known().points;
                match points.get(play.random.usize(..8)) {
                    Some(kept) => Step::Open(kept.id),
                    None => Step::Close,
                }
            }
            14 | 15 => {
                // What it writes stands in points that were not yet collected.
                let old = play.old_points();
                if let Some(read) = old.get(play.random.usize(..4)) {
                    play.step(Step::Open(*read)).await;
                }
                play.step(Step::Expire(old)).await;
                play.step(Step::CollectMeanwhile(at)).await;
                Step::Close
            }
            16 | 17 => Step::Fold(at),
            18 => Step::Rebuild,
            19 => Step::RebuildAfterCrash,
            20 => Step::Rotate,
            21 => Step::Verify,
            22 | 23 => Step::Replicate(play.random.u64(1..5)),
            _ => Step::Reopen,
        };
        let crashed = matches!(step, Step::Crash);
        play.step(step).await;
        if crashed {
            play.check().await;
        }
    }
    play.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vault_is_its_model_soak() {
    for seed in seeds::seeds(seeds::rounds(12, 600)) {
        play(seed, 30).await;
    }
}
