//! How agents and operators come to be trusted: an authority of the server's
//! own, tokens that let a machine join once, and a roster of who was enrolled,
//! which takes back at once.

mod accept;
mod ask;
mod authority;
mod durable;
mod message;
mod names;
mod roster;
mod roster_file;
mod token;
mod tokens;
mod verifier;

pub(crate) use accept::Door;
pub use accept::{Joined, Joins};
pub use ask::{Enrolled, join};
pub use authority::{CertificateAuthority, Issued};
pub use roster::Roster;
pub use roster_file::{Enrolment, IssuedCertificate};
pub use token::JoinToken;

use backstop_core::{Error, Result};

/// What is spoken inside of TLS by who joins; docs/wire.md, "Joining".
pub(crate) const PROTOCOL: &[u8] = b"backstop-join/0";

/// Fills an array from the operating system's generator.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks the operating system's generator"
    )]
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::unavailable("the operating system gives no random numbers").with_source(error)
    })?;
    Ok(bytes)
}
