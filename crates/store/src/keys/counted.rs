//! Which key slots count, and which of their rings: the record `s` of the
//! catalog, beside the objects that are there.

use backstop_core::{Error, ErrorKind, Result};
use bytes::Bytes;

use super::ring::{Ring, RingId};
use super::slot::KeySlot;
use super::stored::{KEYS, Stored, TURNS, read_all};
use super::{KeySlotInfo, KeySlotKind, rotation};
use crate::catalog::{Batch, COUNTED_SLOTS, Catalog};
use crate::header::newer;
use crate::place::Place;
use crate::record::{self, CountedSlots};
use crate::seal::{Base, Seal};
use crate::sealed_blocks::{KEY_TOLD, is_newer, key_of};
use crate::vault::Vault;

pub(super) async fn counted(catalog: &Catalog) -> Result<Option<CountedSlots>> {
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

pub(super) async fn list(vault: &Vault) -> Result<Vec<KeySlotInfo>> {
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

/// Checks that the newest log of the catalog can be opened, before anything is
/// sealed: where all slots that are there were brought back from before a
/// rotation, what was sealed by their ring could be read by nobody else.
///
/// # Errors
/// [`ErrorKind::WrongKey`] if the ring lacks the key;
/// [`ErrorKind::Unsupported`] if it is of a newer format; those of the store.
pub(crate) async fn check_log(place: &Place, seal: &Seal, log: &str) -> Result<()> {
    let start = match place.get_start(log, KEY_TOLD).await {
        // Folded into a table since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        start => start?,
    };
    if start.as_deref().is_some_and(is_newer) {
        return Err(newer(&format!("object {log}, a log of the catalog,")));
    }
    match start.as_deref().and_then(key_of) {
        Some(key) => {
            let learnt = seal.learn(key).await;
            learnt.map_err(|error| error.within(format_args!("object {log}")))
        }
        // What is wrong with it is told by who reads it.
        None => Ok(()),
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
pub(super) async fn sweep(catalog: &Catalog, place: &Place, seal: &Seal) -> Result<()> {
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
            place.locks.let_go(&old.name).await;
            place.delete(&old.name).await?;
            deleted = true;
        }
    }
    if deleted { place.sync(KEYS) } else { Ok(()) }
}

/// What makes the slots count that opened the vault, with one more and one less.
pub(super) fn counting(
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
