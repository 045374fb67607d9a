//! The key slots of a vault: which must be there, and what opens each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::vaults;

/// Slots beside the first one.
#[derive(Default)]
pub(crate) struct Slots {
    first: String,
    /// Those that must open the vault, and their keys.
    known: BTreeMap<String, [u8; 32]>,
    /// Those that a killed run left, which may open nothing.
    left: BTreeSet<String>,
}

fn listed_ids(listed: &Value) -> BTreeSet<String> {
    let slots = listed.as_array().unwrap().iter();
    slots
        .map(|slot| slot["id"].as_str().unwrap().to_owned())
        .collect()
}

impl Slots {
    /// Of a new vault.
    pub(crate) fn first(listed: &Value) -> Self {
        let mut ids = listed_ids(listed);
        Self {
            first: ids.pop_first().unwrap(),
            ..Self::default()
        }
    }

    /// One was reported to be added.
    pub(crate) fn added(&mut self, told: &Value, key: [u8; 32]) {
        let id = told["id"].as_str().unwrap().to_owned();
        self.known.insert(id, key);
    }

    /// Takes over what a killed run left; says whether there was something.
    pub(crate) fn adopt(&mut self, listed: &Value, key: [u8; 32]) -> bool {
        let mut is_new = false;
        for slot in listed.as_array().unwrap() {
            let id = slot["id"].as_str().unwrap();
            if id != self.first && !self.known.contains_key(id) && !self.left.contains(id) {
                if slot["kind"] == "key" {
                    self.known.insert(id.to_owned(), key);
                } else {
                    self.left.insert(id.to_owned());
                }
                is_new = true;
            }
        }
        self.are_there(listed);
        is_new
    }

    fn are_there(&self, listed: &Value) {
        let ids = listed_ids(listed);
        let must = self.known.keys().chain([&self.first]);
        for id in must {
            assert!(ids.contains(id), "slot {id} is gone: {listed}");
        }
    }

    /// All but the first.
    pub(crate) fn extra(&self) -> Vec<String> {
        self.known.keys().chain(&self.left).cloned().collect()
    }

    /// Whether a slot whose removal was asked for has gone.
    pub(crate) fn settle_removal(&mut self, listed: &Value, slot: &str) -> bool {
        let mut slots = listed.as_array().unwrap().iter();
        let there = slots.find(|there| there["id"] == slot);
        let is_gone = there.is_none();
        if is_gone {
            self.known.remove(slot);
            self.left.remove(slot);
        } else if there.is_some_and(|there| there["kind"] != "key") {
            // It counts no more, so that no rotation gives it another ring.
            self.known.remove(slot);
            self.left.insert(slot.to_owned());
        }
        self.are_there(listed);
        is_gone
    }

    /// Every slot opens the vault.
    pub(crate) async fn open(&self, place: &Path) {
        for (id, key) in &self.known {
            let opened = vaults::at(place, *key).open_read_only().await;
            let vault = opened.unwrap_or_else(|error| panic!("slot {id}: {error}"));
            vault.close().await.unwrap();
        }
    }
}
