//! From the operating system's errors to sentences that name the file.

use std::fmt::Display;
use std::io;
use std::path::Path;

use backstop_core::{Error, ErrorKind, Extent};

use crate::system::current as system;

/// What a failed operation means for who asked for it; `doing` goes on after
/// the path, as in "can't be opened".
pub(crate) fn failure(path: &Path, doing: impl Display, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidData
        | io::ErrorKind::FileTooLarge
        | io::ErrorKind::IsADirectory => ErrorKind::InvalidInput,
        io::ErrorKind::ResourceBusy => ErrorKind::Locked,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("{} {doing}", path.display())).with_source(error)
}

/// What a failed read of a range means.
pub(crate) fn read_failure(path: &Path, extent: Extent, error: io::Error) -> Error {
    if system::is_bad_medium(&error) {
        let sentence = format!("{} can't be read at {extent}", path.display());
        Error::new(ErrorKind::Unreadable, sentence).with_source(error)
    } else {
        failure(path, format_args!("could not be read at {extent}"), error)
    }
}
