//! The objects of key slots: `keys/ID-RING.json`.

use std::collections::BTreeSet;

use backstop_core::{Error, ErrorKind, Result};

use super::ring::{Ring, RingId};
use super::slot::{KeySlot, SlotSecret};
use crate::place::Place;
use crate::seal::Base;

/// The folder of key slots.
pub(crate) const KEYS: &str = "keys";

/// How often slots are listed again that changed while they were read.
pub(super) const TURNS: usize = 4;

/// An object among the key slots.
pub(super) struct Stored {
    pub(super) name: String,
    /// From its name.
    pub(super) id: String,
    pub(super) ring: Option<RingId>,
    pub(super) bytes: Vec<u8>,
}

impl Stored {
    /// The slot, if it is what its name says, and of the vault with this base.
    pub(super) fn slot(&self, base: &Base) -> Option<KeySlot> {
        let slot = KeySlot::decode(&self.bytes).ok()?;
        let is_it = slot.id == self.id && Some(slot.ring_id) == self.ring;
        (is_it && slot.is_of(base)).then_some(slot)
    }
}

pub(super) fn path(id: &str, ring: RingId) -> String {
    format!("{KEYS}/{id}-{ring}.json")
}

/// The slot and the ring that an object's name tells.
pub(super) fn parse(name: &str) -> Option<(String, Option<RingId>)> {
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
pub(super) async fn read_all(place: &Place) -> Result<(Vec<Stored>, bool)> {
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

/// The rings that the slots have which are of the vault with this base.
pub(super) fn ring_ids(slots: &[Stored], base: &Base) -> BTreeSet<RingId> {
    let valid = slots.iter().filter_map(|stored| stored.slot(base));
    valid.map(|slot| slot.ring_id).collect()
}

/// Why the rings of a slot whose lock is open can't be read, if that is since
/// one is of a newer format.
pub(super) fn newer_ring(stored: &[Stored], secret: &SlotSecret) -> Option<Error> {
    let valid = stored.iter().filter_map(|stored| stored.slot(&secret.base));
    valid
        .filter_map(|slot| slot.open_ring(secret).err())
        .find(|error| error.kind() == ErrorKind::Unsupported)
}

/// The rings of a slot whose lock is open.
pub(super) fn rings_of<'a>(
    stored: impl IntoIterator<Item = &'a Stored>,
    secret: &SlotSecret,
) -> Vec<Ring> {
    let valid = stored
        .into_iter()
        .filter_map(|stored| stored.slot(&secret.base));
    valid
        .filter_map(|slot| slot.open_ring(secret).ok())
        .collect()
}
