//! What can be chosen of a vault: plain data with defaults.

/// How much memory a vault's parts may hold, in bytes.
///
/// The default keeps a whole process that protects or restores one image
/// within 96 MiB. [`MemoryBudget::large`] is for vaults of many millions of
/// chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryBudget {
    /// Blocks, indexes and filters of the catalog: three quarters of it for
    /// indexes and filters, which take about two bytes for each chunk of the
    /// vault. Where these don't fit, most questions to the index read them
    /// anew.
    pub catalog_cache: u64,
    /// Keys and values of the catalog that are not yet in tables. In memory
    /// such small entries take about seven times as much.
    pub catalog_unflushed: usize,
    /// Tables of packs: where the neighbours of a chunk stand.
    pub tables: usize,
    /// Nodes of image maps.
    pub nodes: usize,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self {
            catalog_cache: 8 << 20,
            catalog_unflushed: 2 << 20,
            tables: 6 << 20,
            nodes: 4 << 20,
        }
    }
}

impl MemoryBudget {
    /// For vaults of about ten million chunks: a whole process that protects
    /// or restores one image stays within 256 MiB.
    ///
    /// Most of it goes to the filters of the index. Other caches gain little
    /// from more: where chunks stand is asked once for a pack.
    pub fn large() -> Self {
        Self {
            catalog_cache: 36 << 20,
            catalog_unflushed: 4 << 20,
            tables: 12 << 20,
            nodes: 8 << 20,
        }
    }
}

/// Settings of a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VaultSettings {
    /// When a pack has grown to this many bytes, the next one is begun.
    pub pack_bytes: u64,
    /// After this many new bytes an unfinished synchronization is made
    /// durable, so that an interruption repeats no more than that.
    pub checkpoint_bytes: u64,
    /// The same after a consistency check has compared this many regions of
    /// 4 MiB, however little of them is new.
    pub checkpoint_regions: u64,
    /// How much memory its parts may hold.
    pub memory: MemoryBudget,
}

impl Default for VaultSettings {
    /// Packs of 32 MiB, a checkpoint every 256 MiB of new data or 4 GiB of
    /// compared images.
    fn default() -> Self {
        Self {
            pack_bytes: 32 << 20,
            checkpoint_bytes: 256 << 20,
            checkpoint_regions: 1 << 10,
            memory: MemoryBudget::default(),
        }
    }
}
