//! Running other programs: echoed, checked, and their failure told in a sentence.

use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The command as a person would type it.
pub fn spoken(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let mut words = vec![name.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '\'', '$', '|', '&', '(']) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    }));
    words.join(" ")
}

/// Prints the command, runs it with our own output, and fails if it failed.
pub fn run(command: &mut Command) -> Outcome<()> {
    println!("$ {}", spoken(command));
    let status = command
        .stdin(Stdio::null())
        .status()
        .context(format!("can't start {}", command.get_program().display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{}` ended with {status}", spoken(command)))
    }
}

/// Runs the command without a word; if it fails, its last lines are in the sentence.
pub fn run_quietly(command: &mut Command) -> Outcome<()> {
    capture(command).map(drop)
}

/// Runs the command and hands back what it wrote to its standard output.
pub fn capture(command: &mut Command) -> Outcome<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context(format!("can't start {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.trim().is_empty() {
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let lines: Vec<&str> = said.trim().lines().collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    Err(format!(
        "`{}` ended with {}: {last}",
        spoken(command),
        output.status
    ))
}

/// Where a program is, looked for on PATH and in the folders of system tools.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// Whether we act as the administrator.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no arguments, no failure and no memory effects.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_words() {
        let problem = capture(Command::new("sh").args(["-c", "echo what went wrong >&2; exit 3"]))
            .unwrap_err();
        assert!(problem.contains("what went wrong"), "{problem}");
        assert!(problem.contains("sh -c"), "{problem}");
        assert!(problem.contains('3'), "{problem}");
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}
