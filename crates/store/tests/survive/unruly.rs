//! A store that fails, delays, tears, forgets for a while and reorders, by
//! seed: never wrong data, never a lost point, an end to every retry, and
//! errors that name the object.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use backstop_core::{CpuPool, Error, ErrorKind, RecoveryStore};
use backstop_store::{Credential, DedupStore, Takeover, VaultSettings};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;

use crate::faults::{Action, FaultyStore, Policy, Request};
use crate::history::History;
use crate::images::{self, Machine};
use crate::seeds;

/// No operation may wait longer than this, whatever the store does, by a clock
/// that runs only while everything waits. SlateDB
/// repeats a request three times, 0.1 s, 0.2 s and 0.4 s later, and an
/// operation makes several.
const BOUND: Duration = Duration::from_secs(20);

/// Bad luck for some of the requests.
#[derive(Debug)]
struct Unruly {
    seed: u64,
    /// Of a thousand requests.
    rate: AtomicU32,
    arrived: AtomicU64,
    struck: AtomicU64,
}

impl Unruly {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            seed,
            rate: 0.into(),
            arrived: 0.into(),
            struck: 0.into(),
        })
    }

    fn strike(&self, rate: u32) {
        self.rate.store(rate, Ordering::SeqCst);
    }
}

impl Policy for Unruly {
    fn arrive(&self, _: Request, _: &str, _: u64) -> (u64, u32) {
        let number = self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut random = fastrand::Rng::with_seed(self.seed ^ number << 20);
        (number, random.u32(..6))
    }

    fn decide(&self, number: u64, request: Request, _: &str) -> Action {
        let mut random = fastrand::Rng::with_seed(self.seed ^ number << 22);
        if random.u32(..1000) >= self.rate.load(Ordering::SeqCst) {
            return Action::Pass;
        }
        self.struck.fetch_add(1, Ordering::SeqCst);
        let seed = random.u64(..);
        let choices: &[Action] = match request {
            Request::Get => &[
                Action::Fail,
                Action::Missing,
                Action::Tear(seed),
                Action::Flip(seed),
            ],
            Request::List => &[Action::Fail],
            _ => &[Action::Fail, Action::FailAfter],
        };
        choices[random.usize(..choices.len())]
    }
}

fn builder(store: &Arc<FaultyStore<Unruly>>) -> backstop_store::DedupStoreBuilder {
    let mut settings = VaultSettings::default();
    settings.pack_bytes = 96 << 10;
    settings.checkpoint_bytes = 200 << 10;
    // Nearly everything is read again and again.
    settings.memory.nodes = 4 << 10;
    settings.memory.tables = 4 << 10;
    settings.memory.catalog_cache = 4 << 10;
    DedupStore::on(Arc::clone(store) as Arc<dyn ObjectStore>, "vault")
        .with_credential(Credential::key([7; 32]))
        .with_settings(settings)
        .with_cpu_pool(CpuPool::inline())
        .with_takeover(Takeover::Force)
}

/// An error that a bad store may cause, which says what it is about.
fn is_honest(error: &Error) {
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::Corrupt,
        ErrorKind::NotFound,
        ErrorKind::AlreadyExists,
        // A key slot of which a byte came back flipped, or nothing at all,
        // looks like one that is for another key.
        ErrorKind::WrongKey,
        // So does a byte of a header that came back flipped like a newer format's.
        ErrorKind::Unsupported,
        // A put that happened, failed, and can't be found again looks like
        // another owner's: the catalog fails closed.
        ErrorKind::Fenced,
    ];
    assert!(kinds.contains(&error.kind()), "{:?}: {error}", error.kind());
    let own = own_sentences(error);
    let is_named = match request_that_failed(error) {
        Some(path) if path.starts_with("db/") || path == "db" => own.contains("catalog"),
        Some(path) => own.contains(name(&path)),
        // Bytes that were torn or flipped, or what another owner seems to be.
        None if error.kind() == ErrorKind::Fenced => own.contains("the vault"),
        None => [
            "pack",
            "catalog",
            "key slot",
            "lease.json",
            "vault.json",
            "the vault at faulty/vault",
            "no vault at faulty/vault",
        ]
        .iter()
        .any(|object| own.contains(object)),
    };
    let fenced = error.kind() == ErrorKind::Fenced && own.contains("the vault");
    assert!(is_named || fenced, "{own:?} names no object in: {error}");
}

/// What Backstop itself says, without what the store below said.
fn own_sentences(error: &Error) -> String {
    let mut own = error.context().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause.and_then(|cause| cause.downcast_ref::<Error>()) {
        own = format!("{own}: {}", error.context());
        cause = std::error::Error::source(error);
    }
    own
}

/// The object of the request that was failed on purpose, as it is called in
/// the vault.
fn request_that_failed(error: &Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(path) = error.downcast_ref::<object_store::Error>().and_then(path) {
            return Some(path.trim_start_matches("vault/").to_owned());
        }
        cause = error.source();
    }
    None
}

fn path(error: &object_store::Error) -> Option<String> {
    match error {
        object_store::Error::NotFound { path, .. } => Some(path.clone()),
        object_store::Error::Generic { source, .. } => {
            let said = source.to_string();
            let said = said.strip_prefix("the request for ")?;
            said.strip_suffix(" failed by choice").map(str::to_owned)
        }
        _ => None,
    }
}

/// The name of an object without its folder and ending.
fn name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name)
}

async fn timed<T>(doing: &str, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    let took = start.elapsed();
    assert!(took < BOUND, "{doing} took {took:?}");
    done
}

/// Opens with bad luck, then, where that failed, without.
async fn reopen(store: &Arc<FaultyStore<Unruly>>, luck: &Unruly, rate: u32) -> DedupStore {
    luck.strike(rate);
    let opened = timed("opening", builder(store).open()).await;
    luck.strike(0);
    match opened {
        Ok(vault) => vault,
        Err(error) => {
            is_honest(&error);
            builder(store).open().await.unwrap()
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    unread: u32,
    failed: u32,
    went_on: u32,
    reopened: u32,
}

async fn storm(seed: u64, rounds: u64, tally: &mut Tally) {
    let _seed = seeds::watch(seed);
    let luck = Unruly::new(seed);
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&luck));
    let mut random = fastrand::Rng::with_seed(seed);
    let history = History::default();
    let mut machines = [Machine::new("a", 700_000), Machine::new("b", 4_500_000)];
    machines[1].write(&mut random, 4_000_000, 400_000);
    let mut vault = builder(&store).create().await.unwrap();
    for _ in 0..rounds {
        let chosen = random.usize(..2);
        let machine = &mut machines[chosen];
        machine.scribble(&mut random, 5, 60_000);
        let rate = [20, 100, 300, 600][random.usize(..4)];
        luck.strike(rate);
        let mut group = [&mut *machine];
        let done = history.protect(&vault, &mut random, &mut group);
        let done = timed("a synchronization", done).await;
        for kept in history.known().points {
            let read = timed("reading", images::read_back(&vault, kept.id)).await;
            match read {
                Ok(read) => assert!(read[..] == kept.image[..], "wrong data"),
                Err(error) => {
                    is_honest(&error);
                    tally.unread += 1;
                }
            }
        }
        let mut failed = done.err();
        if random.u8(..3) == 0 {
            let collected = timed("collecting", history.collect(&vault)).await;
            collected.as_ref().err().into_iter().for_each(is_honest);
            // That may leave the catalog in doubt too.
            failed = failed.or(collected.err());
        }
        luck.strike(0);
        let Some(error) = failed else {
            history.check(&vault).await;
            continue;
        };
        is_honest(&error);
        tally.failed += 1;
        // Where nothing is in doubt it goes on in the same process.
        let probe = machine.begin(&mut random);
        if vault.begin(probe).await.is_ok() {
            history.check(&vault).await;
            history.catch_up(machine);
            let mut group = [&mut *machine];
            let again = history.protect(&vault, &mut random, &mut group).await;
            again.expect("a vault that is not in doubt goes on");
            history.check(&vault).await;
            tally.went_on += 1;
            continue;
        }
        tally.reopened += 1;
        drop(vault);
        vault = reopen(&store, &luck, rate).await;
        history.check(&vault).await;
        for machine in &mut machines {
            history.catch_up(machine);
        }
    }
    history.collect(&vault).await.unwrap();
    history.check(&vault).await;
    vault.close().await.unwrap();
    let vault = builder(&store).open_read_only().await.unwrap();
    history.check(&vault).await;
    assert!(luck.struck.load(Ordering::SeqCst) > 0);
}

#[tokio::test(start_paused = true)]
async fn an_unruly_store_soak() {
    let mut tally = Tally::default();
    for seed in seeds::seeds(seeds::rounds(3, 60)) {
        storm(seed, 14, &mut tally).await;
    }
    eprintln!("{tally:?}");
    // A single seed that is replayed need not show both.
    assert!(tally.went_on > 0 && tally.reopened > 0 || seeds::seeds(1).len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_told_in_bounded_time() {
    let luck = Unruly::new(1);
    let store = FaultyStore::new(Arc::new(InMemory::new()), Arc::clone(&luck));
    let mut random = fastrand::Rng::with_seed(1);
    let history = History::default();
    let mut machine = Machine::new("a", 700_000);
    machine.write(&mut random, 0, 300_000);
    let vault = builder(&store).create().await.unwrap();
    history.protect_one(&vault, &mut random, &mut machine).await;
    machine.write(&mut random, 0, 300_000);
    luck.strike(1000);
    let mut group = [&mut machine];
    let failed = history.protect(&vault, &mut random, &mut group);
    is_honest(&timed("a synchronization", failed).await.unwrap_err());
    let begin = machine.begin(&mut random);
    let begun = timed("beginning", vault.begin(begin)).await;
    begun.err().iter().for_each(is_honest);
    let closed = timed("closing", vault.close()).await;
    closed.err().iter().for_each(is_honest);
    let opened = timed("opening", builder(&store).open()).await;
    is_honest(&opened.unwrap_err());
    luck.strike(0);
    let vault = builder(&store).open().await.unwrap();
    history.check(&vault).await;
}
