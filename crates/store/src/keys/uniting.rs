//! The ring by which a rebuild goes: there is no catalog to say which counts.
//!
//! A rotation that was cut short leaves slots with several rings, but at least
//! one that all slots have. So slots that share a ring with the one that opened
//! the vault are of one vault still, and what their rings hold is united: a key
//! that was left out may be what packs are sealed under. A slot that shares none
//! is of before a rotation, or the one that opened the vault is. Which, nothing
//! here can tell, and who guesses wrong lets a removed slot in again and shuts
//! out all others.

use backstop_core::{Error, ErrorKind, Result};

use super::ring::{Ring, RingKey};
use super::slot::KeySlot;
use super::stored::{KEYS, path, read_all};
use crate::place::Place;
use crate::seal::Seal;

/// Sees to it that all slots have one ring, which holds every key of those that
/// the credential opens, and goes by it. Whatever comes of the rebuild, they have
/// the rings that they had before.
///
/// # Errors
/// [`ErrorKind::WrongKey`] if a slot has no ring that the credential opens.
pub(crate) async fn unite(place: &Place, seal: &Seal) -> Result<()> {
    let (stored, _) = read_all(place).await?;
    let rings = seal.rings();
    let Some(newest) = newest(&rings) else {
        return Err(Error::internal("a vault was opened without a ring of keys"));
    };
    let mut slots: Vec<KeySlot> = Vec::new();
    let mut all_have_it = true;
    for same in stored.chunk_by(|a, b| a.id == b.id) {
        let valid: Vec<KeySlot> = same
            .iter()
            .filter_map(|stored| stored.slot(seal.base()))
            .collect();
        if valid.is_empty() {
            continue;
        }
        let shared = valid
            .iter()
            .find(|slot| rings.iter().any(|ring| ring.id == slot.ring_id));
        let Some(slot) = shared else {
            return Err(strange(place, &same[0].name));
        };
        all_have_it &= valid.iter().any(|slot| slot.ring_id == newest.id);
        slots.push(slot.clone());
    }
    let others = rings.iter().flat_map(|ring| ring.keys.iter());
    let older: Vec<RingKey> = others.filter(|key| !newest.has(key.id)).cloned().collect();
    if older.is_empty() && all_have_it {
        seal.use_ring(newest.clone());
        return Ok(());
    }
    let united = newest.with_older(older)?;
    for slot in slots {
        let slot = slot.with_ring(seal.base(), &united)?;
        let name = path(&slot.id, united.id);
        place.put_new(&name, slot.encode()?).await?;
    }
    place.sync(KEYS)?;
    seal.use_ring(united);
    Ok(())
}

/// The ring that a rotation made last: it has what sealed before, and the others
/// lack what seals now.
fn newest(rings: &[Ring]) -> Option<&Ring> {
    rings.iter().max_by_key(|ring| {
        let older = rings.iter().filter(|other| ring.has(other.current()));
        (older.count(), ring.keys.len())
    })
}

fn strange(place: &Place, object: &str) -> Error {
    Error::new(
        ErrorKind::WrongKey,
        format!(
            "object {object} of the vault at {} is a key slot with another ring of keys than the \
             slot that opened the vault: one of them is of before a rotation, and without the \
             catalog it is not known which; rebuild with what opens the other, or take its object \
             away if it was removed",
            place.name
        ),
    )
}
