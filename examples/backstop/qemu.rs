//! QEMU's programs as child processes, which end with what they are for.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use backstop::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tempfile::TempDir;
use tokio::process::Command;

use crate::image_format::ImageFormat;

/// The most of what a program said that is told, in bytes: its last words.
const MOST_SAID: usize = 2000;

/// What `qemu-img info` tells of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The name of its format.
    pub format: String,
    /// The length of the disk it holds, in bytes.
    pub virtual_size: u64,
    /// The image that it continues.
    pub backing_filename: Option<String>,
    /// Whether it is encrypted.
    #[serde(default)]
    pub encrypted: bool,
    /// Snapshots inside it.
    #[serde(default)]
    pub snapshots: Vec<IgnoredAny>,
    /// What only its format has.
    pub format_specific: Option<FormatSpecific>,
}

/// What is told of some formats alone.
#[derive(Debug, Deserialize)]
pub struct FormatSpecific {
    /// What it is.
    pub data: FormatFacts,
}

/// Facts that decide whether an image is what it seems to be.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct FormatFacts {
    /// Of qcow2: whether it was found damaged.
    pub corrupt: bool,
    /// Of qcow2: where its data is, if not in itself.
    pub data_file: Option<String>,
    /// Of VMDK: the files that hold its data.
    pub extents: Vec<FileExtent>,
}

/// A part of an image that may be in a file of its own.
#[derive(Debug, Deserialize)]
pub struct FileExtent {
    /// The file.
    pub filename: PathBuf,
}

/// One of QEMU's programs, to be run once.
///
/// It is killed, by its id, when the future that waits for it is dropped. In a
/// group of its own: an interrupt at the terminal comes to us, and we end it.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What it says is told and looked at.
        .env("LC_ALL", "C")
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Runs to the end; gives what it printed.
///
/// # Errors
/// With what it said: [`NotFound`](ErrorKind::NotFound) if there is no such
/// program, [`Full`](ErrorKind::Full) if it had no space,
/// [`Unavailable`](ErrorKind::Unavailable) if it failed otherwise.
pub async fn run(name: &str, command: &mut Command) -> Result<Vec<u8>> {
    let ended = command.output().await;
    let ended = ended.map_err(|error| not_started(name, error))?;
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    Err(failure(name, ended.status, &ended.stderr))
}

/// Lets `qemu-img` read what is served at a socket and write it to a file, as
/// an image of this format.
pub async fn convert(socket: &Path, format: ImageFormat, to: &Path) -> Result<()> {
    let mut command = program("qemu-img");
    let socket = option("file.server.path", socket.as_os_str())?;
    command
        .args(["convert", "-O", format.name(), "--image-opts"])
        .arg(format!(
            "driver=raw,file.driver=nbd,file.server.type=unix,{socket}"
        ))
        .arg(absolute(to)?);
    run("qemu-img", &mut command).await.map(drop)
}

/// What `qemu-img info` tells of an image file.
pub async fn info(image: &Path, format: Option<ImageFormat>) -> Result<ImageInfo> {
    let mut command = program("qemu-img");
    command.args(["info", "--output=json"]);
    if let Some(format) = format {
        command.args(["-f", format.name()]);
    }
    let told = run("qemu-img", command.arg(absolute(image)?)).await;
    let told = told.map_err(unopened)?;
    serde_json::from_slice(&told).map_err(|error| {
        let sentence = format!("what qemu-img tells of {} is not known", image.display());
        Error::unavailable(sentence).with_source(error)
    })
}

/// The error for an image that a program could not open: another one is to be
/// given, or another format.
pub fn unopened(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable => Error::invalid_input(error.to_string()),
        _ => error,
    }
}

/// The path from the root on: so it can't be taken for an option, nor for an
/// address, whatever its name.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        let sentence = format!("{} names no file", path.display());
        Error::invalid_input(sentence).with_source(error)
    })
}

/// A folder for a socket that only this user can reach.
pub fn private_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("backstop-").tempdir();
    folder.map_err(|error| {
        Error::unavailable("no private folder for a socket can be made; TMPDIR says where")
            .with_source(error)
    })
}

/// A value in QEMU's comma-separated options.
pub fn option(name: &str, value: &OsStr) -> Result<String> {
    let Some(value) = value.to_str() else {
        let sentence = format!("{} is no text; choose another TMPDIR", value.display());
        return Err(Error::invalid_input(sentence));
    };
    Ok(format!("{name}={}", value.replace(',', ",,")))
}

/// The error for a program that can't be started.
pub fn not_started(name: &str, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::not_found(format!(
            "there is no {name} here; install QEMU's tools (Debian package qemu-utils)"
        ));
    }
    Error::unavailable(format!("{name} can't be started")).with_source(error)
}

/// The error for a program that failed.
pub fn failure(name: &str, status: ExitStatus, said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    let start = said.ceil_char_boundary(said.len().saturating_sub(MOST_SAID));
    let said = said[start..].replace('\n', "; ");
    let is_full = said.contains("No space left on device") || said.contains("Disk quota exceeded");
    let kind = if is_full {
        ErrorKind::Full
    } else {
        ErrorKind::Unavailable
    };
    let said = if said.is_empty() {
        "it said nothing"
    } else {
        &said
    };
    Error::new(kind, format!("{name} failed ({status}): {said}"))
}
