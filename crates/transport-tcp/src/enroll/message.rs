//! What is said when somebody joins: a question and an answer, each its length
//! in four bytes and as much JSON (docs/wire.md, "Joining").

use backstop_core::{Error, ErrorKind, Result};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::token::JoinToken;
use crate::wire::control::Failure;

/// The longest JSON, in bytes.
pub(super) const LENGTH_MAX: u32 = 16 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    secret: String,
    /// PKCS#10 in PEM.
    pub(super) request: String,
}

impl Question {
    pub(super) fn new(secret: &[u8; JoinToken::SECRET_LENGTH], request: String) -> Self {
        Self {
            secret: HEXLOWER.encode(secret),
            request,
        }
    }

    pub(super) fn secret(&self) -> Result<[u8; JoinToken::SECRET_LENGTH]> {
        let bytes = HEXLOWER.decode(self.secret.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| Error::invalid_input("a secret has 32 hexadecimal digits"))
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Joined {
        certificate: String,
        authority: String,
    },
    Failed(Failure),
}

/// Sends a message and its length.
pub(super) async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<()> {
    let length = u32::try_from(message.len())
        .ok()
        .filter(|it| *it <= LENGTH_MAX);
    let length = length.ok_or_else(|| too_long(message.len()))?;
    let mut framed = Vec::with_capacity(message.len() + 4);
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(message);
    let sending = async {
        to.write_all(&framed).await?;
        to.flush().await
    };
    sending.await.map_err(broken)
}

/// Receives a message. Memory is taken as it comes.
pub(super) async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Result<Bytes> {
    let length = from.read_u32_le().await.map_err(broken)?;
    if length > LENGTH_MAX {
        return Err(too_long(length));
    }
    let mut message = Vec::new();
    let mut limited = from.take(u64::from(length));
    limited.read_to_end(&mut message).await.map_err(broken)?;
    if message.len() as u64 != u64::from(length) {
        return Err(Error::invalid_input("a message about joining ends early"));
    }
    Ok(message.into())
}

fn too_long(length: impl std::fmt::Display) -> Error {
    Error::invalid_input(format!(
        "a message about joining has {length} bytes, more than {LENGTH_MAX}"
    ))
}

fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection broke while joining").with_source(error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::control::{decode, encode};

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(message in prop::collection::vec(any::<u8>(), 0..=LENGTH_MAX as usize)) {
            let mut wire = Vec::new();
            run(send(&mut wire, &message)).unwrap();
            prop_assert_eq!(wire.len(), message.len() + 4);
            let received = run(receive(&mut &wire[..])).unwrap();
            prop_assert_eq!(&received[..], &message[..]);
        }

        #[test]
        fn what_is_cut_is_refused(message in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let mut wire = Vec::new();
            run(send(&mut wire, &message)).unwrap();
            wire.truncate(cut.index(wire.len()));
            prop_assert!(run(receive(&mut &wire[..])).is_err());
        }

        #[test]
        fn questions_are_read_back(secret: [u8; JoinToken::SECRET_LENGTH], request in ".{0,100}") {
            let encoded = encode(&Question::new(&secret, request.clone())).unwrap();
            let question: Question = decode("it", &encoded).unwrap();
            prop_assert_eq!(question.secret().unwrap(), secret);
            prop_assert_eq!(question.request, request);
        }

        #[test]
        fn random_bytes_are_no_question(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(decode::<Question>("it", &bytes).is_err());
            prop_assert!(decode::<Answer>("it", &bytes).is_err());
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let wire = (LENGTH_MAX + 1).to_le_bytes();
        let error = run(receive(&mut &wire[..])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let long = vec![0; LENGTH_MAX as usize + 1];
        assert!(run(send(&mut Vec::new(), &long)).is_err());
        for secret in ["", "00", "zz", "000102030405060708090a0b0c0d0e0f10"] {
            let question = Question {
                secret: secret.into(),
                request: String::new(),
            };
            assert!(question.secret().is_err(), "{secret}");
        }
    }
}
