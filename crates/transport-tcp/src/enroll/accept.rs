//! The server's end of joining: who comes is shown the server's certificate and
//! its authority's, and asks once.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::{Error, ErrorKind, Result};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::StartHandshake;

use super::message::{self, Answer, Question};
use super::token::JoinToken;
use crate::wire::control::{Failure, decode, encode};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may be at it at once.
const PLACES: usize = 16;

/// How long a failure takes, one after the other for the whole server.
const PENANCE: Duration = Duration::from_millis(250);

/// What somebody is given who has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its certificate, in PEM.
    pub certificate_pem: String,
    /// The certificate of the authority, in PEM, by whose digest the token knows
    /// it.
    pub authority_pem: String,
}

/// Decides who joins. [`Roster`](super::Roster) is one.
#[async_trait]
pub trait Joins: Send + Sync + fmt::Debug {
    /// Redeems a token, of which `secret` is left, for a certificate of the key in
    /// a request (PKCS#10, in PEM). Who asks is not known and may mean harm: the
    /// request is up to 16 KiB of anything. Must let one in for each token,
    /// however many ask at once, and must not go on for seconds. When the
    /// connection breaks the future is dropped; what was redeemed is used up.
    ///
    /// # Errors
    /// Sentences of [`Forbidden`](ErrorKind::Forbidden) and
    /// [`InvalidInput`](ErrorKind::InvalidInput) are told to who asks; of other
    /// errors, that it can't be done now.
    async fn join(
        &self,
        secret: &[u8; JoinToken::SECRET_LENGTH],
        request_pem: &str,
    ) -> Result<Joined>;
}

/// Where those come in who join.
#[derive(Debug)]
pub(crate) struct Door {
    joins: Arc<dyn Joins>,
    places: Semaphore,
    penance: Mutex<()>,
}

impl Door {
    pub(crate) fn new(joins: Arc<dyn Joins>) -> Self {
        Self {
            joins,
            places: Semaphore::new(PLACES),
            penance: Mutex::default(),
        }
    }

    /// Serves one connection to its end.
    pub(crate) async fn serve(
        &self,
        start: StartHandshake<impl AsyncRead + AsyncWrite + Unpin>,
        tls: Arc<ServerConfig>,
        from: SocketAddr,
    ) {
        let Ok(_place) = self.places.try_acquire() else {
            tracing::warn!(%from, "refused: there are too many who join");
            return;
        };
        let served = timeout(PATIENCE, self.serve_now(start, tls)).await;
        let served = served.unwrap_or_else(|_| {
            Err(Error::unavailable(format!(
                "joining has not ended within {PATIENCE:?}"
            )))
        });
        match served {
            Ok(None) => tracing::info!(%from, "joined"),
            Ok(Some(error)) => tracing::warn!(%from, %error, "joining was refused"),
            Err(error) => {
                tracing::warn!(%from, %error, "nobody joined");
                self.slow_down().await;
            }
        }
    }

    /// Gives what was wrong, if the peer was told.
    async fn serve_now(
        &self,
        start: StartHandshake<impl AsyncRead + AsyncWrite + Unpin>,
        tls: Arc<ServerConfig>,
    ) -> Result<Option<Error>> {
        let mut stream = start.into_stream(tls).await.map_err(|error| {
            Error::new(ErrorKind::Forbidden, "the TLS handshake failed").with_source(error)
        })?;
        let question = message::receive(&mut stream).await?;
        let (answer, error) = match self.join(&question).await {
            Ok(joined) => (joined, None),
            Err(error) => {
                self.slow_down().await;
                (Answer::Failed(Failure::of(&told(&error))), Some(error))
            }
        };
        message::send(&mut stream, &encode(&answer)?).await?;
        // It has all that it asked for, whether or not it says good-bye.
        let _ = stream.shutdown().await;
        Ok(error)
    }

    async fn join(&self, question: &[u8]) -> Result<Answer> {
        let question: Question = decode("a request to join", question)?;
        let secret = question.secret()?;
        let joined = self.joins.join(&secret, &question.request).await?;
        Ok(Answer::Joined {
            certificate: joined.certificate_pem,
            authority: joined.authority_pem,
        })
    }

    /// However many try, few tries are failed in a second.
    async fn slow_down(&self) {
        let _turn = self.penance.lock().await;
        sleep(PENANCE).await;
    }
}

/// What somebody may know of an error whom nobody knows.
fn told(error: &Error) -> Error {
    match error.kind() {
        kind @ (ErrorKind::Forbidden | ErrorKind::InvalidInput) => {
            Error::new(kind, error.context())
        }
        _ => Error::unavailable("this protection server can enroll nobody now; ask who runs it"),
    }
}

#[cfg(test)]
mod tests;
