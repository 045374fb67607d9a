//! Opening a vault: a credential is tried on its key slots.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use backstop_core::{CpuPool, Error, ErrorKind, Result};

use super::KeySlotKind;
use super::credential::Credential;
use super::ring::Ring;
use super::slot::{KeySlot, SlotSecret};
use super::stored::{KEYS, Stored, TURNS, newer_ring, path, read_all, ring_ids, rings_of};
use crate::header::VaultHeader;
use crate::place::Place;
use crate::seal::{RingSource, Seal};

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
        if let Some(found) = opened(place, &slots, went, found) {
            return Ok(found);
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

/// A slot that the credential opens, what is in its lock, and its rings.
struct Found {
    id: String,
    secret: SlotSecret,
    rings: Vec<Ring>,
}

fn opened(place: &Place, slots: &[Stored], went: bool, found: Vec<Found>) -> Option<Opened> {
    let base = found.first()?.secret.base.clone();
    let is_sure = ring_ids(slots, &base).len() == 1 && !went;
    let mut rings = found.iter().flat_map(|found| &found.rings).cloned();
    let seal = Seal::new(base, rings.next()?);
    seal.add_rings(rings.collect::<Vec<_>>());
    let locks = found.into_iter().map(|found| (found.id, found.secret));
    let source = SlotRings {
        place: place.clone(),
        locks: locks.collect(),
    };
    Some(Opened {
        seal: seal.with_source(Arc::new(source)),
        is_sure,
    })
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
        let why = if opens.contains(&name) {
            format!("has no key slot that opens with this {what}")
        } else {
            let opens: Vec<String> = opens.into_iter().collect();
            let opens = opens.join(", ");
            format!("has no key slot for a {name}; its slots open with: {opens}")
        };
        match damaged {
            Some(error) => format!("{why} (another can't be tried: {error})"),
            None => why,
        }
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
    /// The slot that the credential opens; where slots have several rings, all
    /// that it opens: one may have been left, or put back, that does not count.
    async fn find(
        &mut self,
        cpu: &CpuPool,
        header: &VaultHeader,
        credential: &Credential,
        slots: &[Stored],
    ) -> Result<Vec<Found>> {
        let (mut transient, mut all) = (None, Vec::new());
        for same in slots.chunk_by(|a, b| a.id == b.id) {
            let id = &same[0].id;
            match self.try_slot(cpu, header, credential, same).await {
                Ok(Some((secret, rings))) => {
                    let is_one = ring_ids(slots, &secret.base).len() == 1;
                    let id = id.clone();
                    all.push(Found { id, secret, rings });
                    if is_one {
                        break;
                    }
                }
                Ok(None) => {}
                // Another slot may still open the vault.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.damaged.get_or_insert(error);
                }
                // That says more than damage of another.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.damaged = Some(error);
                }
                Err(error) => transient = Some(error.within(format_args!("key slot {id}"))),
            }
        }
        // A provider that did not answer says nothing of its key.
        match transient {
            Some(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
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
            if let Some(newer) = newer_ring(same, &secret) {
                failed = Some(within(stored, newer));
                continue;
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

/// The rings that the slots have which opened the vault.
#[derive(Debug)]
struct SlotRings {
    place: Place,
    /// Their ids, and what is in their locks.
    locks: Vec<(String, SlotSecret)>,
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
        let rings = self.locks.iter().flat_map(|(id, secret)| {
            let own = slots.iter().filter(move |stored| stored.id == *id);
            rings_of(own, secret)
        });
        rings.collect()
    }
}
