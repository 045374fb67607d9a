//! What an operator may set.

use std::time::Duration;

/// Settings of a protection server: plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The most images that one source may have.
    pub streams_max: usize,
    /// The most synchronizations that one commit may name.
    pub group_max: usize,
    /// The most documents of one recovery point; each is at most 1 MiB.
    pub documents_max: usize,
    /// The most facts of provenance of one recovery point; each value is at
    /// most 4 KiB.
    pub provenance_max: usize,
    /// After so long without a call a synchronization is suspended: its memory
    /// is given back, and its agent can continue it by its id. Longer than the
    /// members of a group wait for each other.
    pub idle_max: Duration,
}

impl Default for ServerSettings {
    /// 256 images, 256 synchronizations, 64 documents, 64 facts and a day.
    fn default() -> Self {
        Self {
            streams_max: 256,
            group_max: 256,
            documents_max: 64,
            provenance_max: 64,
            idle_max: Duration::from_hours(24),
        }
    }
}
