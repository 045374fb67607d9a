//! The ring of a vault's keys, and how it reaches who opens a key slot.
//!
//! Everything new is sealed under the newest key of the ring; the older ones
//! open what was sealed before. A rotation adds a key, and so makes another
//! ring, under a random id: a ring is never changed.
//!
//! ```text
//! 1        version, 0
//! 8        id, little-endian
//! varint   keys, oldest first; the last seals what is new
//! for each:
//! 4        id, little-endian
//! 8        created, milliseconds since 1970, little-endian
//! 32       key
//! ```
//!
//! Each key slot has a key pair of its own (X25519), whose private half only
//! its passphrase, key or provider opens. The ring is sealed to the public
//! halves of the slots that count. So a rotation asks for no passphrase, and who
//! kept an old slot, an old ring and all that they opened still lacks what it
//! takes to open a newer ring: a private half that was never in either.
//!
//! The sealing key also holds the vault's base secret, so nobody who has never
//! opened the vault can make a ring that a slot takes for its own.

use std::fmt;
use std::str::FromStr;

use backstop_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::codec::{Reader, put_varint};
use crate::seal::{self, Base, Secret, TAG_LENGTH};

const VERSION: u8 = 0;

/// What a key takes in a ring, in bytes.
const ENTRY: usize = 4 + 8 + 32;

/// The size of a public or private half, in bytes.
pub(crate) const HALF: usize = 32;

/// Which of a vault's keys something is sealed under: 32 random bits, printed
/// as 8 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VaultKeyId(pub(crate) u32);

impl fmt::Display for VaultKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl From<VaultKeyId> for String {
    fn from(id: VaultKeyId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for VaultKeyId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for VaultKeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            Error::invalid_input(format!(
                "{text:?} is no id of a vault key: it has 8 hexadecimal digits"
            ))
        };
        let is_one = text.len() == 8 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_one.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(refused)
    }
}

/// Which ring: 64 random bits, as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct RingId(pub(crate) u64);

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<RingId> for String {
    fn from(id: RingId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for RingId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let number = u64::from_str_radix(&text, 16).map(Self).ok();
        // One way to write it, since names are compared.
        number
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| Error::corrupt(format!("{text:?} is no id of a ring")))
    }
}

/// A vault key.
#[derive(Clone, Debug)]
pub(crate) struct RingKey {
    pub(crate) id: VaultKeyId,
    pub(crate) created: Timestamp,
    pub(crate) secret: Secret,
}

/// A vault's keys, oldest first; at least one.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) id: RingId,
    pub(crate) keys: Vec<RingKey>,
}

fn new_id() -> Result<RingId> {
    Ok(RingId(u64::from_le_bytes(seal::random()?)))
}

impl Ring {
    /// A new vault's.
    pub(crate) fn create(now: Timestamp) -> Result<Self> {
        let empty = Self {
            id: new_id()?,
            keys: Vec::new(),
        };
        empty.with_new_key(now)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_byte(byte: u8) -> Self {
        let key = RingKey {
            id: VaultKeyId(u32::from(byte)),
            created: Timestamp(i64::from(byte)),
            secret: Secret::from_bytes([byte; 32]),
        };
        Self {
            id: RingId(u64::from(byte)),
            keys: vec![key],
        }
    }

    /// Another ring: with a new key, which seals what is new.
    pub(crate) fn with_new_key(&self, created: Timestamp) -> Result<Self> {
        let mut id = VaultKeyId(u32::from_le_bytes(seal::random()?));
        while self.keys.iter().any(|key| key.id == id) {
            id = VaultKeyId(u32::from_le_bytes(seal::random()?));
        }
        let mut keys = self.keys.clone();
        keys.push(RingKey {
            id,
            created,
            secret: Secret::generate()?,
        });
        Ok(Self {
            id: new_id()?,
            keys,
        })
    }

    /// Another ring: with these older keys too.
    pub(crate) fn with_older(&self, older: impl IntoIterator<Item = RingKey>) -> Result<Self> {
        let mut keys: Vec<RingKey> = older
            .into_iter()
            .filter(|key| self.keys.iter().all(|held| held.id != key.id))
            .collect();
        keys.extend(self.keys.iter().cloned());
        Ok(Self {
            id: new_id()?,
            keys,
        })
    }

    /// Another ring: without these keys; the one that seals stays.
    pub(crate) fn without(&self, retired: &[VaultKeyId]) -> Result<Self> {
        let current = self.current();
        let stays = |key: &&RingKey| key.id == current || !retired.contains(&key.id);
        Ok(Self {
            id: new_id()?,
            keys: self.keys.iter().filter(stays).cloned().collect(),
        })
    }

    /// The key that seals what is new.
    pub(crate) fn current(&self) -> VaultKeyId {
        let last = self.keys.last().map(|key| key.id);
        // Neither `create` nor `decode` gives an empty one.
        last.unwrap_or(VaultKeyId(0))
    }

    pub(crate) fn has(&self, id: VaultKeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it and its tag: growing would leave copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(
            19 + self.keys.len() * ENTRY + TAG_LENGTH,
        ));
        out.push(VERSION);
        out.extend_from_slice(&self.id.0.to_le_bytes());
        put_varint(&mut out, self.keys.len() as u64);
        for key in &self.keys {
            out.extend_from_slice(&key.id.0.to_le_bytes());
            out.extend_from_slice(&key.created.0.to_le_bytes());
            out.extend_from_slice(key.secret.as_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("a vault's ring of keys", bytes);
        let version = reader.u8()?;
        if version > VERSION {
            return Err(crate::header::newer("a vault's ring of keys"));
        }
        let id = RingId(reader.u64()?);
        let count = reader.count(ENTRY)?;
        let mut keys: Vec<RingKey> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = VaultKeyId(reader.u32()?);
            let created = Timestamp(i64::from_le_bytes(reader.array()?));
            let secret = Secret::from_bytes(reader.array()?);
            if keys.iter().any(|key| key.id == id) {
                return Err(reader.damaged("a key is in it twice"));
            }
            keys.push(RingKey {
                id,
                created,
                secret,
            });
        }
        if keys.is_empty() {
            return Err(reader.damaged("it has no key"));
        }
        reader.finish()?;
        Ok(Self { id, keys })
    }

    /// The ring for the slot with this public half: an ephemeral public half,
    /// the sealed ring, its tag. `slot` is bound to it.
    pub(crate) fn seal_to(&self, public: &[u8; HALF], base: &Base, slot: &str) -> Result<Vec<u8>> {
        Self::seal_encoded(self.encode(), public, base, slot)
    }

    /// The ring as a newer version may seal it.
    #[cfg(test)]
    pub(crate) fn seal_newer_to(
        &self,
        public: &[u8; HALF],
        base: &Base,
        slot: &str,
    ) -> Result<Vec<u8>> {
        let mut plain = self.encode();
        plain[0] = VERSION + 1;
        Self::seal_encoded(plain, public, base, slot)
    }

    fn seal_encoded(
        mut plain: Zeroizing<Vec<u8>>,
        public: &[u8; HALF],
        base: &Base,
        slot: &str,
    ) -> Result<Vec<u8>> {
        let ephemeral = Secret::generate()?;
        let half = public_half(&ephemeral);
        let key = ring_key(&ephemeral, public, &half, public, base)?;
        let tag = key.seal(0, slot.as_bytes(), &mut plain)?;
        let mut out = Vec::with_capacity(HALF + plain.len() + TAG_LENGTH);
        out.extend_from_slice(&half);
        out.extend_from_slice(&plain);
        out.extend_from_slice(&tag);
        Ok(out)
    }

    /// The inverse of [`Self::seal_to`].
    ///
    /// # Errors
    /// [`Corrupt`](backstop_core::ErrorKind::Corrupt) if it was sealed to
    /// another, or a bit is not as it was.
    pub(crate) fn open(sealed: &[u8], private: &Secret, base: &Base, slot: &str) -> Result<Self> {
        let Some((half, sealed)) = sealed.split_first_chunk::<HALF>() else {
            return Err(Error::corrupt(
                "a vault's ring of keys is damaged: it ends early",
            ));
        };
        let key = ring_key(private, half, half, &public_half(private), base)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let plain = key.open(
            0,
            slot.as_bytes(),
            &mut plain,
            &"the ring of the vault's keys",
        )?;
        Self::decode(plain)
    }
}

/// The public half of a private one.
pub(crate) fn public_half(private: &Secret) -> [u8; HALF] {
    x25519_dalek::x25519(*private.as_bytes(), x25519_dalek::X25519_BASEPOINT_BYTES)
}

/// What two halves agree on, and who is not a stranger to the vault.
fn ring_key(
    private: &Secret,
    other: &[u8; HALF],
    ephemeral: &[u8; HALF],
    public: &[u8; HALF],
    base: &Base,
) -> Result<seal::SealingKey> {
    let mut secret = Zeroizing::new([0; 64]);
    let shared = Zeroizing::new(x25519_dalek::x25519(*private.as_bytes(), *other));
    secret[..32].copy_from_slice(&*shared);
    secret[32..].copy_from_slice(base.secret().as_bytes());
    seal::sealing_key(&*secret, &[b"ring", ephemeral, public])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rings() -> impl Strategy<Value = Ring> {
        let keys =
            prop::collection::btree_map(any::<u32>(), (any::<i64>(), any::<[u8; 32]>()), 1..6);
        (any::<u64>(), keys).prop_map(|(id, keys)| Ring {
            id: RingId(id),
            keys: keys
                .into_iter()
                .map(|(id, (created, secret))| RingKey {
                    id: VaultKeyId(id),
                    created: Timestamp(created),
                    secret: Secret::from_bytes(secret),
                })
                .collect(),
        })
    }

    proptest! {
        #[test]
        fn a_ring_opens_for_its_slot_alone(ring in rings(), private: [u8; 32], other: [u8; 32], flip: prop::sample::Index, bit in 0u8..8) {
            prop_assume!(private != other);
            let (private, other) = (Secret::from_bytes(private), Secret::from_bytes(other));
            let base = Base::new(Secret::from_bytes([1; 32])).unwrap();
            let strange = Base::new(Secret::from_bytes([2; 32])).unwrap();
            let sealed = ring.seal_to(&public_half(&private), &base, "slot").unwrap();
            let opened = Ring::open(&sealed, &private, &base, "slot").unwrap();
            prop_assert_eq!(&*opened.encode(), &*ring.encode());
            prop_assert_eq!(opened.current(), ring.current());
            prop_assert!(Ring::open(&sealed, &private, &strange, "slot").is_err());
            prop_assert!(Ring::open(&sealed, &private, &base, "other").is_err());
            if public_half(&private) != public_half(&other) {
                prop_assert!(Ring::open(&sealed, &other, &base, "slot").is_err());
            }
            let mut bad = sealed.clone();
            bad[flip.index(sealed.len())] ^= 1 << bit;
            prop_assert!(Ring::open(&bad, &private, &base, "slot").is_err());
        }

        #[test]
        fn any_ring_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ring) = Ring::decode(&bytes) {
                prop_assert_eq!(&ring.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn rings_grow_and_shrink_and_are_never_the_same() {
        let first = Ring::create(Timestamp(1)).unwrap();
        let second = first.with_new_key(Timestamp(2)).unwrap();
        assert_ne!(first.id, second.id);
        assert_ne!(first.current(), second.current());
        assert!(second.has(first.current()));
        let third = second
            .without(&[first.current(), second.current()])
            .unwrap();
        assert_eq!(third.current(), second.current());
        assert!(!third.has(first.current()));
        let fourth = third.with_older(first.keys.clone()).unwrap();
        assert_eq!(fourth.current(), second.current());
        assert!(fourth.has(first.current()));
        let text = second.current().to_string();
        assert_eq!(text.parse::<VaultKeyId>().unwrap(), second.current());
        assert!("0123456".parse::<VaultKeyId>().is_err());
        assert!("+1234567".parse::<VaultKeyId>().is_err());
    }
}
