//! What lets a machine join once, as one line that a person can carry.

use std::fmt;
use std::str::FromStr;

use backstop_core::{Error, Result};
use data_encoding::BASE32_NOPAD;

use super::authority::CertificateAuthority;
use super::random;

/// The version of what a token holds.
const VERSION: u8 = 0;

/// The size of a secret, in bytes.
const SECRET_LENGTH: usize = JoinToken::SECRET_LENGTH;

/// The size of a BLAKE3 digest, in bytes.
const DIGEST_LENGTH: usize = 32;

/// Version, secret, digest, and a byte that finds slips of the pen: 80 characters.
const LENGTH: usize = 1 + SECRET_LENGTH + DIGEST_LENGTH + 1;

/// Characters between two hyphens.
const GROUP: usize = 8;

/// Lets whoever holds it join once, and tells it which server to trust.
///
/// Shown as ten groups of eight characters (base32, RFC 4648, section 6): a
/// version, a secret of 16 random bytes, the BLAKE3 digest of the certificate of
/// the server's authority, and a check byte. Read back in either case, with or
/// without hyphens and spaces. It is a secret until it was used, and afterwards
/// worth nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: [u8; SECRET_LENGTH],
    authority: [u8; DIGEST_LENGTH],
}

impl JoinToken {
    /// The size of its secret, in bytes.
    pub const SECRET_LENGTH: usize = 16;

    /// A new one for servers whose certificates this authority signs. Nobody
    /// knows it yet: [`Roster::token`](super::Roster::token) makes those that it
    /// will know.
    pub fn generate(authority: &CertificateAuthority) -> Result<Self> {
        Ok(Self {
            secret: random()?,
            authority: blake3::hash(authority.certificate()).into(),
        })
    }

    /// What the server knows it by. Keep its digest only.
    pub fn secret(&self) -> &[u8; SECRET_LENGTH] {
        &self.secret
    }

    /// The BLAKE3 digest (32 bytes) of the certificate, in DER, of the authority
    /// that has to have signed the server's.
    pub fn authority(&self) -> &[u8; DIGEST_LENGTH] {
        &self.authority
    }

    /// Whether a certificate (DER) is that of the authority.
    pub(super) fn names(&self, certificate: &[u8]) -> bool {
        blake3::hash(certificate) == self.authority
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.authority);
        bytes.push(check_byte(&bytes));
        let text = BASE32_NOPAD.encode(&bytes);
        for (at, character) in text.chars().enumerate() {
            if at > 0 && at % GROUP == 0 {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

fn check_byte(bytes: &[u8]) -> u8 {
    let [first, ..] = *blake3::hash(bytes).as_bytes();
    first
}

impl FromStr for JoinToken {
    type Err = Error;

    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) for what is no
    /// token, without repeating it; [`Unsupported`](backstop_core::ErrorKind::Unsupported)
    /// for one of another version.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            Error::invalid_input(
                "this is no token for joining: copy the whole line as it was printed",
            )
        };
        let counts = |character: &char| *character != '-' && !character.is_whitespace();
        // One more than there may be is enough to see that there are too many.
        let most = BASE32_NOPAD.encode_len(LENGTH) + 1;
        let text: String = text.chars().filter(counts).take(most).collect();
        let text = text.to_ascii_uppercase();
        let bytes = BASE32_NOPAD.decode(text.as_bytes());
        let bytes = bytes.map_err(|_| refused())?;
        let (check, rest) = bytes.split_last().ok_or_else(refused)?;
        if check_byte(rest) != *check {
            return Err(refused());
        }
        let (version, rest) = rest.split_first().ok_or_else(refused)?;
        if *version != VERSION {
            return Err(Error::new(
                backstop_core::ErrorKind::Unsupported,
                format!("this token is of version {version}; update Backstop to join with it"),
            ));
        }
        let (secret, rest) = rest.split_first_chunk().ok_or_else(refused)?;
        let authority = rest.try_into().map_err(|_| refused())?;
        Ok(Self {
            secret: *secret,
            authority,
        })
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(secret: [u8; SECRET_LENGTH], authority: [u8; DIGEST_LENGTH]) {
            let token = JoinToken { secret, authority };
            let text = token.to_string();
            prop_assert_eq!(text.len(), 89);
            prop_assert_eq!(&text.parse::<JoinToken>().unwrap(), &token);
            let spoken = format!(" {}\n", text.to_lowercase().replace('-', " "));
            prop_assert_eq!(&spoken.parse::<JoinToken>().unwrap(), &token);
        }

        #[test]
        fn anything_else_is_refused(text in ".{0,200}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
        }

        #[test]
        fn what_is_too_short_or_too_long_is_refused(secret: [u8; SECRET_LENGTH], at in 0_usize..89) {
            let text = JoinToken { secret, authority: [3; DIGEST_LENGTH] }.to_string();
            prop_assert!(text[..at].parse::<JoinToken>().is_err());
            let longer = text.clone() + &text[at..];
            prop_assert!(longer.parse::<JoinToken>().is_err());
        }
    }

    #[test]
    fn a_slip_is_told_and_so_is_another_version() {
        let token = JoinToken {
            secret: [7; SECRET_LENGTH],
            authority: [9; DIGEST_LENGTH],
        };
        let text = token.to_string();
        let slip = text.replacen('H', "I", 1);
        assert_ne!(slip, text);
        let error = slip.parse::<JoinToken>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!error.to_string().contains(&slip));
        let mut later = vec![VERSION + 1];
        later.push(check_byte(&later));
        let error = BASE32_NOPAD.encode(&later).parse::<JoinToken>();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(format!("{token:?}"), "JoinToken(..)");
    }
}
