//! How SlateDB is set for a vault's index and catalog: its memory, and how often
//! it asks the store.

use std::sync::Arc;
use std::time::Duration;

use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorOptions, Settings,
};
use slatedb::db_cache::{DbCache, SplitCache};

use crate::catalog_cache::CatalogCache;
use crate::place::Place;
use crate::settings::MemoryBudget;

/// How often it is looked what compaction has done. It and the next are no
/// intervals of anything else in SlateDB: what polls is known by them.
pub(crate) const MANIFEST_POLL: Duration = Duration::from_secs(12);

/// How often SlateDB does what costs requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Commits flush by themselves, and logs that have grown; this bounds how
    /// long what is written between waits.
    flush: Duration,
    /// How often it is looked whether there is something to compact.
    pub(crate) compaction: Duration,
}

impl Pace {
    /// Local files cost nothing to look at. Elsewhere each flush is a put and
    /// each look some gets; index entries are at most a few hundred KB a second
    /// there, of which compaction takes eight tables of 1 MiB at a time.
    pub(crate) fn of(place: &Place) -> Self {
        let (flush, compaction) = match place.folder {
            Some(_) => (1, 2),
            None => (10, 8),
        };
        Self {
            flush: Duration::from_secs(flush),
            compaction: Duration::from_secs(compaction),
        }
    }
}

pub(crate) fn settings(budget: &MemoryBudget, pace: Pace) -> Settings {
    Settings {
        flush_interval: Some(pace.flush),
        manifest_poll_interval: MANIFEST_POLL,
        manifest_update_timeout: Duration::from_secs(30),
        max_unflushed_bytes: budget.catalog_unflushed,
        l0_sst_size_bytes: budget.catalog_unflushed / 2,
        l0_flush_parallelism: 1,
        // Every question asks the filter of each of these tables.
        l0_max_ssts: 8,
        l0_max_ssts_per_key: 8,
        compactor_options: Some(CompactorOptions {
            // Who writes waits when there are too many of them.
            poll_interval: pace.compaction,
            max_concurrent_compactions: 1,
            object_store_max_retries: Some(RETRIES),
            worker: Some(CompactionWorkerOptions {
                compactions_poll_interval: pace.compaction,
                max_sst_size: 16 << 20,
                // What it reads ahead is for each of its sources, of which
                // there are up to eight.
                max_subcompactions: 1,
                max_fetch_tasks: 1,
                bytes_to_fetch: 512 << 10,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions::default()),
        object_store_max_retries: Some(RETRIES),
        ..Settings::default()
    }
}

/// How often SlateDB repeats a failed request before it gives up: a full disk
/// must be told, not waited for.
pub(crate) const RETRIES: u32 = 3;

/// One cache for blocks and one for what leads to them, the indexes and
/// filters of tables. A question asks the filter of every table and a block of
/// one of them; in one cache, many small blocks would keep a filter of a few
/// hundred KiB from ever being taken in.
pub(crate) fn cache(bytes: u64) -> Arc<SplitCache> {
    let part = |bytes| -> Option<Arc<dyn DbCache>> { Some(Arc::new(CatalogCache::new(bytes))) };
    let blocks = bytes / 4;
    let split = SplitCache::new().with_block_cache(part(blocks));
    Arc::new(split.with_meta_cache(part(bytes - blocks)).build())
}
