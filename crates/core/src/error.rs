//! The error of every seam: what the caller should do, which object it is
//! about, and what caused it.

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible operation of Backstop.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input is wrong: fix it. Nothing was changed.
    InvalidInput,
    /// The named object does not exist.
    NotFound,
    /// The named object exists already and was not overwritten.
    AlreadyExists,
    /// The caller may not do this: ask who may, or have it granted.
    Forbidden,
    /// The key or passphrase opens nothing here.
    WrongKey,
    /// Written by a newer or other version: use that version.
    Unsupported,
    /// Blocks of a source can't be read, or were unreadable when the recovery
    /// point was made.
    Unreadable,
    /// Stored data is damaged: repair it from the source or another vault.
    Corrupt,
    /// A named chunk is not known to the synchronization: send it.
    ChunkMissing,
    /// What the caller assumed is no longer so (another head, a finished
    /// synchronization): look again, then decide.
    Conflict,
    /// Another process owns the vault: wait, or take over.
    Locked,
    /// Another owner has taken the vault over: give up, and trust nothing
    /// that was not reported.
    Fenced,
    /// No space is left: free some, then repeat.
    Full,
    /// A store or a connection did not answer properly: repeat later.
    Unavailable,
    /// The operation was cancelled; it can be repeated.
    Cancelled,
    /// A defect of Backstop itself.
    Internal,
}

/// An error: a sentence that names the object, grouped by what to do.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $( $(#[$doc])*
        pub fn $name(context: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, context)
        } )*
    };
}

impl Error {
    /// An error of this kind; `context` is a sentence naming the object.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    constructors! {
        /// An [`ErrorKind::InvalidInput`].
        invalid_input => InvalidInput;
        /// An [`ErrorKind::NotFound`].
        not_found => NotFound;
        /// An [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists;
        /// An [`ErrorKind::Corrupt`].
        corrupt => Corrupt;
        /// An [`ErrorKind::Conflict`].
        conflict => Conflict;
        /// An [`ErrorKind::Unavailable`].
        unavailable => Unavailable;
        /// An [`ErrorKind::Internal`].
        internal => Internal;
    }

    /// The same error with its cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, its sentence led in by what was being done.
    pub fn within(mut self, doing: impl fmt::Display) -> Self {
        self.context = format!("{doing}: {}", self.context);
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence, without the causes.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Whether repeating the same call later may succeed without a change.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Unavailable | ErrorKind::Locked | ErrorKind::Full
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(error) = cause {
            let text = error.to_string();
            write!(f, ": {text}")?;
            // Many libraries print their own causes; don't say them twice.
            cause = error
                .source()
                .filter(|next| !text.contains(&next.to_string()));
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_names_object_and_causes_once() {
        let disk = std::io::Error::other("disk on fire");
        let error = Error::unavailable("pack 7 could not be read").with_source(disk);
        let error = error.within("restoring point 3");
        assert_eq!(
            error.to_string(),
            "restoring point 3: pack 7 could not be read: disk on fire"
        );
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_transient());
    }
}
