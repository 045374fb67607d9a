//! The workspace's dependencies run only toward the core, and the core reaches nothing outside the process.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use xtask::architecture::{CORE, core_backends, core_reaches_out, forbidden_arrows};
use xtask::{metadata, project, tidy};

#[test]
fn arrows_run_only_toward_the_core() {
    let workspace = metadata::workspace().unwrap();
    assert!(
        workspace.iter().any(|package| package.name == CORE),
        "no {CORE} in the workspace"
    );
    let found = forbidden_arrows(&workspace);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_names_no_backend() {
    let found = core_backends(&metadata::workspace().unwrap());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_core_reaches_nothing_outside_the_process() {
    let root = project::root().unwrap();
    let sources = tidy::files(&root.join("crates/core/src"), &["rs"]).unwrap();
    assert!(!sources.is_empty(), "the core has no sources");
    let mut found = Vec::new();
    for path in sources {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        if !tidy::is_test_file(&name) {
            found.extend(core_reaches_out(
                &name,
                &std::fs::read_to_string(&path).unwrap(),
            ));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
