//! Debian packages to unpack into images: what an update of a host writes.

use crate::command;
use crate::corpus::mount::free_bytes;
use crate::install;
use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages of different kinds (text, programs, many small files), about 260 MB unpacked.
const NAMES: [&str; 7] = [
    "emacs-common",
    "erlang-base",
    "guile-3.0-libs",
    "libruby3.1",
    "mariadb-server-core",
    "octave-common",
    "r-base-core",
];

/// Downloads the packages into `folder`, once; hands back the files in name order.
pub fn download(folder: &Path) -> Outcome<Vec<PathBuf>> {
    if let Ok(found) = debs(folder)
        && found.len() == NAMES.len()
    {
        return Ok(found);
    }
    std::fs::create_dir_all(folder).context(folder.display())?;
    install::update_package_lists();
    command::run_quietly(
        Command::new("apt-get")
            .args(["-q", "download"])
            .args(NAMES)
            .current_dir(folder),
    )?;
    debs(folder)
}

fn debs(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .context(folder.display())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "deb"))
        .collect();
    found.sort();
    Ok(found)
}

/// The packages that together take at most `limit` bytes when unpacked; each is taken that still fits.
pub fn fitting(packages: &[PathBuf], limit: u64) -> Outcome<Vec<PathBuf>> {
    let mut total = 0;
    let mut fit = Vec::new();
    for package in packages {
        let field = command::capture(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(package)
                .arg("Installed-Size"),
        )?;
        let kib: u64 = field.trim().parse().context(package.display())?;
        if total + kib * 1024 <= limit {
            total += kib * 1024;
            fit.push(package.clone());
        }
    }
    Ok(fit)
}

/// Unpacks packages below `folder`, each as the same file tree on every host.
pub fn unpack(packages: &[PathBuf], folder: &Path) -> Outcome<()> {
    std::fs::create_dir_all(folder).context(folder.display())?;
    for package in packages {
        command::run_quietly(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder))
            .context(format!("{} bytes free", free_bytes(folder).unwrap_or(0)))?;
    }
    Ok(())
}
