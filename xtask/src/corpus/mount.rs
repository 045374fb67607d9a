//! A mounted image, unmounted again when it goes out of scope.

use crate::command;
use crate::problem::{Context, Outcome};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image's file system, mounted by a loop device; needs the administrator's rights.
#[derive(Debug)]
pub struct Mounted {
    folder: Option<PathBuf>,
}

impl Mounted {
    /// Mounts the image on a folder, which is made for it.
    pub fn mount(image: &Path, folder: &Path) -> Outcome<Self> {
        Self::with(image, folder, "loop")
    }

    /// Mounts the image to look at it only; not a byte of it changes.
    pub fn look(image: &Path, folder: &Path) -> Outcome<Self> {
        Self::with(image, folder, "loop,ro,noload")
    }

    fn with(image: &Path, folder: &Path, options: &str) -> Outcome<Self> {
        std::fs::create_dir_all(folder).context(folder.display())?;
        command::run_quietly(
            Command::new("mount")
                .args(["-o", options])
                .arg(image)
                .arg(folder),
        )?;
        Ok(Self {
            folder: Some(folder.to_path_buf()),
        })
    }

    /// Unmounts, so that all is in the image.
    pub fn unmount(mut self) -> Outcome<()> {
        self.folder.take().map_or(Ok(()), |folder| unmount(&folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && let Err(problem) = unmount(&folder)
        {
            println!("{problem}");
        }
    }
}

fn unmount(folder: &Path) -> Outcome<()> {
    command::run_quietly(Command::new("umount").arg(folder))?;
    std::fs::remove_dir(folder).context(folder.display())
}

/// How many bytes are free in the file system of a folder.
pub fn free_bytes(folder: &Path) -> Outcome<u64> {
    let text = command::capture(
        Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(folder),
    )?;
    let last = text.lines().last().unwrap_or_default();
    last.trim().parse().context(format!("df said {last}"))
}
