//! The real command line in a folder of its own, run to its end or killed; and
//! an image that changes.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backstop::ChunkDigest;
use serde_json::Value;

/// Two regions, of which the second is short.
const LENGTH: usize = 5 << 20;

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Killed,
    /// It told this, after so long.
    Told(Value, Duration),
}

impl Ended {
    pub(crate) fn told(&self) -> Option<&Value> {
        match self {
            Self::Killed => None,
            Self::Told(value, _) => Some(value),
        }
    }
}

/// What to run.
pub(crate) struct Run<'a> {
    /// The folder of the vault.
    pub(crate) vault: &'a str,
    pub(crate) arguments: &'a [&'a str],
    /// When to kill it; to its end if not said.
    pub(crate) kill_after: Option<Duration>,
    /// Exit codes that are well beside 0.
    pub(crate) codes: &'a [i32],
}

/// The folder and the image.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    image: Vec<u8>,
    /// The extents that changed since the newest known point; all if not known.
    pub(crate) dirty: Option<Vec<(usize, usize)>>,
}

fn backstop() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("examples/backstop");
    assert!(binary.exists(), "{} is not built", binary.display());
    binary
}

impl Lab {
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut image = vec![0; LENGTH];
        random.fill(&mut image[LENGTH / 2..]);
        let lab = Self {
            folder,
            image,
            dirty: None,
        };
        std::fs::write(lab.path("image"), &lab.image).unwrap();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the image is now.
    pub(crate) fn digest(&self) -> ChunkDigest {
        ChunkDigest::of(&self.image)
    }

    /// Runs the command line to its end, or kills it; the key of each vault is
    /// in the file of its name with `.key`.
    pub(crate) fn run(&self, run: &Run<'_>) -> Ended {
        let Run {
            vault, arguments, ..
        } = run;
        let started = Instant::now();
        let mut child = Command::new(backstop())
            .args(["--vault", vault, "--key-file"])
            .arg(format!("{vault}.key"))
            .arg("--json")
            .args(*arguments)
            .current_dir(self.folder.path())
            .env_remove("BACKSTOP_PASSPHRASE")
            .stdout(Stdio::from(File::create(self.path("told")).unwrap()))
            .stderr(Stdio::from(File::create(self.path("said")).unwrap()))
            .spawn()
            .unwrap();
        if let Some(after) = run.kill_after {
            // The instant of the kill is the point of the test.
            std::thread::sleep(after);
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(self.path("said")).unwrap();
        match status.code() {
            None if run.kill_after.is_some() => Ended::Killed,
            Some(code) if code == 0 || run.codes.contains(&code) => {
                let told = std::fs::read(self.path("told")).unwrap();
                Ended::Told(serde_json::from_slice(&told).unwrap(), started.elapsed())
            }
            _ => panic!("{vault} {arguments:?} ended with {status}: {said}"),
        }
    }

    /// Changes the image in some places.
    pub(crate) fn change(&mut self, random: &mut fastrand::Rng) {
        let file = File::options()
            .write(true)
            .open(self.path("image"))
            .unwrap();
        let mut changed = Vec::new();
        for _ in 0..random.usize(1..30) {
            let length = random.usize(1..12_000);
            let at = random.usize(..LENGTH - length);
            if random.u8(..4) == 0 {
                self.image[at..at + length].fill(0);
            } else {
                random.fill(&mut self.image[at..at + length]);
            }
            file.write_all_at(&self.image[at..at + length], at as u64)
                .unwrap();
            changed.push((at, length));
        }
        if let Some(dirty) = &mut self.dirty {
            dirty.extend(changed);
        }
    }

    /// Writes what changed to the file `extents`; says whether that is known.
    pub(crate) fn write_extents(&self) -> bool {
        let Some(dirty) = &self.dirty else {
            return false;
        };
        let mut text = String::new();
        for (at, length) in dirty {
            writeln!(text, "{at} {length}").unwrap();
        }
        std::fs::write(self.path("extents"), text).unwrap();
        true
    }

    /// Copies a folder in the place of another.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let _ = std::fs::remove_dir_all(self.path(to));
        copy(&self.path(from), &self.path(to));
    }

    /// Overwrites the middle of every data pack of a vault.
    pub(crate) fn scratch(&self, vault: &str) {
        for entry in std::fs::read_dir(self.path(vault).join("packs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "data") {
                let mut bytes = std::fs::read(&path).unwrap();
                let length = bytes.len();
                bytes[length / 3..length / 2].fill(0x5a);
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
