//! What `cargo metadata` says, reduced to what the rules here ask for.

use crate::command;
use crate::problem::{Context, Outcome};
use crate::project;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// When a dependency is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// By the crate itself
    Always,
    /// By its tests, examples and benches
    Development,
    /// By its build script
    Build,
}

/// One line of a `[dependencies]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package asked for
    pub name: String,
    /// What for
    pub need: Need,
    /// The features asked for
    pub features: Vec<String>,
}

/// A package of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name
    pub name: String,
    /// What its Cargo.toml asks for
    pub dependencies: Vec<Dependency>,
    /// Its features, without `default`
    pub features: Vec<String>,
    /// Its binaries
    pub binaries: Vec<String>,
}

/// The packages of the workspace, without anything they depend on.
pub fn workspace() -> Outcome<Vec<Package>> {
    packages(&ask(&project::root()?.join("Cargo.toml"), &["--no-deps"])?)
}

/// Asks cargo about the workspace of `manifest`.
pub fn ask(manifest: &Path, arguments: &[&str]) -> Outcome<Value> {
    let text = command::capture(
        Command::new(project::cargo())
            .args(["metadata", "--format-version", "1", "--manifest-path"])
            .arg(manifest)
            .args(arguments),
    )?;
    serde_json::from_str(&text).context("cargo metadata wrote no JSON")
}

/// The packages in an answer of `cargo metadata`.
pub fn packages(metadata: &Value) -> Outcome<Vec<Package>> {
    let list = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    Ok(list.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let dependencies = items(&value["dependencies"]).map(|dependency| Dependency {
        name: text(&dependency["name"]),
        need: match dependency["kind"].as_str() {
            Some("dev") => Need::Development,
            Some("build") => Need::Build,
            _ => Need::Always,
        },
        features: items(&dependency["features"]).map(text).collect(),
    });
    let features = value["features"]
        .as_object()
        .map(|table| {
            table
                .keys()
                .filter(|name| *name != "default")
                .cloned()
                .collect()
        })
        .unwrap_or_default();
    let binaries = items(&value["targets"])
        .filter(|target| items(&target["kind"]).any(|kind| kind == "bin"))
        .map(|target| text(&target["name"]));
    Package {
        name: text(&value["name"]),
        dependencies: dependencies.collect(),
        features,
        binaries: binaries.collect(),
    }
}

/// The elements of a JSON array; none if it is something else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A JSON string, or an empty one if it is something else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn packages_are_read() {
        let metadata = json!({"packages": [{
            "name": "backstop",
            "features": {"default": ["store"], "store": [], "tcp": []},
            "dependencies": [
                {"name": "backstop-core", "kind": null, "features": []},
                {"name": "tempfile", "kind": "dev", "features": ["x"]},
            ],
            "targets": [
                {"name": "backstop", "kind": ["lib"]},
                {"name": "decode", "kind": ["bin"]},
            ],
        }]});
        let packages = packages(&metadata).unwrap();
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].features, ["store", "tcp"]);
        assert_eq!(packages[0].binaries, ["decode"]);
        assert_eq!(packages[0].dependencies[0].need, Need::Always);
        assert_eq!(packages[0].dependencies[1].need, Need::Development);
        assert!(super::packages(&json!({})).is_err());
    }
}
