//! Disk images and block devices as sources and targets of Backstop.
//!
//! [`FileSource`] reads an image file or a block device: many reads at once,
//! holes told by the file system, scattered small ranges asked for together.
//! [`FileTarget`] writes one: sparse, past the page cache where the file
//! system takes that, and under its own name only when it is whole.
//! [`FileDraft`] does the last for a file that another program writes.
//! [`read_extents_file`] reads a list of changed extents.
//!
//! Both work on the blocking threads of the caller's tokio runtime and must be
//! used inside one. On Linux holes, read-ahead, direct I/O and discarding are
//! used; elsewhere images are read and written plainly.
//!
//! ```
//! use backstop_core::{BlockSource, BlockTarget, ByteCount, ByteOffset};
//! use backstop_source_file::{FileSource, FileTarget};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.img");
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let target = FileTarget::create(&path).await?;
//! target.prepare(ByteCount(1 << 20)).await?;
//! target.write(ByteOffset(4096), "hello".into()).await?;
//! target.finish().await?;
//!
//! let image = FileSource::open(&path).await?;
//! assert_eq!(image.geometry().length, ByteCount(1 << 20));
//! assert_eq!(image.read(ByteOffset(4096), ByteCount(5)).await?, "hello");
//! # Ok::<(), backstop_core::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blocking;
mod draft;
mod extents;
mod failure;
mod image;
mod placement;
mod queue;
mod source;
mod system;
mod target;
mod touched;
mod writer;

pub use draft::FileDraft;
pub use extents::{check_extents, read_extents_file};
pub use source::FileSource;
pub use target::FileTarget;
