//! `cargo xtask ci`: everything that must hold before a change lands, with the time of each step.

use crate::command;
use crate::problem::Outcome;
use crate::stopwatch::{Stopwatch, spoken};
use crate::{fuzz, licences, metadata, project, test};
use clap::ValueEnum;
use std::process::Command;
use std::time::Duration;

/// Which parts to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this part
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// A part of what must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Format, lints, documentation, each feature alone, licences
    Checks,
    /// All tests and doctests, as `cargo xtask test` runs them
    Test,
    /// Each fuzz target for a short while
    Fuzz,
}

type Step = (&'static str, fn() -> Outcome<()>);

// Everything checks and tests one profile, so that what one step compiled serves the next.
const STEPS: [(Part, Step); 7] = [
    (Part::Checks, ("format", format)),
    (Part::Checks, ("lints", lints)),
    (Part::Checks, ("documentation", documentation)),
    (Part::Checks, ("each feature alone", features)),
    (Part::Checks, ("licences and bans", dependencies)),
    (Part::Test, ("tests", tests)),
    (Part::Fuzz, ("fuzz", short_fuzz)),
];

/// Runs the steps in order up to the first that fails, then says what each took.
pub fn run(options: &Options) -> Outcome<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    let mut outcome = Ok(());
    for (part, (name, step)) in STEPS {
        if options.only.is_some_and(|only| only != part) {
            continue;
        }
        println!("\n== {name}");
        let stopwatch = Stopwatch::start();
        outcome = step();
        times.push((name, stopwatch.read()));
        if outcome.is_err() {
            break;
        }
    }
    println!("\n== summary");
    for (number, (name, time)) in times.iter().enumerate() {
        let failed = outcome.is_err() && number + 1 == times.len();
        let word = if failed { "FAILED" } else { "ok" };
        println!("{word:7} {:>12}  {name}", spoken(*time));
    }
    outcome
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(project::cargo());
    command.args(arguments);
    if let Ok(root) = project::root() {
        command.current_dir(root);
    }
    command
}

fn format() -> Outcome<()> {
    command::run(&mut cargo(&["fmt", "--all", "--check"]))
}

fn lints() -> Outcome<()> {
    let workspace = ["clippy", "--workspace", "--all-targets", "--all-features"];
    command::run(cargo(&workspace).args(["--", "-D", "warnings"]))
}

fn documentation() -> Outcome<()> {
    command::run(
        cargo(&["doc", "--workspace", "--no-deps", "--all-features"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The crates with features that are chosen from outside.
const WITH_FEATURES: [&str; 5] = [
    "backstop-core",
    "backstop-source-nbd",
    "backstop-store",
    "backstop-transport-tcp",
    "backstop",
];

/// They must build with each of their features alone, and with none.
fn features() -> Outcome<()> {
    let workspace = metadata::workspace()?;
    for name in WITH_FEATURES {
        let package = workspace.iter().find(|package| package.name == name);
        let package = package.ok_or_else(|| format!("there is no package {name} here"))?;
        for check in feature_checks(package) {
            command::run(cargo(&["check", "--quiet", "--package", name]).args(check))?;
        }
    }
    Ok(())
}

/// What cargo is told to check a package with none of its features, and with each alone.
fn feature_checks(package: &metadata::Package) -> Vec<Vec<String>> {
    let none = || vec!["--no-default-features".to_owned()];
    let mut checks = vec![none()];
    for feature in &package.features {
        let alone = ["--features".to_owned(), feature.clone()];
        checks.push(none().into_iter().chain(alone).collect());
    }
    checks
}

fn dependencies() -> Outcome<()> {
    licences::check()?;
    if command::run_quietly(&mut cargo(&["deny", "--version"])).is_err() {
        println!("cargo-deny is not installed: only the licences were checked");
        return Ok(());
    }
    // Advisories need their database fetched from outside; the rest works from what is here.
    command::run(&mut cargo(&[
        "deny",
        "--offline",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

fn tests() -> Outcome<()> {
    test::run(&test::Options::default())
}

fn short_fuzz() -> Outcome<()> {
    fuzz::run(&fuzz::Options {
        seconds: 60,
        keep: false,
        targets: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_of_the_crates_that_have_some_is_checked_alone() {
        let workspace = metadata::workspace().unwrap();
        for package in workspace
            .iter()
            .filter(|package| !package.features.is_empty())
        {
            assert!(
                WITH_FEATURES.contains(&package.name.as_str()),
                "{package:?}"
            );
            let checks = feature_checks(package);
            assert_eq!(checks.len(), 1 + package.features.len());
            assert!(
                checks
                    .iter()
                    .all(|check| check[0] == "--no-default-features")
            );
        }
        let core = workspace
            .iter()
            .find(|package| package.name == "backstop-core");
        assert!(feature_checks(core.unwrap()).len() > 2);
    }
}
