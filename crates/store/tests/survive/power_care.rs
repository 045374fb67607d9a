//! Power loss in each operation that looks after a vault, at every request by
//! which it changes something in its store or that of a second vault: whatever was cut
//! short, every point that was reported is there bit for bit, the same operation
//! runs through, and so do the next synchronization and collection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backstop_core::{
    FoldOptions, Maintenance, ManualClock, NoMonitor, Protection, RebuildOptions, RecoveryStore,
    ReplicateOptions, Result, Timestamp, VerifyOptions,
};
use backstop_store::DedupStore;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::faults::FaultyStore;
use crate::history::{History, Kept, Known, holds};
use crate::images::Machine;
use crate::power::{PowerCut, builder};
use crate::seeds;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// What is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// With packs that are rewritten, and points that go for good.
    Collect,
    Fold,
    ExpireAndUndo,
    Rebuild,
    Replicate,
    /// A new key, sealing anew, and dropping the old key.
    Rotate,
    /// Damage is found, marked, and healed from the second vault.
    VerifyAndHeal,
    /// The end of an owner with much that is not written.
    Close,
}

/// Two vaults before the operation.
struct Scene {
    here: InMemory,
    there: InMemory,
    known: Known,
    length: usize,
}

/// The stores as a process sees them.
struct Stores {
    here: Arc<dyn ObjectStore>,
    there: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
}

impl Stores {
    async fn open(&self) -> Result<DedupStore> {
        builder(Arc::clone(&self.here), &self.clock).open().await
    }

    async fn open_second(&self) -> Result<DedupStore> {
        builder(Arc::clone(&self.there), &self.clock).open().await
    }
}

/// Points of three machines, some in both vaults, some expired.
async fn scene(care: Care, seed: u64) -> Scene {
    let mut random = fastrand::Rng::with_seed(seed);
    let (here, there) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    let clock = Arc::new(ManualClock::at(NOW));
    let vault = builder(Arc::clone(&here) as _, &clock).create().await;
    let second = builder(Arc::clone(&there) as _, &clock).create().await;
    let (vault, second) = (vault.unwrap(), second.unwrap());
    let history = History::default();
    let length = 4_500_000;
    let mut a = Machine::new("a", 600_000);
    let (mut b, mut c) = (Machine::new("b", 300_000), Machine::new("c", length));
    a.write(&mut random, 100_000, 150_000);
    let mut expire = Vec::new();
    for _ in 0..2 {
        a.scribble(&mut random, 4, 30_000);
        history.protect_one(&vault, &mut random, &mut a).await;
        expire.push(a.head.unwrap());
    }
    let options = ReplicateOptions::default();
    vault
        .replicate(&second, &options, &NoMonitor)
        .await
        .unwrap();
    // Replication goes on from the newest that both have.
    expire.pop();
    a.scribble(&mut random, 6, 20_000);
    b.write(&mut random, 0, 100_000);
    let mut group = [&mut a, &mut b];
    let made = history.protect(&vault, &mut random, &mut group).await;
    expire.push(made.unwrap()[0]);
    c.write(&mut random, 500_000, 120_000);
    c.write(&mut random, 4_300_000, 120_000);
    history.protect_one(&vault, &mut random, &mut c).await;
    a.write(&mut random, 90_000, 170_000);
    history.protect_one(&vault, &mut random, &mut a).await;
    let mut protection = Protection::default();
    protection.undo_window = Duration::from_mins(1);
    vault.set_protection(protection).await.unwrap();
    history.expire(&vault, &expire).await.unwrap();
    if care == Care::VerifyAndHeal {
        vault
            .replicate(&second, &options, &NoMonitor)
            .await
            .unwrap();
    }
    vault.close().await.unwrap();
    second.close().await.unwrap();
    if care == Care::VerifyAndHeal {
        scratch(&here).await;
    }
    Scene {
        here: here.fork(),
        there: there.fork(),
        known: history.known(),
        length,
    }
}

/// Overwrites a part of every data pack.
async fn scratch(store: &InMemory) {
    let packs = store.list(Some(&"vault/packs".into()));
    let packs: Vec<_> = packs.try_collect().await.unwrap();
    for pack in packs {
        if pack.location.extension() == Some("data") {
            let read = store.get(&pack.location).await.unwrap();
            let mut bytes = read.bytes().await.unwrap().to_vec();
            let length = bytes.len();
            bytes[length / 3..length / 2].fill(0x5a);
            let put = store.put(&pack.location, bytes.into()).await;
            put.map(drop).unwrap();
        }
    }
}

/// Opens, does it, and closes; tells how much there was to do.
async fn act(
    care: Care,
    stores: &Stores,
    history: &History,
    before: &Known,
    seed: u64,
) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    if care == Care::Rebuild {
        let options = RebuildOptions::default();
        let at = builder(Arc::clone(&stores.here), &stores.clock);
        let (vault, report) = at.rebuild(&options, &NoMonitor).await?;
        assert!(
            report.lost.is_empty() && report.damaged.is_empty(),
            "{report:?}"
        );
        vault.close().await?;
        return Ok(report.points.len() as u64);
    }
    let vault = stores.open().await?;
    let done = match care {
        Care::Collect => {
            // The undo window passes.
            stores.clock.advance(Duration::from_mins(2));
            let report = history.collect(&vault).await?;
            report.rewritten.count.min(report.deleted.count)
        }
        Care::Fold => {
            let mut options = FoldOptions::default();
            options.worth = 101;
            let name = Machine::new("a", 0).name;
            vault.fold(&name, &options, &NoMonitor).await?.folded
        }
        Care::ExpireAndUndo => {
            let of_a = before
                .points
                .iter()
                .filter(|kept| kept.source.as_str() == "a");
            let old: Vec<Kept> = of_a.take(1).cloned().collect();
            // It may have been cut short between the two.
            if history
                .known()
                .points
                .iter()
                .any(|kept| kept.id == old[0].id)
            {
                history.expire(&vault, &[old[0].id]).await?;
            }
            history.undo(&vault, &old).await?;
            1
        }
        Care::Replicate => {
            let second = stores.open_second().await?;
            let options = ReplicateOptions::default();
            let report = vault.replicate(&second, &options, &NoMonitor).await?;
            assert!(report.damaged.is_empty(), "{report:?}");
            second.close().await?;
            report.points.len() as u64
        }
        Care::Rotate => {
            vault.rotate_key().await?;
            // What was condemned goes, and what is left is sealed anew.
            history.collect(&vault).await?;
            vault.retire_keys().await?.retired.len() as u64
        }
        Care::VerifyAndHeal => {
            let second = stores.open_second().await?;
            let options = VerifyOptions::default();
            vault.verify(&options, &NoMonitor).await?;
            let healed = vault.heal_from(&second).await?.healed;
            second.close().await?;
            healed
        }
        Care::Close => {
            let mut machine = Machine::new("b", 300_000);
            history.catch_up(&mut machine);
            machine.write(&mut random, 50_000, 200_000);
            let mut group = [&mut machine];
            let made = history.protect(&vault, &mut random, &mut group).await?;
            made.len() as u64
        }
        Care::Rebuild => 0,
    };
    vault.close().await?;
    Ok(done)
}

/// On paused time: what waits for the catalog to be merged need not.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// Acts until the power is cut at a change; tells how many there were, and how
/// much was done if it was not cut.
fn act_and_die(care: Care, scene: &Scene, at: u64, seed: u64) -> (u64, Option<u64>) {
    let (here, there) = (Arc::new(scene.here.fork()), Arc::new(scene.there.fork()));
    let history = History::default();
    history.change(|known| *known = scene.known.clone());
    let cut = PowerCut::new(at, seed, false);
    let stores = Stores {
        here: FaultyStore::new(Arc::clone(&here) as _, Arc::clone(&cut)),
        there: FaultyStore::new(Arc::clone(&there) as _, Arc::clone(&cut)),
        clock: Arc::new(ManualClock::at(NOW)),
    };
    let dying = runtime();
    let done = dying.block_on(async {
        tokio::select! {
            done = act(care, &stores, &history, &scene.known, seed) => Some(done.expect("without faults it succeeds")),
            () = cut.died.notified() => None,
        }
    });
    // Nothing of the dead process goes on.
    dying.shutdown_background();
    let stores = Stores {
        here,
        there,
        // The lease is over.
        clock: Arc::new(ManualClock::at(Timestamp(NOW.0 + 600_000))),
    };
    runtime().block_on(recover(care, scene, &stores, &history, seed));
    (cut.arrived.load(Ordering::SeqCst), done)
}

/// Whatever happened, all points are there, and everything goes on.
async fn recover(care: Care, scene: &Scene, stores: &Stores, history: &History, seed: u64) {
    let is_hurt = care == Care::VerifyAndHeal;
    let vault = stores.open().await.expect("a vault opens after power loss");
    if !is_hurt {
        history.check(&vault).await;
    }
    vault.close().await.unwrap();
    let second = stores.open_second().await;
    let second = second.expect("the second vault opens");
    holds_copies(&second, history, &scene.known).await;
    second.close().await.unwrap();
    // It runs through now.
    let done = act(care, stores, history, &scene.known, seed + 1).await;
    done.expect("it runs through after a power loss");
    let vault = stores.open().await.unwrap();
    history.check(&vault).await;
    let mut random = fastrand::Rng::with_seed(seed + 2);
    for (name, length) in [("a", 600_000), ("c", scene.length)] {
        let mut machine = Machine::new(name, length);
        machine.write(&mut random, 50_000, 70_000);
        history.catch_up(&mut machine);
        history.protect_one(&vault, &mut random, &mut machine).await;
    }
    let second = stores.open_second().await.unwrap();
    let options = ReplicateOptions::default();
    let copied = vault.replicate(&second, &options, &NoMonitor).await;
    assert!(copied.unwrap().damaged.is_empty());
    holds_copies(&second, history, &scene.known).await;
    second.close().await.unwrap();
    history.collect(&vault).await.unwrap();
    let last = history.collect(&vault).await.unwrap();
    // Nobody who died holds anything.
    assert_eq!((last.waiting.count, last.readers), (0, 0), "{last:?}");
    history.check(&vault).await;
    if !is_hurt {
        let options = VerifyOptions::default();
        let verified = vault.verify(&options, &NoMonitor).await.unwrap();
        assert_eq!((verified.damaged, verified.damaged_tables), (0, 0));
    }
    vault.close().await.unwrap();
    let reader = builder(Arc::clone(&stores.here), &stores.clock);
    history.check(&reader.open_read_only().await.unwrap()).await;
}

/// Every point of the second vault is one that was known here, and whole.
async fn holds_copies(second: &DedupStore, history: &History, before: &Known) {
    let mut points = before.points.clone();
    points.extend(history.known().points);
    let mut count = 0;
    for name in ["a", "b", "c"] {
        let name = Machine::new(name, 0).name;
        for point in second.points(&name).await.unwrap() {
            count += 1;
            match points.iter().find(|kept| kept.id == point.id) {
                Some(kept) => holds(second, kept).await,
                // It expired here before.
                None => assert_eq!(point.source.as_str(), "a"),
            }
        }
    }
    assert!(count >= 2, "{count}");
}

/// Where the power was cut; printed if what follows panics.
struct CutAt(u64);

impl Drop for CutAt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the power was cut at change {}", self.0);
        }
    }
}

fn cut_everywhere(care: Care) {
    for seed in seeds::seeds(seeds::rounds(1, 4)) {
        let _seed = seeds::watch(seed);
        let scene = runtime().block_on(scene(care, seed));
        let (whole, done) = act_and_die(care, &scene, u64::MAX, seed);
        assert!(done.is_some_and(|done| done > 0), "{care:?} did {done:?}");
        let cuts: Vec<u64> = if seeds::soaking() {
            (1..=whole).collect()
        } else {
            // One in each of so many equal parts.
            let mut random = fastrand::Rng::with_seed(seed);
            let parts = 12.min(whole);
            let part = |number| whole * number / parts + 1;
            (0..parts)
                .map(|number| random.u64(part(number)..part(number + 1)))
                .collect()
        };
        let mut died = 0;
        for at in cuts {
            let _at = CutAt(at);
            let (_, done) = act_and_die(care, &scene, at, seed.wrapping_add(at << 8));
            died += u64::from(done.is_none());
        }
        eprintln!("{care:?}: {whole} changes, cut short {died} times");
        assert!(
            died >= 6,
            "only {died} cuts of {whole} changes came in time"
        );
    }
}

macro_rules! cut {
    ($($name:ident $care:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                cut_everywhere(Care::$care);
            }
        )*
    };
}

cut! {
    power_loss_while_collecting_soak Collect,
    power_loss_while_folding_soak Fold,
    power_loss_while_expiring_and_undoing_soak ExpireAndUndo,
    power_loss_while_rebuilding_soak Rebuild,
    power_loss_while_replicating_soak Replicate,
    power_loss_while_rotating_soak Rotate,
    power_loss_while_verifying_and_healing_soak VerifyAndHeal,
    power_loss_while_closing_soak Close,
}
