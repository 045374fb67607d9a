//! What the operating system does for image files: Linux in full, other
//! systems plainly. Both halves have the same functions.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
pub(crate) mod current;
#[cfg(not(target_os = "linux"))]
#[path = "portable.rs"]
pub(crate) mod current;

// On Linux the portable half is only kept from rotting.
#[cfg(all(target_os = "linux", test))]
#[allow(dead_code)]
mod portable;

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// For reading.
    Read,
    /// For reading, past the page cache.
    ReadDirect,
    /// For writing what exists.
    Write,
    /// For writing, made if it does not exist.
    WriteNew,
    /// For writing what exists, past the page cache.
    WriteDirect,
    /// For writing a block device that nothing else on this host uses.
    WriteExclusive,
}

/// What a path or an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A block device.
    Device,
    /// Something that holds no image; the words name it.
    Other(&'static str),
}
