//! The data path, piece by piece: chunking, ingest, applying changes,
//! restoring, reading, comparing, committing.
//!
//! Vaults are sealed and lie in memory, so that these figures are the CPU's;
//! `cargo xtask bench-peers` measures whole processes on disk.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::Duration;

use backstop::memory::{MemorySource, MemoryTarget};
use backstop::{
    Agent, ByteCount, ByteOffset, Changes, ChunkDigest, Chunker, Codecs, CollectOptions,
    Credential, DedupStore, Extent, ExtentSet, HashedChunk, Maintenance, NoMonitor,
    ProtectionServer, RecoveryPoint, StreamName,
};
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::TryStreamExt;
use tokio::runtime::Runtime;

const MIB: usize = 1 << 20;

/// The image that is protected, in bytes.
const IMAGE: usize = 64 * MIB;

/// Half of it can be compressed.
fn data(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    for page in bytes.chunks_mut(4096) {
        let half = page.len() / 2;
        random.fill(&mut page[..half]);
        page[half..].fill(random.u8(1..));
    }
    bytes
}

/// A server over a new vault, and an agent of it.
struct Rig {
    vault: DedupStore,
    server: ProtectionServer,
    agent: Agent,
}

impl Rig {
    async fn new() -> Self {
        let vault = DedupStore::at("memory://").with_credential(Credential::key([1; 32]));
        let vault = vault.create().await.unwrap();
        let server = ProtectionServer::builder()
            .with_vault(vault.clone())
            .build()
            .await
            .unwrap();
        let agent = Agent::new(server.service()).with_seed(7);
        Self {
            vault,
            server,
            agent,
        }
    }

    async fn protect(&self, name: &str, bytes: &Bytes, changes: Changes) -> RecoveryPoint {
        let source = MemorySource::new(bytes.clone());
        let point = self.agent.protect(name, &source, changes).await.unwrap();
        self.server.point(point.id).await.unwrap()
    }
}

fn chunking(c: &mut Criterion) {
    let bytes = Bytes::from(data(4 * MIB, 1));
    let mut group = c.benchmark_group("chunking");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("cut", |b| {
        b.iter(|| Chunker::default().cut(black_box(&bytes)).count());
    });
    group.bench_function("digest", |b| b.iter(|| ChunkDigest::of(black_box(&bytes))));
    let codecs = Codecs::default();
    group.bench_function("cut, hash and compress", |b| {
        b.iter(|| {
            let chunks = Chunker::default().cut(&bytes);
            let hashed = chunks.map(|range| HashedChunk::new(bytes.slice(range)).unwrap());
            codecs.compress(hashed.collect()).unwrap()
        });
    });
    group.finish();
}

fn ingest(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("ingest");
    group
        .throughput(Throughput::Bytes(IMAGE as u64))
        .sample_size(10);
    for (name, bytes, known) in [
        ("new data", Bytes::from(data(IMAGE, 2)), false),
        (
            "data that another source has",
            Bytes::from(data(IMAGE, 2)),
            true,
        ),
        ("zeros", Bytes::from(vec![0; IMAGE]), false),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    runtime.block_on(async {
                        let rig = Rig::new().await;
                        if known {
                            rig.protect("other", &bytes, Changes::Unknown).await;
                        }
                        rig
                    })
                },
                |rig| runtime.block_on(rig.protect("vm", &bytes, Changes::Unknown)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// New data while the vault gives back what half of another image has left, one
/// collection after the other; and the same data alone, in a vault like it.
fn beside(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bytes = Bytes::from(data(IMAGE, 8));
    let before = data(IMAGE, 9);
    let mut after = before.clone();
    for (at, page) in data(IMAGE, 10).chunks(8 * MIB).enumerate().step_by(2) {
        after[at * 8 * MIB..][..page.len()].copy_from_slice(page);
    }
    let (before, after) = (Bytes::from(before), Bytes::from(after));
    let worn = || {
        runtime.block_on(async {
            let rig = Rig::new().await;
            let first = rig.protect("worn", &before, Changes::Unknown).await;
            rig.protect("worn", &after, Changes::Unknown).await;
            rig.vault.expire(&[first.id]).await.unwrap();
            rig
        })
    };
    let mut group = c.benchmark_group("beside a collection");
    group
        .throughput(Throughput::Bytes(IMAGE as u64))
        .sample_size(10);
    for (name, collects) in [("alone", false), ("beside", true)] {
        group.bench_function(name, |b| {
            b.iter_batched(
                worn,
                |rig| {
                    runtime.block_on(async {
                        let collecting = async {
                            let mut options = CollectOptions::default();
                            options.most_dead = 0;
                            if !collects {
                                std::future::pending::<()>().await;
                            }
                            loop {
                                rig.vault.collect(&options, &NoMonitor).await.unwrap();
                            }
                        };
                        tokio::select! {
                            point = rig.protect("vm", &bytes, Changes::Unknown) => point,
                            () = collecting => unreachable!("it goes on and on"),
                        }
                    })
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Change sets by size and number, spread evenly over the image.
fn apply(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = c.benchmark_group("apply");
    group.sample_size(10);
    for (name, length, count) in [
        ("4 KiB scattered", 4096, 160),
        ("64 KiB", 64 << 10, 40),
        ("1 MiB in a row", MIB, 8),
    ] {
        let before = Bytes::from(data(IMAGE, 3));
        let mut after = before.to_vec();
        let mut extents = ExtentSet::new();
        let step = if length == MIB {
            length
        } else {
            IMAGE / count / 4096 * 4096
        };
        for at in (0..count).map(|number| number * step) {
            after[at..at + length].copy_from_slice(&data(length, at as u64 + 9));
            let extent = Extent::new(ByteOffset(at as u64), ByteCount(length as u64));
            extents.insert(extent.unwrap());
        }
        let after = Bytes::from(after);
        let (rig, base) = runtime.block_on(async {
            let rig = Rig::new().await;
            let base = rig.protect("vm", &before, Changes::Unknown).await;
            (rig, base)
        });
        let once = Changes::Since {
            base: base.id,
            extents: extents.clone(),
        };
        let first = runtime.block_on(rig.protect("vm", &after, once));
        let changed = first.counts.bytes_changed.0;
        #[allow(
            clippy::cast_precision_loss,
            clippy::print_stderr,
            reason = "for the reader"
        )]
        {
            let ratio = first.bytes_added.unwrap().0 as f64 / changed as f64;
            eprintln!("{name}: {ratio:.3} stored bytes for each changed byte");
        }
        group.throughput(Throughput::Bytes(changed));
        let mut head = first.id;
        let images = [before, after];
        let mut turn = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                let changes = Changes::Since {
                    base: head,
                    extents: extents.clone(),
                };
                head = runtime
                    .block_on(rig.protect("vm", &images[turn % 2], changes))
                    .id;
                turn += 1;
            });
        });
    }
    group.finish();
}

fn recover(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bytes = Bytes::from(data(IMAGE, 4));
    let (rig, point) = runtime.block_on(async {
        let rig = Rig::new().await;
        let point = rig.protect("vm", &bytes, Changes::Unknown).await;
        (rig, point)
    });
    let mut group = c.benchmark_group("recover");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(IMAGE as u64));
    group.bench_function("restore", |b| {
        b.to_async(&runtime).iter(async || {
            rig.server
                .restore(point.id, MemoryTarget::new())
                .await
                .unwrap()
        });
    });
    group.throughput(Throughput::Elements(1)).sample_size(100);
    group.bench_function("open", |b| {
        b.to_async(&runtime)
            .iter(async || rig.server.open(point.id).await.unwrap());
    });
    let image = runtime.block_on(rig.server.open(point.id)).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    for length in [4096, 64 << 10] {
        group.bench_with_input(
            BenchmarkId::new("random read", length),
            &length,
            |b, length| {
                b.iter(|| {
                    let at = random.usize(..(IMAGE - length) / 4096) * 4096;
                    let read = image.read(ByteOffset(at as u64), ByteCount(*length as u64));
                    runtime.block_on(read).unwrap()
                });
            },
        );
    }
    group.finish();
}

fn points(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let bytes = Bytes::from(data(IMAGE, 6));
    let mut changed = bytes.to_vec();
    changed[5 * MIB..5 * MIB + 4096].fill(9);
    let changed = Bytes::from(changed);
    let extent = Extent::new(ByteOffset(5 << 20), ByteCount(4096)).unwrap();
    let (rig, first, second) = runtime.block_on(async {
        let rig = Rig::new().await;
        let first = rig.protect("vm", &bytes, Changes::Unknown).await;
        let extents = [extent].into_iter().collect();
        let second = rig
            .protect(
                "vm",
                &changed,
                Changes::Since {
                    base: first.id,
                    extents,
                },
            )
            .await;
        (rig, first, second)
    });
    let disk = StreamName::disk();
    c.bench_function("map diff of one change", |b| {
        b.to_async(&runtime).iter(async || {
            let found = rig
                .server
                .compare((first.id, &disk), (second.id, &disk))
                .await
                .unwrap();
            found.try_collect::<Vec<_>>().await.unwrap()
        });
    });
    let mut head = second.id;
    c.bench_function("commit of no change", |b| {
        b.iter(|| {
            let changes = Changes::Since {
                base: head,
                extents: ExtentSet::new(),
            };
            head = runtime.block_on(rig.protect("vm", &changed, changes)).id;
        });
    });
}

criterion_group! {
    name = data_path;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = chunking, ingest, beside, apply, recover, points
}
criterion_main!(data_path);
