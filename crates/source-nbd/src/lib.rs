//! Network block devices (NBD) for Backstop: images that other programs read,
//! and images that other programs have.
//!
//! [`NbdServer`] gives any [`BlockSource`](backstop_core::BlockSource), such as
//! an opened recovery point, to whatever speaks NBD: `qemu-img` turns it into
//! another format, `nbdcopy` copies it, a virtual machine boots from it.
//! [`NbdSource`] is the other way round: an export of any NBD server as a
//! source, so that `qemu-nbd` makes one of any image it can open.
//!
//! Both speak the fixed newstyle of the protocol, over Unix sockets, TCP or any
//! stream, with structured replies and `base:allocation` where the peer has
//! them. They trust nobody: what a peer sends is bounded before memory is taken
//! for it, and breaking the protocol costs the connection, no more. There is no
//! TLS, and writing to exports is not there yet.
//!
//! Both run on the caller's tokio runtime and must be used inside one.
//!
//! ```
//! use std::sync::Arc;
//!
//! use backstop_core::memory::MemorySource;
//! use backstop_core::{BlockSource, ByteCount, ByteOffset};
//! use backstop_source_nbd::{NbdEndpoint, NbdExport, NbdServer, NbdSource};
//! use tokio::net::UnixListener;
//! use tokio::sync::oneshot;
//!
//! # let folder = tempfile::tempdir()?;
//! # let socket = folder.path().join("socket");
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let image = MemorySource::new(vec![7; 1 << 20]);
//! let server = NbdServer::new().with_export("disk", NbdExport::read_only(Arc::new(image)));
//! let listener = UnixListener::bind(&socket)?;
//! let (stop, stopped) = oneshot::channel::<()>();
//! let serving = tokio::spawn(async move {
//!     server.serve_unix(listener, async { drop(stopped.await) }).await;
//! });
//!
//! let source = NbdSource::connect(&NbdEndpoint::Unix(socket), "disk").await?;
//! assert_eq!(source.geometry().length, ByteCount(1 << 20));
//! assert_eq!(source.read(ByteOffset(4096), ByteCount(3)).await?, [7; 3][..]);
//!
//! drop(stop);
//! serving.await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod client;
mod endpoint;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod protocol;
mod server;
mod wire;

pub use client::{NbdClientLimits, NbdSource};
pub use endpoint::NbdEndpoint;
pub use server::{NbdExport, NbdServer, NbdServerLimits};

/// The programs of the README are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
