//! What an authority signs, and what it does not.

use backstop_core::{ErrorKind, ManualClock, SystemClock};
use rcgen::PKCS_ECDSA_P384_SHA384;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::tls::Peer;

fn authority() -> CertificateAuthority {
    CertificateAuthority::create("test", Arc::new(SystemClock)).unwrap()
}

fn roots(authority: &CertificateAuthority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    Arc::new(roots)
}

fn in_days(days: u64) -> UnixTime {
    UnixTime::since_unix_epoch(
        UnixTime::now()
            .as_secs()
            .checked_add(days * 86_400)
            .map(Duration::from_secs)
            .unwrap(),
    )
}

fn is_trusted_as_client(authority: &CertificateAuthority, issued: &Issued, days: u64) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), tls::provider());
    let verifier = verifier.build().unwrap();
    verifier
        .verify_client_cert(&issued.der, &[], in_days(days))
        .is_ok()
}

fn is_trusted_as_server(authority: &CertificateAuthority, issued: &Issued, name: &str) -> bool {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), tls::provider());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let verifier = verifier.build().unwrap();
    verifier
        .verify_server_cert(&issued.der, &[], &name, &[], in_days(0))
        .is_ok()
}

#[test]
fn certificates_are_for_what_they_say() {
    let authority = authority();
    let (server, _) = authority.server(10).unwrap();
    assert!(is_trusted_as_server(&authority, &server, "server.backstop"));
    assert!(!is_trusted_as_server(
        &authority,
        &server,
        "web1.agent.backstop"
    ));
    assert!(!is_trusted_as_client(&authority, &server, 0));

    let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(8));
    for name in ["web1", "web1.example.org", longest.as_str()] {
        for role in [Role::Agent, Role::Operator] {
            let (client, _) = authority.client(name, role, 10).unwrap();
            assert!(is_trusted_as_client(&authority, &client, 9), "{name}");
            assert!(!is_trusted_as_client(&authority, &client, 11), "{name}");
            let dns = names::dns(name, role);
            assert!(!is_trusted_as_server(&authority, &client, &dns));
            let peer = Peer::of(Some(&[client.der])).unwrap();
            assert_eq!((peer.name.as_str(), peer.role), (name, role));
        }
    }
    let (client, _) = authority.client("web1", Role::Agent, 10).unwrap();
    assert!(!is_trusted_as_client(&self::authority(), &client, 0));
}

#[test]
fn what_can_not_be_is_refused() {
    let authority = authority();
    for (name, days) in [("", 1), ("a_b", 1), ("web1", 0), ("web1", 40_000)] {
        let error = authority.client(name, Role::Agent, days).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name} {days}");
    }
    let longest = "x".repeat(65);
    for name in ["", "a\nb", &longest] {
        let error = CertificateAuthority::create(name, Arc::new(SystemClock)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
    }
    for millis in [-1, i64::MIN, i64::MAX, LATEST.0] {
        let clock = Arc::new(ManualClock::at(Timestamp(millis)));
        let error = CertificateAuthority::create("test", clock).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{millis}");
    }
}

/// A clock anywhere gives certificates that end so many days later.
#[test]
fn the_clock_tells_from_when() {
    for millis in [0, 1_000_000_000_999, LATEST.0 - 1] {
        let clock = Arc::new(ManualClock::at(Timestamp(millis)));
        let authority = CertificateAuthority::create("test", clock).unwrap();
        let (issued, _) = authority.server(2).unwrap();
        let expected = (millis / 1000 + 2 * 86_400) * 1000;
        assert_eq!(issued.not_after, Timestamp(expected));
    }
}

#[test]
fn an_authority_comes_back_from_pem() {
    let authority = authority();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (certificate, key) = (authority.certificate_pem(), authority.key_pem());
    let again = CertificateAuthority::from_pem(certificate, &key, Arc::clone(&clock)).unwrap();
    let (client, _) = again.client("web1", Role::Agent, 1).unwrap();
    assert!(is_trusted_as_client(&authority, &client, 0));

    let other = self::authority().key_pem();
    for (certificate, key) in [
        (certificate, other.as_str()),
        ("", key.as_str()),
        (certificate, ""),
        (key.as_str(), certificate),
    ] {
        let error = CertificateAuthority::from_pem(certificate, key, Arc::clone(&clock));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert!(!format!("{authority:?}").contains("PRIVATE"));
}

/// A request for the world: of all that only the key is taken.
#[test]
fn of_a_request_only_the_key_is_believed() {
    let authority = authority();
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
    ] {
        let mut wanted = CertificateParams::new(vec![
            "server.backstop".to_owned(),
            "root.operator.backstop".to_owned(),
        ])
        .unwrap();
        wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wanted.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        wanted.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let request = wanted.serialize_request(&key).unwrap().pem().unwrap();
        let issued = authority
            .client_by_request(&request, "web1", Role::Agent, 1)
            .unwrap();
        assert!(is_trusted_as_client(&authority, &issued, 0));
        assert!(!is_trusted_as_server(
            &authority,
            &issued,
            "server.backstop"
        ));
        let peer = Peer::of(Some(std::slice::from_ref(&issued.der))).unwrap();
        assert_eq!((peer.name.as_str(), peer.role), ("web1", Role::Agent));
        let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        CertifiedKey::from_der(vec![issued.der], private, &tls::provider()).unwrap();
    }
}

#[test]
fn a_request_that_is_none_is_refused() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = data_encoding::BASE64.encode(&forged);
    let (begin, end) = (
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----END CERTIFICATE REQUEST-----",
    );
    let forged = format!("{begin}\n{forged}\n{end}\n");
    let pem = request.pem().unwrap();
    for request in ["", "nothing", &forged, &pem[..pem.len() / 2]] {
        let refused = authority.client_by_request(request, "web1", Role::Agent, 1);
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{request}"
        );
    }
}
