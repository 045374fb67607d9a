//! What opens a vault.

use std::fmt;
use std::sync::Arc;

use backstop_core::{Error, Result};
use zeroize::Zeroizing;

use super::provider::KeyProvider;
use super::recovery::RecoveryKey;

/// What opens a vault.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credential {
    /// Nothing: for vaults that are not encrypted.
    #[default]
    None,
    /// A passphrase, stretched by argon2id.
    Passphrase(Zeroizing<String>),
    /// A raw key of 32 random bytes.
    Key(Zeroizing<[u8; 32]>),
    /// A recovery key, made by [`RecoveryKey::generate`] and kept on paper.
    Recovery(RecoveryKey),
    /// A key management service, or whatever else wraps keys.
    Provider(Arc<dyn KeyProvider>),
}

impl Credential {
    /// A passphrase.
    ///
    /// # Errors
    /// [`InvalidInput`](backstop_core::ErrorKind::InvalidInput) if it is empty.
    pub fn passphrase(passphrase: impl Into<String>) -> Result<Self> {
        let passphrase = Zeroizing::new(passphrase.into());
        if passphrase.is_empty() {
            return Err(Error::invalid_input("the passphrase is empty"));
        }
        Ok(Self::Passphrase(passphrase))
    }

    /// A raw key.
    pub fn key(key: [u8; 32]) -> Self {
        Self::Key(Zeroizing::new(key))
    }

    /// A provider of keys.
    pub fn provider(provider: impl KeyProvider + 'static) -> Self {
        Self::Provider(Arc::new(provider))
    }

    /// What it is, for sentences.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Passphrase(_) => "passphrase",
            Self::Key(_) => "raw key",
            Self::Recovery(_) => "recovery key",
            Self::Provider(_) => "key provider",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("Credential::None"),
            Self::Passphrase(_) => f.write_str("Credential::Passphrase(..)"),
            Self::Key(_) => f.write_str("Credential::Key(..)"),
            Self::Recovery(_) => f.write_str("Credential::Recovery(..)"),
            Self::Provider(provider) => write!(f, "Credential::Provider({})", provider.name()),
        }
    }
}
