//! Where an NBD server is.

use std::fmt;
use std::path::PathBuf;

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NbdEndpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host and port, as in `127.0.0.1:10809`.
    Tcp(String),
}

impl fmt::Display for NbdEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(host) => host.fmt(f),
        }
    }
}
