//! `qemu-nbd` over one image file, as long as we read it.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use backstop::{BlockSource, Error, ErrorKind, NbdClientLimits, NbdSource, Result};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;

use crate::ending::{Ending, Stop};
use crate::image_format::ImageFormat;
use crate::qemu;

/// How often to look whether it is ready, and how long.
const PAUSE: Duration = Duration::from_millis(10);
const MOST_LOOKS: u32 = 3000;

/// How long a process that left us may take to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most of what it says that is kept, in bytes.
const MOST_SAID: usize = 64 << 10;

/// A process that opens an image for reading and serves the disk in it, and
/// our connection to it. Dropping it ends the process, by its id.
pub struct ImageServer {
    image: NbdSource,
    process: Process,
    _folder: TempDir,
}

impl ImageServer {
    /// Opens an image of this format.
    pub async fn start(path: &Path, format: ImageFormat) -> Result<Self> {
        let folder = qemu::private_folder()?;
        let socket = folder.path().join("nbd");
        let mut command = qemu::program("qemu-nbd");
        command
            .args(["--read-only", "--format", format.name(), "--socket"])
            .arg(&socket)
            .arg(qemu::absolute(path)?);
        let mut process = Process::start(command)?;
        let stream = process.connect(&socket).await?;
        // It serves one connection and ends with it.
        let image = NbdSource::over(stream, "", NbdClientLimits::default()).await;
        let image = match image {
            Ok(image) => image,
            Err(error) => return Err(process.end().await.unwrap_or(error)),
        };
        Ok(Self {
            image,
            process,
            _folder: folder,
        })
    }

    /// The disk in the image.
    pub fn image(&self) -> &dyn BlockSource {
        &self.image
    }

    /// How the reading ended: if it failed since the process did, by that.
    pub async fn explain(mut self, ending: Ending) -> Ending {
        match ending {
            Err(Stop::Failed(error)) if error.kind() == ErrorKind::Unavailable => {
                Err(self.process.end().await.unwrap_or(error).into())
            }
            ending => ending,
        }
    }
}

/// The process and what it says.
struct Process {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    fn start(mut command: Command) -> Result<Self> {
        let started = command.spawn();
        let mut child = started.map_err(|error| qemu::not_started("qemu-nbd", error))?;
        let said = child.stderr.take().map(|said| tokio::spawn(listen(said)));
        Ok(Self { child, said })
    }

    /// Waits until it is ready for us.
    async fn connect(&mut self, socket: &Path) -> Result<UnixStream> {
        for _ in 0..MOST_LOOKS {
            if let Ok(stream) = UnixStream::connect(socket).await {
                return Ok(stream);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(qemu::unopened(self.failure(status).await));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::unavailable("qemu-nbd does not begin to serve"))
    }

    /// Why it ended, if it did.
    async fn end(&mut self) -> Option<Error> {
        // A connection that is lost may be seen before the end of the process.
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        Some(self.failure(ended.ok()?.ok()?).await)
    }

    async fn failure(&mut self, status: ExitStatus) -> Error {
        let said = match self.said.take() {
            Some(said) => said.await.unwrap_or_default(),
            None => Vec::new(),
        };
        qemu::failure("qemu-nbd", status, &said)
    }
}

/// Collects what the process says until it ends, as far as there is room, so
/// that it never waits for us.
async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let mut said = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
        let room = MOST_SAID.saturating_sub(said.len());
        said.extend(&bytes[..count.min(room)]);
    }
    said
}
