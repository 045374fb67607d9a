//! The test program run again as a child: a process that can be stopped,
//! killed and traced.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{fencing, power_files, resume};

/// Names the role of a child.
const ROLE: &str = "BACKSTOP_TEST_ROLE";
/// Tells a child where its vault is.
const PLACE: &str = "BACKSTOP_TEST_PLACE";
/// Tells a child its seed.
const SEED: &str = "BACKSTOP_TEST_SEED";
/// What leads in a line of a child that its parent reads.
const SAYS: &str = "child says ";

/// Does nothing unless a parent gave this process a role.
#[test]
fn the_child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let place = std::env::var(PLACE).expect("a child has a place");
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.expect("a child has a seed");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "owner" => fencing::old_owner(&place, seed).await,
            "initial" => resume::endless_initial(&place, seed).await,
            "life" => power_files::traced_life(&place, seed).await,
            _ => panic!("there is no role {role}"),
        }
    });
}

/// Says something to the parent.
#[allow(clippy::print_stdout, reason = "the parent reads it")]
pub(crate) fn say(what: &str) {
    // One write, so that a trace shows it in its place.
    let line = format!("{SAYS}{what}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What a child said in a line; nothing for lines of the test harness.
pub(crate) fn said(line: &str) -> Option<&str> {
    // The harness may have begun the line.
    line.find(SAYS).map(|at| line[at + SAYS.len()..].trim_end())
}

/// A child; killed when dropped.
pub(crate) struct SecondSelf {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) input: ChildStdin,
}

/// The command that runs a role; `lead` is a program that runs it in turn.
pub(crate) fn command(role: &str, place: &Path, seed: u64, lead: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match lead {
        [] => Command::new(&program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(&program);
            command
        }
    };
    command
        .args(["--exact", "second_self::the_child", "--nocapture"])
        .env(ROLE, role)
        .env(PLACE, place)
        .env(SEED, seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

impl SecondSelf {
    pub(crate) fn start(role: &str, place: &Path, seed: u64) -> Self {
        let mut child = command(role, place, seed, &[]).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let input = child.stdin.take().unwrap();
        Self {
            child,
            lines,
            input,
        }
    }

    /// What it says next; none when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(said) = said(&line) {
                return Some(said.to_owned());
            }
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(sent.success(), "kill {signal} {id}");
    }

    /// Suspends it; it runs no further when this returns.
    pub(crate) fn suspend(&self) {
        self.signal("-STOP");
        let status = format!("/proc/{}/stat", self.child.id());
        loop {
            let stat = std::fs::read_to_string(&status).unwrap();
            let state = stat.rsplit(')').next().unwrap_or_default();
            if state.trim_start().starts_with('T') {
                return;
            }
            std::thread::yield_now();
        }
    }

    pub(crate) fn wake(&self) {
        self.signal("-CONT");
    }

    /// `kill -9`; gives what it still said before it died.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for SecondSelf {
    fn drop(&mut self) {
        // Only this one child, and only if it still runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
