//! The main job in one program: protects a disk image, changes some blocks,
//! protects again sending only those, brings both points back, proves them
//! identical, and tells what it cost.
//!
//! ```text
//! cargo run --release --example quickstart [-- --image PATH]
//! ```
//!
//! Without `--image` it makes a small file system image of the system's
//! documentation. Everything lies in a temporary folder that is removed at the
//! end; a given image is copied and never written to.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for people, that tells them how long things took"
)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use backstop::{
    Agent, ByteCount, ByteOffset, Changes, DedupStore, Error, ErrorKind, Extent, ExtentSet,
    FileSource, FileTarget, ProtectionServer, RecoveryPoint, Result, SourceName,
};
use clap::Parser;
use indicatif::BinaryBytes;

/// Protects a disk image twice and brings both recovery points back.
#[derive(Parser)]
struct Arguments {
    /// A disk image that nobody writes to; without it, one is made
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
}

/// How many pages of 4 KiB are changed between the two points.
const CHANGED_PAGES: usize = 200;
const PAGE: u64 = 4096;

/// At most this much of a folder goes into the image that is made.
const MADE_LENGTH: u64 = 256 << 20;

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match Box::pin(run(Arguments::parse())).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir().map_err(failed("a temporary folder"))?;
    let path = |name: &str| folder.path().join(name);
    let (day0, day1) = (path("day0.img"), path("day1.img"));
    prepare(arguments.image.as_deref(), &day0)?;

    let vault = DedupStore::create(&path("vault").display().to_string()).await?;
    let server = ProtectionServer::builder()
        .with_vault(vault.clone())
        .build()
        .await?;
    let agent = Agent::new(server.service());

    let clock = Instant::now();
    let first = agent
        .protect("vm", &FileSource::open(&day0).await?, Changes::Unknown)
        .await?;
    tell("everything protected", &first, clock);

    let dirty = change(&day0, &day1)?;
    println!("{CHANGED_PAGES} pages changed");

    let clock = Instant::now();
    let changes = Changes::Since {
        base: first.id,
        extents: dirty,
    };
    let second = agent
        .protect("vm", &FileSource::open(&day1).await?, changes)
        .await?;
    tell("changes protected", &second, clock);

    for (point, original) in [(&first, &day0), (&second, &day1)] {
        let back = path("back.img");
        let clock = Instant::now();
        let report = server
            .restore(point.id, FileTarget::create(&back).await?)
            .await?;
        let seconds = clock.elapsed().as_secs_f64();
        if !identical(original, &back)? {
            let sentence = format!("recovery point {} came back different", point.id);
            return Err(Error::corrupt(sentence));
        }
        let data = BinaryBytes(report.data_bytes.0);
        println!(
            "{} restored in {seconds:.2} s, identical, {data} of it data",
            point.id
        );
        fs::remove_file(&back).map_err(failed("the restored image"))?;
    }

    let points = server.points(&SourceName::new("vm")?).await?;
    println!("\n{}", table(&points));
    vault.close().await
}

fn tell(what: &str, point: &RecoveryPoint, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!("{what} in {seconds:.2} s: recovery point {}", point.id);
}

/// What the points cost.
fn table(points: &[RecoveryPoint]) -> String {
    let amount = |count: ByteCount| BinaryBytes(count.0).to_string();
    let mut text = format!(
        "{:10}{:26}{:>14}{:>14}{:>14}{:>14}\n",
        "point", "time", "image", "changed", "read", "vault grew"
    );
    for point in points {
        let image: ByteCount = point.streams.iter().map(|stream| stream.length).sum();
        let _ = writeln!(
            text,
            "{:10.8}{:26}{:>14}{:>14}{:>14}{:>14}",
            point.id.to_string(),
            point.time.to_string(),
            amount(image),
            amount(point.counts.bytes_changed),
            amount(point.counts.bytes_read),
            point.bytes_added.map(amount).unwrap_or_default(),
        );
    }
    text
}

/// Copies the image, or makes one.
fn prepare(image: Option<&Path>, to: &Path) -> Result<()> {
    if let Some(image) = image {
        fs::copy(image, to).map_err(failed(&image.display().to_string()))?;
        println!("a copy of {} is protected", image.display());
        return Ok(());
    }
    let folders = ["/usr/share/doc", env!("CARGO_MANIFEST_DIR")];
    for folder in folders
        .map(Path::new)
        .into_iter()
        .filter(|folder| folder.is_dir())
    {
        if make_file_system(folder, to)? {
            println!("made an ext4 image of {}", folder.display());
            return Ok(());
        }
    }
    println!("mke2fs is not there: the image holds plain data, not a file system");
    fill(to)
}

/// Whether mke2fs made an image; one that has no room for all of the folder
/// will do.
fn make_file_system(from: &Path, to: &Path) -> Result<bool> {
    let file = File::create(to).and_then(|file| file.set_len(MADE_LENGTH));
    file.map_err(failed("the image"))?;
    for program in ["mke2fs", "/sbin/mke2fs", "/usr/sbin/mke2fs"] {
        let mut command = Command::new(program);
        command
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(from)
            .arg(to);
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if ended.is_ok() {
            return has_file_system(to);
        }
    }
    Ok(false)
}

/// An ext4 file system has its magic number at byte 56 of the superblock,
/// which is at byte 1024.
fn has_file_system(image: &Path) -> Result<bool> {
    let mut magic = [0; 2];
    let mut file = File::open(image).map_err(failed("the image"))?;
    file.seek(SeekFrom::Start(1024 + 56))
        .and_then(|_| file.read_exact(&mut magic))
        .map_err(failed("the image"))?;
    Ok(magic == [0x53, 0xef])
}

/// Data of which half compresses.
fn fill(to: &Path) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut file = File::create(to).map_err(failed("the image"))?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..64 {
        random.fill(&mut block[..1 << 19]);
        file.write_all(&block).map_err(failed("the image"))?;
    }
    Ok(())
}

/// Copies an image and overwrites pages of the copy; gives what may differ, as
/// a changed-block tracker would.
fn change(from: &Path, to: &Path) -> Result<ExtentSet> {
    fs::copy(from, to).map_err(failed("the changed image"))?;
    let mut file = File::options()
        .write(true)
        .open(to)
        .map_err(failed("the changed image"))?;
    let length = file.metadata().map_err(failed("the changed image"))?.len();
    let pages = length / PAGE;
    if pages == 0 {
        let sentence = format!("an image of {length} bytes is too small: it needs {PAGE}");
        return Err(Error::invalid_input(sentence));
    }
    let mut random = fastrand::Rng::with_seed(2);
    let mut dirty = ExtentSet::new();
    let mut page = vec![0; 4096];
    for _ in 0..CHANGED_PAGES {
        random.fill(&mut page);
        let at = random.u64(..pages) * PAGE;
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(&page))
            .map_err(failed("the changed image"))?;
        dirty.insert(Extent::new(ByteOffset(at), ByteCount(PAGE))?);
    }
    Ok(dirty)
}

fn identical(one: &Path, other: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).map_err(failed("an image"));
    let (mut one, mut other) = (open(one)?, open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut left).map_err(failed("an image"))?;
        if read == 0 {
            return Ok(other.read(&mut right).map_err(failed("an image"))? == 0);
        }
        let same = match other.read_exact(&mut right[..read]) {
            Ok(()) => left[..read] == right[..read],
            Err(_) => false,
        };
        if !same {
            return Ok(false);
        }
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Error + '_ {
    move |error| {
        let sentence = format!("{what} can't be used");
        Error::new(ErrorKind::InvalidInput, sentence).with_source(error)
    }
}
