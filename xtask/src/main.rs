//! The command line of `cargo xtask`: parses the arguments and calls the task.
#![allow(
    clippy::print_stderr,
    reason = "a task tells the person who called it what went wrong"
)]

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::{bench, ci, fuzz, soak, test};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up the real peers (Debian, PyPI and npm packages), see that the tests may do what they need, and run all
    /// tests and doctests
    Test(test::Options),
    /// Check format, lints, documentation, features and licences; then the tests and a short fuzz run
    Ci(ci::Options),
    /// Run each fuzz target of fuzz/ for a while on a copy of its kept corpus
    Fuzz(fuzz::Options),
    /// Run the long variants of the tests whose names contain "soak"
    Soak(soak::Options),
    /// Measure the sample command line beside restic and borg on the same disk images
    BenchPeers(bench::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(options) => test::run(&options),
        Task::Ci(options) => ci::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::BenchPeers(options) => bench::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}
