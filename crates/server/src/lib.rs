//! The protection server of Backstop: it keeps an up-to-date replica of every
//! protected data source in a vault, makes recovery points of it, and brings
//! any of them back.
//!
//! A [`ProtectionServer`] stands over one vault: anything that implements
//! [`RecoveryStore`](backstop_core::RecoveryStore) and
//! [`Maintenance`](backstop_core::Maintenance). Agents talk to its
//! [`service`](ProtectionServer::service), in process or through a transport;
//! operators to the server itself. It knows no agent, no transport and no
//! store by name, starts no tasks and no threads, and prints nothing.
//!
//! ```
//! use backstop_core::memory::MemoryStore;
//! use backstop_core::{RetentionPolicy, SourceName};
//! use backstop_server::ProtectionServer;
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let server = ProtectionServer::builder().with_vault(MemoryStore::new()).build().await?;
//! let service = server.service(); // give it to an agent or a transport
//! for replica in server.sources().await? {
//!     println!("{}: {}", replica.source, replica.state);
//! }
//! # drop(service);
//! # Ok::<(), backstop_core::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Metrics
//!
//! Counters of the `metrics` facade, for whatever recorder the process has:
//! `backstop_server_synchronizations` (begun), `backstop_server_restored_bytes`,
//! `backstop_server_missing_bytes` (that restores could not bring back),
//! `backstop_server_doubts` (replicas that came into doubt).
//!
//! # What it answers for
//!
//! - *How changes are found.* An express full only where the agent's changes
//!   are since the replica's head, the replica is consistent and its images
//!   have the lengths they had; otherwise a consistency check, with a sentence
//!   that says why ([`Plan`](backstop_core::Plan)).
//! - *Commits.* All synchronizations of a commit become points together or
//!   none does. A point's identity follows from its source and its
//!   synchronization, so a commit whose answer was lost is repeated safely.
//! - *Doubt.* What the server learns against a replica becomes its state,
//!   [`Inconsistent`](backstop_core::ReplicaState::Inconsistent), which stops
//!   expiry until a consistency check was committed: an agent's sample that
//!   differs, an operator's wish, damage found by whatever is read of the
//!   replica's head (but a vault that is open for reading only can't note it).
//! - *Agents that went away.* A synchronization that nobody calls for longer
//!   than [`idle_max`](ServerSettings::idle_max) is suspended: its memory is
//!   given back, what it did stays, and its id continues it.
//! - *Removal.* Only [`expire`](ProtectionServer::expire) removes points, by a
//!   policy and the server's clock; agents never do. What the vault protects by
//!   its own rules stays, whatever the policy.
//! - *Recovery around damage.* A bad chunk costs its own range, which is
//!   named; everything else comes back.

mod access;
mod builder;
mod care;
mod checks;
mod commit;
mod doubt;
mod extents;
mod identity;
mod idle;
mod missing;
mod plan;
mod protection;
mod recover;
mod recovery;
mod restore;
mod retention;
mod server;
mod service;
mod session;
mod settings;
mod sources;
mod status;
mod watched;

pub use builder::ProtectionServerBuilder;
pub use missing::{MissingRange, Unlisted};
pub use restore::{RestoreOptions, RestoreReport, restore_image};
pub use retention::RetentionReport;
pub use server::ProtectionServer;
pub use settings::ServerSettings;
