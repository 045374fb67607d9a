//! One connection of the server's end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures::future::OptionFuture;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Request, Response, StatusCode, header};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::session::Caller;
use super::turns::Share;
use super::windows::{Part, RoundTrip};
use crate::tls::Peer;
use crate::wire::control::{Failure, encode};
use crate::wire::{Asked, VERSION};
use crate::{body, failure, heartbeat, limits};

/// How long one who is refused may take to read why.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Connection {
    caller: Arc<Caller>,
    connection: h2::server::Connection<TlsStream<TcpStream>, Bytes>,
}

impl Connection {
    /// Finds out who is there, once the handshake of TLS is done.
    pub(super) async fn accept(
        shared: Arc<Shared>,
        stream: TlsStream<TcpStream>,
        from: SocketAddr,
    ) -> Result<Self> {
        let peer = Peer::of(stream.get_ref().1.peer_certificates())
            .map_err(|error| Error::new(ErrorKind::Forbidden, error.to_string()))?;
        shared.gate.may_connect(&peer)?;
        if shared.connections.of(&peer) >= limits::CONNECTIONS {
            return Err(Error::unavailable(format!(
                "{peer} has {} connections already",
                limits::CONNECTIONS
            )));
        }
        let connection = Builder::new()
            .initial_window_size(limits::STREAM_WINDOW)
            .initial_connection_window_size(limits::CONNECTION_WINDOW)
            .max_frame_size(limits::FRAME)
            .max_header_list_size(limits::HEADERS)
            .max_concurrent_streams(limits::STREAMS)
            .max_send_buffer_size(limits::SEND_BUFFER)
            .handshake(stream)
            .await
            .map_err(|error| failure::broken(&peer, error))?;
        Ok(Self {
            caller: Arc::new(Caller::new(shared, peer, from)),
            connection,
        })
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.caller.peer
    }

    /// Answers what is asked until the connection ends. Calls whose message has come
    /// go on to their end, unless the server ends first: what they do is whole, and the agent asks for it when it is
    /// back.
    pub(super) async fn run(mut self) -> Result<()> {
        let peer = self.caller.peer.to_string();
        let round_trip = RoundTrip::new(Arc::clone(&self.caller.shared.clock));
        let mut silent = std::pin::pin!({
            let pings = self.connection.ping_pong();
            let (peer, round_trip) = (&peer, &round_trip);
            async move {
                match pings {
                    Some(pings) => {
                        let (asks, answers) = (|| round_trip.asks(), || round_trip.answers());
                        heartbeat::listen(pings, peer, asks, answers).await
                    }
                    None => std::future::pending().await,
                }
            }
        });
        let mut window = Part::of(&self.caller.shared.windows);
        let connections = &self.caller.shared.connections;
        let _counted = connections.add(Arc::clone(&self.caller));
        let mut calls = JoinSet::new();
        let mut refused = None;
        let mut leaving = std::pin::pin!(None::<tokio::time::Sleep>);
        let ended = loop {
            // Who has nothing under way keeps nothing that others could use.
            let distance = if self.caller.has_sessions() {
                round_trip.last()
            } else {
                Duration::ZERO
            };
            if let Some(bytes) = window.fit(distance) {
                self.connection.set_target_window_size(bytes);
                let each = bytes.max(limits::CONNECTION_WINDOW) / 2;
                if let Err(error) = self.connection.set_initial_window_size(each) {
                    tracing::debug!(peer, %error, "the windows stay as they are");
                }
            }
            tokio::select! {
                asked = self.connection.accept() => match asked {
                    None => break refused.map_or(Ok(()), Err),
                    Some(Err(error)) => break Err(failure::broken(&peer, error)),
                    Some(Ok((request, respond))) => {
                        if refused.is_none()
                            && let Err(error) = self.caller.shared.gate.may_connect(&self.caller.peer)
                        {
                            // This call is told why, and no other follows.
                            refused = Some(error);
                            leaving.set(Some(tokio::time::sleep(PATIENCE)));
                            self.connection.graceful_shutdown();
                        }
                        if calls.len() >= limits::CALLS {
                            break Err(Error::unavailable("too many calls were taken back"));
                        }
                        calls.spawn(respond_to(Arc::clone(&self.caller), request, respond));
                    }
                },
                gone = &mut silent => break gone,
                Some(()) = OptionFuture::from(leaving.as_mut().as_pin_mut()) => {
                    break refused.map_or(Ok(()), Err);
                }
                Some(_) = calls.join_next(), if !calls.is_empty() => {}
            }
        };
        self.caller.goes();
        calls.detach_all();
        ended
    }
}

/// Answers one call; who has asked may be gone by then.
async fn respond_to(
    caller: Arc<Caller>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let _counted = caller.shared.calls.count();
    let path = request.uri().path().to_owned();
    let (status, answer, share) = match answer(&caller, request).await {
        Ok((answer, share)) => (StatusCode::OK, answer, Some(share)),
        Err(error) => {
            tracing::debug!(peer = %caller.peer, path, %error, "a call failed");
            let answer = encode(&Failure::of(&error)).unwrap_or_default();
            (status_of(error.kind()), answer, None)
        }
    };
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, answer.len())
        .body(());
    let sent = async {
        let response = response
            .map_err(|error| Error::internal("an answer can't be made").with_source(error))?;
        let sending = respond.send_response(response, answer.is_empty());
        let sending = sending.map_err(|error| failure::broken(&caller.peer, error))?;
        body::send(sending, answer, &caller.peer.name).await
    };
    if let Err(error) = sent.await {
        tracing::debug!(peer = %caller.peer, path, %error, "an answer could not be sent");
    }
    drop(share);
}

async fn answer(caller: &Arc<Caller>, request: Request<RecvStream>) -> Result<(Bytes, Share)> {
    caller.shared.gate.may_connect(&caller.peer)?;
    let call = match Asked::of(request.uri().path()) {
        Asked::Call(call) => call,
        Asked::OtherVersion => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this protection server speaks version {VERSION} of the protocol; \
                     use an agent of the same major version"
                ),
            ));
        }
        Asked::Unknown => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this protection server is too old for what was asked; update it",
            ));
        }
    };
    let length = body::length(request.headers())?;
    let mut body = request.into_body();
    let arriving = async {
        let share = caller.take(length).await?;
        let message = body::read(&mut body, length, &caller.peer.name).await?;
        Ok((share, message))
    };
    let (share, message) = tokio::select! {
        arrived = arriving => arrived?,
        () = caller.gone() => return Err(Error::unavailable("the connection has ended")),
    };
    // What was taken back while the message came is taken back.
    caller.shared.gate.may_connect(&caller.peer)?;
    super::answers::answer(caller, call, message, share).await
}

/// The HTTP status that says about the same, for whoever looks at the wire.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::ChunkMissing => StatusCode::BAD_REQUEST,
        ErrorKind::Forbidden | ErrorKind::WrongKey => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable | ErrorKind::Locked | ErrorKind::Fenced => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
