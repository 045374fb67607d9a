//! Bodies of messages: read whole, within bounds of length and of time.

use std::time::Duration;

use backstop_core::{Error, Result};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use tokio::time::timeout;

use crate::failure;

/// How long a message may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much memory is taken for a message before any of it has come, in bytes.
const FIRST: u64 = 64 << 10;

/// Reads a message of at most `most` bytes.
pub(crate) async fn read(body: &mut RecvStream, most: u64, from: &str) -> Result<Bytes> {
    let mut message = BytesMut::new();
    loop {
        let data = timeout(PATIENCE, body.data())
            .await
            .map_err(|_| Error::unavailable(format!("{from} has sent nothing for {PATIENCE:?}")))?;
        let Some(data) = data else {
            return Ok(message.freeze());
        };
        let data = data.map_err(|error| failure::broken(from, error))?;
        if (message.len() + data.len()) as u64 > most {
            return Err(Error::invalid_input(format!(
                "a message from {from} is longer than {most} bytes"
            )));
        }
        if message.is_empty() {
            // Most messages come in one piece, or fill what they announce.
            let room = most.min(FIRST.max(data.len() as u64));
            message.reserve(usize::try_from(room).unwrap_or(data.len()));
        }
        message.extend_from_slice(&data);
        body.flow_control()
            .release_capacity(data.len())
            .map_err(|error| failure::broken(from, error))?;
    }
}
