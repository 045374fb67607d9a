//! The seam to whatever keeps keys outside of us: a key management service, a
//! hardware module, an agent.

use std::fmt;

use async_trait::async_trait;
use backstop_core::Result;
use zeroize::Zeroizing;

/// Wraps the key of a key slot, and unwraps it again years later.
///
/// A key slot made for a provider has a random key of its own, which is stored
/// only as the provider wrapped it, beside the provider's name and the
/// reference to its key. Opening the vault asks for one unwrapping; rotating the
/// vault's keys asks for none.
///
/// An implementer owes:
/// - `unwrap(reference, wrap(plain)) == plain`, for as long as the provider's
///   key lives, from any process, with the reference that
///   [`key_reference`](Self::key_reference) gave when it was wrapped;
/// - that nobody without the right to the provider's key learns `plain` from
///   what `wrap` gives;
/// - the kinds of errors below, since the caller goes by them.
///
/// Both may be cancelled by dropping their future, and repeated. Neither is
/// called while the vault keeps a lock.
#[async_trait]
pub trait KeyProvider: Send + Sync + fmt::Debug {
    /// Which provider it is: a slot is shown only to a provider of the same
    /// name. Stored in the open; 1 to 64 characters.
    fn name(&self) -> &str;

    /// Which of the provider's keys wraps from now on: a resource name, a URL, a
    /// label. Stored in the open; at most 1024 characters.
    fn key_reference(&self) -> &str;

    /// Wraps 32 bytes; what it gives is stored, at most 16 KiB.
    ///
    /// # Errors
    /// [`Unavailable`](backstop_core::ErrorKind::Unavailable) if repeating it
    /// later may help; [`InvalidInput`](backstop_core::ErrorKind::InvalidInput)
    /// if the settings or rights are wrong.
    async fn wrap(&self, plain: &[u8; 32]) -> Result<Vec<u8>>;

    /// The 32 bytes that were wrapped.
    ///
    /// # Errors
    /// [`WrongKey`](backstop_core::ErrorKind::WrongKey) if the provider is sure
    /// that it can't: no such key, no right to it, not what it wrapped; other
    /// slots are tried then. [`Unavailable`](backstop_core::ErrorKind::Unavailable)
    /// if it did not answer: opening the vault tells it if no slot opens, and
    /// never as a wrong key.
    async fn unwrap(&self, reference: &str, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>>;
}
