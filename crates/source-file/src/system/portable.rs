//! Image files where nothing is known of the system: plain reads and writes.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Access, Kind};

/// Opens an image. Direct and exclusive access are not known here.
pub(crate) fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match access {
        Access::Read => options.read(true),
        Access::Write => options.write(true),
        Access::WriteNew => options.write(true).create(true).truncate(false),
        Access::ReadDirect | Access::WriteDirect | Access::WriteExclusive => {
            return Err(io::ErrorKind::Unsupported.into());
        }
    };
    options.open(path)
}

/// What the metadata say this is.
pub(crate) fn kind(metadata: &Metadata) -> Kind {
    let kind = metadata.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Other("a directory")
    } else if kind.is_symlink() {
        Kind::Other("a symbolic link")
    } else {
        Kind::Other("no regular file")
    }
}

/// What names this state of a file, as far as the system tells.
pub(crate) fn identity(metadata: &Metadata) -> Vec<u8> {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    let mut identity = metadata.len().to_le_bytes().to_vec();
    identity.extend(modified.to_le_bytes());
    identity
}

/// Whether both describe the same file; can't be told here.
pub(crate) fn is_same(_one: &Metadata, _other: &Metadata) -> bool {
    true
}

/// The unit of a device; devices are not known here.
pub(crate) fn device_block(_device: &File) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads at a position.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_at(file, buffer, at);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_read(file, buffer, at);
}

/// Writes at a position.
pub(crate) fn write_at(file: &File, data: &[u8], at: u64) -> io::Result<usize> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_at(file, data, at);
    #[cfg(windows)]
    return std::os::windows::fs::FileExt::seek_write(file, data, at);
}

/// Whether an error of a read says that the medium is bad there.
pub(crate) fn is_bad_medium(error: &io::Error) -> bool {
    // EIO on Unix; ERROR_CRC and ERROR_SECTOR_NOT_FOUND on Windows.
    let bad: &[i32] = if cfg!(windows) { &[23, 27] } else { &[5] };
    error.raw_os_error().is_some_and(|code| bad.contains(&code))
}

/// Whether opening met a symbolic link; links are followed here.
pub(crate) fn is_link_refused(_error: &io::Error) -> bool {
    false
}

/// Nothing is told.
pub(crate) fn hint_sequential(_file: &File) {}

/// Nothing is told.
pub(crate) fn hint_needed(_file: &File, _at: u64, _length: u64) {}

/// Holes are not known here.
pub(crate) fn next_data(_file: &File, _from: u64) -> io::Result<Option<(u64, u64)>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Discarding is not known here.
pub(crate) fn discard(_file: &File, _at: u64, _length: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file its name; fails if something has it already.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    std::fs::remove_file(from)
}

/// Makes the names in a folder durable, where folders can be synced.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_read_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let (draft, name) = (folder.path().join("draft"), folder.path().join("name"));
        let file = open(&draft, Access::WriteNew).unwrap();
        assert_eq!(write_at(&file, b"hello", 3).unwrap(), 5);
        let before = identity(&file.metadata().unwrap());
        rename_new(&draft, &name).unwrap();
        sync_folder(folder.path()).unwrap();
        assert!(rename_new(&name, &name).is_err(), "never replaces");

        let file = open(&name, Access::Read).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read_at(&file, &mut buffer, 0).unwrap(), 8);
        assert_eq!(&buffer, b"\0\0\0hello");
        assert_eq!(kind(&file.metadata().unwrap()), Kind::File);
        assert_eq!(identity(&file.metadata().unwrap()), before);
        let folder = std::fs::metadata(folder.path()).unwrap();
        assert_eq!(kind(&folder), Kind::Other("a directory"));
        assert!(next_data(&file, 0).is_err() && discard(&file, 0, 1).is_err());
        assert!(open(&name, Access::WriteDirect).is_err());
    }
}
