//! Files that are whole or not there, and that only their owner may read.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use backstop_core::{Error, ErrorKind, Result};

/// A file that is being written, until it gets its name.
pub(super) const ASIDE: &str = ".new";

/// What went wrong with a file or folder, by what to do about it.
pub(super) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::PermissionDenied => ErrorKind::Forbidden,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{} can't be {doing}", path.display())).with_source(error)
}

/// Makes a folder that only its owner may enter, or takes one that is there.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() == Io::AlreadyExists => {}
        made => made.map_err(|error| failed("made", path, error))?,
    }
    let owners = Permissions::from_mode(0o700);
    fs::set_permissions(path, owners).map_err(|error| failed("made", path, error))?;
    if let Some(above) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        sync_folder(above)?;
    }
    sync_folder(path)
}

/// Makes a folder that only its owner may enter, or takes one that is there as it
/// is: its rights are somebody's choice.
pub(super) fn take_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return sync_folder(path);
    }
    make_folder(path)
}

/// Writes a file under its name in one step, durably. Who writes the same name at
/// the same time has to be kept out.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    let aside = Path::new(&aside);
    let write = || {
        // One that was left by whoever was interrupted may have other rights.
        match fs::remove_file(aside) {
            Err(error) if error.kind() != Io::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(aside, path)
    };
    write().map_err(|error| failed("written", path, error))?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Makes names that were given or taken in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(|error| failed("written", path, error))
}

/// Keeps all others out, in this process and in others, until it is dropped.
pub(super) fn lock(path: &Path) -> Result<File> {
    let lock = || {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.lock()?;
        Ok(file)
    };
    lock().map_err(|error| failed("locked", path, error))
}

/// Reads a text file of at most so many bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<String> {
    let file = File::open(path).map_err(|error| failed("read", path, error))?;
    read_from(&file, path, most)
}

/// Reads what is left of an open text file.
pub(super) fn read_from(mut file: &File, path: &Path, most: u64) -> Result<String> {
    use std::io::Read;

    let mut text = String::new();
    let read = Read::by_ref(&mut file)
        .take(most + 1)
        .read_to_string(&mut text);
    read.map_err(|error| failed("read", path, error))?;
    if text.len() as u64 > most {
        let sentence = format!("{} is longer than {most} bytes", path.display());
        return Err(Error::corrupt(sentence));
    }
    Ok(text)
}
