//! The keys of a vault and what is sealed with them.
//!
//! From the vault key, HKDF-SHA256 (RFC 5869) derives one key for each
//! purpose: each pack has its own (its info holds the pack's random name), so
//! no key and nonce ever meet twice; the index has one that turns digests into
//! keys that tell nothing; the catalog's blocks have their own each, derived
//! from a random salt. Everything is sealed with AES-256-GCM.

use std::fmt;
use std::sync::Arc;

use backstop_core::{ChunkDigest, Error, ErrorKind, Result};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

/// The size of an authentication tag, in bytes.
pub(crate) const TAG_LENGTH: usize = 16;

/// The size of the salt in front of a sealed catalog block, in bytes.
pub(crate) const SALT_LENGTH: usize = 16;

/// Fills a buffer from the operating system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
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

/// The secret that opens a vault.
#[derive(Clone)]
pub(crate) struct VaultKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultKey(..)")
    }
}

impl VaultKey {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn generate() -> Result<Self> {
        random().map(Self::from_bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

struct KeyLength;

impl hkdf::KeyType for KeyLength {
    fn len(&self) -> usize {
        32
    }
}

/// Everything that is derived from one vault key.
pub(crate) struct Seal {
    root: hkdf::Prk,
    index: hmac::Key,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    pub(crate) fn new(key: &VaultKey) -> Result<Self> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"backstop vault v0").extract(key.as_bytes());
        let index = hmac::Key::new(hmac::HMAC_SHA256, &*derive(&root, &[b"index"])?);
        Ok(Self { root, index })
    }

    /// The key under which a chunk or node stands in the index, or a name in
    /// the catalog: the first 16 bytes of an HMAC over its kind and itself.
    pub(crate) fn index_key(&self, kind: u8, name: &[u8]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.index);
        context.update(&[kind]);
        context.update(name);
        let mut key = [0; 16];
        key.copy_from_slice(&context.sign().as_ref()[..16]);
        key
    }

    /// [`Self::index_key`] of a digest.
    pub(crate) fn digest_key(&self, kind: u8, digest: &ChunkDigest) -> [u8; 16] {
        self.index_key(kind, digest.as_bytes())
    }

    /// The key that seals one pack; `name` is unique to it.
    pub(crate) fn pack_key(&self, name: &[u8]) -> Result<SealingKey> {
        SealingKey::new(&*derive(&self.root, &[b"pack", name])?)
    }

    /// The key that seals one block of the catalog; `salt` is random.
    pub(crate) fn block_key(&self, salt: &[u8; SALT_LENGTH]) -> Result<SealingKey> {
        SealingKey::new(&*derive(&self.root, &[b"catalog", salt])?)
    }

    /// Authenticates what a vault's header says, and shows that a vault key is
    /// the right one: the first 16 bytes of an HMAC.
    pub(crate) fn header_tag(&self, header: &[u8]) -> Result<[u8; 16]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*derive(&self.root, &[b"header"])?);
        let mut tag = [0; 16];
        tag.copy_from_slice(&hmac::sign(&key, header).as_ref()[..16]);
        Ok(tag)
    }
}

fn derive(root: &hkdf::Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    root.expand(info, KeyLength)
        .and_then(|okm| okm.fill(&mut *key))
        .map_err(|_| Error::internal("a key could not be derived"))?;
    Ok(key)
}

/// One AES-256-GCM key. The caller sees to it that no nonce is used twice.
#[derive(Clone)]
pub(crate) struct SealingKey(Arc<LessSafeKey>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl SealingKey {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key)
            .map_err(|_| Error::internal("a sealing key was refused"))?;
        Ok(Self(Arc::new(LessSafeKey::new(key))))
    }

    /// Seals `data` in place and gives the tag. `header` is bound to it.
    pub(crate) fn seal(
        &self,
        number: u64,
        header: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_LENGTH]> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(number), Aad::from(header), data)
            .map_err(|_| Error::internal("sealing failed"))?;
        let mut bytes = [0; TAG_LENGTH];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Opens what was sealed, in place: `data` ends in the tag; gives the
    /// plain part of it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming `object` if a bit is not as it was.
    pub(crate) fn open<'a>(
        &self,
        number: u64,
        header: &[u8],
        data: &'a mut [u8],
        object: &dyn fmt::Display,
    ) -> Result<&'a mut [u8]> {
        self.0
            .open_in_place(nonce(number), Aad::from(header), data)
            .map_err(|_| {
                Error::new(
                    ErrorKind::Corrupt,
                    format!("{object} is damaged: its seal is broken"),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_binds_key_number_header_and_data() {
        let seal = Seal::new(&VaultKey::from_bytes([1; 32])).unwrap();
        let key = seal.pack_key(b"a").unwrap();
        let sealed = |key: &SealingKey| {
            let mut data = b"hello".to_vec();
            let tag = key.seal(5, b"h", &mut data).unwrap();
            data.extend(tag);
            data
        };
        let good = sealed(&key);
        let open = |key: &SealingKey, number, header: &[u8], mut data: Vec<u8>| {
            key.open(number, header, &mut data, &"it")
                .map(|plain| plain.to_vec())
        };
        assert_eq!(open(&key, 5, b"h", good.clone()).unwrap(), b"hello");
        assert!(open(&key, 6, b"h", good.clone()).is_err());
        assert!(open(&key, 5, b"H", good.clone()).is_err());
        assert!(open(&seal.pack_key(b"b").unwrap(), 5, b"h", good.clone()).is_err());
        let other = Seal::new(&VaultKey::from_bytes([2; 32])).unwrap();
        assert!(open(&other.pack_key(b"a").unwrap(), 5, b"h", good.clone()).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(open(&key, 5, b"h", bad).is_err(), "byte {at}");
        }
        assert_ne!(seal.index_key(0, b"x"), seal.index_key(1, b"x"));
    }
}
