//! The protection server's faces to agents and to who brings data back, over TCP
//! and TLS 1.3.
//!
//! [`TcpClient`] is a [`ProtectionService`](backstop_core::ProtectionService), so
//! that an agent can't tell whether its server is in the same process. [`TcpServer`]
//! has any such service answer what agents ask; what arrives is checked before the
//! service sees it, and who asks is known by its certificate and confined by a
//! [`Gate`]. With [`TcpServerBuilder::with_recovery`] it gives recovery points back
//! too: the client is also a [`RecoveryService`](backstop_core::RecoveryService),
//! whose images are read over the wire. Calls share one connection (HTTP/2), each a stream of its own, so that
//! what is short waits for nothing that is long.
//!
//! With the feature `enroll`, a [`Roster`] keeps an authority of the server's own
//! and who was enrolled; a machine [`join`]s with a token that works once.
//!
//! docs/wire.md specifies what goes over the wire.
//!
//! # A narrow line
//!
//! [`TcpClientBuilder::with_bandwidth`] holds what a client sends to a rate, which
//! a [`BandwidthSchedule`] tells by the time of the week where the agent is
//! ([`LocalTime`]; the feature `local-time` brings the host's own zone). Only the
//! chunks of a write wait, one message after the other in the order of asking, so
//! that short calls go at once; but all messages are counted, up to what TLS and
//! TCP add. A message waits until the rate has made up for the whole of it, less
//! what comes in 100 ms, and goes then in one piece, since a server takes memory
//! for a message that has begun. Another rate takes effect within a second, also
//! for who waits. Answers are not held.
//!
//! ```
//! # use std::sync::Arc;
//! use backstop_transport_tcp::{BandwidthSchedule, FixedOffset, TcpClient};
//! # use backstop_transport_tcp::{TlsAuthority, TlsIdentity};
//! # fn example(identity: &TlsIdentity, authority: &TlsAuthority) -> backstop_core::Result<()> {
//! let schedule: BandwidthSchedule = "default 20M; mon-fri 08:00-18:00 2M".parse()?;
//! let client = TcpClient::builder(vec!["backup:7420".into()], identity, authority)
//!     .with_bandwidth(schedule, Arc::new(FixedOffset(3600)))
//!     .build()?;
//! # Ok(()) }
//! ```
//!
//! # A line that breaks
//!
//! A connection is made anew when it is next needed. If that fails, it is tried
//! again only after a [`Backoff`](backstop_core::Backoff), so that the agents of a
//! server that was started again come back spread; an agent with
//! `AgentSettings::patience` goes on by itself then.

mod bandwidth;
mod body;
mod client;
#[cfg(feature = "enroll")]
mod enroll;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod heartbeat;
mod limits;
mod server;
mod status;
mod timer;
mod tls;
mod wire;

pub use backstop_core::Role;
#[cfg(feature = "local-time")]
pub use bandwidth::SystemLocalTime;
pub use bandwidth::{BandwidthRule, BandwidthSchedule, FixedOffset, LocalTime, Weekday};
pub use client::{TcpClient, TcpClientBuilder};
#[cfg(feature = "enroll")]
pub use enroll::{
    CertificateAuthority, Enrolled, Enrolment, Issued, IssuedCertificate, JoinToken, Joined, Joins,
    Roster, join,
};
pub use gate::{Gate, OwnSources};
pub use server::{TcpServer, TcpServerBuilder, TcpServerHandle, TcpServerSettings};
pub use status::{ConnectionStatus, SynchronizationStatus, TransportStatus, WaitingStatus};
pub use tls::{Peer, TlsAuthority, TlsIdentity};
