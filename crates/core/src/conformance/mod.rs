//! Suites that check an implementation of a seam against its contract.
//!
//! Each suite is one async function. It makes what it needs through the
//! closure that it is given and panics, naming the broken clause, at the first
//! surprise: call it from a test.
//!
//! ```
//! # #[cfg(feature = "memory")] {
//! use std::sync::Arc;
//! use backstop_core::conformance::{self, StoreUnderTest};
//! use backstop_core::memory::MemoryStore;
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! conformance::recovery_store_by_seed(
//!     async || Arc::new(MemoryStore::new()) as Arc<dyn StoreUnderTest>,
//!     7,
//! ).await;
//! # });
//! # }
//! ```

mod block_source;
mod block_target;
mod claim;
mod model;
mod protection_service;
mod recovery_store;

pub use block_source::block_source;
pub use block_target::block_target;
pub use protection_service::protection_service;
pub use recovery_store::{
    StoreUnderTest, recovery_store, recovery_store_ages, recovery_store_by_seed,
    recovery_store_heals,
};
