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

pub(crate) mod credential;
pub(crate) mod provider;
pub(crate) mod recovery;
pub(crate) mod ring;
mod rotation;
pub(crate) mod slot;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{CpuPool, Error, ErrorKind, Result};
use bytes::Bytes;

use crate::catalog::{Batch, COUNTED_SLOTS, Catalog, OWNER_PROOF};
use crate::dedup_store::DedupStore;
use crate::header::VaultHeader;
use crate::maintenance::to_its_end;
use crate::place::Place;
use crate::record::{self, CountedSlots};
use crate::seal::{Base, RingSource, Seal};
use crate::vault::Vault;
use credential::Credential;
use ring::{Ring, RingId};
use slot::{KeySlot, SlotSecret};

pub(crate) use rotation::under_old_keys;
pub use rotation::{KeyRingInfo, RetireReport, VaultKeyInfo};

/// The folder of key slots.
const KEYS: &str = "keys";

/// How often slots are listed again that changed while they were read.
const TURNS: usize = 4;

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

/// An object among the key slots.
struct Stored {
    name: String,
    /// From its name.
    id: String,
    ring: Option<RingId>,
    bytes: Vec<u8>,
}

impl Stored {
    /// The slot, if it is what its name says, and of the vault with this base.
    fn slot(&self, base: &Base) -> Option<KeySlot> {
        let slot = KeySlot::decode(&self.bytes).ok()?;
        let is_it = slot.id == self.id && Some(slot.ring_id) == self.ring;
        (is_it && slot.is_of(base)).then_some(slot)
    }
}

fn path(id: &str, ring: RingId) -> String {
    format!("{KEYS}/{id}-{ring}.json")
}

/// The slot and the ring that an object's name tells.
fn parse(name: &str) -> Option<(String, Option<RingId>)> {
    let stem = name.strip_prefix(KEYS)?.strip_prefix('/')?;
    let stem = stem.strip_suffix(".json")?;
    let parts = stem.split_once('-');
    let parsed = parts.and_then(|(id, ring)| Some((id, RingId::try_from(ring.to_owned()).ok()?)));
    Some(match parsed {
        Some((id, ring)) => (id.to_owned(), Some(ring)),
        None => (stem.to_owned(), None),
    })
}

/// The objects of all slots, and whether some went while they were read.
async fn read_all(place: &Place) -> Result<(Vec<Stored>, bool)> {
    let (mut slots, mut went) = (Vec::new(), false);
    for name in place.list(KEYS).await? {
        let Some((id, ring)) = parse(&name) else {
            continue;
        };
        match place.get(&name).await {
            Ok(bytes) => slots.push(Stored {
                name,
                id,
                ring,
                bytes,
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => went = true,
            Err(error) => return Err(error),
        }
    }
    slots.sort_by(|a, b| (&a.id, a.ring).cmp(&(&b.id, b.ring)));
    Ok((slots, went))
}

/// Makes the first slot of a vault.
pub(crate) async fn create(
    place: &Place,
    cpu: &CpuPool,
    seal: &Seal,
    credential: &Credential,
) -> Result<()> {
    let ring = seal.ring();
    let slot = KeySlot::create(cpu, credential, seal.base(), &ring).await?;
    place
        .put_new(&path(&slot.id, slot.ring_id), slot.encode()?)
        .await
}

/// A vault whose keys are known.
pub(crate) struct Opened {
    pub(crate) seal: Seal,
    /// Whether all slots have one ring, which is then the one that counts.
    pub(crate) is_sure: bool,
}

/// The vault's keys, from any slot that the credential opens.
pub(crate) async fn open(
    place: &Place,
    cpu: &CpuPool,
    header: &VaultHeader,
    credential: &Credential,
) -> Result<Opened> {
    let wrong = |why: String| {
        let at = &place.name;
        Error::new(ErrorKind::WrongKey, format!("the vault at {at} {why}"))
    };
    match credential {
        Credential::None if header.encrypted => {
            return Err(wrong("is encrypted; give its passphrase or key".into()));
        }
        Credential::None => {}
        // It may have been put there in place of the one that is meant.
        _ if !header.encrypted => {
            return Err(wrong(format!(
                "is not encrypted, but a {} was given; if it is the right vault, open it without",
                credential.what()
            )));
        }
        _ => {}
    }
    let mut turn = 1;
    loop {
        let (slots, went) = read_all(place).await?;
        let mut tried = Tried::default();
        let found = tried.find(cpu, header, credential, &slots).await?;
        if let Some((id, secret, rings)) = found {
            return Ok(opened(place, &slots, went, (id, secret), rings));
        }
        // An owner that gave the slots another ring has deleted what was listed.
        if went && turn < TURNS {
            turn += 1;
            continue;
        }
        if slots.is_empty() {
            return Err(Error::corrupt(format!(
                "the vault at {} has lost its key slots: there is no object in {KEYS}/; bring \
                 them back from a copy of the vault, since nothing else opens it",
                place.name
            )));
        }
        return Err(match tried.damaged {
            Some(damaged) if tried.intact.is_empty() => damaged,
            damaged => wrong(tried.intact.why(credential, damaged.as_ref())),
        });
    }
}

fn opened(
    place: &Place,
    slots: &[Stored],
    went: bool,
    (id, secret): (String, SlotSecret),
    rings: Vec<Ring>,
) -> Opened {
    let base = secret.base.clone();
    let valid = slots.iter().filter_map(|stored| stored.slot(&base));
    let ids: BTreeSet<RingId> = valid.map(|slot| slot.ring_id).collect();
    let source = SlotRings {
        place: place.clone(),
        id,
        secret,
    };
    let mut rings = rings.into_iter();
    // There is at least one.
    let first = rings.next().unwrap_or_else(|| Ring {
        id: RingId(0),
        keys: Vec::new(),
    });
    let seal = Seal::new(base, first).with_source(Arc::new(source));
    seal.add_rings(rings);
    Opened {
        seal,
        is_sure: ids.len() == 1 && !went,
    }
}

/// What came of trying slots that did not open.
#[derive(Default)]
struct Tried {
    intact: Intact,
    damaged: Option<Error>,
}

/// What other things the slots open with.
#[derive(Default)]
struct Intact {
    slots: Vec<KeySlot>,
}

impl Intact {
    fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Why a credential is the wrong one.
    fn why(&self, credential: &Credential, damaged: Option<&Error>) -> String {
        let what = credential.what();
        let opens: BTreeSet<String> = self.slots.iter().map(opens_with).collect();
        let name = match credential {
            Credential::Provider(provider) => format!("key provider {}", provider.name()),
            _ => what.to_owned(),
        };
        let mut why = if opens.contains(&name) {
            format!("has no key slot that opens with this {what}")
        } else {
            let opens: Vec<String> = opens.into_iter().collect();
            let opens = opens.join(", ");
            format!("has no key slot for a {name}; its slots open with: {opens}")
        };
        if let Some(error) = damaged {
            why.push_str(&format!(" (another can't be tried: {error})"));
        }
        why
    }
}

/// What a slot opens with, for sentences.
fn opens_with(slot: &KeySlot) -> String {
    match (slot.kind(), slot.provider()) {
        (_, Some((provider, _))) => format!("key provider {provider}"),
        (KeySlotKind::Key, _) => "raw key".to_owned(),
        (KeySlotKind::Passphrase, _) => "passphrase".to_owned(),
        (KeySlotKind::Recovery, _) => "recovery key".to_owned(),
        _ => "nothing".to_owned(),
    }
}

impl Tried {
    /// The slot that the credential opens, what is in its lock, and its rings.
    async fn find(
        &mut self,
        cpu: &CpuPool,
        header: &VaultHeader,
        credential: &Credential,
        slots: &[Stored],
    ) -> Result<Option<(String, SlotSecret, Vec<Ring>)>> {
        let mut transient = None;
        for same in slots.chunk_by(|a, b| a.id == b.id) {
            let id = &same[0].id;
            match self.try_slot(cpu, header, credential, same).await {
                Ok(Some((secret, rings))) => return Ok(Some((id.clone(), secret, rings))),
                Ok(None) => {}
                // Another slot may still open the vault.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.damaged = Some(error);
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.damaged = Some(error);
                }
                Err(error) => transient = Some(error.within(format_args!("key slot {id}"))),
            }
        }
        // A provider that did not answer says nothing of its key.
        transient.map_or(Ok(None), Err)
    }

    /// Tries the objects of one slot: all have the same lock.
    async fn try_slot(
        &mut self,
        cpu: &CpuPool,
        header: &VaultHeader,
        credential: &Credential,
        same: &[Stored],
    ) -> Result<Option<(SlotSecret, Vec<Ring>)>> {
        let within = |stored: &Stored, error: Error| {
            error.within(format_args!("object {} of the vault", stored.name))
        };
        let (mut failed, mut refused) = (None, None::<KeySlot>);
        for stored in same {
            let slot = match KeySlot::decode(&stored.bytes) {
                Ok(slot) => slot,
                Err(error) => {
                    failed = Some(within(stored, error));
                    continue;
                }
            };
            // Its lock was tried: stretching a passphrase takes long.
            if refused
                .as_ref()
                .is_some_and(|tried| tried.has_lock_of(&slot))
            {
                continue;
            }
            let secret = match slot.unlock(cpu, credential).await {
                Ok(Some(secret)) => secret,
                Ok(None) => {
                    refused = Some(slot);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    failed = Some(within(stored, error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            // A slot of a vault whose making was interrupted may lie here too:
            // only the header says whether a base is the right one.
            if !header.accepts(&secret.base) {
                refused = Some(slot);
                continue;
            }
            let rings: Vec<Ring> = rings_of(same, &secret);
            if !rings.is_empty() {
                return Ok(Some((secret, rings)));
            }
            failed = Some(within(
                stored,
                Error::corrupt(
                    "the key slot opens, but is damaged: its check or its ring of keys is not as \
                     it was; open the vault with another slot",
                ),
            ));
        }
        self.intact.slots.extend(refused);
        failed.map_or(Ok(None), Err)
    }
}

/// The rings of a slot whose lock is open.
fn rings_of<'a>(stored: impl IntoIterator<Item = &'a Stored>, secret: &SlotSecret) -> Vec<Ring> {
    let valid = stored
        .into_iter()
        .filter_map(|stored| stored.slot(&secret.base));
    valid
        .filter_map(|slot| slot.open_ring(secret).ok())
        .collect()
}

/// The rings that the slot has which opened the vault.
#[derive(Debug)]
struct SlotRings {
    place: Place,
    id: String,
    secret: SlotSecret,
}

#[async_trait]
impl RingSource for SlotRings {
    async fn rings(&self) -> Result<Vec<Ring>> {
        for _ in 1..TURNS {
            let (slots, went) = read_all(&self.place).await?;
            if !went {
                return Ok(self.of(&slots));
            }
        }
        let (slots, _) = read_all(&self.place).await?;
        Ok(self.of(&slots))
    }
}

impl SlotRings {
    fn of(&self, slots: &[Stored]) -> Vec<Ring> {
        let own = slots.iter().filter(|stored| stored.id == self.id);
        rings_of(own, &self.secret)
    }
}

async fn counted(catalog: &Catalog) -> Result<Option<CountedSlots>> {
    let value = catalog.get_durable(COUNTED_SLOTS).await?;
    let decode = |value: Bytes| record::decode::<CountedSlots>("the list of key slots", &value);
    value.map(decode).transpose()
}

/// The slots, without regard to which count; of those with this ring.
fn listed(stored: &[Stored], base: &Base, ring: RingId) -> Vec<KeySlotInfo> {
    let slots = stored.chunk_by(|a, b| a.id == b.id);
    let info = |same: &[Stored]| {
        let valid = || same.iter().filter_map(|stored| stored.slot(base));
        let slot = valid().find(|slot| slot.ring_id == ring);
        let kind = match &slot {
            Some(slot) => slot.kind(),
            None if valid().next().is_some() => KeySlotKind::Unfinished,
            None => KeySlotKind::Foreign,
        };
        let provider = slot.as_ref().and_then(KeySlot::provider);
        KeySlotInfo {
            id: same[0].id.clone(),
            kind,
            provider: provider.map(|(name, key)| (name.to_owned(), key.to_owned())),
        }
    };
    slots.map(info).collect()
}

/// The slots as they count.
fn infos(stored: &[Stored], counted: Option<&CountedSlots>, seal: &Seal) -> Vec<KeySlotInfo> {
    // Only the making of a vault can have been interrupted before there is a list.
    let ring = counted.map_or_else(|| seal.ring().id, |counted| counted.ring);
    let mut slots = listed(stored, seal.base(), ring);
    let Some(counted) = counted else {
        return slots;
    };
    for slot in &mut slots {
        let counts = counted.ids.contains(&slot.id);
        if slot.kind.opens() && !counts {
            slot.kind = KeySlotKind::Unfinished;
        } else if slot.kind == KeySlotKind::Unfinished && counts {
            slot.kind = KeySlotKind::Missing;
        }
    }
    let missing = counted.ids.iter();
    let missing = missing.filter(|id| stored.iter().all(|stored| stored.id != **id));
    let missing: Vec<KeySlotInfo> = missing
        .map(|id| KeySlotInfo {
            id: id.clone(),
            kind: KeySlotKind::Missing,
            provider: None,
        })
        .collect();
    slots.extend(missing);
    slots.sort_by(|a, b| a.id.cmp(&b.id));
    slots
}

async fn list(vault: &Vault) -> Result<Vec<KeySlotInfo>> {
    let mut turn = 1;
    loop {
        let (stored, went) = read_all(&vault.place).await?;
        // A reader beside a rotation may see either.
        if !went || turn == TURNS {
            let counted = counted(&vault.catalog).await?;
            return Ok(infos(&stored, counted.as_ref(), &vault.seal));
        }
        turn += 1;
    }
}

/// Finds out which ring counts before anything is sealed: where slots have
/// several, the catalog is read as a reader does.
pub(crate) async fn look_before(catalog: &Catalog, place: &Place, seal: &Seal) -> Result<()> {
    if let Some(counted) = counted(catalog).await? {
        seal.use_ring(counted_ring(place, seal, counted.ring).await?);
    }
    Ok(())
}

async fn counted_ring(place: &Place, seal: &Seal, ring: RingId) -> Result<Ring> {
    seal.find_ring(ring).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::WrongKey,
            format!(
                "the key slot that opened the vault at {} does not have the ring of keys that \
                 counts: it was removed, or its object was lost; open the vault with another slot",
                place.name
            ),
        )
    })
}

/// What a new owner does: goes by the ring that counts, and tidies what a
/// change that was cut short has left of others.
pub(crate) async fn settle(
    catalog: &Catalog,
    place: &Place,
    seal: &Seal,
    is_sure: bool,
) -> Result<()> {
    // What it has sealed so far is sealed under this.
    let used = seal.ring();
    let Some(counted) = counted(catalog).await? else {
        let (stored, _) = read_all(place).await?;
        let slots = listed(&stored, seal.base(), used.id);
        catalog
            .write(counting(&slots, used.id, None, None)?)
            .await?;
        return catalog.flush().await;
    };
    let ring = counted_ring(place, seal, counted.ring).await?;
    let lacks = !ring.has(used.current());
    seal.use_ring(ring.clone());
    if lacks {
        // Another owner changed the ring while this one opened the vault.
        let older = used.keys.into_iter();
        rotation::give_before_use(catalog, place, seal, &ring.with_older(older)?).await?;
    }
    if !is_sure || lacks {
        sweep(catalog, place, seal).await?;
    }
    Ok(())
}

/// Deletes objects of slots that count, with other rings than the one that does.
async fn sweep(catalog: &Catalog, place: &Place, seal: &Seal) -> Result<()> {
    let Some(counted) = counted(catalog).await? else {
        return Ok(());
    };
    let (stored, _) = read_all(place).await?;
    let mut deleted = false;
    for same in stored.chunk_by(|a, b| a.id == b.id) {
        let has_it = |stored: &Stored| {
            let slot = stored.slot(seal.base());
            slot.is_some_and(|slot| slot.ring_id == counted.ring)
        };
        if !counted.ids.contains(&same[0].id) || !same.iter().any(has_it) {
            continue;
        }
        for old in same
            .iter()
            .filter(|stored| stored.ring != Some(counted.ring))
        {
            place.delete(&old.name).await?;
            deleted = true;
        }
    }
    if deleted { place.sync(KEYS) } else { Ok(()) }
}

/// What makes the slots count that opened the vault, with one more and one less.
fn counting(
    slots: &[KeySlotInfo],
    ring: RingId,
    more: Option<&str>,
    less: Option<&str>,
) -> Result<Batch> {
    let opening = slots.iter().filter(|slot| slot.kind.opens());
    let ids = opening.map(|slot| slot.id.as_str()).chain(more);
    let ids = ids.filter(|id| Some(*id) != less).map(str::to_owned);
    let ids = ids.collect();
    let mut batch = Batch::default();
    batch.put(COUNTED_SLOTS, &record::encode(&CountedSlots { ids, ring })?);
    Ok(batch)
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
        to_its_end(async move {
            let _one = vault.commit.lock().await;
            add(&vault, &list(&vault).await?, &slot, None).await
        })
        .await
    }

    /// Puts another key slot, with an id of its own, in the place of one: the
    /// new one is durable before the old one goes. After an error or a crash
    /// one of them is [`Unfinished`](KeySlotKind::Unfinished) if both are there.
    ///
    /// # Errors
    /// As [`add_key`](Self::add_key); [`ErrorKind::NotFound`] if there is no
    /// such slot.
    pub async fn replace_key(&self, id: &str, credential: &Credential) -> Result<KeySlotInfo> {
        let slot = sealed(&self.vault, credential).await?;
        let (vault, id) = (Arc::clone(&self.vault), id.to_owned());
        to_its_end(async move {
            let _one = vault.commit.lock().await;
            let (slots, _) = find(&vault, &id).await?;
            let added = add(&vault, &slots, &slot, Some(&id)).await?;
            delete(&vault, &id).await?;
            Ok(added)
        })
        .await
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
    /// [`ErrorKind::Conflict`] if it is the last one that opens the vault;
    /// otherwise as [`add_key`](Self::add_key).
    pub async fn remove_key(&self, id: &str) -> Result<()> {
        self.vault.writer()?;
        let (vault, id) = (Arc::clone(&self.vault), id.to_owned());
        to_its_end(async move {
            let _one = vault.commit.lock().await;
            let (slots, kind) = find(&vault, &id).await?;
            let opening = slots.iter().filter(|slot| slot.kind.opens()).count();
            if kind.opens() && opening < 2 {
                return Err(Error::conflict(format!(
                    "key slot {id} is the last that opens the vault at {}; add another first",
                    vault.place.name
                )));
            }
            let batch = counting(&slots, vault.seal.ring().id, None, Some(&id))?;
            vault.commit_batch(batch).await?;
            delete(&vault, &id).await
        })
        .await
    }
}
