//! Fills a vault with many small chunks, to see what a large index costs: how
//! much memory, and how long everything takes beside it.
//!
//! ```text
//! cargo run --release --example large_vault -- --vault file:///srv/vault --key-file vault.key --chunks 10000000
//! ```
//!
//! What counts for the index is the number of chunks, not their length: ten
//! million of 48 bytes take 2 GB of a vault, where those of disk images would
//! stand for 600 GB. They are made from a seed, and written as a server writes
//! what an agent sends: by synchronizations of sources of their own, each one
//! recovery point at the end. The vault is made if there is none.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for people, that tells them how long things took"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use backstop::{
    ByteCount, ChunkDigest, Codecs, CpuPool, Credential, DedupStore, Deduplication, Encoding,
    Error, ErrorKind, MemoryBudget, NewPoint, Piece, PieceContent, PointFacts, PointId, PointKind,
    REGION_LENGTH, RecoveryStore, RegionAddress, RegionIndex, RegionUpdate, ReplicaState, Result,
    SliceContent, SnapshotId, SourceName, StoreBegin, StreamName, StreamSpec, SynchronizationId,
    SystemClock, VaultSettings, VerifiedChunk,
};
use bytes::Bytes;
use clap::Parser;
use futures::{StreamExt, TryStreamExt};

/// Fills a vault with many small chunks
#[derive(Debug, Parser)]
struct Arguments {
    /// A URL or a local folder
    #[arg(long, env = "BACKSTOP_VAULT", value_name = "URL")]
    vault: String,
    /// A file that holds a raw key of 32 bytes; without it, BACKSTOP_PASSPHRASE
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How many chunks
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    chunks: u64,
    /// How many recovery points in all: each after the first of its source changes one chunk
    #[arg(long, value_name = "N", default_value_t = 0)]
    points: u64,
    /// From what they are made: another seed gives other chunks
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep to the budget of small vaults
    #[arg(long)]
    small_budget: bool,
}

/// The length of a chunk, in bytes: random, so no two are the same.
const CHUNK: u32 = 48;

/// How many chunks a region has, one after another at its beginning.
const CHUNKS_IN_REGION: u64 = 1024;

/// How many chunks a source has.
const CHUNKS_IN_SOURCE: u64 = 1 << 20;

/// How many regions are written at once.
const REGIONS_AT_ONCE: usize = 4;

/// Threads for work that waits for a disk or a processor.
const BLOCKING_THREADS: usize = 5;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // As few as in the sample command line: each keeps memory of its own.
        .worker_threads(1)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("large_vault: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(run(Arguments::parse()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("large_vault: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let vault = open(&arguments).await?;
    let clock = Instant::now();
    let mut written = 0;
    for number in 0.. {
        let chunks = CHUNKS_IN_SOURCE.min(arguments.chunks - written);
        if chunks == 0 {
            break;
        }
        fill(&vault, arguments.seed, number, chunks).await?;
        written += chunks;
        println!(
            "{written} chunks after {:.1} s{}",
            clock.elapsed().as_secs_f64(),
            peak_memory()
        );
    }
    let sources = arguments.chunks.div_ceil(CHUNKS_IN_SOURCE).max(1);
    for turn in 1..arguments.points.div_ceil(sources) {
        for number in 0..sources {
            let chunks = CHUNKS_IN_SOURCE.min(arguments.chunks - number * CHUNKS_IN_SOURCE);
            change(&vault, arguments.seed, number, chunks, turn).await?;
        }
    }
    vault.close().await?;
    println!(
        "closed after {:.1} s{}",
        clock.elapsed().as_secs_f64(),
        peak_memory()
    );
    Ok(())
}

async fn open(arguments: &Arguments) -> Result<DedupStore> {
    let credential = match &arguments.key_file {
        Some(path) => {
            let bytes = std::fs::read(path).map_err(|error| {
                let sentence = format!("{} can't be read", path.display());
                Error::new(ErrorKind::InvalidInput, sentence).with_source(error)
            })?;
            let key = <[u8; 32]>::try_from(bytes).map_err(|_| {
                Error::invalid_input(format!("{} does not hold 32 bytes", path.display()))
            })?;
            Credential::key(key)
        }
        None => match std::env::var("BACKSTOP_PASSPHRASE") {
            Ok(passphrase) => Credential::passphrase(passphrase)?,
            Err(_) => Credential::None,
        },
    };
    let mut settings = VaultSettings::default();
    if !arguments.small_budget {
        settings.memory = MemoryBudget::large();
    }
    let builder = || {
        DedupStore::at(&arguments.vault)
            .with_credential(credential.clone())
            .with_settings(settings)
    };
    match builder().open().await {
        Err(error) if error.kind() == ErrorKind::NotFound => builder().create().await,
        opened => opened,
    }
}

/// One more point of a source, in which one chunk is another.
async fn change(vault: &DedupStore, seed: u64, number: u64, chunks: u64, turn: u64) -> Result<()> {
    let mixed = seed.wrapping_mul(1 << 20).wrapping_add(number) ^ turn << 44;
    let mut random = fastrand::Rng::with_seed(mixed);
    let source = SourceName::new(format!("filler-{seed}-{number}"))?;
    let replica = vault.replica(&source).await?;
    let base = replica.as_ref().and_then(|replica| replica.head);
    let regions = chunks.div_ceil(CHUNKS_IN_REGION);
    let mut id = || -> [u8; 16] { random.u128(..).to_le_bytes() };
    let begin = StoreBegin {
        id: SynchronizationId::from_bytes(id()),
        source,
        snapshot: SnapshotId::from_bytes(id()),
        streams: vec![StreamSpec {
            name: StreamName::disk(),
            length: ByteCount(regions * u64::from(REGION_LENGTH)),
        }],
        base,
        deduplication: Deduplication::OwnReplica,
        kind: PointKind::ExpressFull,
        verify: false,
    };
    let point = PointId::from_bytes(id());
    let (synchronization, facts) = (begin.id, PointFacts::new(begin.kind));
    let writer = vault.begin(begin).await?;
    let region = random.u64(..regions);
    writer
        .write(update(region, 1, random, &Codecs::default())?)
        .await?;
    let new = NewPoint {
        synchronization,
        id: point,
        time: backstop::Clock::now(&SystemClock),
        facts,
        marks: backstop::Marks::default(),
        state_before: replica.map_or(ReplicaState::Pending, |replica| replica.state),
        state: ReplicaState::Consistent,
    };
    vault.commit(vec![new]).await.map(drop)
}

/// One synchronization of one source, up to its commit.
async fn fill(vault: &DedupStore, seed: u64, number: u64, chunks: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(1 << 20).wrapping_add(number));
    let mut id = || -> [u8; 16] { random.u128(..).to_le_bytes() };
    let (synchronization, point) = (
        SynchronizationId::from_bytes(id()),
        PointId::from_bytes(id()),
    );
    let regions = chunks.div_ceil(CHUNKS_IN_REGION);
    let source = SourceName::new(format!("filler-{seed}-{number}"))?;
    let replica = vault.replica(&source).await?;
    let begin = StoreBegin {
        id: synchronization,
        source,
        snapshot: SnapshotId::from_bytes(id()),
        streams: vec![StreamSpec {
            name: StreamName::disk(),
            length: ByteCount(regions * u64::from(REGION_LENGTH)),
        }],
        base: None,
        deduplication: Deduplication::OwnReplica,
        kind: PointKind::Initial,
        verify: false,
    };
    let writer = vault.begin(begin).await?;
    let cpu = CpuPool::default();
    let codecs = Arc::new(Codecs::default());
    // Each region in a task of its own: a call that waits for its turn must go
    // on while another is waited for.
    let updates = (0..regions).map(|region| {
        let count = CHUNKS_IN_REGION.min(chunks - region * CHUNKS_IN_REGION);
        let (cpu, codecs) = (cpu.clone(), Arc::clone(&codecs));
        let (random, writer) = (random.fork(), Arc::clone(&writer));
        async move {
            let written = tokio::spawn(async move {
                let make = move || update(region, count, random, &codecs);
                writer.write(cpu.run(make).await??).await.map(drop)
            });
            let ended = written.await;
            ended.map_err(|error| Error::internal("writing panicked").with_source(error))??;
            Ok::<_, Error>(RegionIndex(region + 1))
        }
    });
    let mut writes = futures::stream::iter(updates).buffered(REGIONS_AT_ONCE);
    while let Some(next) = writes.try_next().await? {
        writer.progress(0, next).await?;
    }
    drop(writes);
    let new = NewPoint {
        synchronization,
        id: point,
        time: backstop::Clock::now(&SystemClock),
        facts: PointFacts::new(PointKind::Initial),
        marks: backstop::Marks::default(),
        state_before: replica.map_or(ReplicaState::Pending, |replica| replica.state),
        state: ReplicaState::Consistent,
    };
    vault.commit(vec![new]).await.map(drop)
}

/// One region's chunks, checked as a server checks what an agent sends.
fn update(
    region: u64,
    count: u64,
    mut random: fastrand::Rng,
    codecs: &Codecs,
) -> Result<RegionUpdate> {
    let mut update = RegionUpdate {
        at: RegionAddress {
            stream: 0,
            region: RegionIndex(region),
        },
        pieces: Vec::new(),
        chunks: Vec::new(),
    };
    let mut data = vec![0; CHUNK as usize * usize::try_from(count).unwrap_or_default()];
    random.fill(&mut data);
    let data = Bytes::from(data);
    for (number, start) in (0..).zip((0..data.len()).step_by(CHUNK as usize)) {
        let plain = data.slice(start..start + CHUNK as usize);
        let digest = ChunkDigest::of(&plain);
        update.pieces.push(Piece {
            start: number * CHUNK,
            length: CHUNK,
            content: PieceContent::Data(SliceContent::Chunk { digest, skip: 0 }),
        });
        let chunk = codecs.decompress_with(|decompressor| {
            VerifiedChunk::check(digest, CHUNK, Encoding::Raw, plain, decompressor)
        })?;
        update.chunks.push(chunk);
    }
    Ok(update)
}

/// The largest resident size so far, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or_else(String::new, |kib| {
        format!(", peak memory {:.0} MiB", kib / 1024.0)
    })
}
