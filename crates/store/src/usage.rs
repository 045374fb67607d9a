//! What a vault asks of its object store: requests by kind, bytes both ways, by
//! operation and by kind of object. Plain data, to be told, kept and priced.

pub(crate) mod meter;
pub(crate) mod metered;
pub(crate) mod metered_packs;
pub(crate) mod months;
pub(crate) mod stored;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What a request was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Operation {
    /// Making or opening the vault.
    Open,
    /// A synchronization, from its beginning to its commit.
    Synchronize,
    /// Reading recovery points: restores, open images, documents, comparisons.
    Restore,
    /// Expiring and marking points, states of replicas, key slots.
    Manage,
    /// Giving back space.
    Collect,
    /// Folding.
    Fold,
    /// Verification.
    Verify,
    /// Making index and catalog anew.
    Rebuild,
    /// Copying points to another vault, or from one, and healing from it.
    Replicate,
    /// Lists and statistics.
    List,
    /// Closing the vault.
    Close,
    /// None: the lease, a reader's registration, the catalog's own tasks.
    Idle,
    /// The catalog's own tasks while several operations of different kinds were
    /// under way: whose request it was can't be told.
    Several,
}

impl Operation {
    /// All of them, in the order in which reports tell them.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::Synchronize,
        Self::Restore,
        Self::Manage,
        Self::Collect,
        Self::Fold,
        Self::Verify,
        Self::Rebuild,
        Self::Replicate,
        Self::List,
        Self::Close,
        Self::Idle,
        Self::Several,
    ];

    /// One word, as in JSON and in labels of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Synchronize => "synchronize",
            Self::Restore => "restore",
            Self::Manage => "manage",
            Self::Collect => "collect",
            Self::Fold => "fold",
            Self::Verify => "verify",
            Self::Rebuild => "rebuild",
            Self::Replicate => "replicate",
            Self::List => "list",
            Self::Close => "close",
            Self::Idle => "idle",
            Self::Several => "several",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a request was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ObjectKind {
    /// Packs of chunks.
    DataPacks,
    /// Packs of map nodes and records.
    MapPacks,
    /// Index and catalog.
    Catalog,
    /// Registrations of readers.
    Readers,
    /// The vault's header, key slots, the lease, and lists of all packs.
    Other,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::DataPacks,
        Self::MapPacks,
        Self::Catalog,
        Self::Readers,
        Self::Other,
    ];

    /// One word, as in JSON and in labels of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataPacks => "data-packs",
            Self::MapPacks => "map-packs",
            Self::Catalog => "catalog",
            Self::Readers => "readers",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Requests by kind, and bytes both ways. In JSON what is zero is left out.
///
/// Each request that was made counts, whatever became of it. What the store's
/// client repeats by itself is not seen, and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Requests {
    /// Whole objects stored by one request each.
    #[serde(skip_serializing_if = "is_zero")]
    pub puts: u64,
    /// Beginnings and ends of uploads in parts.
    #[serde(skip_serializing_if = "is_zero")]
    pub uploads: u64,
    /// Parts of uploads.
    #[serde(skip_serializing_if = "is_zero")]
    pub parts: u64,
    /// Objects or ranges of them read.
    #[serde(skip_serializing_if = "is_zero")]
    pub gets: u64,
    /// Questions for an object's size and existence.
    #[serde(skip_serializing_if = "is_zero")]
    pub heads: u64,
    /// Lists: one for each 1000 objects that were listed, at least one.
    #[serde(skip_serializing_if = "is_zero")]
    pub lists: u64,
    /// Objects deleted and uploads taken back, each as one request; some stores
    /// take up to 1000 deletions in one.
    #[serde(skip_serializing_if = "is_zero")]
    pub deletes: u64,
    /// Objects copied inside the store.
    #[serde(skip_serializing_if = "is_zero")]
    pub copies: u64,
    /// Bytes of objects sent to the store.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_sent: u64,
    /// Bytes of objects that the store was asked for and has.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_received: u64,
}

impl Requests {
    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            puts: with(self.puts, other.puts),
            uploads: with(self.uploads, other.uploads),
            parts: with(self.parts, other.parts),
            gets: with(self.gets, other.gets),
            heads: with(self.heads, other.heads),
            lists: with(self.lists, other.lists),
            deletes: with(self.deletes, other.deletes),
            copies: with(self.copies, other.copies),
            bytes_sent: with(self.bytes_sent, other.bytes_sent),
            bytes_received: with(self.bytes_received, other.bytes_received),
        }
    }

    /// All requests, of whatever kind.
    pub fn count(&self) -> u64 {
        self.writes()
            .saturating_add(self.reads())
            .saturating_add(self.deletes)
    }

    /// Requests that stores charge like writing: puts, uploads and their parts,
    /// lists, copies ("class A").
    pub fn writes(&self) -> u64 {
        [self.puts, self.uploads, self.parts, self.lists, self.copies]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Requests that stores charge like reading: gets and heads ("class B").
    pub fn reads(&self) -> u64 {
        self.gets.saturating_add(self.heads)
    }

    /// What was asked since an earlier time.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.zip(*earlier, u64::saturating_sub)
    }
}

impl AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        *self = self.zip(other, u64::saturating_add);
    }
}

/// Requests by operation.
pub type UsageByOperation = BTreeMap<Operation, Requests>;

/// What an open vault has asked of its store, by operation and kind of object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreUsage(BTreeMap<Operation, BTreeMap<ObjectKind, Requests>>);

impl StoreUsage {
    /// Adds requests.
    pub fn add(&mut self, operation: Operation, object: ObjectKind, requests: Requests) {
        if requests != Requests::default() {
            *self
                .0
                .entry(operation)
                .or_default()
                .entry(object)
                .or_default() += requests;
        }
    }

    /// Each operation, kind of object, and what was asked of it.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, ObjectKind, Requests)> {
        self.0.iter().flat_map(|(operation, objects)| {
            objects
                .iter()
                .map(|(object, requests)| (*operation, *object, *requests))
        })
    }

    /// What was asked since an earlier time of the same open vault.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = Self::default();
        for (operation, object, requests) in self.iter() {
            let before = earlier
                .0
                .get(&operation)
                .and_then(|objects| objects.get(&object));
            since.add(
                operation,
                object,
                requests.since(&before.copied().unwrap_or_default()),
            );
        }
        since
    }

    /// Adds what another vault, or the same one at another time, has asked.
    pub fn merge(&mut self, other: &Self) {
        for (operation, object, requests) in other.iter() {
            self.add(operation, object, requests);
        }
    }

    /// All of it.
    pub fn total(&self) -> Requests {
        sum(self.iter().map(|(_, _, requests)| requests))
    }

    /// By operation.
    pub fn by_operation(&self) -> UsageByOperation {
        let sums = self.0.iter();
        sums.map(|(operation, objects)| (*operation, sum(objects.values().copied())))
            .collect()
    }

    /// By kind of object.
    pub fn by_object(&self) -> BTreeMap<ObjectKind, Requests> {
        let mut sums = BTreeMap::new();
        for (_, object, requests) in self.iter() {
            *sums.entry(object).or_insert_with(Requests::default) += requests;
        }
        sums
    }
}

pub(crate) fn sum(all: impl IntoIterator<Item = Requests>) -> Requests {
    let mut sum = Requests::default();
    for requests in all {
        sum += requests;
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Requests> {
        prop::array::uniform10(0u64..1 << 40).prop_map(|n| Requests {
            puts: n[0],
            uploads: n[1],
            parts: n[2],
            gets: n[3],
            heads: n[4],
            lists: n[5],
            deletes: n[6],
            copies: n[7],
            bytes_sent: n[8],
            bytes_received: n[9],
        })
    }

    prop_compose! {
        pub(crate) fn usage()(rows in prop::collection::vec(
            (prop::sample::select(&Operation::ALL[..]), prop::sample::select(&ObjectKind::ALL[..]), requests()), 0..20,
        )) -> StoreUsage {
            let mut usage = StoreUsage::default();
            for (operation, object, requests) in rows {
                usage.add(operation, object, requests);
            }
            usage
        }
    }

    proptest! {
        #[test]
        fn what_was_added_is_the_difference(before in usage(), more in usage()) {
            let mut after = before.clone();
            after.merge(&more);
            prop_assert_eq!(after.since(&before), more.clone());
            prop_assert_eq!(after.since(&after), StoreUsage::default());
            prop_assert_eq!(before.since(&after), StoreUsage::default());
            let mut other_way = more.clone();
            other_way.merge(&before);
            prop_assert_eq!(&other_way, &after);
            let mut total = before.total();
            total += more.total();
            prop_assert_eq!(after.total(), total);
            prop_assert_eq!(sum(after.by_operation().into_values()), total);
            prop_assert_eq!(sum(after.by_object().into_values()), total);
        }

        #[test]
        fn json_gives_back_what_it_was_made_of(usage in usage()) {
            let text = serde_json::to_string(&usage).unwrap();
            prop_assert_eq!(serde_json::from_str::<StoreUsage>(&text).unwrap(), usage);
        }
    }

    #[test]
    fn names_are_those_of_the_json() {
        for operation in Operation::ALL {
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.name());
        }
        for object in ObjectKind::ALL {
            assert_eq!(serde_json::to_value(object).unwrap(), object.name());
        }
    }

    #[test]
    fn every_request_is_of_one_class() {
        let one = Requests {
            puts: 1,
            uploads: 20,
            parts: 300,
            gets: 4_000,
            heads: 50_000,
            lists: 600_000,
            deletes: 7_000_000,
            copies: 80_000_000,
            bytes_sent: 1 << 50,
            bytes_received: 1 << 50,
        };
        assert_eq!(one.writes(), 80_600_321);
        assert_eq!(one.reads(), 54_000);
        assert_eq!(one.count(), 87_654_321);
    }
}
