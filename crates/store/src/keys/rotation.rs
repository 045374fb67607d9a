//! Rotation: a new vault key for everything new, and the end of old ones.
//!
//! A rotation writes an object with the new ring for each slot that counts, then
//! one record of the catalog says that these count, then the objects with the
//! old ring go. Until the record is durable nothing is sealed under the new
//! key; from then on nothing else is. Whatever a crash leaves in between, each
//! slot has an object that holds the ring that counts.
//!
//! A key leaves the ring when nothing is sealed under it any more: no pack, by
//! the catalog's records and by the headers of packs that it does not know, and
//! no table of the catalog, all of which are merged anew first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstop_core::{Error, ErrorKind, Objects, Result, Timestamp};

use super::counted::{counted, sweep};
use super::prove;
use super::ring::{Ring, VaultKeyId};
use super::slot::KeySlot;
use super::stored::{KEYS, path, read_all};
use crate::catalog::{Batch, COUNTED_SLOTS, Catalog, PACKS};
use crate::dedup_store::DedupStore;
use crate::fold;
use crate::maintenance::to_its_end;
use crate::pack::name::PackName;
use crate::pack::table;
use crate::place::Place;
use crate::record::{self, CountedSlots, PackRecord};
use crate::seal::Seal;
use crate::vault::Vault;

/// A vault key, and what is sealed under it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VaultKeyInfo {
    /// Its id.
    pub id: VaultKeyId,
    /// When it was made, by the vault's clock.
    pub created: Timestamp,
    /// Whether everything new is sealed under it.
    pub is_current: bool,
    /// The packs that are sealed under it, those included that wait to be
    /// deleted.
    pub packs: Objects,
}

/// A vault's ring of keys, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyRingInfo {
    /// The keys. The last is the current one.
    pub keys: Vec<VaultKeyInfo>,
}

/// What became of the keys that are not the current one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetireReport {
    /// The keys that the ring no longer has.
    pub retired: Vec<VaultKeyId>,
    /// The keys that stay, and the packs that are sealed under each.
    pub kept: Vec<(VaultKeyId, Objects)>,
}

/// Writes an object with this ring for each slot that counts; gives what makes
/// them count, and their names. Slots whose object is not there are an error,
/// or left out if `lenient`.
async fn give(
    catalog: &Catalog,
    place: &Place,
    seal: &Seal,
    ring: &Ring,
    lenient: bool,
) -> Result<(Batch, Vec<String>)> {
    let Some(counted) = counted(catalog).await? else {
        return Err(Error::internal("a vault has no list of its key slots"));
    };
    let (stored, _) = read_all(place).await?;
    let mut slots = Vec::new();
    for id in &counted.ids {
        let valid = stored.iter().filter(|stored| stored.id == *id);
        let mut valid = valid.filter_map(|stored| stored.slot(seal.base()));
        match valid.find(|slot| slot.ring_id == counted.ring) {
            Some(slot) => slots.push(slot.with_ring(seal.base(), ring)?),
            None if lenient => {
                tracing::warn!(vault = %place.name, slot = %id, "a key slot is damaged or gone");
            }
            None => {
                let same = stored.iter().filter(|stored| stored.id == *id);
                let refused = same.filter_map(|stored| KeySlot::decode(&stored.bytes).err());
                let mut newer = refused.filter(|error| error.kind() == ErrorKind::Unsupported);
                if let Some(newer) = newer.next() {
                    return Err(newer.within(format_args!("key slot {id}")));
                }
                return Err(Error::conflict(format!(
                    "key slot {id} of the vault at {} is damaged or gone, so it can't be given \
                     the new ring of keys; bring its object back from a copy of the vault, or \
                     remove the slot, then repeat",
                    place.name
                )));
            }
        }
    }
    let mut names = Vec::with_capacity(slots.len());
    for slot in &slots {
        let name = path(&slot.id, ring.id);
        place.put_new(&name, slot.encode()?).await?;
        names.push(name);
    }
    let counted = CountedSlots {
        ids: counted.ids,
        ring: ring.id,
    };
    let mut batch = Batch::default();
    batch.put(COUNTED_SLOTS, &record::encode(&counted)?);
    Ok((batch, names))
}

/// Gives all slots this ring, before the vault is in use.
pub(super) async fn give_before_use(
    catalog: &Catalog,
    place: &Place,
    seal: &Seal,
    ring: &Ring,
) -> Result<()> {
    let (batch, _) = give(catalog, place, seal, ring, true).await?;
    catalog.write(batch).await?;
    catalog.flush().await?;
    seal.use_ring(ring.clone());
    Ok(())
}

/// Makes another ring count.
async fn change(vault: &Vault, ring: Ring) -> Result<()> {
    let (catalog, place, seal) = (&*vault.catalog, &vault.place, &*vault.seal);
    prove(vault).await?;
    // What an earlier change left would be taken for what this one leaves.
    sweep(catalog, place, seal).await?;
    let (batch, names) = give(catalog, place, seal, &ring, false).await?;
    if let Err(error) = vault.commit_batch(batch).await {
        // The new owner has not asked for it, and does not count on it.
        if error.kind() == ErrorKind::Fenced {
            for name in &names {
                place.delete(name).await?;
            }
            place.sync(KEYS)?;
        }
        return Err(error);
    }
    seal.use_ring(ring);
    // The slots have the new ring, whatever becomes of the old objects.
    if let Err(error) = sweep(catalog, place, seal).await {
        tracing::warn!(vault = %place.name, %error, "objects of key slots with an old ring are deleted another time");
    }
    Ok(())
}

async fn rotate(vault: &Vault) -> Result<VaultKeyId> {
    let new = {
        let _one = vault.commit.lock().await;
        let ring = vault.seal.ring().with_new_key(vault.clock.now())?;
        let new = ring.current();
        change(vault, ring).await?;
        new
    };
    // Those that are open were begun under the old key.
    if let Err(error) = vault.writer()?.finish_all().await {
        tracing::debug!(%error, "a pack could not be finished; who wrote to it is told");
    }
    Ok(new)
}

/// The packs under each key, by the catalog.
async fn packs_by_key(
    vault: &Vault,
) -> Result<(BTreeMap<VaultKeyId, Objects>, BTreeSet<PackName>)> {
    let (mut by_key, mut names) = (BTreeMap::<VaultKeyId, Objects>::new(), BTreeSet::new());
    let mut packs = vault.catalog.scan(&[PACKS]).await?;
    while let Some((_, value)) = packs.next().await? {
        let record: PackRecord = record::decode("a pack's record", &value)?;
        by_key.entry(record.key).or_default().add(record.bytes);
        names.insert(record.name);
    }
    Ok((by_key, names))
}

/// How much is sealed under other keys than the current one.
pub(crate) async fn under_old_keys(vault: &Vault) -> Result<Objects> {
    let current = vault.seal.current();
    let (by_key, _) = packs_by_key(vault).await?;
    let mut all = Objects::default();
    for (_, objects) in by_key.into_iter().filter(|(key, _)| *key != current) {
        all.count += objects.count;
        all.bytes = all.bytes.saturating_add(objects.bytes);
    }
    Ok(all)
}

async fn retire(vault: &Vault) -> Result<RetireReport> {
    let Ok(_alone) = vault.collecting.try_lock() else {
        return Err(Error::conflict(
            "a collection of this vault is under way, which moves packs; let it end",
        ));
    };
    let ring = vault.seal.ring();
    let old = ring.keys.iter().map(|key| key.id);
    let old: Vec<VaultKeyId> = old.filter(|id| *id != ring.current()).collect();
    let mut report = RetireReport::default();
    if old.is_empty() {
        return Ok(report);
    }
    // So that no pack is under way that was begun before the last rotation.
    vault.writer()?.finish_all().await?;
    vault.catalog.flush().await?;
    // Listed before the catalog is read: what comes later is sealed anew.
    let listed = vault.reader.store.list().await?;
    let (mut by_key, known) = packs_by_key(vault).await?;
    for (file, bytes) in listed {
        let Some((name, kind)) = PackName::parse_file(&file) else {
            continue;
        };
        if known.contains(&name) {
            continue;
        }
        let store = &*vault.reader.store;
        match table::unknown_pack(store, name, kind, &vault.seal).await {
            Ok(pack) => by_key.entry(pack.vault_key).or_default().add(bytes),
            // It may be of any.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                for key in &old {
                    by_key.entry(*key).or_default().add(bytes);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WrongKey) => {}
            Err(error) => return Err(error),
        }
    }
    for key in old {
        match by_key.get(&key) {
            Some(packs) => report.kept.push((key, *packs)),
            None => report.retired.push(key),
        }
    }
    if report.retired.is_empty() {
        return Ok(report);
    }
    fold::anew(vault).await?;
    let _one = vault.commit.lock().await;
    let ring = vault.seal.ring();
    change(vault, ring.without(&report.retired)?).await?;
    Ok(report)
}

fn check_encrypted(vault: &Vault) -> Result<()> {
    vault.writer()?;
    if vault.header.encrypted {
        return Ok(());
    }
    Err(Error::invalid_input(format!(
        "the vault at {} is not encrypted, so another key would protect nothing",
        vault.place.name
    )))
}

impl DedupStore {
    /// Makes a new vault key: when this returns, every new pack and every new
    /// block of the catalog is sealed under it. No key slot's passphrase or
    /// provider is needed; each of them opens the vault as before. Who kept a
    /// slot that was removed, or the keys that the vault had until now, can't
    /// open what is sealed from now on. What is there already stays sealed
    /// under the old keys until a collection with
    /// [`reseal`](backstop_core::CollectOptions::reseal) has written it anew.
    ///
    /// Atomic: after an error or a crash the vault has one ring or the other,
    /// and every slot opens it. Once begun it goes on to its end even if the
    /// caller goes away.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a slot that counts is damaged or gone;
    /// [`ErrorKind::InvalidInput`] for a vault that is not encrypted, or is open
    /// for reading only; [`ErrorKind::Fenced`] if another owner has taken the
    /// vault over.
    pub async fn rotate_key(&self) -> Result<VaultKeyId> {
        check_encrypted(&self.vault)?;
        let vault = Arc::clone(&self.vault);
        to_its_end(async move { rotate(&vault).await }).await
    }

    /// The keys of the vault, and how much is sealed under each. A reader may
    /// ask too; it tells the ring that it knows.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn key_ring(&self) -> Result<KeyRingInfo> {
        let vault = &self.vault;
        if let Some(counted) = counted(&vault.catalog).await?
            && counted.ring != vault.seal.ring().id
            && let Some(ring) = vault.seal.find_ring(counted.ring).await?
        {
            // A reader beside a rotation.
            vault.seal.use_ring(ring);
        }
        let ring = vault.seal.ring();
        let (by_key, _) = packs_by_key(vault).await?;
        let keys = ring.keys.iter().map(|key| VaultKeyInfo {
            id: key.id,
            created: key.created,
            is_current: key.id == ring.current(),
            packs: by_key.get(&key.id).copied().unwrap_or_default(),
        });
        Ok(KeyRingInfo {
            keys: keys.collect(),
        })
    }

    /// Drops the old keys under which nothing is sealed any more: no pack that
    /// is there, and no table of the catalog, which is written anew for that.
    /// Readers that opened the vault before keep what they know.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while a collection is under way; otherwise as
    /// [`rotate_key`](Self::rotate_key). Nothing is dropped after one.
    pub async fn retire_keys(&self) -> Result<RetireReport> {
        check_encrypted(&self.vault)?;
        let vault = Arc::clone(&self.vault);
        to_its_end(async move { retire(&vault).await }).await
    }
}
