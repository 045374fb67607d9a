//! Random sequences of operations of three sources against plain images:
//! synchronizations that are committed, given up or left, group commits,
//! expiry, crashes and openings.

use std::sync::Arc;

use backstop_core::{CpuPool, ManualClock, Timestamp};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::play::{Play, Step};
use crate::seeds;

fn builder(store: &Arc<dyn ObjectStore>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    settings.checkpoint_bytes = 100 << 10;
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
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut play = Play::start(|| builder(&store), seed, [100_000, 900_000, 4_600_000]).await;
    for _ in 0..steps {
        let at = play.random.usize(..3);
        play.machines[at].scribble(&mut play.random, 3, 80_000);
        let step = match play.random.u8(..12) {
            0..5 => Step::Protect(at),
            5 => Step::ProtectAll,
            6 | 7 => Step::Leave {
                machine: at,
                abort: play.random.bool(),
            },
            8 => Step::Continue(at),
            9 => {
                let old = play.old_points().into_iter();
                Step::Expire(old.filter(|_| play.random.bool()).collect())
            }
            10 => Step::Crash,
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
