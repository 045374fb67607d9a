//! The error numbers of the protocol, and what they mean here.

use backstop_core::{Error, ErrorKind};

/// An error number as it is sent. The values are the protocol's own, the same
/// on every platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) u32);

impl Errno {
    pub(crate) const EPERM: Self = Self(1);
    pub(crate) const EIO: Self = Self(5);
    pub(crate) const ENOMEM: Self = Self(12);
    pub(crate) const EINVAL: Self = Self(22);
    pub(crate) const ENOSPC: Self = Self(28);
    pub(crate) const EOVERFLOW: Self = Self(75);
    pub(crate) const ENOTSUP: Self = Self(95);
    pub(crate) const ESHUTDOWN: Self = Self(108);

    /// What a peer is told of an error.
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::EINVAL,
            ErrorKind::Full => Self::ENOSPC,
            ErrorKind::Unsupported => Self::ENOTSUP,
            ErrorKind::Cancelled => Self::ESHUTDOWN,
            _ => Self::EIO,
        }
    }

    /// What a peer's error means to a caller.
    pub(crate) fn kind(self) -> ErrorKind {
        match self {
            // A range that was checked before it was asked for, so the peer
            // and we don't agree on what the export is.
            Self::EPERM | Self::EINVAL | Self::EOVERFLOW => ErrorKind::InvalidInput,
            Self::ENOSPC => ErrorKind::Full,
            Self::ENOTSUP => ErrorKind::Unsupported,
            Self::ENOMEM | Self::ESHUTDOWN => ErrorKind::Unavailable,
            _ => ErrorKind::Unreadable,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::EPERM => "not permitted",
            Self::EIO => "input/output error",
            Self::ENOMEM => "out of memory",
            Self::EINVAL => "invalid request",
            Self::ENOSPC => "no space is left",
            Self::EOVERFLOW => "request too large",
            Self::ENOTSUP => "not supported",
            Self::ESHUTDOWN => "the server is stopping",
            _ => "unknown error",
        }
    }

    /// The error for a caller; `what` names what was asked for, `message` is
    /// what the peer said.
    pub(crate) fn error(self, what: impl std::fmt::Display, message: &str) -> Error {
        let said = if message.is_empty() {
            self.words()
        } else {
            message
        };
        Error::new(
            self.kind(),
            format!("{what}: the NBD server answers error {}: {said}", self.0),
        )
    }
}
