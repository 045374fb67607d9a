//! What fails below the calls, as errors that say what to do.

use std::fmt;

use backstop_core::{Error, ErrorKind};

/// Nothing is known to be wrong but the way: repeat later.
pub(crate) fn unreachable(
    address: impl fmt::Display,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::unavailable(format!(
        "the protection server at {address} can't be reached"
    ))
    .with_source(error)
}

/// Of several addresses: one that refuses us says more than one that is away.
pub(crate) fn more_telling(known: Option<Error>, error: Error) -> Error {
    match known {
        Some(known) if known.kind() != ErrorKind::Unavailable => known,
        _ => error,
    }
}

/// The connection broke while something was asked.
pub(crate) fn broken(
    peer: impl fmt::Display,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::unavailable(format!("the connection to {peer} broke")).with_source(error)
}

/// The TLS handshake failed: by a certificate that is not trusted, or else.
pub(crate) fn handshake(address: impl fmt::Display, error: std::io::Error) -> Error {
    let is_alert = error
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>())
        .is_some_and(|cause| {
            matches!(
                cause,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::AlertReceived(_)
                    | rustls::Error::NoCertificatesPresented
            )
        });
    if is_alert {
        let sentence = format!(
            "the certificates of the protection server at {address} and of this agent don't go together"
        );
        return Error::new(ErrorKind::Forbidden, sentence).with_source(error);
    }
    unreachable(address, error)
}
