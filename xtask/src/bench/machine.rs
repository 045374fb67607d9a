//! What a report says of the machine and the programs that it was made with.

use crate::bench::lab::Lab;
use crate::command;
use std::fs;
use std::process::Command;

/// How many processors there are.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One line for each fact.
pub fn facts(lab: &Lab) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    vec![
        format!(
            "{} cores, {}",
            cores(),
            field(&read("/proc/cpuinfo"), "model name")
        ),
        format!(
            "memory {}, kernel {}",
            field(&read("/proc/meminfo"), "MemTotal"),
            kernel.trim()
        ),
        version("restic", &["version"]),
        version("borg", &["--version"]),
        version(&lab.cli.to_string_lossy(), &["--version"]),
    ]
}

fn version(program: &str, arguments: &[&str]) -> String {
    match command::capture(Command::new(program).args(arguments)) {
        Ok(said) => said.lines().next().unwrap_or_default().to_owned(),
        Err(_) => format!("{program}: tells no version"),
    }
}
