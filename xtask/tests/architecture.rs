//! The workspace's dependencies run only toward the core; core and agent reach nothing outside the process.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use xtask::architecture::{CORE, PURE, backends, forbidden_arrows};
use xtask::reach::reaches_out;
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
fn core_and_agent_name_no_backend() {
    let found = backends(&metadata::workspace().unwrap());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn core_and_agent_reach_nothing_outside_the_process() {
    let root = project::root().unwrap();
    let mut found = Vec::new();
    for (name, folder) in PURE {
        let sources = tidy::files(&root.join(folder), &["rs"]).unwrap();
        assert!(!sources.is_empty(), "{name} has no sources");
        for path in sources {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            if !tidy::is_test_file(&name) {
                let source = std::fs::read_to_string(&path).unwrap();
                found.extend(reaches_out(&name, &source));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
