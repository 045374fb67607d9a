//! Every source file says what it is and keeps to one subject; nothing in the project names one machine's paths.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use xtask::{project, tidy};

#[test]
fn source_files_are_tidy() {
    check(&["rs"], tidy::untidy_source);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    check(
        &["md", "toml", "sh", "py", "yml", "yaml", "json"],
        tidy::home_paths,
    );
}

fn check(extensions: &[&str], rule: fn(&str, &str) -> Vec<String>) {
    let root = project::root().unwrap();
    let mut found = Vec::new();
    let files = tidy::files(&root, extensions).unwrap();
    assert!(!files.is_empty(), "no files below the workspace's root");
    for path in files {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        found.extend(rule(&name, &text));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
