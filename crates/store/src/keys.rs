//! The key slots of a vault: each gives the vault key to who has a passphrase
//! or a raw key.
//!
//! Each slot is an object of its own, written once. Adding, replacing and
//! removing are the owner's. Which slots count, the catalog tells: one is put
//! there after its object is written and taken away before it is deleted, both
//! behind the fence. So whatever an owner that was overridden is still about
//! to write or delete, no other one counts on it. The vault key itself never
//! changes: who once had it keeps it, so removing a slot shuts out who has only
//! the passphrase or raw key.

use backstop_core::{CpuPool, Error, ErrorKind, Result};
use bytes::Bytes;

use crate::approvals::{self, GuardedAction};
use crate::catalog::{Batch, COUNTED_SLOTS, Catalog, OWNER_PROOF};
use crate::dedup_store::DedupStore;
use crate::header::{Credential, KeySlot, VaultHeader};
use crate::place::Place;
use crate::record::{self, CountedSlots};
use crate::seal::{Seal, VaultKey};
use crate::usage::Operation;
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
    /// Adding or removing it has begun and not ended. What it is for may open
    /// the vault, but can't be counted on: remove it.
    Unfinished,
}

impl KeySlotKind {
    /// Whether it can be counted on to open the vault.
    fn opens(self) -> bool {
        !matches!(self, Self::Foreign | Self::Unfinished)
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
    place.put_new(&path(&slot.id), slot.encode()?).await
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
    let wrong = |why: &str| {
        let at = &place.name;
        Error::new(ErrorKind::WrongKey, format!("the vault at {at} {why}"))
    };
    match credential {
        Credential::None if header.encrypted => {
            return Err(wrong("is encrypted; give its passphrase or key"));
        }
        Credential::None => {}
        // It may have been put there in place of the one that is meant.
        _ if !header.encrypted => {
            return Err(wrong(
                "is not encrypted, but a passphrase or key was given; if it is the right vault, open it without",
            ));
        }
        _ => {}
    }
    let slots = read_all(place).await?;
    let (header, credential) = (header.clone(), credential.clone());
    let try_all = move || -> Result<Option<VaultKey>> {
        let (mut damaged, mut intact) = (None, false);
        for (name, bytes) in slots {
            match try_one(&bytes, &header, &credential) {
                Ok(Some(key)) => return Ok(Some(key)),
                Ok(None) => intact = true,
                // Another slot may still open the vault.
                Err(error) => damaged = Some(error.within(format_args!("object {name}"))),
            }
        }
        damaged.filter(|_| !intact).map_or(Ok(None), Err)
    };
    let key = cpu.run(try_all).await??;
    key.ok_or_else(|| wrong("has no key slot that opens with this passphrase or key"))
}

/// The vault key, if the slot is the vault's and the credential opens it.
fn try_one(
    bytes: &[u8],
    header: &VaultHeader,
    credential: &Credential,
) -> Result<Option<VaultKey>> {
    let slot = KeySlot::decode(bytes)?;
    let Some(key) = slot.open(credential)? else {
        return Ok(None);
    };
    let seal = Seal::new(&key)?;
    // A slot of a vault whose making was interrupted may lie here too: only
    // the header says whether a key is the right one.
    if !header.accepts(&seal)? {
        return Ok(None);
    }
    if slot.is_of(&seal) {
        Ok(Some(key))
    } else {
        Err(Error::corrupt(
            "a key slot is damaged: its check is another",
        ))
    }
}

/// The objects of all slots, by name.
async fn read_all(place: &Place) -> Result<Vec<(String, Vec<u8>)>> {
    let mut slots = Vec::new();
    for name in place.list(KEYS).await? {
        match place.get(&name).await {
            Ok(bytes) => slots.push((name, bytes)),
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

/// The slots that are there, without regard to which count.
async fn listed(place: &Place, seal: &Seal) -> Result<Vec<KeySlotInfo>> {
    let mut slots = Vec::new();
    for (name, bytes) in read_all(place).await? {
        let id = name
            .strip_prefix(KEYS)
            .and_then(|name| name.strip_prefix('/')?.strip_suffix(".json"));
        let Some(id) = id else {
            continue;
        };
        let kind = match KeySlot::decode(&bytes) {
            Ok(slot) if slot.id == id && slot.is_of(seal) => slot.kind(),
            _ => KeySlotKind::Foreign,
        };
        let id = id.to_owned();
        slots.push(KeySlotInfo { id, kind });
    }
    slots.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(slots)
}

async fn counted(catalog: &Catalog) -> Result<Option<Vec<String>>> {
    let value = catalog.get(COUNTED_SLOTS).await?;
    let decode = |value: Bytes| record::decode::<CountedSlots>("the list of key slots", &value);
    Ok(value.map(decode).transpose()?.map(|slots| slots.ids))
}

async fn list(vault: &Vault) -> Result<Vec<KeySlotInfo>> {
    // Only the making of a vault can have been interrupted before there is a list.
    let counted = counted(&vault.catalog).await?;
    let mut slots = listed(&vault.place, &vault.seal).await?;
    if let Some(counted) = counted {
        let unfinished = slots
            .iter_mut()
            .filter(|slot| slot.kind.opens() && !counted.contains(&slot.id));
        unfinished.for_each(|slot| slot.kind = KeySlotKind::Unfinished);
    }
    Ok(slots)
}

/// Makes the list of slots that count, as the first owner of a vault does.
pub(crate) async fn count_first(catalog: &Catalog, place: &Place, seal: &Seal) -> Result<()> {
    if counted(catalog).await?.is_some() {
        return Ok(());
    }
    let slots = listed(place, seal).await?;
    catalog.write(counting(&slots, None, None)?).await?;
    catalog.flush().await
}

/// What makes the slots count that opened the vault, with one more and one less.
fn counting(slots: &[KeySlotInfo], more: Option<&str>, less: Option<&str>) -> Result<Batch> {
    let opening = slots.iter().filter(|slot| slot.kind.opens());
    let ids = opening.map(|slot| slot.id.as_str()).chain(more);
    let ids = ids.filter(|id| Some(*id) != less).map(str::to_owned);
    let ids = ids.collect();
    let mut batch = Batch::default();
    batch.put(COUNTED_SLOTS, &record::encode(&CountedSlots { ids })?);
    Ok(batch)
}

/// Deletes the object of a slot that does not count.
async fn delete(vault: &Vault, id: &str) -> Result<()> {
    vault.place.delete(&path(id)).await?;
    vault.place.sync(KEYS)
}

/// Stores a new slot, and makes it count in the place of another.
async fn add(
    vault: &Vault,
    slots: &[KeySlotInfo],
    slot: KeySlot,
    instead: Option<&str>,
) -> Result<KeySlotInfo> {
    let mut proof = Batch::default();
    proof.delete(OWNER_PROOF);
    vault.commit_batch(proof).await?;
    vault.place.put_new(&path(&slot.id), slot.encode()?).await?;
    let batch = counting(slots, Some(&slot.id), instead)?;
    if let Err(error) = vault.commit_batch(batch).await {
        // The new owner has not asked for it, and does not count on it.
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
    vault
        .commit_batch(counting(&slots, None, Some(id))?)
        .await?;
    delete(vault, id).await
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
    /// vault over.
    pub async fn add_key(&self, credential: &Credential) -> Result<KeySlotInfo> {
        let vault = &self.vault;
        let _changing = vault.place.meter.begin(Operation::Manage);
        vault.writer()?;
        check_secret(vault, credential)?;
        let slot = sealed(&vault.cpu, &vault.key, credential).await?;
        let _one = vault.commit.lock().await;
        add(vault, &list(vault).await?, slot, None).await
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
        let vault = &self.vault;
        let _changing = vault.place.meter.begin(Operation::Manage);
        vault.writer()?;
        check_secret(vault, credential)?;
        let slot = sealed(&vault.cpu, &vault.key, credential).await?;
        let _one = vault.commit.lock().await;
        let (slots, _) = find(vault, id).await?;
        let slot_goes = GuardedAction::RemoveKey {
            slot: id.to_owned(),
        };
        approvals::check(vault, &slot_goes).await?;
        let added = add(vault, &slots, slot, Some(id)).await?;
        delete(vault, id).await?;
        Ok(added)
    }

    /// Removes a key slot: what opened it opens the vault no more, unless
    /// another slot is for it too. Who has had the vault open may have kept
    /// the vault's own key, which stays the same. After an error or a crash
    /// it may be there as [`Unfinished`](KeySlotKind::Unfinished).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such slot;
    /// [`ErrorKind::Conflict`] if it is the last one that opens the vault, or if
    /// removing it takes the approval of several operators; otherwise as [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: &str) -> Result<()> {
        let vault = &self.vault;
        let _changing = vault.place.meter.begin(Operation::Manage);
        vault.writer()?;
        let _one = vault.commit.lock().await;
        check_removal(vault, id).await?;
        let action = GuardedAction::RemoveKey {
            slot: id.to_owned(),
        };
        approvals::check(vault, &action).await?;
        remove(vault, id).await
    }
}
