//! Turns the errors of object stores and SlateDB into Backstop's.

use std::sync::Arc;

use backstop_core::{Error, ErrorKind};
use object_store::Error as StoreError;
use slatedb::{CloseReason, ErrorKind as DbErrorKind};

use crate::seal::Seal;

type AnyError = dyn std::error::Error + 'static;

/// An error, what caused it, and so on.
fn causes(error: &AnyError) -> impl Iterator<Item = &AnyError> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether a cause is an I/O error of one of these kinds.
fn is_io(cause: &AnyError, kinds: [std::io::ErrorKind; 2]) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|io| kinds.contains(&io.kind()))
}

/// Whether a cause says that the disk or quota is full.
fn says_full(cause: &AnyError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    is_io(cause, [StorageFull, QuotaExceeded])
}

/// Whether a cause says that there is no right to write.
fn says_refused(cause: &AnyError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let store = cause
        .downcast_ref::<Arc<StoreError>>()
        .map(AsRef::as_ref)
        .or_else(|| cause.downcast_ref::<StoreError>());
    matches!(
        store,
        Some(StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
    ) || is_io(cause, [PermissionDenied, ReadOnlyFilesystem])
}

fn is_full(error: &AnyError) -> bool {
    causes(error).any(says_full)
}

/// Whether an error tells that nothing can be written: there is no space, or
/// no right to.
pub(crate) fn refuses_writes(error: &AnyError) -> bool {
    causes(error).any(|cause| says_full(cause) || says_refused(cause))
}

/// Whether an error tells that we have no right to what was asked for.
pub(crate) fn refuses_access(error: &AnyError) -> bool {
    causes(error).any(says_refused)
}

/// Whether a cause says that an object may not be deleted: nobody may, as it is
/// locked, or whoever asks may not.
fn says_kept(cause: &AnyError) -> bool {
    let store = cause.downcast_ref::<StoreError>();
    says_refused(cause)
        || matches!(
            store,
            // What stores answer for objects under a lock or a legal hold.
            Some(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. })
        )
        // S3 tells it for each object of an answer that is none of an error.
        || cause.to_string().contains("(code: AccessDenied)")
}

/// Whether an error of deleting an object tells that it stays where it is.
pub(crate) fn refuses_deletion(error: &AnyError) -> bool {
    causes(error).any(says_kept)
}

/// Whether an error tells that what was asked for is damaged or gone. That the
/// catalog is damaged tells nothing of it.
pub(crate) fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Corrupt && !is_of_catalog(error)
}

/// Whether an error is the catalog's own.
pub(crate) fn is_of_catalog(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<slatedb::Error>)
}

/// An object store's error about `object`.
pub(crate) fn of_store(object: &str, error: StoreError) -> Error {
    let (kind, sentence) = if is_full(&error) {
        (
            ErrorKind::Full,
            format!("no space is left to store object {object}"),
        )
    } else {
        match &error {
            StoreError::NotFound { .. } => (
                ErrorKind::NotFound,
                format!("object {object} is missing from the vault"),
            ),
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => (
                ErrorKind::AlreadyExists,
                format!("object {object} is there already"),
            ),
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => (
                ErrorKind::InvalidInput,
                format!("the store refuses access to object {object}; check its credentials"),
            ),
            _ => (
                ErrorKind::Unavailable,
                format!("the store failed on object {object}"),
            ),
        }
    };
    Error::new(kind, sentence).with_source(error)
}

/// SlateDB's error while `doing` something.
pub(crate) fn of_catalog(doing: &str, error: slatedb::Error) -> Error {
    let (kind, sentence) = if is_full(&error) {
        (
            ErrorKind::Full,
            format!("{doing}: no space is left for the vault's catalog"),
        )
    } else {
        match error.kind() {
            DbErrorKind::Closed(CloseReason::Fenced) => (
                ErrorKind::Fenced,
                format!(
                    "{doing}: another owner has taken over the vault; nothing more is written from here"
                ),
            ),
            DbErrorKind::Data => (
                ErrorKind::Corrupt,
                format!("{doing}: the vault's catalog is damaged"),
            ),
            DbErrorKind::Closed(_) => (
                ErrorKind::Unavailable,
                format!("{doing}: the vault's catalog is closed; open the vault again"),
            ),
            _ => (
                ErrorKind::Unavailable,
                format!("{doing}: the vault's catalog failed"),
            ),
        }
    };
    Error::new(kind, sentence).with_source(error)
}

/// [`of_catalog`]; where a block could not be opened, why, which SlateDB does
/// not hand on.
pub(crate) fn of_sealed_catalog(seal: &Seal, doing: &str, error: slatedb::Error) -> Error {
    let noted = seal.take_noted();
    match noted.filter(|_| error.kind() == DbErrorKind::Data) {
        Some((kind, text)) if kind != ErrorKind::Corrupt => {
            let text = format!("{doing}: a block of the vault's catalog: {text}");
            Error::new(kind, text).with_source(error)
        }
        _ => of_catalog(doing, error),
    }
}

/// An I/O error about a file.
pub(crate) fn of_io(object: &std::path::Path, error: std::io::Error) -> Error {
    let name = object.display();
    let (kind, sentence) = match error.kind() {
        std::io::ErrorKind::NotFound => (ErrorKind::NotFound, format!("{name} does not exist")),
        std::io::ErrorKind::AlreadyExists => {
            (ErrorKind::AlreadyExists, format!("{name} exists already"))
        }
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Full, format!("no space is left for {name}"))
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::InvalidInput,
            format!("{name} may not be accessed"),
        ),
        _ => (ErrorKind::Unavailable, format!("{name} can't be used")),
    };
    Error::new(kind, sentence).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_the_catalog_is_not_that_of_what_it_was_asked_about() {
        let catalogs = of_catalog("reading", slatedb::Error::data("a block".into()));
        assert_eq!(catalogs.kind(), ErrorKind::Corrupt);
        assert!(!is_damage(&catalogs));
        assert!(!is_damage(&catalogs.within("region 3")));
        let frames = Error::corrupt("a frame").with_source(std::io::Error::other("bad sector"));
        assert!(is_damage(&frames));
        assert!(!is_damage(&Error::unavailable("a store")));
    }
}
