//! Work that waits for a disk, off the async threads.

use backstop_core::{Error, ErrorKind, Result};

/// Runs work on a blocking thread of the caller's runtime. A panic in it is
/// contained. Dropping the future lets work that has begun go on.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_cancelled() => Err(Error::new(
            ErrorKind::Cancelled,
            "file access was cancelled because the runtime ends",
        )),
        Err(error) => Err(Error::internal("file access panicked").with_source(error)),
    }
}
