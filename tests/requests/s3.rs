//! On the S3 emulator moto.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstop::memory::{MemorySource, MemoryTarget};
use backstop::{
    Agent, ByteCount, ByteOffset, Changes, DedupStore, Extent, ExtentSet, ObjectKind, Operation,
    PointId, ProtectionServer, Requests, StoreUsage,
};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;

use crate::rights::server::{self, Peer};

/// The image, in bytes.
const IMAGE: usize = 256 << 20;
const PAGE: usize = 4096;

/// What a vault is made of by default, in bytes.
const PACK: u64 = 32 << 20;
const PART: u64 = 12 << 20;
const REGION: u64 = 4 << 20;

/// What may be asked, in percent of the least.
const MOST: u64 = 120;

fn store(peer: &Peer) -> Arc<dyn ObjectStore> {
    let store = AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", peer.address))
        .with_allow_http(true)
        .with_bucket_name("backstop")
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test");
    Arc::new(store.build().unwrap())
}

/// The least that it takes to store one object.
fn upload(bytes: u64) -> u64 {
    match bytes {
        0 => 0,
        1..PART => 1,
        // Its beginning, its parts, its end.
        _ => 2 + bytes.div_ceil(PART),
    }
}

/// The least that it takes to store so much in packs.
fn packs(bytes: u64) -> u64 {
    bytes / PACK * upload(PACK) + upload(bytes % PACK)
}

/// The least that it takes to commit: one log of the catalog.
const COMMIT: u64 = 1;

/// The least that it takes to know what a base is: its manifest and maps stand
/// together in a window of a map pack.
const BASE: u64 = 1;

/// What was asked since the last time, as text too.
struct Watch {
    vault: DedupStore,
    last: StoreUsage,
}

impl Watch {
    fn since(&mut self, what: &str) -> StoreUsage {
        let now = self.vault.usage();
        let since = now.since(&self.last);
        self.last = now;
        eprintln!("{what}: {}", since.total().count());
        for (operation, object, requests) in since.iter() {
            let requests = serde_json::to_string(&requests).unwrap();
            eprintln!("    {operation} {object} {requests}");
        }
        since
    }
}

fn of(usage: &StoreUsage, operation: Operation) -> Requests {
    let by_operation = usage.by_operation();
    by_operation.get(&operation).copied().unwrap_or_default()
}

fn sent(usage: &StoreUsage, object: ObjectKind) -> u64 {
    usage.by_object().get(&object).map_or(0, |r| r.bytes_sent)
}

/// A text without the colours before it: some answers are logged in one.
fn plain(mut text: &str) -> &str {
    while let Some((_, rest)) = text
        .strip_prefix('\x1b')
        .and_then(|rest| rest.split_once('m'))
    {
        text = rest;
    }
    text
}

/// Requests by kind, as the server's own log has them.
fn logged(peer: &Peer) -> BTreeMap<&'static str, u64> {
    let mut logged = BTreeMap::new();
    for line in peer.said() {
        let Some((_, request)) = line.split_once('"') else {
            continue;
        };
        let kind = match plain(request).split_once(' ') {
            Some(("PUT", path)) if path.contains("partNumber=") => "parts",
            // The bucket's own.
            Some(("PUT", path)) if !path.starts_with("/backstop/v/") => continue,
            Some(("PUT", _)) => "puts",
            Some(("POST", path)) if path.contains("delete") => "deletes",
            Some(("POST", _)) => "uploads",
            Some(("GET", path)) if path.contains("list-type=") => "lists",
            Some(("GET", _)) => "gets",
            Some(("HEAD", _)) => "heads",
            Some(("DELETE", _)) => "deletes",
            _ => continue,
        };
        *logged.entry(kind).or_default() += 1;
    }
    logged
}

fn counted(requests: &Requests) -> BTreeMap<&'static str, u64> {
    let all = [
        ("puts", requests.puts),
        ("parts", requests.parts),
        ("uploads", requests.uploads),
        ("gets", requests.gets),
        ("heads", requests.heads),
        ("lists", requests.lists),
        ("deletes", requests.deletes),
    ];
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

async fn protect(vault: &DedupStore, image: &[u8], changes: Changes) -> PointId {
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await.unwrap();
    let source = MemorySource::new(image.to_vec());
    let agent = Agent::new(server.service());
    agent.protect("vm", &source, changes).await.unwrap().id
}

async fn restore(vault: &DedupStore, point: PointId) {
    let server = ProtectionServer::builder().with_vault(vault.clone());
    let server = server.build().await.unwrap();
    let report = server.restore(point, MemoryTarget::new()).await.unwrap();
    assert_eq!(report.data_bytes, ByteCount(IMAGE as u64));
}

/// Changes a hundredth of the pages, scattered.
fn scatter(random: &mut fastrand::Rng, image: &mut [u8]) -> ExtentSet {
    let mut changed = ExtentSet::new();
    for _ in 0..IMAGE / PAGE / 100 {
        let at = random.usize(..IMAGE / PAGE) * PAGE;
        random.fill(&mut image[at..at + PAGE]);
        let offset = ByteOffset(at as u64);
        changed.insert(Extent::new(offset, ByteCount(PAGE as u64)).unwrap());
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn protecting_asks_little_more_of_s3_than_packs_of_this_size_take() {
    let Some(peer) = server::s3() else { return };
    let mut random = fastrand::Rng::with_seed(1);
    // It can't be compressed, so that a GiB is a GiB.
    let mut image = vec![0; IMAGE];
    random.fill(&mut image);
    let at = || DedupStore::on(store(&peer), "v");
    let vault = at().create().await.unwrap();
    let mut watch = Watch {
        vault: vault.clone(),
        last: StoreUsage::default(),
    };
    watch.since("making the vault");

    let first = protect(&vault, &image, Changes::Unknown).await;
    let usage = watch.since("initial synchronization of 256 MiB");
    let stored = packs(sent(&usage, ObjectKind::DataPacks));
    let least = stored + packs(sent(&usage, ObjectKind::MapPacks)) + COMMIT;
    let asked = of(&usage, Operation::Synchronize).count();
    eprintln!("at least {least}, asked {asked}");
    assert!(asked * 100 <= least * MOST, "{asked}, at least {least}");

    let extents = scatter(&mut random, &mut image);
    let changes = Changes::Since {
        base: first,
        extents,
    };
    let second = protect(&vault, &image, changes).await;
    let usage = watch.since("express full of 1 %");
    let stored = packs(sent(&usage, ObjectKind::DataPacks));
    let least = stored + packs(sent(&usage, ObjectKind::MapPacks)) + COMMIT + BASE;
    let asked = of(&usage, Operation::Synchronize).count();
    eprintln!("at least {least}, asked {asked}");
    assert!(asked * 100 <= least * MOST, "{asked}, at least {least}");

    let regions = IMAGE as u64 / REGION;
    for (point, reads_of_a_region, what) in [
        (first, 1, "restore"),
        (second, 2, "restore of the express full"),
    ] {
        restore(&vault, point).await;
        let usage = watch.since(what);
        let asked = usage.by_object()[&ObjectKind::DataPacks].gets;
        let least = regions * reads_of_a_region;
        eprintln!("at least {least}, asked {asked}");
        assert!(asked * 100 <= least * MOST, "{asked}, at least {least}");
    }
    vault.close().await.unwrap();
    watch.since("closing");

    // A run by itself, as of a command line.
    let run = at().open().await.unwrap();
    let mut running = Watch {
        vault: run.clone(),
        last: StoreUsage::default(),
    };
    running.since("opening");
    let extents = scatter(&mut random, &mut image);
    let base = second;
    protect(&run, &image, Changes::Since { base, extents }).await;
    running.since("express full of 1 % in a run of its own");
    run.close().await.unwrap();
    running.since("closing");
    let reader = at().open_read_only().await.unwrap();
    reader.close().await.unwrap();
    let mut reading = Watch {
        vault: reader,
        last: StoreUsage::default(),
    };
    reading.since("opening for reading and closing");

    // Nothing failed, so nothing was repeated: the server saw what was counted.
    let mut all = watch.last.total();
    all += running.last.total();
    all += reading.last.total();
    let expected = counted(&all);
    // The server tells a request when it has answered it.
    let told = async {
        while logged(&peer) != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_mins(2), told).await;
    assert!(
        told.is_ok(),
        "counted {expected:?}, logged {:?}",
        logged(&peer)
    );
}
