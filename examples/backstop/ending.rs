//! How a run ends: the exit code, and the sentence for what went wrong.

use std::io;

use backstop::{Error, ErrorKind};

/// What a run that did its work has to say by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Done,
    /// Restored, but for ranges that are damaged in the vault.
    RangesMissing,
    /// Protected, but for blocks that can't be read on the source.
    BlocksUnreadable,
    /// Verified, and some of it is damaged.
    Damaged,
    /// Verified, but for what the store could not give.
    NotAllSeen,
}

/// Why a run stopped.
#[derive(Debug)]
pub enum Stop {
    /// Something is wrong.
    Failed(Error),
    /// The same, and standard output tells it already.
    Reported(Error),
    /// Who read our output has gone, as `head` does: no reason to complain.
    OutputClosed,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Stop {
    /// An error of writing to standard output; nothing else gives plain ones.
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => return Self::OutputClosed,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            _ => ErrorKind::Unavailable,
        };
        let sentence = "the result could not be written to standard output";
        Self::Failed(Error::new(kind, sentence).with_source(error))
    }
}

/// How a command of this program ends.
pub type Ending = Result<Verdict, Stop>;

impl Verdict {
    /// The exit code, as `--help` lists them.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Damaged => 8,
            Self::RangesMissing => 9,
            Self::NotAllSeen => 11,
            Self::BlocksUnreadable => 15,
        }
    }
}

/// The exit code for an error, as `--help` lists them.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidInput => 3,
        ErrorKind::NotFound => 4,
        ErrorKind::WrongKey => 5,
        ErrorKind::Locked => 6,
        ErrorKind::Fenced => 7,
        ErrorKind::Corrupt => 8,
        ErrorKind::Full => 10,
        ErrorKind::Unavailable => 11,
        ErrorKind::Unsupported => 12,
        ErrorKind::AlreadyExists => 13,
        ErrorKind::Conflict => 14,
        ErrorKind::Unreadable => 15,
        ErrorKind::Forbidden => 16,
        ErrorKind::Cancelled => 130,
        // Internal errors, and kinds that were added since.
        _ => 70,
    }
}

/// The kind of an error as one word, for JSON.
pub fn kind_word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidInput => "invalid-input",
        ErrorKind::NotFound => "not-found",
        ErrorKind::WrongKey => "wrong-key",
        ErrorKind::Locked => "locked",
        ErrorKind::Fenced => "fenced",
        ErrorKind::Corrupt => "damaged",
        ErrorKind::Full => "no-space",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::AlreadyExists => "already-exists",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Unreadable => "unreadable",
        ErrorKind::Forbidden => "forbidden",
        ErrorKind::Cancelled => "interrupted",
        _ => "internal",
    }
}
