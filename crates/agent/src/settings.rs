//! What can be set on an agent: plain numbers with defaults.

use std::time::Duration;

/// The largest sample: so many slices of up to 256 KiB are read and compared.
pub const MOST_SAMPLE_SLICES: u32 = 1 << 16;

/// Settings of an [`Agent`](crate::Agent).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentSettings {
    /// How many regions of 4 MiB may be dealt with at once, each held with up
    /// to 8 MiB, or as many bytes of smaller changes: bounds memory. At least one; the default is two more than
    /// the CPU pool's parallelism, so that the pool never waits for reading
    /// or writing.
    pub regions_in_flight: Option<usize>,
    /// How many unchanged slices of the replica an express full compares with
    /// the source. The default is 4; more than [`MOST_SAMPLE_SLICES`] counts as
    /// that.
    pub sample_slices: u32,
    /// zstd's level for chunks, 1 to 19. The default is 1.
    pub compression_level: i32,
    /// How often a commit is tried while the service is unavailable, without
    /// waiting between. At least one; the default is 3.
    pub commit_attempts: u32,
    /// How long to go on trying while the service is not available or its
    /// vault is full, counted from the first failure since the last progress;
    /// with delays as [`Backoff`](backstop_core::Backoff) gives them. Each time
    /// the synchronization is continued where the service says that it stands;
    /// what has to be read and sent again counts again. The default is none:
    /// an error is given at once. Needs tokio's timers.
    pub patience: Option<Duration>,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            regions_in_flight: None,
            sample_slices: 4,
            compression_level: 1,
            commit_attempts: 3,
            patience: None,
        }
    }
}

impl AgentSettings {
    /// The same settings with this many regions in flight.
    pub fn with_regions_in_flight(mut self, regions: usize) -> Self {
        self.regions_in_flight = Some(regions);
        self
    }

    /// The same settings with a sample of this many slices.
    pub fn with_sample_slices(mut self, slices: u32) -> Self {
        self.sample_slices = slices;
        self
    }

    /// The same settings with chunks compressed at this level.
    pub fn with_compression_level(mut self, level: i32) -> Self {
        self.compression_level = level;
        self
    }

    /// The same settings with commits tried this often.
    pub fn with_commit_attempts(mut self, attempts: u32) -> Self {
        self.commit_attempts = attempts;
        self
    }

    /// The same settings, going on for this long without progress.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}
