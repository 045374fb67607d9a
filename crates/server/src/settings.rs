//! What an operator may set.

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
}

impl Default for ServerSettings {
    /// 256 images, 256 synchronizations, 64 documents and 64 facts.
    fn default() -> Self {
        Self {
            streams_max: 256,
            group_max: 256,
            documents_max: 64,
            provenance_max: 64,
        }
    }
}
