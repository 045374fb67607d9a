//! Opening what may hold an image, and refusing what can't with a sentence
//! that says what to do.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use backstop_core::{Error, ErrorKind, Result};

use crate::failure::failure;
use crate::system::{Access, Kind, current as system};

/// The unit in which files are read and can fail, in bytes: a page.
const FILE_BLOCK: u64 = 4096;

/// An opened image.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) file: File,
    pub(crate) kind: Kind,
    /// In bytes.
    pub(crate) length: u64,
    /// In bytes; a power of two.
    pub(crate) block: u64,
    pub(crate) metadata: Metadata,
}

/// What a path is; none if nothing is there.
pub(crate) fn kind_of(path: &Path) -> Result<Option<Kind>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(system::kind(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(path, "can't be looked at", error)),
    }
}

/// The error for something that is no image.
pub(crate) fn refuse(path: &Path, what: &str) -> Error {
    let advice = match std::fs::read_link(path) {
        Ok(target) => format!("give the path it points to ({})", target.display()),
        Err(_) => "give a disk image or a block device".into(),
    };
    Error::invalid_input(format!("{} is {what}; {advice}", path.display()))
}

/// Opens an image that exists. Follows no symbolic link.
pub(crate) fn open(path: &Path, access: Access) -> Result<Image> {
    match kind_of(path)? {
        Some(Kind::Other(what)) => return Err(refuse(path, what)),
        Some(_) => {}
        None => {
            let sentence = format!("{} does not exist", path.display());
            return Err(Error::new(ErrorKind::NotFound, sentence));
        }
    }
    let unopened = |error: io::Error| match error.kind() {
        _ if system::is_link_refused(&error) => refuse(path, "a symbolic link"),
        io::ErrorKind::ResourceBusy => failure(path, "is in use on this host", error),
        _ => failure(path, "can't be opened", error),
    };
    let file = system::open(path, access).map_err(unopened)?;
    // Asked of the open file: the path may name something else by now.
    let unseen = |error| failure(path, "can't be looked at", error);
    let metadata = file.metadata().map_err(unseen)?;
    let kind = system::kind(&metadata);
    let (length, block) = match kind {
        Kind::File => (metadata.len(), FILE_BLOCK),
        Kind::Device => {
            let length = (&file).seek(SeekFrom::End(0)).map_err(unseen)?;
            // Reads go through the page cache, which fails by pages.
            let unit = system::device_block(&file).map_err(unseen)?;
            (length, unit.max(FILE_BLOCK))
        }
        Kind::Other(what) => return Err(refuse(path, what)),
    };
    Ok(Image {
        file,
        kind,
        length,
        block,
        metadata,
    })
}
