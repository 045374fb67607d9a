//! Bodies of messages: read whole, within bounds of length and of time.

use std::time::Duration;

use backstop_core::{Error, Result};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, header};
use tokio::time::timeout;

use crate::failure;
use crate::wire::MESSAGE_LENGTH_MAX;

/// How long a message may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a message is at most, by its headers.
pub(crate) fn length(headers: &HeaderMap) -> Result<u64> {
    let told = headers.get(header::CONTENT_LENGTH);
    let told = told.and_then(|length| length.to_str().ok()?.parse().ok());
    let length = told.unwrap_or(MESSAGE_LENGTH_MAX);
    if length > MESSAGE_LENGTH_MAX {
        return Err(Error::invalid_input(format!(
            "a message of {length} bytes is longer than {MESSAGE_LENGTH_MAX}"
        )));
    }
    Ok(length)
}

/// Reads a message of at most `most` bytes, as [`length`] told.
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
            // Of what is announced, memory is taken for good as it comes.
            message.reserve(usize::try_from(most).unwrap_or(data.len()));
        }
        message.extend_from_slice(&data);
        body.flow_control()
            .release_capacity(data.len())
            .map_err(|error| failure::broken(from, error))?;
    }
}
