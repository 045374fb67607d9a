//! Collection: what is asked of it, and what it tells.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ByteCount;

/// How a vault's space is given back.
///
/// The budgets bound what one run does, not what is right: a run that meets
/// one stops between two packs, and the next goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectOptions {
    /// Nothing is changed; the report tells what would be.
    pub dry_run: bool,
    /// How much that is not needed may stay, in percent of what is: packs are
    /// rewritten, those first of which the smallest share is needed, until no
    /// more than that is left. What is needed of them moves to new packs. Less
    /// gives back more space and writes more.
    pub most_dead: u8,
    /// Packs that are sealed under another key than the vault's current one are
    /// rewritten, whatever is needed of them: opened and sealed again, not
    /// decompressed. For vaults whose key was rotated.
    pub reseal: bool,
    /// No more than this is written anew.
    pub most_rewritten: ByteCount,
    /// No pack is begun after this time, by the vault's clock. Finding out what
    /// is needed is always done to its end.
    pub most_time: Option<Duration>,
    /// No pack is begun after this many requests to the store that read packs,
    /// write them or delete them. Finding out what is needed counts, and is
    /// always done to its end.
    pub most_requests: Option<u64>,
    /// A synchronization that could be continued, and with which nobody went on
    /// for so long by the vault's time, is given up: what it has sent is not
    /// needed any more. One whose maps are damaged is given up at once. The next
    /// one starts over. A store that keeps none beyond its process has none to give
    /// up.
    pub most_unfinished_age: Duration,
    /// What the memory for marking may be. Where the vault holds more chunks
    /// than fit (12 bytes each), only some of its packs are looked at.
    pub memory: ByteCount,
}

impl Default for CollectOptions {
    /// A tenth may stay; 30 days for what is unfinished; no other bound; 160 MiB, which is enough for 13 million chunks.
    fn default() -> Self {
        Self {
            dry_run: false,
            most_dead: 10,
            reseal: false,
            most_rewritten: ByteCount(u64::MAX),
            most_time: None,
            most_requests: None,
            most_unfinished_age: Duration::from_hours(30 * 24),
            memory: ByteCount(160 << 20),
        }
    }
}

/// Packs, or other objects, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// How many.
    pub count: u64,
    /// What they take in the store.
    pub bytes: ByteCount,
}

impl Objects {
    /// Counts one more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(ByteCount(bytes));
    }
}

/// What was seen to of the locks that the store keeps objects under, where the
/// vault's [`Protection`](crate::Protection) asks for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LockReport {
    /// Packs that are locked for the minimum retention from now on, at least.
    pub locked: Objects,
    /// Those of them that were locked anew for that.
    pub extended: Objects,
    /// Packs that should be locked so long, and are not.
    pub unlocked: Objects,
    /// Packs that are under the store's legal hold, since a recovery point with
    /// a hold needs them.
    pub held: Objects,
    /// Packs whose legal hold was lifted.
    pub released: Objects,
    /// Packs that should be under legal hold, and are not.
    pub unheld: Objects,
    /// Requests to the store.
    pub requests: u64,
    /// The first thing that went wrong. The next run tries again.
    pub problem: Option<String>,
}

/// What a collection did, or would do.
///
/// Space is given back in two steps: what nobody needs is *condemned* at once,
/// and deleted when no reader is left that began before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Recovery points and unfinished synchronizations whose data is needed.
    /// Expired points that can be brought back are among them.
    pub roots: u64,
    /// Expired points that could be brought back no longer and were removed for
    /// good.
    #[serde(default)]
    pub purged: u64,
    /// Unfinished synchronizations that were given up: nobody had gone on with them
    /// for too long, or their maps are damaged.
    #[serde(default)]
    pub given_up: u64,
    /// Map nodes that were read: each once, however many points share it.
    pub nodes: u64,
    /// Chunks, map nodes and records that are needed, of the packs that were
    /// looked at.
    pub live: u64,
    /// Those that are not.
    pub dead: u64,
    /// Packs that were looked at.
    pub packs: Objects,
    /// Packs condemned because nothing in them is needed.
    pub dropped: Objects,
    /// Packs condemned after what is needed of them was written anew.
    pub rewritten: Objects,
    /// Those of them that were sealed under an older key.
    pub resealed: Objects,
    /// Bytes that were written anew for that.
    pub written: ByteCount,
    /// Packs deleted, those that were condemned earlier included.
    pub deleted: Objects,
    /// Packs that are still sealed under older keys, those included that wait
    /// to be deleted.
    pub old_keys: Objects,
    /// Condemned packs that wait for readers.
    pub waiting: Objects,
    /// Packs that are to be deleted and that the store keeps: they are locked
    /// there, or who runs this may not delete. The next run tries again.
    #[serde(default)]
    pub locked: Objects,
    /// How many readers they wait for.
    pub readers: u64,
    /// What is not needed and stays, in packs that were not rewritten.
    pub left: ByteCount,
    /// Packs that stay whole because they can't be read; verify and heal them.
    pub unreadable: Objects,
    /// Packs that the catalog does not know and that were written by owners
    /// which did not close: condemned, as nothing refers to them.
    pub orphans: Objects,
    /// The same, kept: they hold recovery points that the catalog has lost.
    pub lost_points: Objects,
    /// Requests to the store that read, wrote or deleted packs.
    pub requests: u64,
    /// What was seen to of the locks of packs; nothing in a dry run. Budgets
    /// do not end it.
    #[serde(default)]
    pub locks: LockReport,
    /// Whether a budget ended it early: another run has more to do.
    pub is_partial: bool,
}
