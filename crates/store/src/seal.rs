//! The keys of a vault and what is sealed with them.
//!
//! A vault has one base secret, which never changes, and a ring of vault keys,
//! which grows by rotation ([`crate::keys::ring`]). From the base, HKDF-SHA256 (RFC
//! 5869) derives what must outlive every rotation: the key that turns digests
//! into keys of the index which tell nothing, and the one that shows that an
//! object is this vault's. From each vault key it derives one key for each
//! thing that is sealed: each pack has its own (its info holds the pack's
//! random name), so no key and nonce ever meet twice; the catalog's blocks have
//! their own each, from a random salt. Everything is sealed with AES-256-GCM,
//! and tells the id of the vault key that it is sealed under.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use async_trait::async_trait;
use backstop_core::{ChunkDigest, Error, ErrorKind, Result};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::{hkdf, hmac};
use zeroize::Zeroizing;

use crate::keys::ring::{Ring, RingId, VaultKeyId};

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

/// 32 secret bytes.
#[derive(Clone)]
pub(crate) struct Secret(Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
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

/// What keys are derived from, made of a secret.
fn extract(secret: &[u8]) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"backstop vault v0").extract(secret)
}

fn derive(root: &hkdf::Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    root.expand(info, KeyLength)
        .and_then(|okm| okm.fill(&mut *key))
        .map_err(|_| Error::internal("a key could not be derived"))?;
    Ok(key)
}

/// A sealing key that is derived from a secret.
pub(crate) fn sealing_key(secret: &[u8], info: &[&[u8]]) -> Result<SealingKey> {
    SealingKey::new(&*derive(&extract(secret), info)?)
}

/// What is the same for as long as a vault lives.
#[derive(Clone)]
pub(crate) struct Base {
    secret: Secret,
    index: hmac::Key,
    header: hmac::Key,
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Base(..)")
    }
}

impl Base {
    pub(crate) fn new(secret: Secret) -> Result<Self> {
        let root = extract(secret.as_bytes());
        let key = |info: &[u8]| -> Result<hmac::Key> {
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derive(&root, &[info])?))
        };
        let (index, header) = (key(b"index")?, key(b"header")?);
        Ok(Self {
            secret,
            index,
            header,
        })
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
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

    /// Authenticates what a vault's header says, and shows that a base is the
    /// right one: the first 16 bytes of an HMAC.
    pub(crate) fn header_tag(&self, header: &[u8]) -> [u8; 16] {
        let mut tag = [0; 16];
        tag.copy_from_slice(&hmac::sign(&self.header, header).as_ref()[..16]);
        tag
    }
}

/// Where rings are found that were made after the vault was opened.
#[async_trait]
pub(crate) trait RingSource: Send + Sync + fmt::Debug {
    /// All that there are now.
    async fn rings(&self) -> Result<Vec<Ring>>;
}

/// Everything that is sealed and opened in one vault.
pub(crate) struct Seal {
    base: Base,
    known: RwLock<Known>,
    source: OnceLock<Arc<dyn RingSource>>,
    /// One asks the source at a time.
    asking: tokio::sync::Mutex<()>,
    /// Why a block of the catalog could not be opened last.
    noted: Mutex<Option<(ErrorKind, String)>>,
}

/// The keys that are known, and the ring that counts.
struct Known {
    ring: Ring,
    /// Of other rings, too: what is sealed is opened whichever ring counts.
    rings: BTreeMap<RingId, Ring>,
    roots: BTreeMap<VaultKeyId, hkdf::Prk>,
}

impl Known {
    fn add(&mut self, ring: Ring) {
        for key in &ring.keys {
            let root = || extract(key.secret.as_bytes());
            self.roots.entry(key.id).or_insert_with(root);
        }
        self.rings.insert(ring.id, ring);
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    /// Seals by `ring` until another one is said to count.
    pub(crate) fn new(base: Base, ring: Ring) -> Self {
        let mut known = Known {
            ring: ring.clone(),
            rings: BTreeMap::new(),
            roots: BTreeMap::new(),
        };
        known.add(ring);
        Self {
            base,
            known: RwLock::new(known),
            source: OnceLock::new(),
            asking: tokio::sync::Mutex::default(),
            noted: Mutex::default(),
        }
    }

    /// A vault's with one key, for tests.
    #[cfg(test)]
    pub(crate) fn of_byte(byte: u8) -> Result<Self> {
        let base = Base::new(Secret::from_bytes([byte; 32]))?;
        Ok(Self::new(base, Ring::of_byte(byte)))
    }

    /// Where it learns of newer rings.
    pub(crate) fn with_source(self, source: Arc<dyn RingSource>) -> Self {
        // It is new, and has none.
        let _ = self.source.set(source);
        self
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    /// The ring that counts.
    pub(crate) fn ring(&self) -> Ring {
        self.known().ring.clone()
    }

    /// All rings that are known.
    pub(crate) fn rings(&self) -> Vec<Ring> {
        self.known().rings.values().cloned().collect()
    }

    /// The key that everything new is sealed under.
    pub(crate) fn current(&self) -> VaultKeyId {
        self.known().ring.current()
    }

    /// From now on everything new is sealed by this ring.
    pub(crate) fn use_ring(&self, ring: Ring) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.ring = ring.clone();
        known.add(ring);
    }

    /// What it opens with, too.
    pub(crate) fn add_rings(&self, rings: impl IntoIterator<Item = Ring>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        rings.into_iter().for_each(|ring| known.add(ring));
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn root(&self, key: VaultKeyId) -> Option<hkdf::Prk> {
        self.known().roots.get(&key).cloned()
    }

    /// Sees to it that a key is known: the vault's owner may have made it since
    /// the vault was opened.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`] if the vault's ring does not have it, as far as
    /// the slot that opened it tells; those of the store.
    pub(crate) async fn learn(&self, key: VaultKeyId) -> Result<()> {
        if self.root(key).is_some() {
            return Ok(());
        }
        let _one = self.asking.lock().await;
        if self.root(key).is_none()
            && let Some(source) = self.source.get()
        {
            self.add_rings(source.rings().await?);
        }
        self.root(key).map(drop).ok_or_else(|| unknown(key))
    }

    /// A ring by its id: as it is known, or as the store has it now.
    pub(crate) async fn find_ring(&self, id: RingId) -> Result<Option<Ring>> {
        let found = self.known().rings.get(&id).cloned();
        if found.is_some() {
            return Ok(found);
        }
        let _one = self.asking.lock().await;
        if let Some(source) = self.source.get() {
            self.add_rings(source.rings().await?);
        }
        Ok(self.known().rings.get(&id).cloned())
    }

    /// Remembers why a block of the catalog could not be opened.
    pub(crate) fn note(&self, error: &Error) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        *noted = Some((error.kind(), error.to_string()));
    }

    /// What was remembered last.
    pub(crate) fn take_noted(&self) -> Option<(ErrorKind, String)> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.take()
    }

    /// [`Base::index_key`].
    pub(crate) fn index_key(&self, kind: u8, name: &[u8]) -> [u8; 16] {
        self.base.index_key(kind, name)
    }

    /// [`Base::index_key`] of a digest.
    pub(crate) fn digest_key(&self, kind: u8, digest: &ChunkDigest) -> [u8; 16] {
        self.base.index_key(kind, digest.as_bytes())
    }

    /// The key that seals one pack; `name` is unique to it. The vault key must
    /// be known: see [`learn`](Self::learn).
    pub(crate) fn pack_key(&self, key: VaultKeyId, name: &[u8]) -> Result<SealingKey> {
        let root = self.root(key).ok_or_else(|| unknown(key))?;
        SealingKey::new(&*derive(&root, &[b"pack", name])?)
    }

    /// The key that seals one block of the catalog; `salt` is random.
    pub(crate) fn block_key(
        &self,
        key: VaultKeyId,
        salt: &[u8; SALT_LENGTH],
    ) -> Result<SealingKey> {
        let root = self.root(key).ok_or_else(|| unknown(key))?;
        SealingKey::new(&*derive(&root, &[b"catalog", salt])?)
    }
}

/// What was sealed under a key that nobody here has.
fn unknown(key: VaultKeyId) -> Error {
    Error::new(
        ErrorKind::WrongKey,
        format!(
            "sealed with vault key {key}, which the ring of this vault does not have; if the key \
             slot that opened the vault was removed since, open it with another"
        ),
    )
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
        let seal = Seal::of_byte(1).unwrap();
        let key = seal.pack_key(seal.current(), b"a").unwrap();
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
        let named_b = seal.pack_key(seal.current(), b"b").unwrap();
        assert!(open(&named_b, 5, b"h", good.clone()).is_err());
        let other = Seal::of_byte(2).unwrap();
        let others = other.pack_key(other.current(), b"a").unwrap();
        assert!(open(&others, 5, b"h", good.clone()).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(open(&key, 5, b"h", bad).is_err(), "byte {at}");
        }
        assert_ne!(seal.index_key(0, b"x"), seal.index_key(1, b"x"));
    }

    /// What was sealed before a rotation opens after it; what is sealed after
    /// it does not open with what was known before.
    #[tokio::test]
    async fn a_new_key_seals_and_old_ones_open() {
        let seal = Seal::of_byte(1).unwrap();
        let (old, before) = (seal.current(), Seal::of_byte(1).unwrap());
        let ring = seal.ring().with_new_key(backstop_core::Timestamp(2));
        seal.use_ring(ring.unwrap());
        let new = seal.current();
        assert_ne!(old, new);
        assert!(seal.pack_key(old, b"a").is_ok() && seal.pack_key(new, b"a").is_ok());
        assert_eq!(seal.index_key(0, b"x"), before.index_key(0, b"x"));
        let error = before.pack_key(new, b"a").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(error.to_string().contains(&new.to_string()), "{error}");
        assert!(before.learn(old).await.is_ok());
        assert!(before.learn(new).await.is_err());
    }
}
