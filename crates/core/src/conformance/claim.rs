//! How a suite fails: a panic whose message names the broken clause.

use crate::{ErrorKind, Result};

/// The clause holds if the condition does.
#[track_caller]
pub(super) fn holds(condition: bool, clause: &str) {
    assert!(condition, "broken contract: {clause}");
}

/// The clause holds if both are equal.
#[track_caller]
pub(super) fn equal<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, clause: &str) {
    assert!(
        found == expected,
        "broken contract: {clause}: found {found:?}, expected {expected:?}"
    );
}

/// The clause holds if the call succeeded.
#[track_caller]
pub(super) fn succeeds<T>(result: Result<T>, clause: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("broken contract: {clause}: {:?}: {error}", error.kind()),
    }
}

/// The clause holds if the call failed so.
#[track_caller]
pub(super) fn fails<T>(result: Result<T>, kind: ErrorKind, clause: &str) {
    match result {
        Ok(_) => panic!("broken contract: {clause}: the call succeeded"),
        Err(error) => assert!(
            error.kind() == kind,
            "broken contract: {clause}: expected {kind:?}, found {:?}: {error}",
            error.kind()
        ),
    }
}
