//! `cargo xtask soak`: the long variants of the tests, which the usual run leaves out.

use crate::command;
use crate::peers::{self, Peer};
use crate::problem::Outcome;
use crate::project;
use crate::test::has_nextest;
use std::process::Command;

/// Tells the test of killed processes how often.
const CRASH_ROUNDS: &str = "BACKSTOP_CRASH_ROUNDS";

/// How long to soak.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often the real program is killed; the other tests have numbers of their own
    #[arg(long, value_name = "N", default_value_t = 3000)]
    crash_rounds: u32,
    /// Leave a peer or a right out; its tests skip and say so. `BACKSTOP_WITHOUT` lists more, divided by commas
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
            .env(CRASH_ROUNDS, options.crash_rounds.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_read() {
        let test = std::fs::read_to_string(project::root().unwrap().join("tests/crash/main.rs"));
        assert!(test.unwrap().contains(&format!("var(\"{CRASH_ROUNDS}\")")));
    }
}
