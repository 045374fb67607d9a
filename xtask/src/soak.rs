//! `cargo xtask soak`: the long variants of the tests, which the usual run leaves out.

use crate::command;
use crate::peers::{self, Peer};
use crate::problem::Outcome;
use crate::project;
use crate::test::has_nextest;
use std::process::Command;

/// How long to soak.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds of each test, handed over as `BACKSTOP_SOAK_ROUNDS`
    #[arg(long, value_name = "N", default_value_t = 2000)]
    rounds: u64,
    /// Leave a peer out; its tests skip and say so
    #[arg(long, value_name = "PEER")]
    without: Vec<Peer>,
}

/// Runs the tests whose names contain "soak", also those marked as ignored, in a release build.
pub fn run(options: &Options) -> Outcome<()> {
    let environment = peers::set_up(&project::target()?.join("peers"), &options.without)?;
    let mut runner = Command::new(project::cargo());
    runner.current_dir(project::root()?);
    if has_nextest() {
        runner.args([
            "nextest",
            "run",
            "--release",
            "--workspace",
            "--all-features",
        ]);
        runner.args([
            "--profile",
            "soak",
            "--run-ignored",
            "all",
            "-E",
            "test(soak)",
            "--no-fail-fast",
        ]);
    } else {
        runner.args([
            "test",
            "--release",
            "--workspace",
            "--all-features",
            "--no-fail-fast",
        ]);
        runner.args(["soak", "--", "--include-ignored"]);
    }
    command::run(
        runner
            .envs(environment)
            .env("BACKSTOP_SOAK", "1")
            .env("BACKSTOP_SOAK_ROUNDS", options.rounds.to_string()),
    )
}
