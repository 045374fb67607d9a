//! Who may know whom: the arrows that ARCHITECTURE.md allows, and what core and agent must not depend on.
//!
//! `xtask/tests/architecture.rs` applies these rules to the real workspace; the tests here show that they can fail.

use crate::metadata::{Need, Package};

/// The crate that knows no other.
pub const CORE: &str = "backstop-core";

/// The crates that know no files, no networks and no one platform, each with the folder of its sources.
pub const PURE: [(&str, &str); 2] = [
    (CORE, "crates/core/src"),
    ("backstop-agent", "crates/agent/src"),
];

/// The crates that may see every other one: the facade and what is never published.
const SEE_ALL: [&str; 4] = ["backstop", "xtask", "backstop-fuzz", "backstop-simulation"];

/// Crates of the outside world that would bring a backend or one operating system into a pure crate.
const NOT_IN_PURE: [&str; 9] = [
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

/// What the pure crates ask for that would tie them to a backend or to one operating system.
pub fn backends(workspace: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let is_pure = |package: &&Package| PURE.iter().any(|(name, _)| *name == package.name);
    for package in workspace.iter().filter(is_pure) {
        let name = &package.name;
        for dependency in &package.dependencies {
            if NOT_IN_PURE.contains(&dependency.name.as_str()) {
                found.push(format!(
                    "{name} depends on {}: it names no backend",
                    dependency.name
                ));
            }
            for feature in &dependency.features {
                if dependency.name == "tokio"
                    && dependency.need != Need::Development
                    && NOT_OF_TOKIO.contains(&feature.as_str())
                {
                    found.push(format!(
                        "{name} asks for tokio's feature {feature}: it reaches nothing outside the process"
                    ));
                }
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
        assert_eq!(backends(&good()), Vec::<String>::new());
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
    fn backends_in_pure_crates_are_found() {
        for (crate_name, _) in PURE {
            for name in NOT_IN_PURE {
                let found = backends(&[package(crate_name, &[(name, Need::Development)])]);
                assert_eq!(found.len(), 1, "{name}");
            }
            let mut pure = package(crate_name, &[("tokio", Need::Always)]);
            pure.dependencies[0].features = vec!["sync".to_owned(), "net".to_owned()];
            assert_eq!(backends(&[pure]).len(), 1);
        }
    }
}
