//! Interrupts: what is under way stops where it is, and nobody waits long for
//! what comes after.

use std::time::Duration;

use backstop::{Error, ErrorKind, Result};

/// How long closing may take after an interrupt.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs to the end of the future, or to an interrupt.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        done = work => Ok(done),
        Ok(()) = tokio::signal::ctrl_c() => {
            Err(Error::new(ErrorKind::Cancelled, "interrupted; nothing half-made is visible"))
        }
    }
}

/// How long closing may take: as long as it needs, for it now and then merges
/// the catalog's tables; after an interrupt not long.
pub fn patience(was_interrupted: bool) -> Option<Duration> {
    was_interrupted.then_some(PATIENCE)
}

/// Closes, for as long as patience lasts or until the next interrupt.
pub async fn close(
    closing: impl Future<Output = Result<()>>,
    patience: Option<Duration>,
) -> Result<()> {
    let closing = unless_interrupted(closing);
    let Some(patience) = patience else {
        return closing.await.flatten();
    };
    match tokio::time::timeout(patience, closing).await {
        Ok(closed) => closed.flatten(),
        Err(_) => Err(Error::unavailable("closing takes too long")),
    }
}
