//! Who may do what.

use std::fmt;
use std::num::NonZeroU32;

use backstop_core::{Error, ErrorKind, Result, Role, SourceName};

use crate::tls::Peer;

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

    /// Whether a peer may bring this source back: learn of its replica and its
    /// recovery points, and read them. An agent may also by a grant, as
    /// [`AccessService`](backstop_core::AccessService) has them. Told to a peer only where it has named the
    /// source itself; a point of a source that it may not recover is as good as
    /// unknown.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) if not.
    fn may_recover(&self, peer: &Peer, source: &SourceName) -> Result<()>;

    /// Whether a peer may look after the vault: let recovery points expire, grant
    /// agents what is not theirs, and see who did what.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden) if not.
    fn may_operate(&self, peer: &Peer) -> Result<()>;

    /// How much of the server a peer gets beside others that want it too: one with
    /// twice the weight has its messages taken in twice as fast.
    fn weight(&self, _: &Peer) -> NonZeroU32 {
        NonZeroU32::MIN
    }
}

/// Each agent may protect and recover the source that has its name, and those
/// whose names begin with its name and a slash: `web1`, `web1/data`. Operators may
/// recover every source and look after the vault; they protect nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnSources;

impl OwnSources {
    fn is_own(peer: &Peer, source: &SourceName) -> bool {
        let rest = source.as_str().strip_prefix(peer.name.as_str());
        let bears_its_name = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        peer.role == Role::Agent && bears_its_name
    }
}

fn forbidden(sentence: String) -> Error {
    Error::new(ErrorKind::Forbidden, sentence)
}

impl Gate for OwnSources {
    fn may_connect(&self, _: &Peer) -> Result<()> {
        Ok(())
    }

    fn may_protect(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        if Self::is_own(peer, source) {
            return Ok(());
        }
        Err(forbidden(format!(
            "{peer} may not protect {source}: that is no source of its own"
        )))
    }

    fn may_recover(&self, peer: &Peer, source: &SourceName) -> Result<()> {
        if peer.role == Role::Operator || Self::is_own(peer, source) {
            return Ok(());
        }
        Err(forbidden(format!(
            "{peer} may not recover {source}: that is no source of its own"
        )))
    }

    fn may_operate(&self, peer: &Peer) -> Result<()> {
        match peer.role {
            Role::Operator => Ok(()),
            Role::Agent => Err(forbidden(format!(
                "{peer} may not look after the vault: it is no operator"
            ))),
        }
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
        let may_recover = |role, source: &str| {
            OwnSources.may_recover(&peer(role), &SourceName::new(source).unwrap())
        };
        for source in ["web1", "web1/", "web1/data"] {
            assert!(may(Role::Agent, source).is_ok(), "{source}");
            assert!(may(Role::Operator, source).is_err(), "{source}");
            assert!(may_recover(Role::Agent, source).is_ok(), "{source}");
        }
        for source in ["web10", "web", "web1.data", "WEB1", "x/web1", "web2/web1"] {
            let error = may(Role::Agent, source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{source}");
            let error = may_recover(Role::Agent, source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{source}");
            assert!(may_recover(Role::Operator, source).is_ok(), "{source}");
        }
        assert!(OwnSources.may_operate(&peer(Role::Operator)).is_ok());
        let error = OwnSources.may_operate(&peer(Role::Agent)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
    }
}
