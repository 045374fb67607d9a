//! How source files look: a first comment that says what the file is, one subject, a bounded length, nothing unfinished.
//!
//! `xtask/tests/tidy.rs` applies these rules to every file; the tests here show that they can fail.

use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};

/// The longest a file may be without its tests; most are far shorter.
const MAX_LINES: usize = 500;

/// Names that say nothing about their subject.
const EMPTY_NAMES: [&str; 8] = [
    "misc",
    "utils",
    "util",
    "common",
    "helpers",
    "helper",
    "stuff",
    "prelude_internal",
];

/// Folders that hold nothing of ours.
const NOT_OURS: [&str; 4] = ["target", ".git", "node_modules", "corpus-data"];

/// The files below `folder` whose names end in one of `extensions`, in order.
pub fn files(folder: &Path, extensions: &[&str]) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).context(folder.display())?;
        for entry in entries {
            let entry = entry.context(folder.display())?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().context(path.display())?;
            if kind.is_dir() {
                if !NOT_OURS.contains(&name.to_string_lossy().as_ref()) {
                    folders.push(path);
                }
            } else if kind.is_file()
                && path
                    .extension()
                    .is_some_and(|end| extensions.contains(&end.to_string_lossy().as_ref()))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What is untidy about a Rust file, each as a sentence. `path` is relative to the workspace's root.
pub fn untidy_source(path: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !source.starts_with("//!") {
        found.push(format!(
            "{path}: the first line must say in `//!` what the file is"
        ));
    }
    let file = Path::new(path);
    let named_by_folder = file.file_stem().is_some_and(|stem| stem == "mod");
    let name = if named_by_folder {
        file.parent().and_then(Path::file_name)
    } else {
        file.file_stem()
    };
    if name.is_some_and(|name| EMPTY_NAMES.contains(&name.to_string_lossy().as_ref())) {
        found.push(format!("{path}: a module's name says its subject"));
    }
    let exempt = is_test_file(path);
    let lines = source
        .lines()
        .take_while(|line| !begins_tests(line))
        .count();
    if lines > MAX_LINES && !exempt {
        found.push(format!(
            "{path}: {lines} lines without tests, {MAX_LINES} at most"
        ));
    }
    for (number, line) in code_lines(source) {
        for word in [concat!("to", "do!("), concat!("unimple", "mented!(")] {
            if line.contains(word) {
                found.push(format!("{path}:{number}: {word} is unfinished work"));
            }
        }
    }
    found.extend(home_paths(path, source));
    found
}

/// Paths that exist only on the machine of whoever wrote them.
pub fn home_paths(path: &str, text: &str) -> Vec<String> {
    let homes = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Use", "rs/"),
    ];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for home in homes {
            if line.contains(home) {
                found.push(format!(
                    "{path}:{}: {home} is a path of one machine",
                    number + 1
                ));
            }
        }
    }
    found
}

/// The lines of code before a file's own tests, numbered from one: no comments.
pub fn code_lines(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source
        .lines()
        .enumerate()
        .take_while(|(_, line)| !begins_tests(line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line))
}

/// Whether a file holds only tests: below `tests/`, or a module called `tests`.
pub fn is_test_file(path: &str) -> bool {
    let path = Path::new(path);
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem == "tests")
}

/// A module of tests, at the file's own level, ends the code of a file.
fn begins_tests(line: &str) -> bool {
    line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, source: &str) -> usize {
        untidy_source(path, source).len()
    }

    #[test]
    fn a_tidy_file_passes() {
        assert_eq!(
            problems("crates/core/src/units.rs", "//! Units.\nfn f() {}\n"),
            0
        );
    }

    #[test]
    fn a_file_must_say_what_it_is() {
        assert_eq!(problems("src/lib.rs", "fn f() {}\n"), 1);
        assert_eq!(problems("src/lib.rs", "\n//! Late.\n"), 1);
    }

    #[test]
    fn empty_names_are_refused() {
        assert_eq!(problems("src/utils.rs", "//! X.\n"), 1);
        assert_eq!(problems("src/common/mod.rs", "//! X.\n"), 1);
        assert_eq!(problems("src/commons.rs", "//! X.\n"), 0);
    }

    #[test]
    fn long_files_are_refused_but_tests_do_not_count() {
        let long = format!("//! X.\n{}", "fn f() {}\n".repeat(MAX_LINES));
        assert_eq!(problems("src/long.rs", &long), 1);
        assert_eq!(problems("tests/long.rs", &long), 0);
        assert_eq!(problems("src/long/tests.rs", &long), 0);
        let tested = format!("//! X.\n#[cfg(test)]\n{}", "fn f() {}\n".repeat(MAX_LINES));
        assert_eq!(problems("src/tested.rs", &tested), 0);
    }

    #[test]
    fn unfinished_work_and_home_paths_are_refused() {
        assert_eq!(
            problems("src/x.rs", concat!("//! X.\nfn f() { to", "do!() }\n")),
            1
        );
        assert_eq!(
            problems(
                "src/x.rs",
                concat!("//! X.\nfn f() { unimple", "mented!() }\n")
            ),
            1
        );
        assert_eq!(
            problems("src/x.rs", concat!("//! See /ho", "me/someone/notes.\n")),
            1
        );
        assert_eq!(home_paths("README.md", "one\ntwo\n").len(), 0);
        assert_eq!(
            home_paths("README.md", concat!("one\ncd /ro", "ot/x\n")).len(),
            1
        );
    }
}
