//! The key slots of a vault: each gives the vault key to who has a passphrase
//! or a raw key.
//!
//! Each slot is an object of its own, written once. Adding, replacing and
//! removing are the owner's. A slot is condemned in the catalog before its
//! object is deleted, so that an owner that took the vault over in between
//! knows that the slot may go at any time. The vault key itself never changes:
//! who once had it keeps it, so removing a slot shuts out who has only the
//! passphrase or raw key.

use backstop_core::{CpuPool, Error, ErrorKind, Result};

use crate::catalog::{Batch, CONDEMNED_SLOTS, OWNER_PROOF};
use crate::dedup_store::DedupStore;
use crate::header::{Credential, KeySlot, VaultHeader};
use crate::place::Place;
use crate::record;
use crate::seal::{Seal, VaultKey};
use crate::vault::Vault;

/// The folder of key slots.
const KEYS: &str = "keys";

/// What opens a key slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeySlotKind {
    /// Nothing: the vault is not encrypted.
    Open,
    /// A raw key.
    Key,
    /// A passphrase.
    Passphrase,
    /// It opens nothing here: it is damaged, of another vault, or was left by
    /// an interrupted making of this one.
    Foreign,
    /// Its removal has begun and not ended. What opened it may still do so:
    /// remove it again.
    Condemned,
}

impl KeySlotKind {
    /// Whether it can be counted on to open the vault.
    fn opens(self) -> bool {
        !matches!(self, Self::Foreign | Self::Condemned)
    }
}

/// A key slot of a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeySlotInfo {
    /// Its name: hexadecimal digits.
    pub id: String,
    /// What opens it.
    pub kind: KeySlotKind,
}

fn path(id: &str) -> String {
    format!("{KEYS}/{id}.json")
}

/// Makes the first slot of a vault.
pub(crate) async fn create(
    place: &Place,
    cpu: &CpuPool,
    key: &VaultKey,
    credential: &Credential,
) -> Result<()> {
    let slot = sealed(cpu, key, credential).await?;
    place.put_new(&path(&slot.id), record::encode(&slot)?).await
}

/// A slot for a credential. Stretching a passphrase takes a while.
async fn sealed(cpu: &CpuPool, key: &VaultKey, credential: &Credential) -> Result<KeySlot> {
    let (key, credential) = (key.clone(), credential.clone());
    cpu.run(move || KeySlot::create(&key, &credential)).await?
}

/// The vault key, from any slot that the credential opens.
pub(crate) async fn open(
    place: &Place,
    cpu: &CpuPool,
    header: &VaultHeader,
    credential: &Credential,
) -> Result<VaultKey> {
    let mut slots = Vec::new();
    for name in place.list(KEYS).await? {
        match place.get(&name).await {
            Ok(bytes) => slots.push((name, bytes)),
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let (header, credential) = (header.clone(), credential.clone());
    let try_all = move || -> Result<Option<VaultKey>> {
        let mut damaged = None;
        for (name, bytes) in slots {
            match KeySlot::decode(&bytes).and_then(|slot| slot.open(&credential)) {
                // A slot of a vault whose making was interrupted may lie here
                // too: only the header says whether a key is the right one.
                Ok(Some(key)) if header.accepts(&Seal::new(&key)?)? => return Ok(Some(key)),
                Ok(_) => {}
                // Another slot may still open the vault.
                Err(error) => damaged = Some(error.within(format_args!("object {name}"))),
            }
        }
        damaged.map_or(Ok(None), Err)
    };
    cpu.run(try_all).await??.ok_or_else(|| {
        Error::new(
            ErrorKind::WrongKey,
            format!(
                "no key slot of the vault at {} opens with this passphrase or key",
                place.name
            ),
        )
    })
}

/// The ids of slots whose removal has begun.
async fn condemned(vault: &Vault) -> Result<Vec<String>> {
    match vault.catalog.get(CONDEMNED_SLOTS).await? {
        Some(value) => record::decode("the condemned key slots", &value),
        None => Ok(Vec::new()),
    }
}

async fn list(vault: &Vault) -> Result<Vec<KeySlotInfo>> {
    let condemned = condemned(vault).await?;
    let mut slots = Vec::new();
    for name in vault.place.list(KEYS).await? {
        let id = name
            .strip_prefix(KEYS)
            .and_then(|name| name.strip_prefix('/')?.strip_suffix(".json"));
        let Some(id) = id else {
            continue;
        };
        let bytes = match vault.place.get(&name).await {
            Ok(bytes) => bytes,
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let kind = match KeySlot::decode(&bytes) {
            _ if condemned.iter().any(|it| it == id) => KeySlotKind::Condemned,
            Ok(slot) if slot.id == id && slot.is_of(&vault.seal) => slot.kind(),
            _ => KeySlotKind::Foreign,
        };
        let id = id.to_owned();
        slots.push(KeySlotInfo { id, kind });
    }
    slots.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(slots)
}

/// Fails if another owner has taken the vault over: its key slots are its own.
async fn prove_ownership(vault: &Vault) -> Result<()> {
    let mut batch = Batch::default();
    batch.delete(OWNER_PROOF);
    vault.commit_batch(batch).await
}

/// Condemns one of the slots that are there.
async fn condemn(vault: &Vault, slots: &[KeySlotInfo], id: &str) -> Result<()> {
    let all = slots.iter();
    let gone = all.filter(|slot| slot.kind == KeySlotKind::Condemned || slot.id == id);
    let gone: Vec<&str> = gone.map(|slot| slot.id.as_str()).collect();
    let mut batch = Batch::default();
    batch.put(CONDEMNED_SLOTS, &record::encode(&gone)?);
    vault.commit_batch(batch).await
}

/// Deletes the object of a condemned slot.
async fn delete(vault: &Vault, id: &str) -> Result<()> {
    vault.place.delete(&path(id)).await?;
    vault.place.sync(KEYS)
}

/// Stores a new slot; `then` must show that the vault is still ours.
async fn add(
    vault: &Vault,
    slot: KeySlot,
    then: impl Future<Output = Result<()>>,
) -> Result<KeySlotInfo> {
    prove_ownership(vault).await?;
    let bytes = record::encode(&slot)?;
    vault.place.put_new(&path(&slot.id), bytes).await?;
    if let Err(error) = then.await {
        // The new owner has not asked for it; after other errors it may be needed.
        if error.kind() == ErrorKind::Fenced {
            delete(vault, &slot.id).await?;
        }
        return Err(error);
    }
    Ok(KeySlotInfo {
        kind: slot.kind(),
        id: slot.id,
    })
}

fn check_secret(vault: &Vault, credential: &Credential) -> Result<()> {
    if !vault.header.encrypted {
        return Err(Error::invalid_input(format!(
            "the vault at {} is not encrypted, so a key would protect nothing",
            vault.place.name
        )));
    }
    if matches!(credential, Credential::None) {
        return Err(Error::invalid_input(
            "a key slot without a passphrase or key would lay the vault's key open",
        ));
    }
    Ok(())
}

async fn find(vault: &Vault, id: &str) -> Result<(Vec<KeySlotInfo>, KeySlotKind)> {
    let slots = list(vault).await?;
    let found = slots.iter().find(|slot| slot.id == id);
    let kind = found.map(|slot| slot.kind).ok_or_else(|| {
        Error::not_found(format!(
            "the vault at {} has no key slot {id}",
            vault.place.name
        ))
    })?;
    Ok((slots, kind))
}

impl DedupStore {
    /// The vault's key slots, sorted by id. A reader may ask too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn key_slots(&self) -> Result<Vec<KeySlotInfo>> {
        list(&self.vault).await
    }

    /// Adds a key slot: from now on `credential` opens the vault too. The slot
    /// is durable when this returns; after an error it may be there or not.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for [`Credential::None`], for a vault that
    /// is not encrypted, and for one that is open for reading only;
    /// [`ErrorKind::Fenced`], and nothing added, if another owner has taken the
    /// vault over.
    pub async fn add_key(&self, credential: &Credential) -> Result<KeySlotInfo> {
        let vault = &self.vault;
        vault.writer()?;
        check_secret(vault, credential)?;
        let slot = sealed(&vault.cpu, &vault.key, credential).await?;
        let _one = vault.commit.lock().await;
        add(vault, slot, prove_ownership(vault)).await
    }

    /// Puts another key slot, with an id of its own, in the place of one: the
    /// new one is durable before the old one goes. After an error or a crash
    /// the old one, the new one or both may open the vault, and an old one
    /// that does is listed.
    ///
    /// # Errors
    /// As [`add_key`](Self::add_key); [`ErrorKind::NotFound`] if there is no
    /// such slot.
    pub async fn replace_key(&self, id: &str, credential: &Credential) -> Result<KeySlotInfo> {
        let vault = &self.vault;
        vault.writer()?;
        check_secret(vault, credential)?;
        let slot = sealed(&vault.cpu, &vault.key, credential).await?;
        let _one = vault.commit.lock().await;
        let (slots, _) = find(vault, id).await?;
        let added = add(vault, slot, condemn(vault, &slots, id)).await?;
        delete(vault, id).await?;
        Ok(added)
    }

    /// Removes a key slot: what opened it opens the vault no more, unless
    /// another slot is for it too. Who has had the vault open may have kept
    /// the vault's own key, which stays the same. After an error or a crash
    /// the slot may be [condemned](KeySlotKind::Condemned).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such slot;
    /// [`ErrorKind::Conflict`] if it is the last one that opens the vault;
    /// otherwise as [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: &str) -> Result<()> {
        let vault = &self.vault;
        vault.writer()?;
        let _one = vault.commit.lock().await;
        let (slots, kind) = find(vault, id).await?;
        let opening = slots.iter().filter(|slot| slot.kind.opens()).count();
        if kind.opens() && opening < 2 {
            return Err(Error::conflict(format!(
                "key slot {id} is the last that opens the vault at {}; add another first",
                vault.place.name
            )));
        }
        condemn(vault, &slots, id).await?;
        delete(vault, id).await
    }
}
