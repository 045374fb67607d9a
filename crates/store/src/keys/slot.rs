//! A key slot: what opens with one passphrase, key or provider, and the ring of
//! the vault's keys for it.
//!
//! The lock holds two secrets: the vault's base, and the private half of the
//! slot's own key pair. It is made with the slot and never changes. The ring is
//! sealed to the public half, so that another one can be given to the slot
//! without what opens its lock ([`KeySlot::with_ring`]).

use argon2::{Algorithm, Argon2, Params, Version};
use backstop_core::{CpuPool, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KeySlotKind;
use super::credential::Credential;
use super::provider::KeyProvider;
use super::ring::{HALF, Ring, RingId, public_half};
use crate::header::{FORMAT, encoded, from_hex, newer, to_hex};
use crate::seal::{self, Base, SealingKey, Secret, TAG_LENGTH};

/// The kind under which key slots are hashed.
const SLOT: u8 = b'k';

/// The object `keys/ID-RING.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeySlot {
    format: u32,
    pub(crate) id: String,
    /// Which ring it has.
    pub(crate) ring_id: RingId,
    /// The public half of its key pair.
    public: String,
    /// The ring, sealed to it.
    ring: String,
    /// Shows to who has the base that the slot is this vault's: an HMAC of all
    /// the rest.
    check: String,
    #[serde(flatten)]
    lock: SlotLock,
}

/// What opens it; `sealed` holds the base and the private half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum SlotLock {
    /// Nothing is secret.
    Open { plain: String },
    /// A raw key.
    Raw { sealed: String },
    /// A stretched passphrase.
    Passphrase {
        salt: String,
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        sealed: String,
    },
    /// A recovery key.
    Recovery { sealed: String },
    /// A random key that a provider wrapped.
    Provider {
        provider: String,
        reference: String,
        wrapped: String,
        sealed: String,
    },
}

/// What a lock holds.
#[derive(Clone, Debug)]
pub(crate) struct SlotSecret {
    pub(crate) base: Base,
    pub(crate) private: Secret,
}

/// Argon2id's costs for new slots: 32 MiB, so that opening a vault stays
/// within the memory that everything else needs; 3 passes.
const MEMORY_KIB: u32 = 32 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;

/// The highest costs that are accepted from a slot.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;

/// The longest that a provider may tell of itself, in characters and bytes.
const MAX_NAME: usize = 64;
const MAX_REFERENCE: usize = 1024;
const MAX_WRAPPED: usize = 16 << 10;

fn stretch(
    passphrase: &str,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<SealingKey> {
    let refused = |error: argon2::Error| {
        Error::corrupt("a key slot's argon2id costs can't be").with_source(error.to_string())
    };
    if memory_kib > MAX_MEMORY_KIB || passes > MAX_PASSES {
        return Err(Error::corrupt(
            "a key slot asks for more memory or time than is accepted",
        ));
    }
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(refused)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(refused)?;
    SealingKey::new(&key)
}

/// The key of a slot that needs no stretching: derived, so that one secret may
/// open many slots.
fn slot_key(secret: &[u8], id: &str) -> Result<SealingKey> {
    seal::sealing_key(secret, &[b"slot", id.as_bytes()])
}

/// The slot and the public half, which a lock is bound to.
fn bound(id: &str, public: &str) -> Vec<u8> {
    format!("{id} {public}").into_bytes()
}

/// A provider may be asked, and says nothing too long to be stored.
async fn wrap(provider: &dyn KeyProvider, plain: &[u8; 32]) -> Result<Vec<u8>> {
    let (name, reference) = (provider.name(), provider.key_reference());
    if name.is_empty() || name.len() > MAX_NAME || reference.len() > MAX_REFERENCE {
        return Err(Error::invalid_input(format!(
            "key provider {name:?} has a name or reference that can't be stored: at most \
             {MAX_NAME} and {MAX_REFERENCE} characters"
        )));
    }
    let wrapped = provider.wrap(plain).await?;
    if wrapped.len() > MAX_WRAPPED {
        return Err(Error::invalid_input(format!(
            "key provider {name} made {} bytes of a key; at most {MAX_WRAPPED} can be stored",
            wrapped.len()
        )));
    }
    Ok(wrapped)
}

impl KeySlot {
    /// A slot that gives the base and the ring to who has `credential`, under a
    /// new id. Stretching a passphrase takes about 0.1 s and 32 MiB.
    pub(crate) async fn create(
        cpu: &CpuPool,
        credential: &Credential,
        base: &Base,
        ring: &Ring,
    ) -> Result<Self> {
        let id = to_hex(&seal::random::<8>()?);
        let private = Secret::generate()?;
        let public = to_hex(&public_half(&private));
        let mut plain = Zeroizing::new(Vec::with_capacity(2 * HALF + TAG_LENGTH));
        plain.extend_from_slice(base.secret().as_bytes());
        plain.extend_from_slice(private.as_bytes());
        let bound = bound(&id, &public);
        // Each slot has a key of its own, so no nonce is ever met twice.
        let mut sealed = |key: &SealingKey| -> Result<String> {
            let tag = key.seal(0, &bound, &mut plain)?;
            plain.extend_from_slice(&tag);
            Ok(to_hex(&plain))
        };
        let lock = match credential {
            Credential::None => SlotLock::Open {
                plain: to_hex(&plain),
            },
            Credential::Key(raw) => SlotLock::Raw {
                sealed: sealed(&slot_key(&raw[..], &id)?)?,
            },
            Credential::Recovery(key) => SlotLock::Recovery {
                sealed: sealed(&slot_key(key.as_bytes(), &id)?)?,
            },
            Credential::Passphrase(passphrase) => {
                let (salt, passphrase) = (seal::random::<16>()?, passphrase.clone());
                let work = move || stretch(&passphrase, &salt, MEMORY_KIB, PASSES, LANES);
                let key = cpu.run(work).await??;
                SlotLock::Passphrase {
                    salt: to_hex(&salt),
                    memory_kib: MEMORY_KIB,
                    passes: PASSES,
                    lanes: LANES,
                    sealed: sealed(&key)?,
                }
            }
            Credential::Provider(provider) => {
                let own = Secret::generate()?;
                SlotLock::Provider {
                    provider: provider.name().to_owned(),
                    reference: provider.key_reference().to_owned(),
                    wrapped: to_hex(&wrap(&**provider, own.as_bytes()).await?),
                    sealed: sealed(&slot_key(own.as_bytes(), &id)?)?,
                }
            }
        };
        let slot = Self {
            format: FORMAT,
            id,
            ring_id: ring.id,
            public,
            ring: String::new(),
            check: String::new(),
            lock,
        };
        slot.with_ring(base, ring)
    }

    /// The same slot with another ring, for an object of its own.
    pub(crate) fn with_ring(&self, base: &Base, ring: &Ring) -> Result<Self> {
        let mut slot = self.clone();
        let sealed = ring.seal_to(&self.public()?, base, &self.id)?;
        slot.ring = to_hex(&sealed);
        slot.ring_id = ring.id;
        slot.check = slot.tag(base)?;
        Ok(slot)
    }

    /// The same slot with a ring as a newer version may seal it.
    #[cfg(test)]
    pub(crate) fn with_newer_ring(&self, base: &Base, ring: &Ring) -> Result<Self> {
        let mut slot = self.clone();
        slot.ring = to_hex(&ring.seal_newer_to(&self.public()?, base, &self.id)?);
        slot.check = slot.tag(base)?;
        Ok(slot)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Start {
            format: u32,
        }
        let damaged = |error| Error::corrupt("a key slot is damaged").with_source(error);
        let start: Start = serde_json::from_slice(bytes).map_err(damaged)?;
        if start.format > FORMAT {
            return Err(newer(&format!("a key slot (format {})", start.format)));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encoded("a key slot", self)
    }

    fn tag(&self, base: &Base) -> Result<String> {
        let all = (
            &self.id,
            &self.ring_id,
            &self.public,
            &self.ring,
            &self.lock,
        );
        let all = encoded("a key slot", &all)?;
        Ok(to_hex(&base.index_key(SLOT, &all)))
    }

    /// Whether it is of the vault with this base, undamaged.
    pub(crate) fn is_of(&self, base: &Base) -> bool {
        self.tag(base).is_ok_and(|check| check == self.check)
    }

    /// What opens it.
    pub(crate) fn kind(&self) -> KeySlotKind {
        match self.lock {
            SlotLock::Open { .. } => KeySlotKind::Open,
            SlotLock::Raw { .. } => KeySlotKind::Key,
            SlotLock::Passphrase { .. } => KeySlotKind::Passphrase,
            SlotLock::Recovery { .. } => KeySlotKind::Recovery,
            SlotLock::Provider { .. } => KeySlotKind::Provider,
        }
    }

    /// The name of its provider, and which of its keys, if it has one.
    pub(crate) fn provider(&self) -> Option<(&str, &str)> {
        match &self.lock {
            SlotLock::Provider {
                provider,
                reference,
                ..
            } => Some((provider, reference)),
            _ => None,
        }
    }

    /// Whether the same opens both.
    pub(crate) fn has_lock_of(&self, other: &Self) -> bool {
        (&self.id, &self.public, &self.lock) == (&other.id, &other.public, &other.lock)
    }

    fn public(&self) -> Result<[u8; HALF]> {
        let public = from_hex("a key slot", &self.public)?;
        let public = <[u8; HALF]>::try_from(&public[..]);
        public.map_err(|_| Error::corrupt("a key slot is damaged: its public half is short"))
    }

    /// What it holds, if this credential opens it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is damaged; those of the provider, but for
    /// [`ErrorKind::WrongKey`].
    pub(crate) async fn unlock(
        &self,
        cpu: &CpuPool,
        credential: &Credential,
    ) -> Result<Option<SlotSecret>> {
        match (&self.lock, credential) {
            (
                SlotLock::Passphrase {
                    salt,
                    memory_kib,
                    passes,
                    lanes,
                    sealed,
                },
                Credential::Passphrase(passphrase),
            ) => {
                let (salt, passphrase) = (from_hex("a key slot", salt)?, passphrase.clone());
                let (memory_kib, passes, lanes) = (*memory_kib, *passes, *lanes);
                let work = move || stretch(&passphrase, &salt, memory_kib, passes, lanes);
                self.unseal(&cpu.run(work).await??, sealed)
            }
            (
                SlotLock::Provider {
                    provider: name,
                    reference,
                    wrapped,
                    sealed,
                },
                Credential::Provider(provider),
            ) if provider.name() == name => {
                let wrapped = from_hex("a key slot", wrapped)?;
                match provider.unwrap(reference, &wrapped).await {
                    Ok(own) => self.unseal(&slot_key(&own[..], &self.id)?, sealed),
                    Err(error) if error.kind() == ErrorKind::WrongKey => {
                        tracing::debug!(slot = self.id, %error, "a provider does not open a key slot");
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
            _ => self.unlock_now(credential),
        }
    }

    /// [`Self::unlock`] for what takes no time and asks nobody.
    pub(crate) fn unlock_now(&self, credential: &Credential) -> Result<Option<SlotSecret>> {
        match (&self.lock, credential) {
            // Who has a secret means a vault that it protects.
            (SlotLock::Open { plain }, Credential::None) => {
                self.secret(&from_hex("a key slot", plain)?).map(Some)
            }
            (SlotLock::Raw { sealed }, Credential::Key(raw)) => {
                self.unseal(&slot_key(&raw[..], &self.id)?, sealed)
            }
            (SlotLock::Recovery { sealed }, Credential::Recovery(key)) => {
                self.unseal(&slot_key(key.as_bytes(), &self.id)?, sealed)
            }
            _ => Ok(None),
        }
    }

    /// What is sealed in its lock, if this is the key.
    fn unseal(&self, key: &SealingKey, sealed: &str) -> Result<Option<SlotSecret>> {
        let mut bytes = from_hex("a key slot", sealed)?;
        let bound = bound(&self.id, &self.public);
        match key.open(0, &bound, &mut bytes, &"a key slot") {
            Ok(plain) => self.secret(plain).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The secrets that its lock holds.
    fn secret(&self, plain: &[u8]) -> Result<SlotSecret> {
        let halves = plain
            .split_first_chunk::<32>()
            .and_then(|(base, private)| Some((base, <&[u8; 32]>::try_from(private).ok()?)));
        let (base, private) =
            halves.ok_or_else(|| Error::corrupt("a key slot is damaged: its length is wrong"))?;
        let private = Secret::from_bytes(*private);
        if public_half(&private) != self.public()? {
            return Err(Error::corrupt(
                "a key slot is damaged: its public half is another's",
            ));
        }
        Ok(SlotSecret {
            base: Base::new(Secret::from_bytes(*base))?,
            private,
        })
    }

    /// Its ring.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is damaged.
    pub(crate) fn open_ring(&self, secret: &SlotSecret) -> Result<Ring> {
        let sealed = from_hex("a key slot", &self.ring)?;
        let ring = Ring::open(&sealed, &secret.private, &secret.base, &self.id)?;
        if ring.id != self.ring_id {
            return Err(Error::corrupt(
                "a key slot is damaged: its ring is another than it says",
            ));
        }
        Ok(ring)
    }
}

#[cfg(test)]
mod tests {
    use backstop_core::Timestamp;

    use super::*;
    use crate::RecoveryKey;

    fn base(byte: u8) -> Base {
        Base::new(Secret::from_bytes([byte; 32])).unwrap()
    }

    #[tokio::test]
    async fn slots_open_for_their_own_credential_only() {
        let (cpu, base) = (CpuPool::inline(), base(1));
        let ring = Ring::create(Timestamp(1)).unwrap();
        let pass = |text| Credential::passphrase(text).unwrap();
        let recovery = || Credential::Recovery(RecoveryKey::generate().unwrap());
        let all = [
            pass("horse"),
            pass("Horse"),
            Credential::key([7; 32]),
            Credential::key([8; 32]),
            recovery(),
            recovery(),
            Credential::None,
        ];
        for own in &all {
            let slot = KeySlot::create(&cpu, own, &base, &ring).await.unwrap();
            let stored = slot.encode().unwrap();
            let is_open = matches!(own, Credential::None);
            let secret = to_hex(base.secret().as_bytes());
            assert_eq!(String::from_utf8_lossy(&stored).contains(&secret), is_open);
            let slot = KeySlot::decode(&stored).unwrap();
            assert!(slot.is_of(&base));
            for credential in &all {
                let opened = slot.unlock(&cpu, credential).await.unwrap();
                let is_own = std::ptr::eq(own, credential);
                assert_eq!(opened.is_some(), is_own, "{own:?} {credential:?}");
                if let Some(opened) = opened {
                    assert_eq!(opened.base.secret().as_bytes(), base.secret().as_bytes());
                    let held = slot.open_ring(&opened).unwrap();
                    assert_eq!((held.id, held.current()), (ring.id, ring.current()));
                }
            }
        }
        assert!(Credential::passphrase("").is_err());
    }

    /// Another ring needs nothing of what opens the lock, and the old object
    /// gives nothing of the new one.
    #[tokio::test]
    async fn a_slot_is_given_another_ring_without_its_credential() {
        let (cpu, base, raw) = (CpuPool::inline(), base(1), Credential::key([7; 32]));
        let ring = Ring::create(Timestamp(1)).unwrap();
        let slot = KeySlot::create(&cpu, &raw, &base, &ring).await.unwrap();
        let newer = ring.with_new_key(Timestamp(2)).unwrap();
        let again = slot.with_ring(&base, &newer).unwrap();
        assert!(again.is_of(&base) && again.id == slot.id);
        let secret = again.unlock(&cpu, &raw).await.unwrap().unwrap();
        let held = again.open_ring(&secret).unwrap();
        assert_eq!((held.id, held.current()), (newer.id, newer.current()));
        assert_eq!(slot.open_ring(&secret).unwrap().id, ring.id);
        // Another slot's secret, by who knows everything else, does not do.
        let other = Credential::key([9; 32]);
        let removed = KeySlot::create(&cpu, &other, &base, &ring).await.unwrap();
        let removed = removed.unlock(&cpu, &other).await.unwrap().unwrap();
        assert!(again.open_ring(&removed).is_err());
    }

    #[tokio::test]
    async fn no_part_of_a_slot_can_be_another() {
        let (cpu, base, raw) = (CpuPool::inline(), base(1), Credential::key([7; 32]));
        let ring = Ring::create(Timestamp(1)).unwrap();
        let slot = KeySlot::create(&cpu, &raw, &base, &ring).await.unwrap();
        let other = KeySlot::create(&cpu, &raw, &base, &ring).await.unwrap();
        let secret = slot.unlock(&cpu, &raw).await.unwrap().unwrap();
        let swaps: [fn(&mut KeySlot, &KeySlot); 5] = [
            |slot, other| slot.id.clone_from(&other.id),
            |slot, other| slot.public.clone_from(&other.public),
            |slot, other| slot.ring.clone_from(&other.ring),
            |slot, other| slot.lock.clone_from(&other.lock),
            |slot, _| slot.ring_id = RingId(5),
        ];
        for (number, swap) in swaps.into_iter().enumerate() {
            let mut bad = slot.clone();
            swap(&mut bad, &other);
            assert!(!bad.is_of(&base), "swap {number}");
            let is_open = matches!(bad.unlock(&cpu, &raw).await, Ok(Some(_)));
            assert!(!is_open || bad.open_ring(&secret).is_err(), "swap {number}");
        }
    }

    #[tokio::test]
    async fn costs_that_harm_are_refused() {
        let costly = br#"{"format":0,"id":"a","ring_id":"0000000000000001","public":"","ring":"","check":"","kind":"passphrase","salt":"00112233445566778899","memory_kib":4294967295,"passes":1,"lanes":1,"sealed":""}"#;
        let slot = KeySlot::decode(costly).unwrap();
        let pass = Credential::passphrase("x").unwrap();
        let error = slot.unlock(&CpuPool::inline(), &pass).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let newer = br#"{"format":9,"surprise":[]}"#;
        let error = KeySlot::decode(newer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
