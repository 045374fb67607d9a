//! Installing what tasks need: Debian packages where we may, Python and Node packages under target/.

use crate::command::{self, find};
use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// Makes sure that `program` is there, by its Debian package if need be, and says where it is.
pub fn debian(program: &str, packages: &[&str]) -> Outcome<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    debian_packages(packages).context(format!("no {program} here"))?;
    find(program).context(format!(
        "installed {}, but there is still no {program}",
        packages.join(" ")
    ))
}

/// Installs Debian packages, if this is a Debian machine and we are its administrator.
pub fn debian_packages(packages: &[&str]) -> Outcome<()> {
    if !command::is_root() || find("apt-get").is_none() {
        return Err(format!(
            "install {} (needs apt-get and the administrator's rights)",
            packages.join(" ")
        ));
    }
    update_package_lists();
    println!("Debian packages: installing {}", packages.join(" "));
    command::run_quietly(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

/// Fetches the package lists, once a run; a failure shows later, in what can't be installed.
pub fn update_package_lists() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        println!("Debian packages: updating the lists");
        if let Err(problem) = command::run_quietly(apt_get().arg("update")) {
            println!("Debian packages: {problem}");
        }
    });
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Installs a Python package into its own environment in `folder`, unless the same was put there before.
pub fn python(folder: &Path, requirement: &str) -> Outcome<()> {
    if is_ready(folder, requirement) {
        println!("PyPI: {requirement} is in place");
        return Ok(());
    }
    let python = debian("python3", &["python3", "python3-venv"])?;
    println!("PyPI: installing {requirement}");
    clear(folder)?;
    let make =
        |python: &Path| command::run_quietly(Command::new(python).args(["-m", "venv"]).arg(folder));
    if make(&python).is_err() {
        // Debian's python3 comes without the module that makes environments.
        debian_packages(&["python3-venv"])?;
        clear(folder)?;
        make(&python)?;
    }
    command::run_quietly(
        Command::new(folder.join("bin/python"))
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .arg(requirement),
    )?;
    mark_ready(folder, requirement)
}

/// Installs a Node package into `folder`, unless the same was put there before.
pub fn node(folder: &Path, package: &str) -> Outcome<()> {
    if is_ready(folder, package) {
        println!("npm: {package} is in place");
        return Ok(());
    }
    let npm = debian("npm", &["nodejs", "npm"])?;
    println!("npm: installing {package}");
    clear(folder)?;
    command::run_quietly(
        Command::new(npm)
            .args([
                "install",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
                "--prefix",
            ])
            .arg(folder)
            .arg(package),
    )?;
    mark_ready(folder, package)
}

fn stamp(folder: &Path) -> PathBuf {
    folder.join(".installed")
}

fn is_ready(folder: &Path, what: &str) -> bool {
    std::fs::read_to_string(stamp(folder)).is_ok_and(|text| text == what)
}

fn mark_ready(folder: &Path, what: &str) -> Outcome<()> {
    std::fs::write(stamp(folder), what).context(format!("{}", folder.display()))
}

fn clear(folder: &Path) -> Outcome<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(format!("can't remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).context(format!("can't make {}", folder.display()))
}
