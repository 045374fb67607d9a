//! A vault in memory against plain images: any bytes as a sequence of
//! changes, commits, group commits, expiries, collections, folds, rotations,
//! rebuilds, verifications, replications, crashes and openings.
#![no_main]

#[path = "../../crates/store/tests/survive/history.rs"]
#[allow(dead_code, clippy::all, reason = "shared with the vault's tests")]
mod history;
#[path = "../../crates/store/tests/survive/images.rs"]
#[allow(dead_code, clippy::all, reason = "shared with the vault's tests")]
mod images;
#[path = "../../crates/store/tests/survive/play.rs"]
#[allow(dead_code, clippy::all, reason = "shared with the vault's tests")]
mod play;

use std::sync::Arc;

use backstop_core::{CpuPool, ManualClock, Timestamp};
use backstop_store::{Credential, DedupStore, DedupStoreBuilder, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use play::{Play, Step};

fn builder(store: &Arc<dyn ObjectStore>) -> DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 64 << 10;
    settings.checkpoint_bytes = 32 << 10;
    DedupStore::on(Arc::clone(store), "vault")
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_clock(Arc::new(ManualClock::at(Timestamp(1_700_000_000_000))))
        .with_takeover(Takeover::Force)
}

async fn play(bytes: &[u8]) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let seed = bytes.len() as u64;
    let mut play = Play::start(|| builder(&store), seed, [100_000, 70_000, 4_400_000]).await;
    for step in bytes.chunks_exact(3).take(24) {
        let [operation, first, second] = *step else {
            continue;
        };
        let at = usize::from(first) % play.machines.len();
        let step = match operation % 19 {
            0..4 => {
                let machine = &mut play.machines[at];
                let place = (usize::from(first) << 8 | usize::from(second)) * 67;
                let place = place % machine.bytes.len();
                machine.write(&mut play.random, place, 1 << (second % 16));
                continue;
            }
            4 => Step::Protect(at),
            5 => Step::ProtectAll,
            6 => Step::Leave {
                machine: at,
                abort: second % 2 == 0,
            },
            7 => Step::Expire(play.old_points().into_iter().take(1).collect()),
            8 => Step::Crash,
            9 => Step::Reopen,
            10 => Step::Collect,
            11 => Step::CollectMeanwhile(at),
            12 => Step::Fold(at),
            13 => Step::Rebuild,
            14 => Step::RebuildAfterCrash,
            15 => Step::Rotate,
            16 => Step::Verify,
            17 => Step::Replicate(u64::from(second % 4) + 1),
            _ => Step::Continue(at),
        };
        play.step(step).await;
    }
    play.end().await;
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(play(bytes));
});
