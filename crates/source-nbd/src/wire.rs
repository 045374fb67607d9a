//! Bytes from and to a peer.

use backstop_core::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The error for a connection that ended or failed.
pub(crate) fn lost(error: std::io::Error) -> Error {
    Error::unavailable("the NBD connection is lost").with_source(error)
}

/// Reads so many bytes.
pub(crate) async fn take<const N: usize>(from: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await.map_err(lost)?;
    Ok(bytes)
}

/// Reads so many bytes; the caller has bounded them.
pub(crate) async fn take_vec(
    from: &mut (impl AsyncRead + Unpin),
    length: usize,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await.map_err(lost)?;
    Ok(bytes)
}

/// Reads so many bytes and forgets them.
pub(crate) async fn pass_over(from: &mut (impl AsyncRead + Unpin), length: u64) -> Result<()> {
    let mut rest = from.take(length);
    let passed = tokio::io::copy(&mut rest, &mut tokio::io::sink())
        .await
        .map_err(lost)?;
    if passed < length {
        return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

/// Writes all of it.
pub(crate) async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).await.map_err(lost)?;
    to.flush().await.map_err(lost)
}
