//! In-memory reference implementations of the seams, and wrappers that inject
//! faults.
//!
//! [`MemorySource`], [`MemoryTarget`] and [`MemoryStore`] are simple rather
//! than fast: they say in code what the contracts say in words, and pass the
//! conformance suites first. [`FaultSource`], [`FaultTarget`] and
//! [`FaultStore`] wrap any implementation, share one [`Faults`] plan, and
//! stack.
//!
//! ```
//! # use std::sync::Arc;
//! use backstop_core::memory::{Effect, FaultSource, Faults, MemorySource, Operation};
//! use backstop_core::{BlockSource, ByteCount, ByteOffset, ErrorKind};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let faults = Faults::none();
//! faults.inject(Operation::SourceRead, 2, Effect::Fail(ErrorKind::Unavailable));
//! let source = FaultSource::new(Arc::new(MemorySource::new(vec![7; 8192])), faults);
//! assert!(source.read(ByteOffset(0), ByteCount(16)).await.is_ok());
//! assert!(source.read(ByteOffset(0), ByteCount(16)).await.is_err(), "the second fails");
//! # });
//! ```

mod access;
mod collect;
mod fault_block;
mod fault_store;
mod faults;
mod image;
mod reading;
mod removal;
mod source;
mod store;
mod target;
mod vault;
mod verify;
mod writer;

pub use fault_block::{FaultSource, FaultTarget};
pub use fault_store::FaultStore;
pub use faults::{Effect, FaultRates, Faults, Operation};
pub use source::MemorySource;
pub use store::MemoryStore;
pub use target::MemoryTarget;
