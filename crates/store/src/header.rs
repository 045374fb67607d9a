//! How a vault begins: the object that says what it is, and the key slots that
//! open it.
//!
//! `vault.json` is written once, at the vault's birth. Each key slot is an
//! object `keys/ID.json` of its own, so that slots are added and removed
//! without touching anything else. A vault that is not encrypted has a slot
//! that tells its key: there is one way to read and write, and damage is found
//! either way.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use backstop_core::{Error, ErrorKind, Result, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::keys::KeySlotKind;
use crate::seal::{self, Seal, SealingKey, TAG_LENGTH, VaultKey};

/// The stored format that this version reads and writes.
pub(crate) const FORMAT: u32 = 0;

/// The kind under which ids of key slots are hashed.
const SLOT: u8 = b'k';

const MAGIC: &str = "backstop vault";

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
}

impl Credential {
    /// A passphrase.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is empty.
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
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "Credential::None",
            Self::Passphrase(_) => "Credential::Passphrase(..)",
            Self::Key(_) => "Credential::Key(..)",
        })
    }
}

/// The object `vault.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VaultHeader {
    pub(crate) magic: String,
    pub(crate) format: u32,
    /// 128 random bits: the vault's identity.
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    /// Whether the vault key is secret.
    pub(crate) encrypted: bool,
    /// Which catalog counts: each rebuild makes a new one.
    pub(crate) catalog: u32,
    /// An HMAC of all the rest: shows that a key is this vault's, and that
    /// nobody who lacks it wrote the header.
    check: String,
}

/// The object `keys/ID.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeySlot {
    pub(crate) format: u32,
    pub(crate) id: String,
    /// Shows to who has the vault key that the slot is this vault's: an HMAC
    /// of its id.
    check: String,
    #[serde(flatten)]
    lock: SlotLock,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum SlotLock {
    /// The vault key in the open.
    Open { key: String },
    /// The vault key sealed with a raw key.
    Raw { sealed: String },
    /// The vault key sealed with a stretched passphrase.
    Passphrase {
        salt: String,
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        sealed: String,
    },
}

/// Argon2id's costs for new slots: 32 MiB, so that opening a vault stays
/// within the memory that everything else needs; 3 passes.
const MEMORY_KIB: u32 = 32 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;

/// The highest costs that are accepted from a slot.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

pub(crate) fn from_hex(what: &str, text: &str) -> Result<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Error::corrupt(format!(
            "{what} is damaged: it is not hexadecimal"
        )));
    }
    let byte = |pair: &[u8]| {
        std::str::from_utf8(pair)
            .ok()
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    Ok(Zeroizing::new(pairs.filter_map(byte).collect()))
}

pub(crate) fn newer(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("{what} was written by a newer version of Backstop; open it with that version"),
    )
}

fn encoded(what: &str, object: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(object)
        .map_err(|error| Error::internal(format!("{what} can't be encoded")).with_source(error))
}

impl VaultHeader {
    pub(crate) fn create(created: Timestamp, encrypted: bool, seal: &Seal) -> Result<Self> {
        let mut header = Self {
            magic: MAGIC.into(),
            format: FORMAT,
            id: to_hex(&seal::random::<16>()?),
            created,
            encrypted,
            catalog: 0,
            check: String::new(),
        };
        header.check = header.tag(seal)?;
        Ok(header)
    }

    /// The same vault with another catalog.
    pub(crate) fn with_catalog(&self, catalog: u32, seal: &Seal) -> Result<Self> {
        let mut header = self.clone();
        header.catalog = catalog;
        header.check = header.tag(seal)?;
        Ok(header)
    }

    fn tag(&self, seal: &Seal) -> Result<String> {
        let kind = if self.encrypted { "encrypted" } else { "open" };
        let all = format!(
            "{} {} {} {kind} {}",
            self.id, self.format, self.created.0, self.catalog
        );
        Ok(to_hex(&seal.header_tag(all.as_bytes())?))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encoded("vault.json", self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        // A newer format may have other fields, so its number is read first.
        #[derive(Deserialize)]
        struct Start {
            magic: String,
            format: u32,
        }
        let foreign = |error| Error::corrupt("vault.json is not a vault's").with_source(error);
        let start: Start = serde_json::from_slice(bytes).map_err(foreign)?;
        if start.magic != MAGIC {
            return Err(Error::corrupt(
                "vault.json is not a vault's: its magic is another",
            ));
        }
        if start.format > FORMAT {
            return Err(newer(&format!("the vault (format {})", start.format)));
        }
        serde_json::from_slice(bytes).map_err(foreign)
    }

    /// Whether a key is this vault's.
    pub(crate) fn accepts(&self, seal: &Seal) -> Result<bool> {
        Ok(self.tag(seal)? == self.check)
    }
}

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

impl KeySlot {
    /// A slot that gives `key` to who has `credential`, under a new id. CPU
    /// work for a passphrase: about 0.1 s and 32 MiB.
    pub(crate) fn create(key: &VaultKey, credential: &Credential) -> Result<Self> {
        let id = to_hex(&seal::random::<8>()?);
        let sealed = |sealing: &SealingKey| -> Result<String> {
            let mut bytes = Zeroizing::new(key.as_bytes().to_vec());
            let tag = sealing.seal(0, id.as_bytes(), &mut bytes)?;
            bytes.extend_from_slice(&tag);
            Ok(to_hex(&bytes))
        };
        let lock = match credential {
            Credential::None => SlotLock::Open {
                key: to_hex(key.as_bytes()),
            },
            // The slot's own id is random, so a raw key used twice never
            // meets the same nonce with other data bound.
            Credential::Key(raw) => SlotLock::Raw {
                sealed: sealed(&slot_key(raw, &id)?)?,
            },
            Credential::Passphrase(passphrase) => {
                let salt = seal::random::<16>()?;
                let sealing = stretch(passphrase, &salt, MEMORY_KIB, PASSES, LANES)?;
                SlotLock::Passphrase {
                    salt: to_hex(&salt),
                    memory_kib: MEMORY_KIB,
                    passes: PASSES,
                    lanes: LANES,
                    sealed: sealed(&sealing)?,
                }
            }
        };
        Ok(Self {
            format: FORMAT,
            check: Self::check(&id, &lock, &Seal::new(key)?)?,
            id,
            lock,
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Start {
            format: u32,
        }
        let damaged = |error| Error::corrupt("a key slot is damaged").with_source(error);
        let start: Start = serde_json::from_slice(bytes).map_err(damaged)?;
        if start.format > FORMAT {
            return Err(newer("a key slot"));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }

    fn check(id: &str, lock: &SlotLock, seal: &Seal) -> Result<String> {
        let all = encoded("a key slot", &(id, lock))?;
        Ok(to_hex(&seal.index_key(SLOT, &all)))
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encoded("a key slot", self)
    }

    /// Whether it holds the key of the vault with this seal, undamaged.
    pub(crate) fn is_of(&self, seal: &Seal) -> bool {
        Self::check(&self.id, &self.lock, seal).is_ok_and(|check| check == self.check)
    }

    /// What opens it.
    pub(crate) fn kind(&self) -> KeySlotKind {
        match self.lock {
            SlotLock::Open { .. } => KeySlotKind::Open,
            SlotLock::Raw { .. } => KeySlotKind::Key,
            SlotLock::Passphrase { .. } => KeySlotKind::Passphrase,
        }
    }

    /// The vault key, if this credential opens the slot. CPU work for a
    /// passphrase.
    pub(crate) fn open(&self, credential: &Credential) -> Result<Option<VaultKey>> {
        let unseal = |sealing: &SealingKey, sealed: &str| -> Result<Option<VaultKey>> {
            let mut bytes = from_hex("a key slot", sealed)?;
            if bytes.len() != 32 + TAG_LENGTH {
                return Err(Error::corrupt("a key slot is damaged: its length is wrong"));
            }
            match sealing.open(0, self.id.as_bytes(), &mut bytes, &"a key slot") {
                Ok(plain) => vault_key(plain).map(Some),
                Err(_) => Ok(None),
            }
        };
        match (&self.lock, credential) {
            // Who has a secret means a vault that it protects.
            (SlotLock::Open { key }, Credential::None) => {
                vault_key(&from_hex("a key slot", key)?).map(Some)
            }
            (SlotLock::Raw { sealed }, Credential::Key(raw)) => {
                unseal(&slot_key(raw, &self.id)?, sealed)
            }
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
                let salt = from_hex("a key slot", salt)?;
                unseal(
                    &stretch(passphrase, &salt, *memory_kib, *passes, *lanes)?,
                    sealed,
                )
            }
            _ => Ok(None),
        }
    }
}

/// The key of a raw slot: derived, so that one raw key may open many slots.
fn slot_key(raw: &[u8; 32], id: &str) -> Result<SealingKey> {
    Seal::new(&VaultKey::from_bytes(*raw))?.pack_key(id.as_bytes())
}

fn vault_key(bytes: &[u8]) -> Result<VaultKey> {
    let mut key: [u8; 32] = bytes
        .try_into()
        .map_err(|_| Error::corrupt("a key slot is damaged: its key is short"))?;
    let vault_key = VaultKey::from_bytes(key);
    key.zeroize();
    Ok(vault_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_open_for_their_own_credential_only() {
        let key = VaultKey::generate().unwrap();
        let pass = Credential::passphrase("horse").unwrap();
        let raw = Credential::key([7; 32]);
        for (own, others) in [
            (
                &pass,
                [
                    &raw,
                    &Credential::passphrase("Horse").unwrap(),
                    &Credential::None,
                ],
            ),
            (&raw, [&pass, &Credential::key([8; 32]), &Credential::None]),
        ] {
            let slot = KeySlot::create(&key, own).unwrap();
            let stored = serde_json::to_vec(&slot).unwrap();
            assert!(!String::from_utf8_lossy(&stored).contains(&to_hex(key.as_bytes())));
            let slot = KeySlot::decode(&stored).unwrap();
            assert_eq!(slot.open(own).unwrap().unwrap().as_bytes(), key.as_bytes());
            for other in others {
                assert!(slot.open(other).unwrap().is_none(), "{other:?}");
            }
        }
        let open = KeySlot::create(&key, &Credential::None).unwrap();
        assert!(open.open(&Credential::None).unwrap().is_some());
        assert!(open.open(&raw).unwrap().is_none());
        assert!(Credential::passphrase("").is_err());
    }

    #[test]
    fn the_header_knows_its_key_and_refuses_the_future() {
        let (key, other) = (VaultKey::generate().unwrap(), VaultKey::generate().unwrap());
        let seal = Seal::new(&key).unwrap();
        let header = VaultHeader::create(Timestamp(5), true, &seal).unwrap();
        let bytes = serde_json::to_vec(&header).unwrap();
        let header = VaultHeader::decode(&bytes).unwrap();
        assert!(header.accepts(&seal).unwrap());
        assert!(!header.accepts(&Seal::new(&other).unwrap()).unwrap());
        let (mut open, mut later) = (header.clone(), header.clone());
        let mut rebuilt = header.clone();
        open.encrypted = false;
        later.created = Timestamp(6);
        rebuilt.catalog = 1;
        for forged in [&open, &later, &rebuilt] {
            assert!(!forged.accepts(&seal).unwrap());
        }
        let rebuilt = header.with_catalog(1, &seal).unwrap();
        assert!(rebuilt.accepts(&seal).unwrap());
        let newer = br#"{"magic":"backstop vault","format":9,"surprise":[]}"#;
        assert_eq!(
            VaultHeader::decode(newer).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        for bad in [&b""[..], b"{}", b"[1]", br#"{"magic":"x","format":0}"#] {
            assert_eq!(
                VaultHeader::decode(bad).unwrap_err().kind(),
                ErrorKind::Corrupt
            );
        }
        let costly = br#"{"format":0,"id":"a","check":"","kind":"passphrase","salt":"00112233445566778899","memory_kib":4294967295,"passes":1,"lanes":1,"sealed":""}"#;
        let slot = KeySlot::decode(costly).unwrap();
        assert!(slot.open(&Credential::passphrase("x").unwrap()).is_err());
    }
}
