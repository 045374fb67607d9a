//! The cache of the catalog's blocks and tables.
//!
//! SlateDB's own, on moka's asynchronous cache, has whoever comes by do the
//! housekeeping under a lock, and may wait while it holds that: a question that is
//! begun and then not polled, as the items of a buffered stream are while one of
//! them is worked on, would hold up every other. This one never waits.

use async_trait::async_trait;
use moka::sync::Cache;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

/// A bounded cache.
pub(crate) struct CatalogCache(Cache<CachedKey, CachedEntry>);

impl CatalogCache {
    /// A cache of at most so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh =
            |_: &CachedKey, entry: &CachedEntry| u32::try_from(entry.size()).unwrap_or(u32::MAX);
        let cache = Cache::builder().weigher(weigh).max_capacity(bytes);
        Self(cache.build())
    }
}

#[async_trait]
impl DbCache for CatalogCache {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.0.get(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.0.get(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.0.get(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.0.get(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        self.0.insert(key, value);
    }

    async fn remove(&self, key: &CachedKey) {
        self.0.invalidate(key);
    }

    fn entry_count(&self) -> u64 {
        self.0.entry_count()
    }
}
