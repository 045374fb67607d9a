//! Whether every dependency may be shipped: its licence expression must be satisfiable from a list of allowed licences.
//!
//! Works offline from `cargo metadata`, so it always runs; `deny.toml` holds the same list for cargo-deny.

use crate::metadata::{ask, items, text};
use crate::problem::Outcome;
use crate::project;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Licences that ask for no more than their own text to be kept.
pub const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks everything that the workspace needs to build, with all features, on every platform.
pub fn check() -> Outcome<()> {
    let manifest = project::root()?.join("Cargo.toml");
    let all = ["--all-features", "--offline"];
    let metadata = match ask(&manifest, &all).or_else(|_| ask(&manifest, &["--all-features"])) {
        Ok(metadata) => metadata,
        Err(problem) => {
            println!("only this platform's dependencies can be checked: {problem}");
            let host = format!("--filter-platform={}", crate::fuzz::host()?);
            ask(&manifest, &["--all-features", "--offline", &host])?
        }
    };
    let (count, problems) = check_metadata(&metadata);
    if problems.is_empty() {
        println!("the licences of {count} dependencies are all allowed");
        Ok(())
    } else {
        Err(format!(
            "licences that are not allowed:\n{}",
            problems.join("\n")
        ))
    }
}

/// How many packages were checked, and a sentence for each one that may not be shipped.
pub fn check_metadata(metadata: &Value) -> (usize, Vec<String>) {
    let shipped = shipped(metadata);
    let mut problems = Vec::new();
    for package in items(&metadata["packages"]) {
        if !shipped.contains(&text(&package["id"])) {
            continue;
        }
        let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
        match package["license"].as_str() {
            None => problems.push(format!("{name} states no licence")),
            Some(expression) if !allowed(expression) => {
                problems.push(format!("{name}: {expression}"));
            }
            Some(_) => {}
        }
    }
    (shipped.len(), problems)
}

/// The ids of all packages reached from the workspace by other than development dependencies.
fn shipped(metadata: &Value) -> BTreeSet<String> {
    let nodes: BTreeMap<String, &Value> = items(&metadata["resolve"]["nodes"])
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut seen = BTreeSet::new();
    let mut next: Vec<String> = items(&metadata["workspace_members"]).map(text).collect();
    while let Some(id) = next.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let Some(node) = nodes.get(&id) else { continue };
        for dependency in items(&node["deps"]) {
            if items(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev") {
                next.push(text(&dependency["pkg"]));
            }
        }
    }
    seen
}

/// Whether an SPDX expression can be satisfied with allowed licences; what can't be read is not allowed.
pub fn allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    any_of(&mut rest).unwrap_or(false) && rest.is_empty()
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut satisfied = all_of(words)?;
    while take(words, "OR") {
        satisfied |= all_of(words)?;
    }
    Some(satisfied)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut satisfied = one(words)?;
    while take(words, "AND") {
        satisfied &= one(words)?;
    }
    Some(satisfied)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    if take(words, "(") {
        let satisfied = any_of(words)?;
        return take(words, ")").then_some(satisfied);
    }
    let (first, rest) = words.split_first()?;
    *words = rest;
    let mut name = (*first).to_owned();
    if take(words, "WITH") {
        let (exception, rest) = words.split_first()?;
        *words = rest;
        name = format!("{name} WITH {exception}");
    }
    Some(ALLOWED.contains(&name.as_str()))
}

fn take(words: &mut &[&str], word: &str) -> bool {
    match words.split_first() {
        Some((first, rest)) if *first == word => {
            *words = rest;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expressions_are_judged() {
        for yes in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        ] {
            assert!(allowed(yes), "{yes}");
        }
        for no in [
            "GPL-3.0-only",
            "MIT AND GPL-2.0-or-later",
            "MPL-2.0",
            "Apache-2.0 AND (GPL-2.0-only OR LGPL-3.0-only)",
            "MIT WITH Strange-exception",
            "",
            "MIT OR",
            "(MIT",
            "MIT MIT",
        ] {
            assert!(!allowed(no), "{no}");
        }
    }

    fn graph(kind: &Value) -> Value {
        json!({
            "workspace_members": ["ours"],
            "packages": [
                {"id": "ours", "name": "ours", "version": "0.1.0", "license": "Apache-2.0"},
                {"id": "theirs", "name": "theirs", "version": "1.0.0", "license": "GPL-3.0-only"},
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [{"pkg": "theirs", "dep_kinds": [{"kind": kind}]}]},
                {"id": "theirs", "deps": []},
            ]},
        })
    }

    #[test]
    fn only_what_is_shipped_is_judged() {
        assert_eq!(check_metadata(&graph(&json!("dev"))), (1, Vec::new()));
        let (count, problems) = check_metadata(&graph(&Value::Null));
        assert_eq!(count, 2);
        assert_eq!(problems, ["theirs 1.0.0: GPL-3.0-only"]);
    }

    #[test]
    fn the_same_list_is_in_deny_toml() {
        let text = std::fs::read_to_string(project::root().unwrap().join("deny.toml")).unwrap();
        let (_, list) = text.split_once("\nallow = [").unwrap();
        let (list, _) = list.split_once(']').unwrap();
        let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, ALLOWED);
    }
}
