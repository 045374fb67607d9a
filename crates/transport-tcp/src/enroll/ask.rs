//! The joining machine's end: makes a key, and has it signed for a token.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{Error, ErrorKind, Result};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PROTOCOL;
use super::durable;
use super::message::{self, Answer, Question};
use super::token::JoinToken;
use super::verifier;
use crate::failure;
use crate::tls::{self, Peer, Role, TlsAuthority, TlsIdentity};
use crate::wire::control::{decode, encode};

/// How long it may take to connect.
const CONNECTING: Duration = Duration::from_secs(10);

/// How long an answer may take: the server has 10 s for all of it.
const ANSWERING: Duration = Duration::from_secs(15);

/// What somebody has who was enrolled. Keep it where nobody else can read it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enrolled {
    /// Its name.
    pub name: String,
    /// What it may be.
    pub role: Role,
    /// Its certificate, in PEM.
    pub certificate_pem: String,
    /// Its private key, in PEM.
    pub key_pem: String,
    /// The certificate of the server's authority, in PEM.
    pub authority_pem: String,
}

/// Without the private key.
impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolled")
            .field("name", &self.name)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Enrolled {
    /// What it shows, for [`TcpClient::new`](crate::TcpClient::new).
    pub fn identity(&self) -> Result<TlsIdentity> {
        TlsIdentity::from_pem(self.certificate_pem.as_bytes(), self.key_pem.as_bytes())
    }

    /// Whom it trusts.
    pub fn authority(&self) -> Result<TlsAuthority> {
        TlsAuthority::from_pem(self.authority_pem.as_bytes())
    }

    /// Keeps it in a folder, which is made if it is not there, as `identity.key`,
    /// `identity.pem` and `authority.pem`; each is replaced in one step, is
    /// durable, and may be read by its owner alone. If this fails half way, save
    /// it again.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        durable::take_folder(folder)?;
        let files = [
            ("identity.key", &self.key_pem),
            ("identity.pem", &self.certificate_pem),
            ("authority.pem", &self.authority_pem),
        ];
        files
            .into_iter()
            .try_for_each(|(name, pem)| durable::write(&folder.join(name), pem.as_bytes()))
    }
}

/// Joins the protection server at one of these addresses (`host:port`), tried in
/// turn until one is who made the token. The private key is made here and does
/// not leave. Nothing is sent before the server has proved that the token's
/// authority has signed its certificate.
///
/// When this fails, or is dropped, after the server was asked, the token may be
/// used up: have a new one made.
///
/// # Errors
/// [`Forbidden`](ErrorKind::Forbidden) if no server is the token's, or the token
/// was used or has expired; [`Unsupported`](ErrorKind::Unsupported) if the server
/// lets nobody join; [`Unavailable`](ErrorKind::Unavailable) if none is reached.
pub async fn join(addresses: &[String], token: &JoinToken) -> Result<Enrolled> {
    let key = KeyPair::generate().map_err(|error| {
        Error::unavailable("the operating system gives no random numbers for a key")
            .with_source(error)
    })?;
    let question = encode(&Question::new(token.secret(), request(&key)?))?;
    let tls = verifier::client(token)
        .map_err(|error| Error::internal("TLS can't be set up").with_source(error))?;
    let mut failed = None;
    for address in addresses {
        match connect(address, Arc::clone(&tls)).await {
            // From here on the token may be used up, so no other is asked.
            Ok(stream) => return ask(stream, address, &question, &key, token).await,
            Err(error) => {
                tracing::debug!(address, %error, "no connection");
                failed = Some(failure::more_telling(failed, error));
            }
        }
    }
    Err(failed
        .unwrap_or_else(|| Error::invalid_input("no address of a protection server was given")))
}

/// Asks for a certificate, for whomever the token is.
fn request(key: &KeyPair) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(key);
    let pem = request.and_then(|request| request.pem());
    pem.map_err(|error| {
        Error::internal("a request for a certificate can't be made").with_source(error)
    })
}

async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| failure::unreachable(address, error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| failure::unreachable(address, error))?;
        let stream = TlsConnector::from(tls)
            .connect(tls::server_name()?, stream)
            .await
            .map_err(|error| refusal(address, error))?;
        // One that knows of no protocols at all would go on without.
        if stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
            return Err(takes_nobody(address));
        }
        Ok(stream)
    };
    timeout(CONNECTING, connecting).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!(
            "the protection server at {address} has not answered for {CONNECTING:?}"
        )))
    })
}

fn takes_nobody(address: &str) -> Error {
    let sentence = format!("the protection server at {address} lets nobody join");
    Error::new(ErrorKind::Unsupported, sentence)
}

fn refusal(address: &str, error: std::io::Error) -> Error {
    let cause = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => {
            let sentence = format!("the server at {address} is not the one that made this token");
            Error::new(ErrorKind::Forbidden, sentence).with_source(error)
        }
        Some(rustls::Error::AlertReceived(_)) => takes_nobody(address).with_source(error),
        _ => failure::unreachable(address, error),
    }
}

async fn ask(
    mut stream: TlsStream<TcpStream>,
    address: &str,
    question: &[u8],
    key: &KeyPair,
    token: &JoinToken,
) -> Result<Enrolled> {
    let asking = async {
        message::send(&mut stream, question).await?;
        message::receive(&mut stream).await
    };
    let answer = timeout(ANSWERING, asking).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!(
            "no answer came for {ANSWERING:?}"
        )))
    });
    let answer = answer.map_err(|error| {
        error.within(format_args!(
            "the protection server at {address} was asked and gave no answer, \
             so the token may be used up"
        ))
    })?;
    let _ = stream.shutdown().await;
    let (certificate_pem, authority_pem) = match decode("the server's answer", &answer)? {
        Answer::Failed(failure) => return Err(failure.into_error()),
        Answer::Joined {
            certificate,
            authority,
        } => (certificate, authority),
    };
    let chain = tls::certificates("the certificate", certificate_pem.as_bytes())?;
    let authority = tls::certificates("the authority's certificate", authority_pem.as_bytes())?;
    let [authority] = &authority[..] else {
        return Err(not_ours(address, "several authorities"));
    };
    if !token.names(authority) {
        return Err(not_ours(address, "another authority"));
    }
    enrolled(address, &chain, certificate_pem, authority_pem, key)
}

fn enrolled(
    address: &str,
    chain: &[CertificateDer<'_>],
    certificate_pem: String,
    authority_pem: String,
    key: &KeyPair,
) -> Result<Enrolled> {
    let Peer { name, role, .. } = Peer::of(Some(chain))?;
    let enrolled = Enrolled {
        name,
        role,
        certificate_pem,
        key_pem: key.serialize_pem(),
        authority_pem,
    };
    // A certificate of another key is of no use.
    tls::client(&enrolled.identity()?, &enrolled.authority()?)
        .map_err(|error| not_ours(address, "a certificate of another key").with_source(error))?;
    Ok(enrolled)
}

fn not_ours(address: &str, what: &str) -> Error {
    Error::internal(format!(
        "the protection server at {address} has answered with {what}"
    ))
}
