//! The synchronizations under way: one for each source, changed by one caller
//! at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backstop_core::{Plan, ReplicaWriter, SourceName, SynchronizationId};
use tokio::sync::OwnedMutexGuard;

use crate::idle::Activity;

/// What is under way, by source.
///
/// A source's slot is held while its state, head, marks or synchronization
/// change, so that each such step sees the one before whole. Several slots are
/// always taken in the order of their sources' names.
#[derive(Default)]
pub(crate) struct Sources {
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    slots: BTreeMap<SourceName, Arc<tokio::sync::Mutex<Slot>>>,
    /// Whose synchronization it is; holds no more than one for each source.
    sources: HashMap<SynchronizationId, SourceName>,
}

/// The synchronization of one source, if one is under way.
#[derive(Default)]
pub(crate) struct Slot {
    current: Option<Current>,
}

/// A synchronization under way.
pub(crate) struct Current {
    pub(crate) id: SynchronizationId,
    pub(crate) plan: Plan,
    /// Whether it reads and checks what is stored.
    pub(crate) verifies: bool,
    /// Damage was found since it began: it may have verified that before.
    pub(crate) is_doubted: bool,
    pub(crate) writer: Arc<dyn ReplicaWriter>,
    pub(crate) activity: Arc<Activity>,
}

impl Sources {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose synchronization it is, if it is under way.
    pub(crate) fn source_of(&self, id: SynchronizationId) -> Option<SourceName> {
        self.registry().sources.get(&id).cloned()
    }

    /// Holds a source's slot until the guard is dropped.
    pub(crate) async fn hold(&self, source: &SourceName) -> OwnedMutexGuard<Slot> {
        let slot = Arc::clone(self.registry().slots.entry(source.clone()).or_default());
        slot.lock_owned().await
    }

    /// Holds the slots of several sources.
    pub(crate) async fn hold_all(
        &self,
        sources: BTreeSet<SourceName>,
    ) -> BTreeMap<SourceName, OwnedMutexGuard<Slot>> {
        let mut held = BTreeMap::new();
        for source in sources {
            let slot = self.hold(&source).await;
            held.insert(source, slot);
        }
        held
    }

    /// Holds the slots of synchronizations that are idle. Slots of sources
    /// that have none and that nobody holds are dropped on the way.
    pub(crate) fn hold_idle(&self, idle: impl Fn(&Current) -> bool) -> Vec<OwnedMutexGuard<Slot>> {
        let mut found = Vec::new();
        self.registry().slots.retain(|_, slot| {
            // Who waits for a slot has a share of it.
            let is_alone = Arc::strong_count(slot) == 1;
            let Ok(held) = Arc::clone(slot).try_lock_owned() else {
                return true;
            };
            match &held.current {
                None => return !is_alone,
                Some(current) if idle(current) => found.push(held),
                Some(_) => {}
            }
            true
        });
        found
    }

    /// Makes this the synchronization of the source whose slot is held.
    pub(crate) fn set(&self, slot: &mut Slot, source: &SourceName, current: Current) {
        self.clear(slot);
        self.registry().sources.insert(current.id, source.clone());
        slot.current = Some(current);
    }

    /// Forgets the synchronization of the source whose slot is held.
    pub(crate) fn clear(&self, slot: &mut Slot) {
        if let Some(current) = slot.current.take() {
            self.registry().sources.remove(&current.id);
        }
    }
}

impl Slot {
    /// The synchronization, if it is this one.
    pub(crate) fn current(&self, id: SynchronizationId) -> Option<&Current> {
        self.current.as_ref().filter(|current| current.id == id)
    }

    /// Notes that damage was found while the synchronization is under way.
    pub(crate) fn doubt(&mut self) {
        if let Some(current) = &mut self.current {
            current.is_doubted = true;
        }
    }

    /// The synchronization, whichever it is.
    pub(crate) fn any(&self) -> Option<&Current> {
        self.current.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_of_nobody_are_dropped() {
        let sources = Sources::default();
        let name = |name: &str| SourceName::new(name).unwrap();
        drop(sources.hold(&name("gone")).await);
        let held = sources.hold(&name("held")).await;
        let waited_for = name("held");
        let waiting = sources.hold(&waited_for);
        futures::pin_mut!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(sources.hold_idle(|_| true).is_empty());
        let left = |sources: &Sources| sources.registry().slots.keys().cloned().collect::<Vec<_>>();
        assert_eq!(left(&sources), [name("held")]);
        drop(held);
        assert!(sources.hold_idle(|_| true).is_empty());
        assert_eq!(left(&sources), [name("held")], "one waits for it");
        drop(waiting.await);
        assert!(sources.hold_idle(|_| true).is_empty());
        assert!(left(&sources).is_empty());
    }
}
