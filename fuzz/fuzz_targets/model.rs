//! A vault in memory against plain images: any bytes as a sequence of
//! changes, commits, group commits, expiries, crashes and openings.
#![no_main]

#[path = "../../crates/store/tests/survive/history.rs"]
#[allow(dead_code, clippy::all, reason = "shared with the vault's tests")]
mod history;
#[path = "../../crates/store/tests/survive/images.rs"]
#[allow(dead_code, clippy::all, reason = "shared with the vault's tests")]
mod images;

use std::sync::Arc;

use backstop_core::{CpuPool, ManualClock, RecoveryStore, Timestamp};
use backstop_store::{DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use history::History;
use images::Machine;

fn builder(store: &Arc<dyn ObjectStore>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 64 << 10;
    settings.checkpoint_bytes = 32 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))))
        .with_takeover(Takeover::Force)
}

async fn play(bytes: &[u8]) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut vault = builder(&store).create().await.unwrap();
    let history = History::default();
    let mut random = fastrand::Rng::with_seed(bytes.len() as u64);
    let lengths = [100_000, 70_000, 4_400_000];
    let mut machines: Vec<Machine> = lengths
        .iter()
        .zip(["a", "b", "c"])
        .map(|(length, name)| Machine::new(name, *length))
        .collect();
    for step in bytes.chunks_exact(3).take(24) {
        let [operation, first, second] = *step else {
            continue;
        };
        let chosen = usize::from(first) % machines.len();
        let machine = &mut machines[chosen];
        match operation % 10 {
            0..4 => {
                let room = machine.bytes.len();
                let at = (usize::from(first) << 8 | usize::from(second)) * 67 % room;
                let length = 1 << (second % 16);
                machine.write(&mut random, at, length);
            }
            4 => {
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
            6 => {
                let begin = machine.begin(&mut random);
                let writer = vault.begin(begin).await.unwrap();
                images::send(&*writer, machine).await.unwrap();
                if second % 2 == 0 {
                    writer.abort().await.unwrap();
                }
            }
            7 => {
                let heads: Vec<_> = machines.iter().filter_map(|m| m.head).collect();
                let known = history.known();
                let old = known.points.iter().find(|kept| !heads.contains(&kept.id));
                if let Some(old) = old {
                    history.expire(&vault, &[old.id]).await.unwrap();
                }
            }
            8 => {
                drop(vault);
                vault = builder(&store).open().await.unwrap();
            }
            _ => {
                vault.close().await.unwrap();
                vault = builder(&store).open().await.unwrap();
            }
        }
    }
    history.check(&vault).await;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(play(bytes));
});
