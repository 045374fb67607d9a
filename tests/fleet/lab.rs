//! One protection server, one agent, and the line between them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::certificates;
use crate::relay::Relay;

/// The length of the image: several times what is in flight.
const LENGTH: u64 = 48 << 20;

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join("backstop");
    assert!(
        program.is_file(),
        "the program under test is not built: run `cargo build --example backstop` first"
    );
    program
}

/// How a process ended: what it said if it ended badly.
pub(crate) type Ended = Result<(), String>;

/// A process that is killed when this goes.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) async fn ended(&mut self) -> Ended {
        let mut said = String::new();
        if let Some(mut error) = self.0.stderr.take() {
            error.read_to_string(&mut said).await.unwrap();
        }
        let status = self.0.wait().await.unwrap();
        if status.success() {
            Ok(())
        } else {
            Err(format!("{status}: {said}"))
        }
    }

    pub(crate) async fn kill(&mut self) {
        self.0.kill().await.unwrap();
    }

    /// As whoever looks after services stops one.
    pub(crate) async fn stop(&mut self) {
        let id = i32::try_from(self.0.id().unwrap()).unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = tokio::time::timeout(Duration::from_mins(1), self.0.wait()).await;
        assert!(status.unwrap().unwrap().success());
    }
}

pub(crate) struct Lab {
    folder: TempDir,
    pub(crate) relay: Relay,
    pub(crate) server: Process,
    address: SocketAddr,
    image: Vec<u8>,
    began: bool,
}

pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .current_dir(folder)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn serve(folder: &Path, listen: &str) -> (Process, SocketAddr) {
    serve_by(folder, listen, ["--certificates", "server"]).await
}

/// A server with these certificates.
pub(crate) async fn serve_by(folder: &Path, listen: &str, by: [&str; 2]) -> (Process, SocketAddr) {
    let mut command = command(folder);
    command.args([
        "--vault",
        "vault",
        "--key-file",
        "key",
        "--json",
        "--takeover",
    ]);
    command.args(["serve", "--listen", listen]).args(by);
    command.args(["--stop-within", "100ms"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = child.stdout.take().unwrap().into_owned_fd().unwrap();
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(File::from(out))
            .read_line(&mut line)
            .unwrap();
        line
    });
    let line = line.await.unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let address = told["listening"].as_str().unwrap().parse().unwrap();
    (Process(child), address)
}

impl Lab {
    pub(crate) async fn new(random: &mut fastrand::Rng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("key"), [7; 32]).unwrap();
        let holders = [
            ("server", "server.backstop"),
            ("web1", "web1.agent.backstop"),
        ];
        certificates::write(path, &holders);
        let mut init = command(path);
        init.args(["--vault", "vault", "--key-file", "key", "init"]);
        assert!(init.stdout(Stdio::null()).status().await.unwrap().success());
        let (server, address) = serve(path, "127.0.0.1:0").await;
        let mut image = vec![0; usize::try_from(LENGTH).unwrap()];
        random.fill(&mut image);
        fs::write(path.join("disk.img"), &image).unwrap();
        Self {
            relay: Relay::to(address).await,
            folder,
            server,
            address,
            image,
            began: false,
        }
    }

    /// Changes parts of the image; gives how many bytes.
    pub(crate) fn change(&mut self, random: &mut fastrand::Rng) -> u64 {
        if !std::mem::replace(&mut self.began, true) {
            return LENGTH;
        }
        let file = File::options()
            .write(true)
            .open(self.folder.path().join("disk.img"))
            .unwrap();
        let mut changed = 0;
        for _ in 0..random.usize(4..24) {
            let length = random.usize(4096..2 << 20);
            let at = random.usize(..self.image.len() - length);
            let part = &mut self.image[at..at + length];
            random.fill(part);
            file.write_all_at(part, at as u64).unwrap();
            changed += length as u64;
        }
        changed
    }

    /// The server again, where it was.
    pub(crate) async fn serve(&mut self) {
        let listen = self.address.to_string();
        let (server, address) = serve(self.folder.path(), &listen).await;
        self.server = server;
        self.relay.lead_to(address);
    }

    pub(crate) fn agent(&self) -> Process {
        let mut command = command(self.folder.path());
        let server = self.relay.address.to_string();
        command.args(["agent", "--server", &server, "--certificates", "web1"]);
        command.args(["--json", "--patience", "60s", "web1/disk=disk.img"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped());
        Process(child.spawn().unwrap())
    }

    /// The newest point is the image, read beside the server that owns the vault.
    pub(crate) async fn restores(&self) {
        let to = self.folder.path().join("back.img");
        let mut command = command(self.folder.path());
        command.args(["--vault", "vault", "--key-file", "key"]);
        command.args(["restore", "web1/disk@latest", "--to"]);
        command.arg(&to).args(["--overwrite", "--no-sync"]);
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(fs::read(&to).unwrap() == self.image, "it is another image");
    }
}
