//! The key slots of a vault: each gives the vault's base and its ring of keys to
//! who has a passphrase, a key or a provider.
//!
//! Each slot is an object of its own for each ring that it was given, written
//! once: `keys/ID-RING.json`. So every slot holds everything that opens the
//! vault, and the loss of one loses that one alone. Adding, replacing and
//! removing slots, and giving them another ring, are the owner's. Which slots
//! count, and which ring, the catalog tells in one record: it is changed after
//! the objects are written and before others are deleted, behind the fence. So
//! whatever an owner that was overridden is still about to write or delete, no
//! other one counts on it, and a crash leaves each slot with a ring that opens.
//!
//! Who opens a vault has not read the catalog yet, and seals by a ring from the
//! first object on that it writes. Where all slots have one ring, that is the
//! one. Where not, because a rotation was cut short, an owner reads the record
//! first, as a reader does.

mod counted;
pub(crate) mod credential;
mod opening;
pub(crate) mod provider;
pub(crate) mod recovery;
pub(crate) mod ring;
mod rotation;
pub(crate) mod slot;
mod stored;
mod uniting;

use std::sync::Arc;

use backstop_core::{Error, ErrorKind, Result};

use crate::approvals::{self, GuardedAction};
use crate::catalog::{Batch, OWNER_PROOF};
use crate::dedup_store::DedupStore;
use crate::maintenance::to_its_end;
use crate::usage::Operation;
use crate::vault::Vault;
use counted::{counting, list};
use credential::Credential;
use slot::KeySlot;
use stored::{parse, path};

pub(crate) use counted::{check_log, look_before, settle};
pub(crate) use opening::{Opened, create, open};
pub(crate) use rotation::under_old_keys;
pub use rotation::{KeyRingInfo, RetireReport, VaultKeyInfo};
pub(crate) use stored::KEYS;
pub(crate) use uniting::unite;

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
    /// A recovery key.
    Recovery,
    /// A provider of keys.
    Provider,
    /// It opens nothing here: it is damaged, of another vault, or was left by
    /// an interrupted making of this one.
    Foreign,
    /// Adding or removing it has begun and not ended. What it is for may open
    /// the vault, but can't be counted on: remove it.
    Unfinished,
    /// It counts, and its object is gone: bring that back from a copy of the
    /// vault, or remove it.
    Missing,
}

impl KeySlotKind {
    /// Whether it can be counted on to open the vault.
    fn opens(self) -> bool {
        !matches!(self, Self::Foreign | Self::Unfinished | Self::Missing)
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
    /// If a provider does: its name, and which of its keys.
    pub provider: Option<(String, String)>,
}

/// Shows by a flush that the vault is still ours.
async fn prove(vault: &Vault) -> Result<()> {
    let mut proof = Batch::default();
    proof.delete(OWNER_PROOF);
    vault.commit_batch(proof).await
}

/// Deletes the objects of a slot that does not count.
async fn delete(vault: &Vault, id: &str) -> Result<()> {
    for name in vault.place.list(KEYS).await? {
        if parse(&name).is_some_and(|(of, _)| of == id) {
            vault.place.locks.let_go(&name).await;
            vault.place.delete(&name).await?;
        }
    }
    vault.place.sync(KEYS)
}

/// Stores a new slot, and makes it count in the place of another.
async fn add(
    vault: &Vault,
    slots: &[KeySlotInfo],
    slot: &KeySlot,
    instead: Option<&str>,
) -> Result<KeySlotInfo> {
    prove(vault).await?;
    let ring = vault.seal.ring();
    // It may have been made for an earlier one.
    let slot = slot.with_ring(vault.seal.base(), &ring)?;
    let name = path(&slot.id, ring.id);
    vault.place.put_new(&name, slot.encode()?).await?;
    let batch = counting(slots, ring.id, Some(&slot.id), instead)?;
    if let Err(error) = vault.commit_batch(batch).await {
        // The new owner has not asked for it, and does not count on it.
        if error.kind() == ErrorKind::Fenced {
            vault.place.delete(&name).await?;
        }
        return Err(error);
    }
    let provider = slot.provider();
    Ok(KeySlotInfo {
        kind: slot.kind(),
        provider: provider.map(|(name, key)| (name.to_owned(), key.to_owned())),
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
            "a key slot without a passphrase or key would lay the vault's keys open",
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

/// Fails if a slot can't be removed; gives the slots that are there.
pub(crate) async fn check_removal(vault: &Vault, id: &str) -> Result<Vec<KeySlotInfo>> {
    let (slots, kind) = find(vault, id).await?;
    let opening = slots.iter().filter(|slot| slot.kind.opens()).count();
    if kind.opens() && opening < 2 {
        return Err(Error::conflict(format!(
            "key slot {id} is the last that opens the vault at {}; add another first",
            vault.place.name
        )));
    }
    Ok(slots)
}

/// Removes a slot, whoever has to approve it. The commit lock is held.
pub(crate) async fn remove(vault: &Vault, id: &str) -> Result<()> {
    let slots = check_removal(vault, id).await?;
    let batch = counting(&slots, vault.seal.ring().id, None, Some(id))?;
    vault.commit_batch(batch).await?;
    delete(vault, id).await
}

async fn sealed(vault: &Vault, credential: &Credential) -> Result<KeySlot> {
    vault.writer()?;
    check_secret(vault, credential)?;
    let seal = &vault.seal;
    KeySlot::create(&vault.cpu, credential, seal.base(), &seal.ring()).await
}

impl DedupStore {
    /// The vault's key slots, sorted by id. A reader may ask too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn key_slots(&self) -> Result<Vec<KeySlotInfo>> {
        let _listing = self.vault.place.meter.begin(Operation::List);
        list(&self.vault).await
    }

    /// Adds a key slot: from now on `credential` opens the vault too. The slot
    /// is durable when this returns; after an error it may be there as
    /// [`Unfinished`](KeySlotKind::Unfinished), or not.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for [`Credential::None`], for a vault that
    /// is not encrypted, and for one that is open for reading only;
    /// [`ErrorKind::Fenced`], and nothing added, if another owner has taken the
    /// vault over; those of the provider, and nothing added.
    pub async fn add_key(&self, credential: &Credential) -> Result<KeySlotInfo> {
        let slot = sealed(&self.vault, credential).await?;
        let vault = Arc::clone(&self.vault);
        let meter = Arc::clone(&vault.place.meter);
        let adding = to_its_end(async move {
            let _one = vault.commit.lock().await;
            add(&vault, &list(&vault).await?, &slot, None).await
        });
        meter.during(Operation::Manage, adding).await
    }

    /// Puts another key slot, with an id of its own, in the place of one: the
    /// new one is durable before the old one goes. After an error or a crash
    /// one of them is [`Unfinished`](KeySlotKind::Unfinished) if both are there.
    ///
    /// # Errors
    /// As [`add_key`](Self::add_key); [`ErrorKind::NotFound`] if there is no
    /// such slot; [`ErrorKind::Conflict`] if removing it takes the approval of
    /// several operators: add one, and ask for the removal of the other.
    pub async fn replace_key(&self, id: &str, credential: &Credential) -> Result<KeySlotInfo> {
        let slot = sealed(&self.vault, credential).await?;
        let (vault, id) = (Arc::clone(&self.vault), id.to_owned());
        let meter = Arc::clone(&vault.place.meter);
        let replacing = to_its_end(async move {
            let _one = vault.commit.lock().await;
            let (slots, _) = find(&vault, &id).await?;
            let slot_goes = GuardedAction::RemoveKey { slot: id.clone() };
            approvals::check(&vault, &slot_goes).await?;
            let added = add(&vault, &slots, &slot, Some(&id)).await?;
            delete(&vault, &id).await?;
            Ok(added)
        });
        meter.during(Operation::Manage, replacing).await
    }

    /// Removes a key slot: what opened it opens the vault no more, unless
    /// another slot is for it too. Who has had the vault open, or kept the
    /// slot's object, may have kept the keys that the vault has until now:
    /// [`rotate_key`](Self::rotate_key) makes one that they don't have. After
    /// an error or a crash it may be there as
    /// [`Unfinished`](KeySlotKind::Unfinished).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such slot;
    /// [`ErrorKind::Conflict`] if it is the last one that opens the vault, or if
    /// removing it takes the approval of several operators; otherwise as [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: &str) -> Result<()> {
        self.vault.writer()?;
        let (vault, id) = (Arc::clone(&self.vault), id.to_owned());
        let meter = Arc::clone(&vault.place.meter);
        let removing = to_its_end(async move {
            let _one = vault.commit.lock().await;
            check_removal(&vault, &id).await?;
            let action = GuardedAction::RemoveKey { slot: id.clone() };
            approvals::check(&vault, &action).await?;
            remove(&vault, &id).await
        });
        meter.during(Operation::Manage, removing).await
    }
}
