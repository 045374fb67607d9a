//! Rotation of the vault's key: cut short at every request, beside readers and
//! another owner, and against who kept what was taken from him.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backstop_core::{
    CollectOptions, ErrorKind, Maintenance, NoMonitor, RebuildOptions, RecoveryStore,
};
use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, KeySlotKind, Takeover, VaultKeyId,
};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::Notify;

use crate::faults::{Action, FaultyStore, Request, Script};
use crate::history::History;
use crate::images::Machine;

fn key(number: u8) -> Credential {
    Credential::key([number; 32])
}

fn on(store: &Arc<dyn ObjectStore>, number: u8) -> DedupStoreBuilder {
    DedupStore::on(Arc::clone(store), "vault").with_credential(key(number))
}

/// The objects in a folder of the vault, by their names.
pub(crate) async fn objects(store: &Arc<dyn ObjectStore>, folder: &str) -> Vec<Path> {
    let folder = Path::from(format!("vault/{folder}"));
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location).collect()
}

async fn bytes(store: &Arc<dyn ObjectStore>, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

/// The keys that the packs in the store say that they are sealed under.
pub(crate) async fn keys_of_packs(store: &Arc<dyn ObjectStore>) -> Vec<String> {
    let mut keys = Vec::new();
    for path in objects(store, "packs").await {
        let start = bytes(store, &path).await;
        let key = u32::from_le_bytes(start[12..16].try_into().unwrap());
        keys.push(format!("{key:08x}"));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// A vault with one point, and two slots.
struct Lab {
    store: Arc<dyn ObjectStore>,
    history: History,
    machine: Machine,
    random: fastrand::Rng,
}

impl Lab {
    async fn new() -> Self {
        let mut lab = Self {
            store: Arc::new(InMemory::new()),
            history: History::default(),
            machine: Machine::new("a", 300_000),
            random: fastrand::Rng::with_seed(3),
        };
        let vault = on(&lab.store, 1).create().await.unwrap();
        vault.add_key(&key(2)).await.unwrap();
        lab.protect(&vault).await;
        vault.close().await.unwrap();
        lab
    }

    async fn protect(&mut self, vault: &DedupStore) {
        self.machine.write(&mut self.random, 0, 90_000);
        let history = self.history.clone();
        history
            .protect_one(vault, &mut self.random, &mut self.machine)
            .await;
    }

    /// Each slot opens the vault to read.
    async fn check_readers(&self) {
        for number in [1, 2] {
            let reader = on(&self.store, number).open_read_only().await.unwrap();
            self.history.check(&reader).await;
            reader.close().await.unwrap();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// Rotates until the power is cut at a request; says whether it came to its
/// end before.
fn rotate_and_die(store: &Arc<dyn ObjectStore>, at: usize, happens: bool) -> bool {
    let script = Arc::new(Script::default());
    let faulty = FaultyStore::new(Arc::clone(store), Arc::clone(&script));
    let runtime = runtime();
    let finished = runtime.block_on(async {
        let faulty: Arc<dyn ObjectStore> = faulty;
        let vault = on(&faulty, 1).open().await.unwrap();
        let died = Arc::new(Notify::new());
        let (dies, arrived) = (Arc::clone(&died), AtomicUsize::new(0));
        script.rule(move |request, _| {
            if matches!(request, Request::Get | Request::List) {
                let dead = arrived.load(Ordering::SeqCst) >= at;
                return if dead { Action::Vanish } else { Action::Pass };
            }
            let number = arrived.fetch_add(1, Ordering::SeqCst) + 1;
            if number == at {
                dies.notify_one();
            }
            match number {
                before if before < at => Action::Pass,
                now if now == at && happens => Action::VanishAfter,
                _ => Action::Vanish,
            }
        });
        tokio::select! {
            rotated = vault.rotate_key() => { rotated.unwrap(); true }
            () = died.notified() => false,
        }
    });
    runtime.shutdown_background();
    finished
}

/// Opens what a rotation left, with each slot, and goes on.
async fn recover(lab: &mut Lab, at: usize) {
    lab.check_readers().await;
    let first = if at.is_multiple_of(2) { 1 } else { 2 };
    let vault = on(&lab.store, first).with_takeover(Takeover::Force);
    let vault = vault.open().await.unwrap();
    let slots = vault.key_slots().await.unwrap();
    let kinds: Vec<_> = slots.iter().map(|slot| slot.kind).collect();
    assert_eq!(kinds, [KeySlotKind::Key; 2], "cut at {at}");
    assert_eq!(objects(&lab.store, "keys").await.len(), 2, "cut at {at}");
    lab.protect(&vault).await;
    lab.history.check(&vault).await;
    let before = vault.key_ring().await.unwrap().keys.len();
    vault.rotate_key().await.unwrap();
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    lab.check_readers().await;
    let vault = on(&lab.store, 3 - first).open().await.unwrap();
    assert_eq!(vault.key_ring().await.unwrap().keys.len(), before + 1);
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

#[test]
fn a_rotation_may_end_anywhere() {
    for happens in [false, true] {
        for at in 1.. {
            let mut lab = runtime().block_on(Lab::new());
            let finished = rotate_and_die(&lab.store, at, happens);
            runtime().block_on(recover(&mut lab, at));
            if finished {
                assert!(at > 6, "a rotation makes only {at} requests");
                break;
            }
        }
    }
}

/// A rebuild goes by the slots alone: none may come to open nothing, whichever it
/// was done with, and whatever is sealed under a key stays readable.
#[test]
fn a_vault_is_rebuilt_wherever_a_rotation_ended() {
    let mut was_between = 0;
    for happens in [false, true] {
        for at in 1.. {
            let mut finished = false;
            for number in [1, 2] {
                let mut lab = runtime().block_on(Lab::new());
                finished = rotate_and_die(&lab.store, at, happens);
                was_between += runtime().block_on(rebuild(&mut lab, number, at));
            }
            if finished {
                break;
            }
        }
    }
    assert!(
        was_between > 4,
        "only {was_between} ended between two rings"
    );
}

/// Rebuilds what a rotation left, and goes on; tells whether
/// slots had several rings.
async fn rebuild(lab: &mut Lab, number: u8, at: usize) -> usize {
    let several = objects(&lab.store, "keys").await.len() > 2;
    let builder = || on(&lab.store, number).with_takeover(Takeover::Force);
    let options = RebuildOptions::default();
    let mut turn = 0;
    let (vault, report) = loop {
        match builder().rebuild(&options, &NoMonitor).await {
            Ok(rebuilt) => break rebuilt,
            // A request that the dead one had sent came to the store this late.
            Err(error) if error.kind() == ErrorKind::Fenced && turn < 3 => turn += 1,
            Err(error) => panic!("cut at {at}: {error}"),
        }
    };
    assert_eq!(report.unreadable.count, 0, "cut at {at}: {report:?}");
    lab.history.check(&vault).await;
    let slots = vault.key_slots().await.unwrap();
    let kinds: Vec<_> = slots.iter().map(|slot| slot.kind).collect();
    assert_eq!(kinds, [KeySlotKind::Key; 2], "cut at {at}");
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    lab.check_readers().await;
    // The next owner tidies, and both slots open all the same.
    for number in [3 - number, number] {
        let vault = on(&lab.store, number).open().await.unwrap();
        assert_eq!(objects(&lab.store, "keys").await.len(), 2, "cut at {at}");
        lab.protect(&vault).await;
        lab.history.check(&vault).await;
        vault.close().await.unwrap();
    }
    usize::from(several)
}

/// A slot of before a rotation, which was removed and put back, is not let in
/// again by a rebuild, nor may it shut out the others.
#[tokio::test]
async fn a_rebuild_refuses_slots_with_strange_rings() {
    let lab = Lab::new().await;
    let vault = on(&lab.store, 1).open().await.unwrap();
    let third = vault.add_key(&key(3)).await.unwrap();
    let path = Path::from(format!("vault/keys/{}", third.id));
    let kept = objects(&lab.store, "keys").await;
    let path = kept
        .into_iter()
        .find(|kept| kept.as_ref().starts_with(path.as_ref()))
        .unwrap();
    let removed = bytes(&lab.store, &path).await;
    vault.remove_key(&third.id).await.unwrap();
    vault.rotate_key().await.unwrap();
    vault.close().await.unwrap();
    let current = objects(&lab.store, "keys").await;
    lab.store.put(&path, removed.into()).await.unwrap();
    for path in objects(&lab.store, "db").await {
        lab.store.delete(&path).await.unwrap();
    }
    let options = RebuildOptions::default();
    for number in [3, 1] {
        let rebuilt = on(&lab.store, number).rebuild(&options, &NoMonitor).await;
        let error = rebuilt.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
        assert!(error.to_string().contains("keys/"), "{error}");
        assert_eq!(objects(&lab.store, "db").await, [], "nothing was begun");
    }
    assert!(!current.contains(&path));
    lab.store.delete(&path).await.unwrap();
    let rebuilt = on(&lab.store, 1).rebuild(&options, &NoMonitor).await;
    let (vault, _) = rebuilt.unwrap();
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// An owner that opened its slot before another rotated, moved everything and
/// retired the old key: the key by which it has begun comes back into the ring.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_owner_that_began_under_a_retired_key_locks_nobody_out() {
    let mut lab = Lab::new().await;
    let script = Arc::new(Script::default());
    let slow: Arc<dyn ObjectStore> = FaultyStore::new(Arc::clone(&lab.store), Arc::clone(&script));
    // It has read its slot, and looked at the newest log.
    let Gate { reached, go_on } = gate(&script, |request, path| {
        request == Request::Put && path.contains("/db/")
    });
    let opening = on(&slow, 2).with_takeover(Takeover::Force);
    let opening = tokio::spawn(opening.open());
    reached.await.unwrap();
    let other = on(&lab.store, 1).with_takeover(Takeover::Force);
    let other = other.open().await.unwrap();
    let old = other.key_ring().await.unwrap().keys[0].id;
    other.rotate_key().await.unwrap();
    let mut options = CollectOptions::default();
    options.reseal = true;
    for _ in 0..2 {
        other.collect(&options, &NoMonitor).await.unwrap();
    }
    let retired = other.retire_keys().await.unwrap();
    assert_eq!(retired.retired, [old], "{retired:?}");
    lab.protect(&other).await;
    other.close().await.unwrap();
    go_on.send(()).unwrap();
    let vault = opening.await.unwrap().unwrap();
    let keys = vault.key_ring().await.unwrap().keys;
    let ids: Vec<VaultKeyId> = keys.iter().map(|key| key.id).collect();
    assert!(
        ids.contains(&old) && *ids.last().unwrap() != old,
        "{keys:?}"
    );
    lab.history.check(&vault).await;
    lab.protect(&vault).await;
    // Died: what it has written so far must be readable by all.
    drop(vault);
    lab.check_readers().await;
    for number in [1, 2] {
        let vault = on(&lab.store, number).with_takeover(Takeover::Force);
        let vault = vault.open().await.unwrap();
        lab.protect(&vault).await;
        vault.close().await.unwrap();
    }
    lab.check_readers().await;
}

/// From the return on, everything is sealed under the new key.
#[tokio::test]
async fn what_is_new_is_sealed_under_the_new_key() {
    let mut lab = Lab::new().await;
    let vault = on(&lab.store, 1).open().await.unwrap();
    let old = vault.key_ring().await.unwrap().keys;
    assert!(old.len() == 1 && old[0].is_current && old[0].packs.count > 0);
    // A pack that is open while the key is rotated.
    let begin = lab.machine.begin(&mut lab.random);
    let writer = vault.begin(begin.clone()).await.unwrap();
    lab.machine.write(&mut lab.random, 100_000, 50_000);
    crate::images::send(&*writer, &lab.machine).await.unwrap();
    let new = vault.rotate_key().await.unwrap();
    assert_ne!(new, old[0].id);
    assert_eq!(keys_of_packs(&lab.store).await, [old[0].id.to_string()]);
    let history = lab.history.clone();
    let (mut group, begins) = ([&mut lab.machine], [begin]);
    let committed = history.commit(&vault, &mut lab.random, &mut group, &begins);
    committed.await.unwrap();
    let ring = vault.key_ring().await.unwrap().keys;
    assert_eq!(ring.len(), 2);
    assert!(ring[1].id == new && ring[1].is_current && !ring[0].is_current);
    assert!(ring[1].packs.count > 0 && ring[0].packs.count > 0);
    let mut both = [old[0].id.to_string(), new.to_string()];
    both.sort();
    assert_eq!(keys_of_packs(&lab.store).await, both);
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
    lab.check_readers().await;
}

/// Who kept his slot's object, and all that it opened, opens nothing of what
/// came after his removal and a rotation, and harms nobody by putting it back.
#[tokio::test]
async fn a_removed_slot_that_is_put_back_opens_nothing_new() {
    let mut lab = Lab::new().await;
    let vault = on(&lab.store, 1).open().await.unwrap();
    let mut kept = Vec::new();
    for path in objects(&lab.store, "keys").await {
        kept.push((path.clone(), bytes(&lab.store, &path).await));
    }
    let before = vault.key_slots().await.unwrap();
    // Which one is his: whichever lets the other open.
    let mut removed = false;
    for slot in &before {
        vault.remove_key(&slot.id).await.unwrap();
        if on(&lab.store, 2).open_read_only().await.is_err() {
            removed = true;
            break;
        }
        for (path, object) in &kept {
            lab.store.put(path, object.clone().into()).await.unwrap();
        }
        vault.add_key(&key(1)).await.unwrap();
    }
    assert!(removed);
    // What is there, he could read all the time.
    for (path, object) in &kept {
        lab.store.put(path, object.clone().into()).await.unwrap();
    }
    on(&lab.store, 2).open_read_only().await.unwrap();
    vault.rotate_key().await.unwrap();
    lab.protect(&vault).await;
    for (path, object) in &kept {
        lab.store.put(path, object.clone().into()).await.unwrap();
    }
    let error = on(&lab.store, 2).open_read_only().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert!(error.to_string().contains("vault key"), "{error}");
    let owner = on(&lab.store, 2).with_takeover(Takeover::Force);
    let error = owner.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    lab.history.check(&vault).await;
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    let vault = on(&lab.store, 1).open().await.unwrap();
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// Slots brought back as a whole from before a rotation open nothing, and
/// leave nothing that those of now can't open.
#[tokio::test]
async fn slots_of_before_a_rotation_write_nothing() {
    let mut lab = Lab::new().await;
    let vault = on(&lab.store, 1).open().await.unwrap();
    let mut before = Vec::new();
    for path in objects(&lab.store, "keys").await {
        before.push((path.clone(), bytes(&lab.store, &path).await));
    }
    vault.rotate_key().await.unwrap();
    lab.protect(&vault).await;
    vault.close().await.unwrap();
    let mut now = Vec::new();
    for path in objects(&lab.store, "keys").await {
        now.push((path.clone(), bytes(&lab.store, &path).await));
        lab.store.delete(&path).await.unwrap();
    }
    for (path, object) in before {
        lab.store.put(&path, object.into()).await.unwrap();
    }
    let logs = objects(&lab.store, "db").await;
    let error = on(&lab.store, 1).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey, "{error}");
    assert_eq!(objects(&lab.store, "db").await, logs);
    for (path, object) in now {
        lab.store.put(&path, object.into()).await.unwrap();
    }
    let vault = on(&lab.store, 1).open().await.unwrap();
    lab.history.check(&vault).await;
    vault.close().await.unwrap();
}

/// Blocks the first request that a test chooses, until it is told to go on.
pub(crate) struct Gate {
    pub(crate) reached: tokio::sync::oneshot::Receiver<()>,
    pub(crate) go_on: std::sync::mpsc::Sender<()>,
}

pub(crate) fn gate(
    script: &Script,
    which: impl Fn(Request, &str) -> bool + Send + 'static,
) -> Gate {
    let (reach, reached) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let mut reach = Some(reach);
    script.rule(move |request, path| {
        if which(request, path)
            && let Some(reach) = reach.take()
        {
            reach.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
        Action::Pass
    });
    Gate { reached, go_on }
}

/// A reader that read its key slot before a rotation, and the catalog after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_beside_a_rotation_learns_the_new_key() {
    let mut lab = Lab::new().await;
    let script = Arc::new(Script::default());
    let slow: Arc<dyn ObjectStore> = FaultyStore::new(Arc::clone(&lab.store), Arc::clone(&script));
    let vault = on(&lab.store, 1).open().await.unwrap();
    let Gate { reached, go_on } = gate(&script, |_, path| path.contains("/readers/"));
    let reading = tokio::spawn(on(&slow, 2).open_read_only());
    reached.await.unwrap();
    vault.rotate_key().await.unwrap();
    lab.protect(&vault).await;
    go_on.send(()).unwrap();
    let reader = reading.await.unwrap().unwrap();
    lab.history.check(&reader).await;
    let ring = reader.key_ring().await.unwrap();
    assert_eq!(ring, vault.key_ring().await.unwrap());
}

/// An owner that falls asleep in a rotation wakes after another has rotated:
/// nothing that it still writes counts, and nothing that counts is harmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_owner_that_wakes_in_its_rotation_changes_nothing() {
    for after_slots in [false, true] {
        let mut lab = Lab::new().await;
        let script = Arc::new(Script::default());
        let slow: Arc<dyn ObjectStore> =
            FaultyStore::new(Arc::clone(&lab.store), Arc::clone(&script));
        let old = on(&slow, 1).open().await.unwrap();
        let put = AtomicUsize::new(0);
        let Gate { reached, go_on } = gate(&script, move |request, path| {
            let is_slot = request == Request::Put && path.contains("/keys/");
            if is_slot && put.fetch_add(1, Ordering::SeqCst) == 1 && !after_slots {
                // Before its second slot's object.
                return true;
            }
            // Before the record that makes them count.
            after_slots && put.load(Ordering::SeqCst) == 2 && !is_slot && request == Request::Put
        });
        let rotating = tokio::spawn(async move { old.rotate_key().await });
        reached.await.unwrap();
        // Slots have two rings: which one counts, the catalog tells.
        let new = on(&lab.store, 2).with_takeover(Takeover::Force);
        let new = new.open().await.unwrap();
        let sure: VaultKeyId = new.rotate_key().await.unwrap();
        lab.protect(&new).await;
        go_on.send(()).unwrap();
        let error = rotating.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        let ring = new.key_ring().await.unwrap().keys;
        assert_eq!(ring.len(), 2);
        assert_eq!(ring[1].id, sure);
        assert_eq!(objects(&lab.store, "keys").await.len(), 2);
        lab.history.check(&new).await;
        new.close().await.unwrap();
        lab.check_readers().await;
    }
}

/// A slot's object that comes late, from an owner that was overridden, is
/// taken away by the next one, and sealed by nobody.
#[tokio::test]
async fn a_stale_ring_that_comes_late_is_not_sealed_with() {
    let mut lab = Lab::new().await;
    let failing = Arc::new(AtomicBool::new(false));
    let script = Arc::new(Script::default());
    let faulty: Arc<dyn ObjectStore> =
        FaultyStore::new(Arc::clone(&lab.store), Arc::clone(&script));
    // A rotation whose record is never written: its objects are the late ones.
    let old = on(&faulty, 1).open().await.unwrap();
    let fails = Arc::clone(&failing);
    let slots = AtomicUsize::new(0);
    script.rule(move |request, path| {
        let is_slot = request == Request::Put && path.contains("/keys/");
        slots.fetch_add(usize::from(is_slot), Ordering::SeqCst);
        let fail = slots.load(Ordering::SeqCst) == 2 && !is_slot && request == Request::Put;
        fails.fetch_or(fail, Ordering::SeqCst);
        if fail { Action::Fail } else { Action::Pass }
    });
    old.rotate_key().await.unwrap_err();
    assert!(failing.load(Ordering::SeqCst));
    let mut late = Vec::new();
    for path in objects(&lab.store, "keys").await {
        late.push((path.clone(), bytes(&lab.store, &path).await));
    }
    assert_eq!(late.len(), 4);
    let new = on(&lab.store, 1).with_takeover(Takeover::Force);
    let new = new.open().await.unwrap();
    assert_eq!(objects(&lab.store, "keys").await.len(), 2);
    let key = new.rotate_key().await.unwrap();
    new.close().await.unwrap();
    for (path, object) in late {
        lab.store.put(&path, object.into()).await.unwrap();
    }
    for number in [2, 1] {
        let vault = on(&lab.store, number).open().await.unwrap();
        assert_eq!(vault.key_ring().await.unwrap().keys[1].id, key);
        assert_eq!(objects(&lab.store, "keys").await.len(), 2);
        lab.protect(&vault).await;
        vault.close().await.unwrap();
    }
    lab.check_readers().await;
}

/// What a rotation can't give the new ring is told, and it changes nothing.
#[tokio::test]
async fn a_slot_that_is_gone_stops_a_rotation_until_it_is_removed() {
    for damaged in [false, true] {
        let lab = Lab::new().await;
        let vault = on(&lab.store, 1).open().await.unwrap();
        let slots = vault.key_slots().await.unwrap();
        let mut lost = None;
        for path in objects(&lab.store, "keys").await {
            let saved = bytes(&lab.store, &path).await;
            lab.store.delete(&path).await.unwrap();
            if on(&lab.store, 1).open_read_only().await.is_ok() {
                lost = Some((path, saved));
                break;
            }
            lab.store.put(&path, saved.into()).await.unwrap();
        }
        let (path, saved) = lost.unwrap();
        if damaged {
            let cut = saved.slice(..saved.len() - 9);
            lab.store.put(&path, cut.into()).await.unwrap();
        }
        let error = vault.rotate_key().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        let listed = vault.key_slots().await.unwrap();
        let is_bad = |kind| matches!(kind, KeySlotKind::Missing | KeySlotKind::Foreign);
        let bad = listed.iter().find(|slot| is_bad(slot.kind)).unwrap();
        assert!(error.to_string().contains(&bad.id), "{error}");
        assert!(slots.iter().any(|slot| slot.id == bad.id));
        assert_eq!(bad.kind == KeySlotKind::Foreign, damaged);
        assert_eq!(vault.key_ring().await.unwrap().keys.len(), 1);
        vault.remove_key(&bad.id).await.unwrap();
        vault.rotate_key().await.unwrap();
        vault.close().await.unwrap();
        on(&lab.store, 1).open().await.unwrap();
    }
}
