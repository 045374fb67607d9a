//! What some tests need beside files: the right to mount, loop devices, a
//! tracer. A machine that can't give one lists its name in `BACKSTOP_WITHOUT`,
//! as `cargo xtask test --without NAME` does; otherwise the tests fail.
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "each test program uses some of it, and says what it skips"
)]

pub(crate) mod server;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether something was left out on purpose; says so.
pub(crate) fn is_left_out(name: &str) -> bool {
    let without = std::env::var("BACKSTOP_WITHOUT").unwrap_or_default();
    let is_left_out = without.split(',').any(|each| each.trim() == name);
    if is_left_out {
        eprintln!("skipped: {name} was left out");
    }
    is_left_out
}

/// What was asked for, or the end of the test.
pub(crate) fn demand<T>(name: &str, got: Result<T, String>) -> T {
    got.unwrap_or_else(|problem| {
        panic!("{name} can't be had (leave it out with BACKSTOP_WITHOUT={name}): {problem}")
    })
}

/// Runs a program to its end; gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program}: {}", said.trim()))
    }
}

/// Tells a process that its mounts are its own.
const OWN_MOUNTS: &str = "BACKSTOP_TEST_OWN_MOUNTS";

/// Whether what this process mounts is its own and goes with it, however it
/// ends.
///
/// If not, the calling test, which `test` names, is run in such a process, and
/// this one has nothing left to do. The same if mounting was left out.
pub(crate) fn has_own_mounts(test: &str) -> bool {
    if std::env::var_os(OWN_MOUNTS).is_some() {
        return true;
    }
    if is_left_out("mount") {
        return false;
    }
    demand("mount", run("unshare", &["--mount", "true"]));
    let ended = Command::new("unshare")
        .arg("--mount")
        .arg(std::env::current_exe().unwrap_or_default())
        .args(["--exact", test, "--nocapture"])
        .env(OWN_MOUNTS, "1")
        .output();
    let ended = demand("mount", ended.map_err(|error| error.to_string()));
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success() && said.contains("1 passed"),
        "with mounts of its own {test} failed:\n{said}\n{complained}"
    );
    eprintln!("{said}{complained}");
    false
}

/// A small file system in memory, where [`has_own_mounts`].
pub(crate) struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    pub(crate) fn mount(folder: &Path, kibibytes: u32) -> Self {
        let size = format!("size={kibibytes}k");
        let place = folder.to_string_lossy();
        let mounted = run("mount", &["-t", "tmpfs", "-o", &size, "none", &place]);
        demand("mount", mounted);
        Self {
            folder: folder.to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// From now on nothing can be written.
    pub(crate) fn allow_no_writes(&self) {
        let place = self.folder.to_string_lossy();
        demand("mount", run("mount", &["-o", "remount,ro", &place]));
    }

    /// Fills it to the last page; gives the file that can be removed again.
    pub(crate) fn fill(&self) -> PathBuf {
        let ballast = self.path("ballast");
        let mut written = File::create(&ballast);
        while let Ok(file) = &mut written {
            if let Err(error) = file.write_all(&[1; 4096]) {
                written = Err(error);
            }
        }
        let error = written.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::StorageFull));
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // So that a folder that is removed next is empty.
        let _ = run("umount", &["--lazy", &self.folder.to_string_lossy()]);
    }
}

/// A loop device over a file.
pub(crate) struct Loop {
    pub(crate) path: String,
    _open: File,
}

impl Loop {
    /// None if loop devices were left out.
    pub(crate) fn over(file: &Path) -> Option<Self> {
        if is_left_out("loop") {
            return None;
        }
        let attached = run("losetup", &["--find", "--show", &file.to_string_lossy()]);
        let path = demand("loop", attached);
        let open = File::open(&path).map_err(|error| error.to_string());
        // From now on it goes when nobody has it open any more: a test that is
        // killed leaves none behind.
        let detached = run("losetup", &["--detach", &path]);
        let open = demand("loop", open.and_then(|open| detached.map(|_| open)));
        Some(Self { path, _open: open })
    }
}
