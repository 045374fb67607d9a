//! Backstop is an embeddable protection server: a library that backup
//! products link.
//!
//! It keeps an up-to-date **replica** of every protected **data source**,
//! makes **recovery points** of it for the cost of what changed, and brings
//! any of them back, whole or in part. Sources, stores and transports are
//! seams: what is protected, where it is kept and how the two talk is yours to
//! choose.
//!
//! It is *not* a finished backup product: no user interface, no scheduler, no
//! service to install. It does not take snapshots by itself: who calls it
//! hands over a source that stands still, and says what changed if that is
//! known. It installs no signal handler, no subscriber and no global state; it
//! runs on the caller's tokio runtime.
//!
//! # First program
//!
//! ```
//! use backstop::*;
//! # use std::error::Error as StdError;
//! # fn main() -> Result<(), Box<dyn StdError>> {
//! # tokio::runtime::Runtime::new()?.block_on(protect())?;
//! # Ok(())
//! # }
//! # async fn protect() -> Result<(), Box<dyn StdError>> {
//! # let folder = tempfile::tempdir()?;
//! # std::env::set_current_dir(folder.path())?;
//! # std::fs::write("vm-snapshot.img", vec![1; 3 << 20])?;
//! # let mut next = vec![1; 3 << 20];
//! # next[1 << 20..][..4096].fill(2);
//! # std::fs::write("vm-next-snapshot.img", next)?;
//! # std::fs::write("dirty.txt", "1048576 4096")?;
//! let vault = DedupStore::create("vault").await?;                           // or `open`
//! let server = ProtectionServer::builder().with_vault(vault.clone()).build().await?;
//! let agent = Agent::new(server.service());
//!
//! let snapshot = FileSource::open("vm-snapshot.img").await?;
//! let first = agent.protect("vm", &snapshot, Changes::Unknown).await?;      // initial
//!
//! let next = FileSource::open("vm-next-snapshot.img").await?;
//! let dirty = read_extents_file("dirty.txt").await?;
//! let changes = Changes::Since { base: first.id, extents: dirty };
//! let second = agent.protect("vm", &next, changes).await?;                  // express full
//!
//! let image = server.open(second.id).await?;                                // a BlockSource
//! let bytes = image.read(ByteOffset(1 << 20), ByteCount(4096)).await?;
//! let restored = server.restore(first.id, FileTarget::create("back.img").await?).await?;
//! vault.close().await?;
//! # assert_eq!(bytes, vec![2; 4096]);
//! # assert_eq!(restored.bytes, ByteCount(3 << 20));
//! # assert!(std::fs::read("back.img")? == vec![1; 3 << 20]);
//! # assert_eq!(second.counts.bytes_changed, ByteCount(4096));
//! # Ok(())
//! # }
//! ```
//!
//! The same agent code runs over a network by giving `Agent::new` a
//! transport's client instead of `server.service()`.
//!
//! # Main types
//!
//! | type | what it is |
//! |---|---|
//! | `Agent` | runs on the production server: reads sources and sends what is needed |
//! | `ProtectionServer` | stands over a vault: replicas, recovery points, retention, recovery |
//! | `DedupStore` | the vault: deduplicated, compressed, sealed, on any object store |
//! | `TcpServer`, `TcpClient` | the server's faces over TCP and TLS |
//! | `Roster` | who was enrolled as agent or operator, and what is taken back |
//! | `FileSource`, `FileTarget` | disk images and block devices, to protect and to restore to |
//! | [`RecoveryPoint`] | an immutable state of a replica, and what it cost |
//! | [`RetentionPolicy`] | which points to keep |
//! | [`BlockSource`], [`BlockTarget`], [`ProtectionService`], [`RecoveryService`], [`RecoveryStore`] | the seams |
//! | [`Error`] | one sentence that names the object, grouped by what to do |
//!
//! # Features
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `agent` | yes | `Agent` and its requests |
//! | `server` | yes | `ProtectionServer` |
//! | `store` | yes | `DedupStore` on local files and in memory |
//! | `source-file` | yes | `FileSource`, `FileTarget`, `FileDraft` |
//! | `source-nbd` | yes | `NbdServer`, which gives images to what speaks NBD; `NbdSource`, which reads them from it |
//! | `tcp` | yes | `TcpClient` and `TcpServer`: agents and server on different machines, over TLS |
//! | `local-time` | yes | `SystemLocalTime`: limits of bandwidth by the host's time zone |
//! | `enroll` | yes | `Roster`, `JoinToken` and `join`: an authority of the server's own, and who may take part |
//! | `aws`, `azure`, `gcp` | no | vaults on these object stores |
//! | `conformance` | no | the suites that hold an implementation of a seam to its contract |
//! | `memory` | no | in-memory references of the seams, and wrappers that inject faults |
//!
//! Without any feature there is the vocabulary, the seams and the pure logic.
//!
//! The repository's `examples/backstop` is a complete command line over this
//! library, `docs/implementing.md` a guide for who writes a source, a target
//! or a store.

#[cfg(feature = "agent")]
pub use backstop_agent::{Agent, AgentSettings, Changes, MOST_SAMPLE_SLICES, Request};
#[doc(inline)]
pub use backstop_core::*;
#[cfg(feature = "server")]
pub use backstop_server::{
    MissingRange, ProtectionServer, ProtectionServerBuilder, RestoreOptions, RestoreReport,
    RetentionReport, ServerSettings, Unlisted, restore_image,
};
#[cfg(feature = "source-file")]
pub use backstop_source_file::{
    FileDraft, FileSource, FileTarget, check_extents, read_extents_file,
};
#[cfg(feature = "source-nbd")]
pub use backstop_source_nbd::{
    NbdClientLimits, NbdEndpoint, NbdExport, NbdServer, NbdServerLimits, NbdSource,
};
#[cfg(feature = "store")]
pub use backstop_store::{
    Amount, Approval, ApprovalRequest, Approved, Credential, DedupStore, DedupStoreBuilder,
    Gigabyte, GuardedAction, KeyProvider, KeyRingInfo, KeySlotInfo, KeySlotKind, LockState,
    LockedUntil, MemoryBudget, MonthUsage, ObjectKind, ObjectLock, Operation, Operator,
    OperatorKey, OperatorPublicKey, Operators, Price, PriceList, RecoveryKey, Requests,
    RetireReport, StoreUsage, Stored, Takeover, UsageByOperation, VaultKeyId, VaultKeyInfo,
    VaultSettings,
};
#[cfg(feature = "tcp")]
pub use backstop_transport_tcp::{
    BandwidthRule, BandwidthSchedule, ConnectionStatus, FixedOffset, Gate, LocalTime, OwnSources,
    Peer, SynchronizationStatus, TcpClient, TcpClientBuilder, TcpServer, TcpServerBuilder,
    TcpServerHandle, TcpServerSettings, TlsAuthority, TlsIdentity, TransportStatus, WaitingStatus,
    Weekday,
};
#[cfg(feature = "enroll")]
pub use backstop_transport_tcp::{
    CertificateAuthority, Enrolled, Enrolment, Issued, IssuedCertificate, JoinToken, Joined, Joins,
    Roster, join,
};

#[cfg(feature = "local-time")]
pub use backstop_transport_tcp::SystemLocalTime;

#[cfg(feature = "aws")]
pub use backstop_store::S3ObjectLock;

/// The programs of the guide are compiled and run, that of the README, which
/// needs images to work on, is compiled; its like above is run.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../docs/implementing.md")]
    struct Implementing;
    #[doc = include_str!("../README.md")]
    struct Readme;
}
