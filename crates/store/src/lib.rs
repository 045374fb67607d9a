//! `DedupStore`: a deduplicating, sealed vault of recovery points on any
//! object store.
//!
//! A vault is one prefix of an object store: packs of sealed chunks and map
//! nodes, written once, and a catalog in SlateDB that says where they stand
//! and which recovery points there are. One process owns it at a time; any
//! number may read beside the owner. The stored format is specified byte by
//! byte in `docs/format.md`.
//!
//! ```
//! use backstop_core::RecoveryStore;
//! use backstop_store::DedupStore;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let vault = DedupStore::create("memory://").await?;
//! assert!(vault.replicas().await?.is_empty());
//! vault.close().await?;
//! # Ok::<(), backstop_core::Error>(()) }).unwrap();
//! ```
//!
//! # Metrics
//!
//! Counters of the `metrics` facade, for whatever recorder the process has:
//! `backstop_store_packs` and `backstop_store_pack_bytes` (made durable),
//! `backstop_store_frames` (chunks, map nodes and records in them),
//! `backstop_store_reads` and `backstop_store_read_bytes` (of packs),
//! `backstop_store_bad_frames` (found damaged or gone),
//! `backstop_store_points` (committed). `backstop_store_requests` and
//! `backstop_store_request_bytes` count what the object store is asked, with the
//! labels `operation`, `object` and `request`; [`DedupStore::usage`] gives the same.

mod access;
mod approvals;
mod builder;
mod catalog;
mod catalog_admin;
mod catalog_cache;
mod catalog_clock;
mod catalog_settings;
mod changes;
mod check;
mod codec;
mod collect;
mod commit;
mod dedup_store;
mod digest_map;
mod failure;
mod fetch;
mod fold;
mod folding;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod image;
mod keys;
mod lease;
mod ledger;
mod logs;
mod maintenance;
mod manifest;
mod map;
#[cfg(test)]
mod newer_formats;
mod nodes;
mod object_lock;
mod operators;
mod orphans;
mod owner;
mod pack;
mod place;
mod prices;
mod readers;
mod rebuild;
mod record;
mod removal;
mod replicate;
mod seal;
mod sealed_blocks;
mod session;
mod settings;
mod start;
#[cfg(test)]
mod timer_clock;
mod unlocked;
mod usage;
mod vault;
mod verify;

pub use approvals::{ApprovalRequest, Approved, GuardedAction};
pub use builder::DedupStoreBuilder;
pub use dedup_store::DedupStore;
pub use keys::credential::Credential;
pub use keys::provider::KeyProvider;
pub use keys::recovery::RecoveryKey;
pub use keys::ring::VaultKeyId;
pub use keys::{KeyRingInfo, KeySlotInfo, KeySlotKind, RetireReport, VaultKeyInfo};
#[cfg(feature = "aws")]
pub use object_lock::s3::S3ObjectLock;
pub use object_lock::{LockState, LockedUntil, ObjectLock};
pub use operators::{Approval, Operator, OperatorKey, OperatorPublicKey, Operators};
pub use owner::Takeover;
pub use prices::{Amount, Gigabyte, Price, PriceList};
pub use settings::{MemoryBudget, VaultSettings};
pub use usage::months::MonthUsage;
pub use usage::stored::Stored;
pub use usage::{ObjectKind, Operation, Requests, StoreUsage, UsageByOperation};
