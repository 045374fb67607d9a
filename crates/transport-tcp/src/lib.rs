//! The protection server's face to agents, over TCP and TLS 1.3.
//!
//! [`TcpClient`] is a [`ProtectionService`](backstop_core::ProtectionService), so
//! that an agent can't tell whether its server is in the same process. [`TcpServer`]
//! has any such service answer what agents ask; what arrives is checked before the
//! service sees it, and who asks is known by its certificate and confined by a
//! [`Gate`]. Calls share one connection (HTTP/2), each a stream of its own, so that
//! what is short waits for nothing that is long.
//!
//! docs/wire.md specifies what goes over the wire.

mod body;
mod client;
mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod heartbeat;
mod limits;
mod server;
mod status;
mod tls;
mod wire;

pub use client::TcpClient;
pub use gate::{Gate, OwnSources};
pub use server::{TcpServer, TcpServerBuilder, TcpServerHandle, TcpServerSettings};
pub use status::{ConnectionStatus, SynchronizationStatus, TransportStatus, WaitingStatus};
pub use tls::{Peer, Role, TlsAuthority, TlsIdentity};
