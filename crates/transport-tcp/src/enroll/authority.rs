//! An authority of the protection server's own, which signs certificates.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use backstop_core::{Clock, Error, Result, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{names, random};
use crate::tls::{self, Role};

/// For how long an authority's own certificate is valid, in days: nobody renews it.
const DAYS: u32 = 36_500;

/// How many days anything may be valid.
const DAYS_MAX: u32 = 36_500;

const DAY: Duration = Duration::from_hours(24);

/// How far the clocks of others may be behind: certificates are valid from so
/// long ago.
const LENIENCE: Duration = Duration::from_hours(24);

/// The longest common name, in characters (RFC 5280, appendix A.1).
const COMMON_NAME_MAX: usize = 64;

/// Before this instant a certificate can't tell when it ends: the year 9800.
const LATEST: Timestamp = Timestamp(247_000_000_000_000);

/// A certificate that was signed, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Until when it is valid, in whole seconds.
    pub not_after: Timestamp,
    pub(super) der: CertificateDer<'static>,
}

/// Signs certificates for a protection server, its agents and its operators.
///
/// Its own certificate lets it sign for names below `backstop` only, and no
/// further authorities. Serial numbers and keys are random.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A new one, with a new key, valid for a hundred years; people know it by
    /// its name (at most 64 characters).
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for a name that is
    /// empty, too long or not printable.
    pub fn create(name: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let length = name.chars().count();
        if !(1..=COMMON_NAME_MAX).contains(&length) || name.contains(char::is_control) {
            return Err(Error::invalid_input(format!(
                "an authority's name has 1 to {COMMON_NAME_MAX} characters that can be printed"
            )));
        }
        let key = new_key()?;
        let mut params = params(name, &*clock, DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("backstop".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let certificate = params.self_signed(&key).map_err(not_made)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem(), clock)
    }

    /// One that was made before, of PEM (RFC 7468).
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) naming which of
    /// them can't be read, or if they don't belong to each other.
    pub fn from_pem(certificate: &str, key: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let unreadable = |what: &str| {
            let sentence = format!("the authority's {what} can't be read");
            move |error: rcgen::Error| Error::invalid_input(sentence).with_source(error)
        };
        let (chain, private) = (
            tls::certificates("the authority's certificate", certificate.as_bytes())?,
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
                Error::invalid_input("the authority's key can't be read").with_source(error)
            })?,
        );
        let der = chain.first().cloned().ok_or_else(|| {
            Error::internal("the authority's certificate was read and is not there")
        })?;
        CertifiedKey::from_der(chain, private, &tls::provider()).map_err(|error| {
            Error::invalid_input("the authority's certificate and key don't belong to each other")
                .with_source(error)
        })?;
        let key = KeyPair::from_pem(key).map_err(unreadable("key"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key);
        Ok(Self {
            issuer: issuer.map_err(unreadable("certificate"))?,
            certificate: der,
            certificate_pem: certificate.to_owned(),
            clock,
        })
    }

    /// Its certificate, which those trust who trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, for [`from_pem`](Self::from_pem).
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a protection server, and its new private key in PEM.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it is to be
    /// valid for no day, or for more than a hundred years.
    pub fn server(&self, days: u32) -> Result<(Issued, String)> {
        let key = new_key()?;
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        let issued = self.sign(tls::SERVER.to_owned(), usage, &key, days)?;
        Ok((issued, key.serialize_pem()))
    }

    /// A certificate for an agent or operator, and its new private key in PEM.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for what is no
    /// name, and days as for [`server`](Self::server).
    pub fn client(&self, name: &str, role: Role, days: u32) -> Result<(Issued, String)> {
        let key = new_key()?;
        let issued = self.sign_client(name, role, &key, days)?;
        Ok((issued, key.serialize_pem()))
    }

    /// A certificate for an agent or operator who has the private key itself, by
    /// a request (PKCS#10, RFC 2986) in PEM. Of the request only the public key is
    /// believed, and that its sender has the private one; what else it asks for is
    /// passed over.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for what is no
    /// request or is not signed by its own key, what is no name, and days as for
    /// [`server`](Self::server).
    pub fn client_by_request(
        &self,
        request_pem: &str,
        name: &str,
        role: Role,
        days: u32,
    ) -> Result<Issued> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| {
            Error::invalid_input("the request for a certificate can't be read").with_source(error)
        })?;
        self.sign_client(name, role, &request.public_key, days)
    }

    fn sign_client(
        &self,
        name: &str,
        role: Role,
        key: &impl PublicKeyData,
        days: u32,
    ) -> Result<Issued> {
        names::check(name)?;
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.sign(names::dns(name, role), usage, key, days)
    }

    fn sign(
        &self,
        dns: String,
        usage: ExtendedKeyUsagePurpose,
        key: &impl PublicKeyData,
        days: u32,
    ) -> Result<Issued> {
        let common_name = if dns.len() <= COMMON_NAME_MAX {
            &dns
        } else {
            "backstop"
        };
        let mut params = params(common_name, &*self.clock, days)?;
        let not_after = Timestamp(params.not_after.unix_timestamp().saturating_mul(1000));
        let dns = dns.try_into().map_err(not_made)?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer).map_err(not_made)?;
        Ok(Issued {
            certificate_pem: signed.pem(),
            not_after,
            der: signed.into(),
        })
    }
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate().map_err(|error| {
        Error::unavailable("the operating system gives no random numbers for a key")
            .with_source(error)
    })
}

fn not_made(error: rcgen::Error) -> Error {
    Error::internal("a certificate can't be made").with_source(error)
}

/// What all certificates have: whose they are, from when and until when.
fn params(common_name: &str, clock: &dyn Clock, days: u32) -> Result<CertificateParams> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Error::invalid_input(format!(
            "a certificate is valid for 1 to {DAYS_MAX} days, not {days}"
        )));
    }
    let now = clock.now();
    let since_1970 = u64::try_from(now.0).ok().filter(|_| now < LATEST);
    let since_1970 = since_1970.map(Duration::from_millis).ok_or_else(|| {
        Error::unavailable(format!(
            "the clock tells {now}: no certificate can be made then; set it right"
        ))
    })?;
    let mut params = CertificateParams::default();
    params.not_before = (UNIX_EPOCH + since_1970.saturating_sub(LENIENCE)).into();
    params.not_after = (UNIX_EPOCH + since_1970 + DAY * days).into();
    let mut serial: [u8; 16] = random()?;
    // A positive number without a leading zero (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(params)
}

#[cfg(test)]
mod tests;
