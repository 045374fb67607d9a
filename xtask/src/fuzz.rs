//! `cargo xtask fuzz`: runs each target of fuzz/ for a while, on a copy of its kept corpus.
//!
//! The fuzz crate is built directly with the coverage flags that libFuzzer needs; these are stable, so neither
//! cargo-fuzz nor a nightly compiler is asked for. Without AddressSanitizer: safe Rust panics instead.

use crate::command;
use crate::install;
use crate::metadata;
use crate::problem::{Context, Outcome};
use crate::project;
use crate::stopwatch::{Stopwatch, spoken};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What libFuzzer needs compiled into the code, besides its own runtime.
const COVERAGE: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// What to fuzz and for how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Seconds in all, shared evenly by the targets
    #[arg(long, value_name = "TOTAL", default_value_t = 60)]
    pub seconds: u64,
    /// Add the inputs that reached new code to the kept corpus in fuzz/corpus
    #[arg(long)]
    pub keep: bool,
    /// The targets to run; all of fuzz/Cargo.toml if none is named
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
}

/// Builds all targets, then runs each; fails if any found something.
pub fn run(options: &Options) -> Outcome<()> {
    let fuzz = project::root()?.join("fuzz");
    let known = targets(&fuzz)?;
    let chosen = choose(&known, &options.targets)?;
    let programs = build(&fuzz, &chosen)?;
    let seconds = (options.seconds / chosen.len() as u64).max(1);
    let mut failed = Vec::new();
    for (target, program) in chosen.iter().zip(programs) {
        let work = copied_corpus(&fuzz, target)?;
        let stopwatch = Stopwatch::start();
        println!("fuzz {target}: {seconds} s");
        if let Err(problem) = fuzz_one(&program, &work, &fuzz, target, seconds) {
            println!("fuzz {target}: {problem}");
            failed.push(target.clone());
        }
        println!("fuzz {target}: ended after {}", spoken(stopwatch.read()));
        if options.keep && !failed.contains(target) {
            merge(&program, &work, &fuzz.join("corpus").join(target))?;
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "found something: {} (the inputs are in fuzz/artifacts)",
            failed.join(", ")
        ))
    }
}

/// The names of the `[[bin]]` entries in fuzz/Cargo.toml.
fn targets(fuzz: &Path) -> Outcome<Vec<String>> {
    let manifest = fuzz.join("Cargo.toml");
    if !manifest.exists() {
        return Err("there is no fuzz/Cargo.toml".to_owned());
    }
    let packages = metadata::packages(&metadata::ask(&manifest, &["--no-deps"])?)?;
    let names: Vec<String> = packages
        .into_iter()
        .flat_map(|package| package.binaries)
        .collect();
    if names.is_empty() {
        return Err("fuzz/Cargo.toml has no [[bin]] entry".to_owned());
    }
    Ok(names)
}

fn choose(known: &[String], asked: &[String]) -> Outcome<Vec<String>> {
    if asked.is_empty() {
        return Ok(known.to_vec());
    }
    match asked.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(format!("no target {name}; there are {}", known.join(", "))),
        None => Ok(asked.to_vec()),
    }
}

/// Builds the targets and says where the programs are.
fn build(fuzz: &Path, targets: &[String]) -> Outcome<Vec<PathBuf>> {
    // libFuzzer's runtime is C++.
    install::debian("c++", &["g++"])?;
    let host = host()?;
    let out = project::target()?.join("fuzz");
    let mut build = Command::new(project::cargo());
    build
        .args(["build", "--release", "--target", &host, "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&out)
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    for target in targets {
        build.args(["--bin", target]);
    }
    command::run(&mut build)?;
    let folder = out.join(host).join("release");
    Ok(targets.iter().map(|target| folder.join(target)).collect())
}

/// The triple of this machine's compiler.
pub fn host() -> Outcome<String> {
    let version = command::capture(Command::new("rustc").arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not name its host")
}

/// A fresh copy of the kept corpus and the seeds of a target, so that a run changes nothing in the source tree.
fn copied_corpus(fuzz: &Path, target: &str) -> Outcome<PathBuf> {
    let work = project::target()?.join("fuzz-corpus").join(target);
    if work.exists() {
        std::fs::remove_dir_all(&work).context(work.display())?;
    }
    std::fs::create_dir_all(&work).context(work.display())?;
    let mut count = 0;
    for kind in ["corpus", "seeds"] {
        let kept = fuzz.join(kind).join(target);
        let Ok(entries) = std::fs::read_dir(&kept) else {
            continue;
        };
        for entry in entries {
            let entry = entry.context(kept.display())?;
            std::fs::copy(entry.path(), work.join(entry.file_name()))
                .context(entry.path().display())?;
            count += 1;
        }
    }
    println!("fuzz {target}: {count} kept inputs");
    Ok(work)
}

fn fuzz_one(program: &Path, work: &Path, fuzz: &Path, target: &str, seconds: u64) -> Outcome<()> {
    let artifacts = fuzz.join("artifacts").join(target);
    std::fs::create_dir_all(&artifacts).context(artifacts.display())?;
    let log = work.with_extension("log");
    let file = std::fs::File::create(&log).context(log.display())?;
    let status = Command::new(program)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-timeout=20", "-rss_limit_mb=1024"])
        .arg(work)
        .stderr(file)
        .status()
        .context(program.display())?;
    let said = String::from_utf8_lossy(&std::fs::read(&log).context(log.display())?).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    if status.success() {
        for line in lines
            .iter()
            .filter(|line| line.contains("stat::number") || line.starts_with("Done"))
        {
            println!("fuzz {target}: {line}");
        }
        return Ok(());
    }
    // The panic's own words stand before the backtrace; without them, the end says most.
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let first = panic.unwrap_or(lines.len().saturating_sub(40));
    println!("{}", lines[first..].join("\n"));
    Err(format!("ended with {status}"))
}

fn merge(program: &Path, from: &Path, kept: &Path) -> Outcome<()> {
    std::fs::create_dir_all(kept).context(kept.display())?;
    command::run_quietly(Command::new(program).arg("-merge=1").arg(kept).arg(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let known = ["frames".to_owned(), "maps".to_owned()];
        assert_eq!(choose(&known, &[]).unwrap(), known);
        assert_eq!(choose(&known, &known[1..]).unwrap(), ["maps"]);
        assert!(
            choose(&known, &["other".to_owned()])
                .unwrap_err()
                .contains("frames, maps")
        );
    }
}
