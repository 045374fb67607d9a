//! A folder with a vault, images and the real program to run on them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The built example: cargo builds examples along with the tests, into the
/// folder beside theirs.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let name = format!("backstop{}", std::env::consts::EXE_SUFFIX);
    let program = profile.join("examples").join(name);
    assert!(
        program.is_file(),
        "the program under test is not built: run `cargo build --example backstop` first"
    );
    program
}

/// A test's own folder and vault.
pub struct Lab {
    folder: TempDir,
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lab {
    /// A folder with a key file, and no vault yet.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), [7; 32]).unwrap();
        Self { folder }
    }

    /// A folder with an encrypted vault.
    pub fn with_vault() -> Self {
        let lab = Self::empty();
        lab.run(["init"]).expect(0);
        lab
    }

    /// A folder with a vault that holds one point, `vm`, of `vm.img`.
    pub fn with_point() -> Self {
        let lab = Self::with_vault();
        lab.image("vm.img", &image(1));
        lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
        lab
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in the lab's folder, on nothing.
    pub fn bare(&self) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(self.folder.path())
            .env_remove("BACKSTOP_VAULT")
            .env_remove("BACKSTOP_PASSPHRASE")
            .stdin(Stdio::null());
        command
    }

    /// The program on the lab's vault, opened by its key file.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.bare();
        command.args(["--vault", "vault", "--key-file", "key"]);
        command.args(arguments);
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        run(&mut self.command(arguments))
    }

    /// Runs with `--json`; the result must be JSON and the run a success.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let mut command = self.command(["--json"]);
        command.args(arguments);
        run(&mut command).expect(0).json()
    }

    /// Writes an image with holes where `content` has pages of zeros.
    pub fn image(&self, name: &str, content: &[u8]) {
        let mut file = File::create(self.path(name)).unwrap();
        file.set_len(content.len() as u64).unwrap();
        for (index, page) in content.chunks(4096).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                file.seek(SeekFrom::Start(index as u64 * 4096)).unwrap();
                file.write_all(page).unwrap();
            }
        }
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The packs of one kind (`data` or `map`), largest first.
    pub fn packs(&self, kind: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("vault/packs")).unwrap();
        let mut packs: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == kind))
            .collect();
        packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
        packs
    }
}

/// Runs to the end.
pub fn run(command: &mut Command) -> Run {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Run {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

impl Run {
    /// Demands an exit code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self
    }

    /// Demands that standard error says all these, in one line of its own.
    pub fn says(self, words: &[&str]) -> Self {
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(self.err.lines().any(said), "{words:?} in {self:#?}");
        self
    }

    /// Demands that a restore with `--json`, whole or around damage, gave
    /// `content` but for the ranges that it calls missing, which are zeros.
    pub fn restored(&self, content: &[u8], back: &[u8]) {
        let mut wanted = content.to_vec();
        let report = self.json();
        let missing = report["missing"].as_array().unwrap();
        assert_eq!(missing.is_empty(), self.code == Some(0), "{self:#?}");
        let mut bytes = 0;
        for range in missing {
            let number = |field: &str| usize::try_from(range[field].as_u64().unwrap()).unwrap();
            let (at, length) = (number("offset"), number("length"));
            assert!(range["error"].as_str().unwrap().len() > 10, "{range}");
            wanted[at..at + length].fill(0);
            bytes += length as u64;
        }
        assert_eq!(report["bytes_missing"], bytes);
        assert!(
            back == wanted,
            "all but the missing ranges is there, and they are zeros: {report}"
        );
    }

    /// The result, which must be one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// The pages of an image of 10 MiB and a bit: random data, repeated data and
/// holes, two of them across regions of 4 MiB.
pub fn image(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; (10 << 20) + 512];
    for (start, length) in [
        (0, 1 << 20),
        (3 << 20, 3 << 19),
        (7 << 20, 1 << 20),
        (10 << 20, 512),
    ] {
        random.fill(&mut content[start..start + length]);
    }
    content.copy_within(0..1 << 19, 9 << 20);
    content
}

/// Rewrites pages and gives their list as `protect --extents` takes it.
pub fn change(content: &mut [u8], seed: u64, count: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut lines = String::new();
    for _ in 0..count {
        let at = random.usize(..content.len() / 4096) * 4096;
        random.fill(&mut content[at..at + 4096]);
        lines += &at.to_string();
        lines += " 4096\n";
    }
    lines
}
