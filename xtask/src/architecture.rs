//! Who may know whom: the arrows that ARCHITECTURE.md allows, and what the core must not touch.
//!
//! `xtask/tests/architecture.rs` applies these rules to the real workspace; the tests here show that they can fail.

use crate::metadata::{Need, Package};
use crate::tidy::code_lines;

/// The crate that knows no other.
pub const CORE: &str = "backstop-core";

/// The crates that may see every other one: the facade and what is never published.
const SEE_ALL: [&str; 4] = ["backstop", "xtask", "backstop-fuzz", "backstop-simulation"];

/// Crates of the outside world that would bring a backend or one operating system into the core.
const NOT_IN_CORE: [&str; 9] = [
    "object_store",
    "slatedb",
    "rustix",
    "libc",
    "nix",
    "windows-sys",
    "reqwest",
    "hyper",
    "mio",
];

/// Features of tokio that reach out of the process.
const NOT_OF_TOKIO: [&str; 5] = ["fs", "net", "process", "signal", "full"];

/// What the core's code must not say.
const NOT_IN_CORE_CODE: [&str; 15] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::env",
    "tokio::fs",
    "tokio::net",
    "tokio::process",
    "cfg(unix)",
    "cfg(windows)",
    "target_os",
    "libc::",
    "rustix::",
    "object_store",
    "slatedb",
];

/// The forbidden arrows of a workspace, each as a sentence.
pub fn forbidden_arrows(workspace: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in workspace {
        let sees_all = SEE_ALL.contains(&package.name.as_str());
        for dependency in &package.dependencies {
            let ours = workspace.iter().any(|other| other.name == dependency.name);
            let itself = dependency.name == package.name;
            let to_core = dependency.name == CORE && package.name != CORE;
            // A crate that depends on itself for its tests (to turn a feature on) makes no arrow.
            if !ours || sees_all || to_core || (itself && dependency.need == Need::Development) {
                continue;
            }
            let how = match dependency.need {
                Need::Always => "depends on",
                Need::Development => "depends, for its tests, on",
                Need::Build => "depends, for its build script, on",
            };
            found.push(format!(
                "{} {how} {}: arrows run only toward {CORE}",
                package.name, dependency.name
            ));
        }
    }
    found
}

/// What the core asks for that would tie it to a backend or to one operating system.
pub fn core_backends(workspace: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let core = workspace.iter().filter(|package| package.name == CORE);
    for dependency in core.flat_map(|package| &package.dependencies) {
        if NOT_IN_CORE.contains(&dependency.name.as_str()) {
            found.push(format!(
                "{CORE} depends on {}: the core names no backend",
                dependency.name
            ));
        }
        for feature in &dependency.features {
            if dependency.name == "tokio"
                && dependency.need != Need::Development
                && NOT_OF_TOKIO.contains(&feature.as_str())
            {
                found.push(format!(
                    "{CORE} asks for tokio's feature {feature}: the core reaches nothing outside the process"
                ));
            }
        }
    }
    found
}

/// Where a file of the core reaches outside the process; comments and tests may name what they like.
pub fn core_reaches_out(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in code_lines(source) {
        for word in NOT_IN_CORE_CODE {
            if line.contains(word) {
                found.push(format!(
                    "{path}:{number}: the core says {word}: no files, no network, no one operating system there"
                ));
            }
        }
        let imports = line.trim_start();
        if let Some(list) = imports.strip_prefix("use std::{") {
            let parts = list.split([',', '}', ' ', ':', '{']);
            for part in parts.filter(|part| ["fs", "net", "os", "process", "env"].contains(part)) {
                found.push(format!("{path}:{number}: the core imports std::{part}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn package(name: &str, dependencies: &[(&str, Need)]) -> Package {
        Package {
            name: name.to_owned(),
            dependencies: dependencies
                .iter()
                .map(|(name, need)| Dependency {
                    name: (*name).to_owned(),
                    need: *need,
                    features: Vec::new(),
                })
                .collect(),
            features: Vec::new(),
            binaries: Vec::new(),
        }
    }

    fn good() -> Vec<Package> {
        vec![
            package(CORE, &[("bytes", Need::Always), (CORE, Need::Development)]),
            package(
                "backstop-agent",
                &[(CORE, Need::Always), (CORE, Need::Development)],
            ),
            package(
                "backstop-server",
                &[(CORE, Need::Always), ("tokio", Need::Always)],
            ),
            package(
                "backstop-store",
                &[(CORE, Need::Always), ("slatedb", Need::Always)],
            ),
            package(
                "backstop",
                &[
                    ("backstop-agent", Need::Always),
                    ("backstop-store", Need::Always),
                ],
            ),
            package("xtask", &[("backstop", Need::Development)]),
        ]
    }

    #[test]
    fn the_design_is_allowed() {
        assert_eq!(forbidden_arrows(&good()), Vec::<String>::new());
        assert_eq!(core_backends(&good()), Vec::<String>::new());
    }

    #[test]
    fn each_forbidden_arrow_is_found() {
        for (from, to, need) in [
            (CORE, "backstop-store", Need::Always),
            (CORE, "backstop-store", Need::Development),
            (CORE, "backstop", Need::Build),
            ("backstop-agent", "backstop-server", Need::Always),
            ("backstop-server", "backstop-agent", Need::Development),
            ("backstop-store", "backstop-agent", Need::Always),
            ("backstop-store", "backstop", Need::Development),
            ("backstop-server", "backstop-store", Need::Always),
        ] {
            let mut workspace = good();
            for each in workspace.iter_mut().filter(|each| each.name == from) {
                each.dependencies.push(Dependency {
                    name: to.to_owned(),
                    need,
                    features: Vec::new(),
                });
            }
            let found = forbidden_arrows(&workspace);
            assert_eq!(found.len(), 1, "{from} to {to}: {found:?}");
            assert!(found[0].contains(from) && found[0].contains(to));
        }
    }

    #[test]
    fn backends_in_the_core_are_found() {
        for name in NOT_IN_CORE {
            let found = core_backends(&[package(CORE, &[(name, Need::Development)])]);
            assert_eq!(found.len(), 1, "{name}");
        }
        let mut core = package(CORE, &[("tokio", Need::Always)]);
        core.dependencies[0].features = vec!["sync".to_owned(), "net".to_owned()];
        assert_eq!(core_backends(&[core]).len(), 1);
    }

    #[test]
    fn reaching_out_of_the_core_is_found() {
        let source = "//! Mentions std::fs, which is fine.\nuse std::fs::File;\nfn f() { std::net::lookup(); }\n\
                      use std::{collections::HashMap, os::fd::OwnedFd};\n#[cfg(unix)]\nmod unix;\n\
                      #[cfg(test)]\nmod tests { use std::fs; }\n";
        let found = core_reaches_out("core.rs", source);
        let lines: Vec<&str> = found
            .iter()
            .filter_map(|line| line.split(':').nth(1))
            .collect();
        assert_eq!(lines, ["2", "3", "4", "5"], "{found:#?}");
        assert!(
            core_reaches_out("core.rs", "//! Fine.\nuse std::collections::BTreeMap;\n").is_empty()
        );
    }
}
