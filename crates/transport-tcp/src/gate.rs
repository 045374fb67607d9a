//! Who may do what.

use std::fmt;
use std::num::NonZeroU32;

use backstop_core::{Error, ErrorKind, Result, SourceName};

use crate::tls::{Peer, Role};

/// Decides what a peer may do. Asked at every call, so that what it takes back is
/// taken back at once.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Whether a peer may be talked to at all. If it may not when it connects, the
    /// connection is closed without a word; when it no longer may, its next call is
    /// told the sentence, and the connection ends with it.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) if not.
    fn may_connect(&self, peer: &Peer) -> Result<()>;

    /// Whether a peer may protect this source: add to its replica, and learn of
    /// its own replica what that takes.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) if not.
    fn may_protect(&self, peer: &Peer, source: &SourceName) -> Result<()>;

    /// How much of the server a peer gets beside others that want it too: one with
    /// twice the weight has its messages taken in twice as fast.
    fn weight(&self, _: &Peer) -> NonZeroU32 {
        NonZeroU32::MIN
    }
}

/// Each agent may protect the source that has its name, and those whose names
/// begin with its name and a slash: `web1`, `web1/data`.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnSources;

impl Gate for OwnSources {
    fn may_connect(&self, _: &Peer) -> Result<()> {
        Ok(())
    }

    fn may_protect(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        let rest = source.as_str().strip_prefix(peer.name.as_str());
        let is_own = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if peer.role == Role::Agent && is_own {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Forbidden,
            format!("{peer} may not protect {source}: that is no source of its own"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ChunkDigest;

    use super::*;

    #[test]
    fn an_agent_has_what_bears_its_name() {
        let peer = |role| Peer {
            name: "web1".into(),
            role,
            certificate: ChunkDigest::of(b""),
        };
        let may = |role, source: &str| {
            OwnSources.may_protect(&peer(role), &SourceName::new(source).unwrap())
        };
        for source in ["web1", "web1/", "web1/data"] {
            assert!(may(Role::Agent, source).is_ok(), "{source}");
            assert!(may(Role::Operator, source).is_err(), "{source}");
        }
        for source in ["web10", "web", "web1.data", "WEB1", "x/web1", "web2/web1"] {
            let error = may(Role::Agent, source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{source}");
        }
    }
}
