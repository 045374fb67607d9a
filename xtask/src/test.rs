//! `cargo xtask test`: sets up the real peers, then runs all tests and doctests.

use crate::command;
use crate::peers::{self, Peer};
use crate::problem::Outcome;
use crate::project;
use std::process::Command;

/// How to run the tests.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Leave a peer out; its tests skip and say so
    #[arg(long, value_name = "PEER")]
    pub without: Vec<Peer>,
    /// Go on after a failed test; the run fails all the same
    #[arg(long)]
    pub keep_going: bool,
}

/// Runs all tests, then all doctests; fails if either failed.
pub fn run(options: &Options) -> Outcome<()> {
    let environment = peers::set_up(&project::target()?.join("peers"), &options.without)?;
    let tests = command::run(
        runner(options.keep_going)
            .args(["--workspace", "--all-features"])
            .envs(environment.clone()),
    );
    if tests.is_err() && !options.keep_going {
        return tests;
    }
    let doctests = command::run(
        Command::new(project::cargo())
            .current_dir(project::root()?)
            .args(["test", "--doc", "--workspace", "--all-features"])
            .args(options.keep_going.then_some("--no-fail-fast"))
            .envs(environment),
    );
    tests.and(doctests)
}

/// `cargo nextest run` where it is installed, else `cargo test` of everything but doctests.
fn runner(keep_going: bool) -> Command {
    let mut runner = Command::new(project::cargo());
    if let Ok(root) = project::root() {
        runner.current_dir(root);
    }
    if has_nextest() {
        runner.args(["nextest", "run"]);
    } else {
        runner.args(["test", "--lib", "--bins", "--tests", "--examples"]);
    }
    runner.args(keep_going.then_some("--no-fail-fast"));
    runner
}

/// Whether cargo-nextest is installed.
pub fn has_nextest() -> bool {
    command::run_quietly(Command::new(project::cargo()).args(["nextest", "--version"])).is_ok()
}
