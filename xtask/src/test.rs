//! `cargo xtask test`: sets up the real peers, then runs all tests and doctests.

use crate::command;
use crate::peers::{self, Peer};
use crate::problem::Outcome;
use crate::project;
use std::process::Command;

/// How to run the tests.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Leave a peer or a right out; its tests skip and say so. `BACKSTOP_WITHOUT` lists more, divided by commas
    #[arg(long, value_name = "PEER")]
    pub without: Vec<Peer>,
    /// Go on after a failed test; the run fails all the same
    #[arg(long)]
    pub keep_going: bool,
}

/// Runs all tests, then all doctests; fails if either failed.
pub fn run(options: &Options) -> Outcome<()> {
    let environment = peers::set_up(&project::target()?.join("peers"), &options.without)?;
    let root = project::root()?;
    let mut tests = Ok(());
    for words in runs(has_nextest(), options.keep_going) {
        // What can't be built can't be tested.
        tests = tests.and_then(|()| {
            command::run(
                Command::new(project::cargo())
                    .current_dir(&root)
                    .args(words)
                    .envs(environment.clone()),
            )
        });
    }
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

/// What cargo is told, one run after the other: nextest where it is installed,
/// else its own test runner, for everything but doctests.
fn runs(has_nextest: bool, keep_going: bool) -> Vec<Vec<&'static str>> {
    let everything = ["--workspace", "--all-features"];
    let (before, mut tests) = if has_nextest {
        // It builds the examples with the tests, as `cargo test` does only
        // when it runs doctests too.
        (None, vec!["nextest", "run"])
    } else {
        // As examples, not as tests of examples: tests run the command line.
        let examples = vec!["build", "--examples"];
        (Some(examples), vec!["test", "--lib", "--bins", "--tests"])
    };
    tests.extend(keep_going.then_some("--no-fail-fast"));
    let runs = before.into_iter().chain([tests]);
    runs.map(|words| [words, everything.to_vec()].concat())
        .collect()
}

/// Whether cargo-nextest is installed.
pub fn has_nextest() -> bool {
    command::run_quietly(Command::new(project::cargo()).args(["nextest", "--version"])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_under_test_are_built_before_the_tests() {
        let plain = runs(false, false);
        assert_eq!(plain[0][..2], ["build", "--examples"]);
        assert_eq!(plain[1][0], "test");
        // As a test, an example is built under another name.
        assert!(!plain[1].contains(&"--examples"), "{plain:?}");
        let nextest = runs(true, true);
        assert_eq!(nextest.len(), 1);
        for run in plain.iter().chain(&nextest) {
            let everything = ["--workspace", "--all-features"];
            assert!(run.ends_with(&everything), "{run:?}");
        }
        assert!(nextest[0].contains(&"--no-fail-fast"));
    }
}
