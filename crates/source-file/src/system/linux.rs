//! Image files on Linux: direct I/O, holes, read-ahead, discarding.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{
    Advice, CWD, FallocateFlags, OFlags, RenameFlags, SeekFrom, fadvise, fallocate,
    ioctl_blksszget, renameat_with, seek,
};
use rustix::io::Errno;

use super::{Access, Kind};

/// Opens an image, never following a symbolic link in its last component and
/// never waiting for the other end of a pipe.
pub(crate) fn open(path: &Path, access: Access) -> io::Result<File> {
    let mut flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match access {
        Access::ReadDirect | Access::WriteDirect => flags |= OFlags::DIRECT,
        Access::WriteExclusive => flags |= OFlags::EXCL,
        _ => {}
    }
    let mut options = OpenOptions::new();
    if matches!(access, Access::Read | Access::ReadDirect) {
        options.read(true);
    } else {
        options.write(true).create(access == Access::WriteNew);
    }
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// What the metadata say this is.
pub(crate) fn kind(metadata: &Metadata) -> Kind {
    let kind = metadata.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_block_device() {
        Kind::Device
    } else if kind.is_dir() {
        Kind::Other("a directory")
    } else if kind.is_symlink() {
        Kind::Other("a symbolic link")
    } else if kind.is_fifo() {
        Kind::Other("a pipe")
    } else if kind.is_socket() {
        Kind::Other("a socket")
    } else {
        Kind::Other("a character device")
    }
}

/// What names this state of a file: its place and the times of its last
/// changes. Equal for two openings only if nothing was written between.
pub(crate) fn identity(metadata: &Metadata) -> Vec<u8> {
    let times = [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ];
    let numbers = [metadata.dev(), metadata.ino(), metadata.len()];
    let numbers = numbers
        .into_iter()
        .chain(times.map(i64::cast_unsigned))
        .flat_map(u64::to_le_bytes);
    numbers.collect()
}

/// Whether both describe the same file, under whatever name.
pub(crate) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// The unit of a device, in bytes.
pub(crate) fn device_block(device: &File) -> io::Result<u64> {
    Ok(u64::from(ioctl_blksszget(device)?))
}

/// Reads at a position without moving the file's own.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    file.read_at(buffer, at)
}

/// Writes at a position without moving the file's own.
pub(crate) fn write_at(file: &File, data: &[u8], at: u64) -> io::Result<usize> {
    file.write_at(data, at)
}

/// Whether an error of a read says that the medium is bad there.
pub(crate) fn is_bad_medium(error: &io::Error) -> bool {
    let bad = [
        Errno::IO,
        Errno::NODATA,
        Errno::ILSEQ,
        Errno::REMOTEIO,
        Errno::BADMSG,
        Errno::UCLEAN,
    ];
    Errno::from_io_error(error).is_some_and(|error| bad.contains(&error))
}

/// Whether opening met a symbolic link that is not to be followed.
pub(crate) fn is_link_refused(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Tells the kernel that an image is read from start to end.
pub(crate) fn hint_sequential(file: &File) {
    // A hint that is refused costs nothing but speed.
    let _ = fadvise(file, 0, None, Advice::Sequential);
}

/// Asks the kernel to read a range before it is waited for.
pub(crate) fn hint_needed(file: &File, at: u64, length: u64) {
    if let Some(length) = NonZeroU64::new(length) {
        let _ = fadvise(file, at, Some(length), Advice::WillNeed);
    }
}

/// The next run of data from a position: where it starts and ends. None if the
/// rest is a hole.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where the file system tells no holes.
pub(crate) fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    let unsupported = |error| match error {
        Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE => {
            io::Error::from(io::ErrorKind::Unsupported)
        }
        error => error.into(),
    };
    // The position that seeking moves is used by nothing else.
    let start = match seek(file, SeekFrom::Data(from)) {
        Err(Errno::NXIO) => return Ok(None),
        start => start.map_err(unsupported)?,
    };
    let end = match seek(file, SeekFrom::Hole(start)) {
        // Cut meanwhile; who reads it will notice.
        Err(Errno::NXIO) => return Ok(None),
        end => end.map_err(unsupported)?,
    };
    Ok(Some((start, end)))
}

/// Makes a range read as zeros without writing them.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where that can't be done.
pub(crate) fn discard(file: &File, at: u64, length: u64) -> io::Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    for mode in [punch, zero] {
        match fallocate(file, mode, at, length) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
            Err(Errno::INTR) => return discard(file, at, length),
            done => return Ok(done?),
        }
    }
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a file its name; fails if something has it already.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
