//! The messages, byte by byte as docs/wire.md specifies them.
//!
//! Each call is one HTTP/2 request. What is rare is JSON ([`control`],
//! [`points`], [`access`]), so that minor versions can add to it; what comes for every region
//! is binary ([`region`], [`image`]).

pub(crate) mod access;
pub(crate) mod control;
pub(crate) mod image;
pub(crate) mod points;
mod reader;
pub(crate) mod region;

use reader::Reader;

/// The major version: the first element of every path. Another one is refused.
pub(crate) const VERSION: u32 = 0;

/// The longest message, in bytes: one region's data, raw, and as much again for
/// what is told of it; documents of a commit.
pub(crate) const MESSAGE_LENGTH_MAX: u64 = 16 << 20;

/// The calls of a protection service and of a recovery service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Replica,
    Begin,
    Commit,
    Needed,
    Write,
    Slices,
    BlockDigests,
    Progress,
    Abort,
    Status,
    Sources,
    Points,
    Point,
    Open,
    Extents,
    Read,
    Close,
    Expire,
    Grant,
    Grants,
    Withdraw,
    Audit,
}

impl Call {
    pub(crate) const ALL: [Self; 22] = [
        Self::Replica,
        Self::Begin,
        Self::Commit,
        Self::Needed,
        Self::Write,
        Self::Slices,
        Self::BlockDigests,
        Self::Progress,
        Self::Abort,
        Self::Status,
        Self::Sources,
        Self::Points,
        Self::Point,
        Self::Open,
        Self::Extents,
        Self::Read,
        Self::Close,
        Self::Expire,
        Self::Grant,
        Self::Grants,
        Self::Withdraw,
        Self::Audit,
    ];

    /// The last element of its path.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::Begin => "begin",
            Self::Commit => "commit",
            Self::Needed => "needed",
            Self::Write => "write",
            Self::Slices => "slices",
            Self::BlockDigests => "block-digests",
            Self::Progress => "progress",
            Self::Abort => "abort",
            Self::Status => "status",
            Self::Sources => "sources",
            Self::Points => "points",
            Self::Point => "point",
            Self::Open => "open",
            Self::Extents => "extents",
            Self::Read => "read",
            Self::Close => "close",
            Self::Expire => "expire",
            Self::Grant => "grant",
            Self::Grants => "grants",
            Self::Withdraw => "withdraw",
            Self::Audit => "audit",
        }
    }

    /// The path of a request.
    pub(crate) fn path(self) -> String {
        format!("/{VERSION}/{}", self.name())
    }
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Call(Call),
    /// The path of another major version, or none.
    OtherVersion,
    /// Of this version, or of a later minor one.
    Unknown,
}

impl Asked {
    pub(crate) fn of(path: &str) -> Self {
        let mut parts = path.strip_prefix('/').unwrap_or_default().splitn(2, '/');
        let (version, name) = (parts.next(), parts.next());
        if version.and_then(|version| version.parse().ok()) != Some(VERSION) {
            return Self::OtherVersion;
        }
        let call = Call::ALL.into_iter().find(|call| Some(call.name()) == name);
        call.map_or(Self::Unknown, Self::Call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_version_and_call() {
        for call in Call::ALL {
            assert_eq!(Asked::of(&call.path()), Asked::Call(call));
        }
        for path in [
            "",
            "/",
            "begin",
            "/1/begin",
            "/begin",
            "/x/begin",
            "/-0/begin",
        ] {
            assert_eq!(Asked::of(path), Asked::OtherVersion, "{path}");
        }
        for path in ["/0", "/0/", "/0/begin/", "/0/Begin", "/0/later"] {
            assert_eq!(Asked::of(path), Asked::Unknown, "{path}");
        }
    }
}
