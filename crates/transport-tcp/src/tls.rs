//! Who is who: certificates, and what they say of their holder.
//!
//! Both ends show one, signed by an authority that the other trusts. The holder
//! is told by a DNS name in it (RFC 5280, 4.2.1.6): `NAME.agent.backstop` or
//! `NAME.operator.backstop`; a server is `server.backstop`.

use std::fmt;
use std::sync::Arc;

pub(crate) use backstop_core::Role;
use backstop_core::{Actor, ChunkDigest, Error, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name of every protection server in its certificate.
pub(crate) const SERVER: &str = "server.backstop";

/// What is spoken inside of TLS (RFC 9113, 3.2).
const PROTOCOL: &[u8] = b"h2";

/// A certificate with those that sign it, and its private key.
#[derive(Debug)]
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsIdentity {
    /// Reads both from PEM (RFC 7468): the holder's own certificate first.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) naming which of
    /// them can't be read.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        let chain = certificates("the certificate", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| unreadable("the private key", error))?;
        Ok(Self { chain, key })
    }
}

impl Clone for TlsIdentity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Whose signature is trusted.
#[derive(Clone, Debug)]
pub struct TlsAuthority {
    roots: Arc<RootCertStore>,
    #[cfg(feature = "enroll")]
    certificates: Vec<CertificateDer<'static>>,
}

impl TlsAuthority {
    /// Reads one or several certificates from PEM (RFC 7468).
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if there is none,
    /// or one can't be read.
    pub fn from_pem(certificates_pem: &[u8]) -> Result<Self> {
        let what = "the authority's certificate";
        let certificates = certificates(what, certificates_pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| unreadable(what, error))?;
        }
        Ok(Self {
            roots: Arc::new(roots),
            #[cfg(feature = "enroll")]
            certificates,
        })
    }
}

fn unreadable(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid_input(format!("{what} can't be read")).with_source(error)
}

pub(crate) fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| unreadable(what, error))?;
    if read.is_empty() {
        return Err(Error::invalid_input(format!("{what} is missing")));
    }
    Ok(read)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What a server answers with.
pub(crate) fn server(identity: &TlsIdentity, clients: &TlsAuthority) -> Result<Arc<ServerConfig>> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&clients.roots), provider())
            .build()
            .map_err(|error| unreadable("the authority's certificate", error))?;
    let builder = ServerConfig::builder_with_provider(provider());
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unreadable("TLS 1.3", error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| unreadable("the server's certificate", error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Who comes again shows its certificate again, so that one that was revoked
    // is seen; and nothing is kept of who is gone.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What a server answers with who joins: nobody is asked for a certificate, and
/// the authority's is shown, by which the server is known.
#[cfg(feature = "enroll")]
pub(crate) fn joining(
    identity: &TlsIdentity,
    authority: &TlsAuthority,
) -> Result<Arc<ServerConfig>> {
    let mut chain = identity.chain.clone();
    for certificate in &authority.certificates {
        if !chain.contains(certificate) {
            chain.push(certificate.clone());
        }
    }
    let builder = ServerConfig::builder_with_provider(provider());
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unreadable("TLS 1.3", error))?
        .with_no_client_auth()
        .with_single_cert(chain, identity.key.clone_key())
        .map_err(|error| unreadable("the server's certificate", error))?;
    config.alpn_protocols = vec![crate::enroll::PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What an agent asks with.
pub(crate) fn client(identity: &TlsIdentity, servers: &TlsAuthority) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider());
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unreadable("TLS 1.3", error))?
        .with_root_certificates(Arc::clone(&servers.roots))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| unreadable("the agent's certificate", error))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// What a server's certificate has to be for.
pub(crate) fn server_name() -> Result<ServerName<'static>> {
    ServerName::try_from(SERVER).map_err(|error| unreadable("the server's name", error))
}

/// Who is at the other end, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// What it may be.
    pub role: Role,
    /// The SHA-256 of its certificate.
    pub certificate: ChunkDigest,
}

impl From<&Peer> for Actor {
    fn from(peer: &Peer) -> Self {
        Self {
            role: peer.role,
            name: peer.name.clone(),
            certificate: peer.certificate,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

impl Peer {
    /// Reads who holds a certificate that was verified.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Result<Self> {
        let Some(certificate) = certificates.and_then(<[_]>::first) else {
            return Err(Error::invalid_input("no certificate was shown"));
        };
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| unreadable("a certificate", error))?;
        let mut holders = parsed.valid_dns_names().filter_map(holder);
        let (Some((name, role)), None) = (holders.next(), holders.next()) else {
            return Err(Error::invalid_input(
                "a certificate names no agent and no operator, or several",
            ));
        };
        Ok(Self {
            name: name.to_owned(),
            role,
            certificate: ChunkDigest::of(certificate),
        })
    }
}

/// The name and role that a DNS name of a certificate tells.
fn holder(name: &str) -> Option<(&str, Role)> {
    let roles = [
        (".agent.backstop", Role::Agent),
        (".operator.backstop", Role::Operator),
    ];
    let told = roles.into_iter().find_map(|(ending, role)| {
        let name = name.strip_suffix(ending)?;
        Some((name, role))
    });
    told.filter(|(name, _)| !name.is_empty() && !name.contains('*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_certificates_tell_who_and_what() {
        assert_eq!(holder("web1.agent.backstop"), Some(("web1", Role::Agent)));
        assert_eq!(
            holder("web1.example.org.agent.backstop"),
            Some(("web1.example.org", Role::Agent))
        );
        assert_eq!(
            holder("eve.operator.backstop"),
            Some(("eve", Role::Operator))
        );
        for name in [
            "server.backstop",
            "agent.backstop",
            ".agent.backstop",
            "*.agent.backstop",
            "web1.agent.backstop.org",
            "web1",
        ] {
            assert_eq!(holder(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        let error = TlsAuthority::from_pem(b"").unwrap_err();
        assert_eq!(error.to_string(), "the authority's certificate is missing");
        let error = TlsIdentity::from_pem(b"nothing", b"nothing").unwrap_err();
        assert_eq!(error.to_string(), "the certificate is missing");
        assert!(Peer::of(None).is_err());
        assert!(Peer::of(Some(&[CertificateDer::from_slice(b"x")])).is_err());
    }
}
