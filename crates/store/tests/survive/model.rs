//! Random sequences of operations of three sources against plain images:
//! synchronizations that are committed, given up or left, group commits,
//! expiry, crashes and openings.

use std::sync::Arc;

use backstop_core::{CpuPool, ManualClock, RecoveryStore, Timestamp};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::history::History;
use crate::images::{self, Machine};
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
    let mut random = fastrand::Rng::with_seed(seed);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut vault = builder(&store).create().await.unwrap();
    let history = History::default();
    let mut machines = [
        Machine::new("a", 100_000),
        Machine::new("b", 900_000),
        Machine::new("c", 4_600_000),
    ];
    for _ in 0..steps {
        let chosen = random.usize(..3);
        machines[chosen].scribble(&mut random, 3, 80_000);
        let machine = &mut machines[chosen];
        match random.u8(..12) {
            0..5 => {
                let mut group = [&mut *machine];
                history
                    .protect(&vault, &mut random, &mut group)
                    .await
                    .unwrap();
            }
            5 => {
                let mut group: Vec<_> = machines.iter_mut().collect();
                history
                    .protect(&vault, &mut random, &mut group)
                    .await
                    .unwrap();
            }
            6 | 7 => {
                let begin = machine.begin(&mut random);
                let writer = vault.begin(begin).await.unwrap();
                images::send(&*writer, machine).await.unwrap();
                if random.bool() {
                    writer.abort().await.unwrap();
                }
            }
            8 => {
                // Interrupted, and continued after a crash.
                let begin = machine.begin(&mut random);
                let writer = vault.begin(begin.clone()).await.unwrap();
                images::send(&*writer, machine).await.unwrap();
                drop((writer, vault));
                vault = builder(&store).open().await.unwrap();
                let writer = vault.begin(begin.clone()).await.unwrap();
                images::send(&*writer, machine).await.unwrap();
                let mut group = [machine];
                let begins = [begin];
                history
                    .commit(&vault, &mut random, &mut group, &begins)
                    .await
                    .unwrap();
            }
            9 => {
                let heads: Vec<_> = machines.iter().filter_map(|m| m.head).collect();
                let mut expired = Vec::new();
                for kept in history.known().points {
                    if !heads.contains(&kept.id) && random.bool() {
                        expired.push(kept.id);
                    }
                }
                history.expire(&vault, &expired).await.unwrap();
            }
            10 => {
                drop(vault);
                vault = builder(&store).open().await.unwrap();
                history.check(&vault).await;
            }
            _ => {
                vault.close().await.unwrap();
                vault = builder(&store).open().await.unwrap();
            }
        }
    }
    history.check(&vault).await;
    let reader = builder(&store).open_read_only().await.unwrap();
    history.check(&reader).await;
}

#[tokio::test(start_paused = true)]
async fn a_vault_is_its_model_soak() {
    for seed in seeds::seeds(seeds::rounds(12, 600)) {
        play(seed, 30).await;
    }
}
