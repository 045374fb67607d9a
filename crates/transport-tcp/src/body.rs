//! Bodies of messages: read and sent whole, within bounds of length and of time.

use std::time::Duration;

use backstop_core::{Error, Result};
use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, header};
use tokio::time::timeout;

use crate::failure;
use crate::wire::MESSAGE_LENGTH_MAX;

/// How long a message may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// How fast a message comes at least, in bytes a second.
const LEAST_RATE: u64 = 32 << 10;

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
    let reading = timeout(whole(most), read_now(body, most, from)).await;
    reading.unwrap_or_else(|_| Err(Error::unavailable(format!("{from} sends too slowly"))))
}

/// How long a whole message may take.
fn whole(length: u64) -> Duration {
    PATIENCE + Duration::from_secs(length / LEAST_RATE)
}

async fn read_now(body: &mut RecvStream, most: u64, from: &str) -> Result<Bytes> {
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

/// What is sent without asking whether the other end takes it now, in bytes.
const SMALL: usize = 16 << 10;

/// So much of a longer message is handed over at once, in bytes.
const PART: usize = 128 << 10;

/// Sends a message, as fast as the other end takes it. If that stands still, the
/// message is given up.
pub(crate) async fn send(to: SendStream<Bytes>, message: Bytes, peer: &str) -> Result<()> {
    let sending = timeout(whole(message.len() as u64), send_now(to, message, peer)).await;
    sending.unwrap_or_else(|_| Err(Error::unavailable(format!("{peer} takes too slowly"))))
}

async fn send_now(mut to: SendStream<Bytes>, mut message: Bytes, peer: &str) -> Result<()> {
    if message.is_empty() {
        return Ok(());
    }
    let broken = |error| failure::broken(peer, error);
    while message.len() > SMALL {
        to.reserve_capacity(message.len().min(PART));
        let room = timeout(PATIENCE, room(&mut to)).await;
        let Ok(room) = room else {
            to.send_reset(Reason::CANCEL);
            return Err(Error::unavailable(format!(
                "{peer} has taken nothing for {PATIENCE:?}"
            )));
        };
        let room = room.ok_or_else(|| Error::unavailable(format!("{peer} is gone")))?;
        let part = message.split_to(room.map_err(broken)?.min(message.len()));
        // A copy: what waits to be sent must not keep the whole message.
        let part = Bytes::copy_from_slice(&part);
        to.send_data(part, message.is_empty()).map_err(broken)?;
    }
    if message.is_empty() {
        return Ok(());
    }
    let message = Bytes::copy_from_slice(&message);
    to.send_data(message, true).map_err(broken)
}

/// Waits until something may be sent, and tells how much.
async fn room(to: &mut SendStream<Bytes>) -> Option<Result<usize, h2::Error>> {
    loop {
        match to.capacity() {
            0 => match poll_fn(|context| to.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Some(Err(error)),
                None => return None,
            },
            room => return Some(Ok(room)),
        }
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ErrorKind;
    use h2::client::SendRequest;
    use http::{Request, Response};
    use tokio::io::duplex;

    use super::*;

    /// Has one end send a message; gives the other end's body of it.
    async fn sent(message: Bytes) -> (RecvStream, tokio::task::JoinHandle<Result<()>>) {
        let (near, far) = duplex(64 << 10);
        let sending = tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = server.accept().await.unwrap().unwrap();
            let to = respond.send_response(Response::new(()), false).unwrap();
            let driver = tokio::spawn(async move { server.accept().await.is_none() });
            let sent = send(to, message, "a peer").await;
            drop(driver);
            sent
        });
        let (requests, client) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(client);
        let requests: SendRequest<Bytes> = requests;
        let mut requests = requests.ready().await.unwrap();
        let (response, _) = requests.send_request(Request::new(()), true).unwrap();
        let body = response.await.unwrap().into_body();
        (body, sending)
    }

    #[tokio::test(start_paused = true)]
    async fn messages_of_all_lengths_arrive() {
        for length in [1, SMALL, SMALL + 1, PART, 3 * PART + 1, 4 << 20] {
            let message: Bytes = (0..=250).cycle().take(length).collect();
            let (mut body, sending) = sent(message.clone()).await;
            let read = read(&mut body, length as u64, "a peer").await.unwrap();
            assert!(read == message, "{length} bytes");
            sending.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_nobody_takes_is_given_up() {
        let (mut body, sending) = sent(vec![1; 4 << 20].into()).await;
        let error = sending.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "a peer has taken nothing for 30s");
        // Whoever comes back to it finds that it was cut short.
        assert!(read(&mut body, 4 << 20, "a peer").await.is_err());
    }
}
