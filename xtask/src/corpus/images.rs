//! The images of the first corpus: a disk, the same disk after one day of scattered writes, and another host's disk.

use crate::command;
use crate::corpus::pages::{self, PAGE_BYTES};
use crate::corpus::pick::pick;
use crate::install;
use crate::problem::{Context, Outcome};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the scattered writes are drawn from.
const SEED: u64 = 7;

/// Where the images are.
#[derive(Debug, Clone)]
pub struct Images {
    /// An ext4 file system, about 80 % full of real files
    pub day0: PathBuf,
    /// The same after 1 % of its pages were overwritten
    pub day1: PathBuf,
    /// Which pages those were
    pub extents: PathBuf,
    /// The same files laid out anew, as on another host
    pub host2: PathBuf,
}

impl Images {
    /// The images that are, or will be, in a folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            day0: folder.join("day0.img"),
            day1: folder.join("day1.img"),
            extents: folder.join("day1.extents"),
            host2: folder.join("host2.img"),
        }
    }

    /// Whether all are there.
    pub fn exist(&self) -> bool {
        [&self.day0, &self.day1, &self.extents, &self.host2]
            .iter()
            .all(|path| path.exists())
    }
}

/// Makes all images of `gib` GiB in `folder`, filled with files from the folders `from`.
pub fn make(folder: &Path, gib: u64, from: &[PathBuf]) -> Outcome<Images> {
    let images = Images::in_folder(folder);
    let files = picked(folder, gib, from)?;
    make_file_system(&images.day0, gib, &files, &[])?;
    make_file_system(&images.host2, gib, &files, &["-b", "4096", "-g", "16384"])?;
    fs::remove_dir_all(&files).context(files.display())?;
    copy(&images.day0, &images.day1)?;
    let count = (gib << 30) / PAGE_BYTES / 100;
    let extents = pages::scatter(&images.day1, count, SEED)?;
    pages::write_extents(&extents, &images.extents)?;
    println!("day1.img: {count} pages of {PAGE_BYTES} bytes changed");
    Ok(images)
}

/// Makes one image alone.
pub fn make_one(image: &Path, gib: u64, from: &[PathBuf]) -> Outcome<()> {
    let folder = image.parent().context("an image has no folder")?;
    let files = picked(folder, gib, from)?;
    make_file_system(image, gib, &files, &[])?;
    fs::remove_dir_all(&files).context(files.display())
}

/// Files for about 80 % of an image.
fn picked(folder: &Path, gib: u64, from: &[PathBuf]) -> Outcome<PathBuf> {
    let files = folder.join("picked-files");
    if files.exists() {
        fs::remove_dir_all(&files).context(files.display())?;
    }
    fs::create_dir_all(&files).context(files.display())?;
    let wanted = (gib << 30) / 10 * 8;
    let total = pick(from, &files, wanted)?;
    println!("{gib} GiB image: {} MB of files", total / 1_000_000);
    if total < wanted / 10 * 9 {
        println!("note: there are too few files to fill 80 % of it; name more folders with --from");
    }
    Ok(files)
}

fn make_file_system(image: &Path, gib: u64, files: &Path, layout: &[&str]) -> Outcome<()> {
    let mke2fs = install::debian("mke2fs", &["e2fsprogs"])?;
    let file = File::create(image).context(image.display())?;
    file.set_len(gib << 30).context(image.display())?;
    command::run_quietly(
        Command::new(mke2fs)
            .args(["-q", "-F", "-t", "ext4"])
            .args(layout)
            .arg("-d")
            .arg(files)
            .arg(image),
    )
}

/// Copies an image, holes staying holes.
pub fn copy(from: &Path, to: &Path) -> Outcome<()> {
    command::run_quietly(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}
