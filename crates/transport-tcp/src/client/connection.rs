//! One connection: calls over it, each a stream of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{Method, Request, StatusCode, header};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::bandwidth::limiter::Limiter;
use crate::wire::control::{Failure, decode};
use crate::wire::{Call, MESSAGE_LENGTH_MAX};
use crate::{body, failure, heartbeat, limits, tls};

/// How long it may take to connect.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that lives until it breaks or is dropped.
pub(super) struct Connection {
    peer: String,
    requests: SendRequest<Bytes>,
    limiter: Option<Arc<Limiter>>,
    is_open: Arc<watch::Sender<bool>>,
    is_fenced: AtomicBool,
    driver: tokio::task::AbortHandle,
}

impl Connection {
    pub(super) async fn open(
        address: &str,
        tls: Arc<ClientConfig>,
        limiter: Option<Arc<Limiter>>,
    ) -> Result<Self> {
        let opening = timeout(PATIENCE, Self::open_now(address, tls, limiter)).await;
        opening.unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "the protection server at {address} has not answered for {PATIENCE:?}"
            )))
        })
    }

    async fn open_now(
        address: &str,
        tls: Arc<ClientConfig>,
        limiter: Option<Arc<Limiter>>,
    ) -> Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| failure::unreachable(address, error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| failure::unreachable(address, error))?;
        let stream = TlsConnector::from(tls)
            .connect(tls::server_name()?, stream)
            .await
            .map_err(|error| failure::handshake(address, error))?;
        let handshake = Builder::new()
            .initial_window_size(limits::CLIENT_STREAM_WINDOW)
            .initial_connection_window_size(limits::CLIENT_CONNECTION_WINDOW)
            .max_frame_size(limits::FRAME)
            .max_header_list_size(limits::HEADERS)
            .max_send_buffer_size(limits::SEND_BUFFER)
            .enable_push(false)
            .handshake(stream)
            .await;
        let (requests, mut connection) =
            handshake.map_err(|error| failure::unreachable(address, error))?;
        let pings = connection.ping_pong();
        let is_open = Arc::new(watch::Sender::new(true));
        let tell = Arc::clone(&is_open);
        let peer = address.to_owned();
        let driver = tokio::spawn(async move {
            let pings = async {
                match pings {
                    Some(pings) => heartbeat::listen(pings, &peer, || {}, || {}).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = connection => match ended {
                    Ok(()) => tracing::debug!(peer, "the connection was closed"),
                    Err(error) => tracing::info!(peer, %error, "the connection broke"),
                },
                silent = pings => if let Err(error) = silent {
                    tracing::info!(peer, %error, "the connection is given up");
                },
            }
            tell.send_replace(false);
        });
        Ok(Self {
            peer: address.to_owned(),
            requests,
            limiter,
            is_open,
            is_fenced: AtomicBool::new(false),
            driver: driver.abort_handle(),
        })
    }

    /// Whether the server has lost its vault to another one.
    pub(super) fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        *self.is_open.borrow()
    }

    /// Nothing more is asked over it.
    fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// Asks, and gives the whole answer.
    pub(super) async fn ask(&self, call: Call, message: Bytes) -> Result<Bytes> {
        self.ask_with(call, message, 0).await
    }

    /// Asks with a message of which so many bytes are data, which waits until
    /// the limit of bandwidth lets it pass.
    pub(super) async fn ask_with(&self, call: Call, message: Bytes, data: usize) -> Result<Bytes> {
        let mut is_open = self.is_open.subscribe();
        tokio::select! {
            biased;
            answer = self.ask_now(call, message, data) => answer,
            _ = is_open.wait_for(|open| !open) => Err(Error::unavailable(format!(
                "the connection to the protection server at {} is gone; begin again",
                self.peer
            ))),
        }
    }

    async fn ask_now(&self, call: Call, message: Bytes, data: usize) -> Result<Bytes> {
        let broken = |error: h2::Error| {
            // The streams are told before the task that drives the connection
            // ends: who asks again must not be given this one.
            if !error.is_reset() {
                self.close();
            }
            failure::broken(&self.peer, error)
        };
        let length = message.len();
        if length as u64 > MESSAGE_LENGTH_MAX {
            return Err(Error::invalid_input(format!(
                "a message of {length} bytes is longer than {MESSAGE_LENGTH_MAX}"
            )));
        }
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}{}", tls::SERVER, call.path()))
            .header(header::CONTENT_LENGTH, length)
            .body(())
            .map_err(|error| Error::internal("a request can't be made").with_source(error))?;
        if let Some(limiter) = &self.limiter {
            limiter.pass(length, data).await;
        }
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, mut sending) = requests
            .send_request(request, message.is_empty())
            .map_err(broken)?;
        if !message.is_empty() {
            // One that refuses may have answered, and ended the stream, before it
            // was told all: then its answer counts.
            if let Err(error) = sending.send_data(message, true) {
                tracing::debug!(peer = self.peer, %error, "not all was sent");
            }
        }
        let response = response.await.map_err(broken)?;
        let status = response.status();
        let length = body::length(response.headers())?;
        let mut answer = response.into_body();
        let answer = body::read(&mut answer, length, &self.peer).await;
        let answer = answer.inspect_err(|_| self.close())?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let failure: Failure = decode("the server's error", &answer).map_err(|error| {
            Error::unavailable(format!(
                "the protection server at {} answers with HTTP status {status}",
                self.peer
            ))
            .with_source(error)
        })?;
        let error = failure.into_error();
        if error.kind() == ErrorKind::Fenced {
            self.is_fenced.store(true, Ordering::Relaxed);
            self.close();
        }
        Err(error)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
