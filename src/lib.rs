//! Backstop, an embeddable protection server.

#[cfg(feature = "agent")]
pub use backstop_agent::{Agent, AgentSettings, Changes, Request};
pub use backstop_core::*;
#[cfg(feature = "server")]
pub use backstop_server::{
    MissingRange, ProtectionServer, ProtectionServerBuilder, RestoreOptions, RestoreReport,
    RetentionReport, ServerSettings,
};
#[cfg(feature = "source-file")]
pub use backstop_source_file::{FileSource, FileTarget, check_extents, read_extents_file};
#[cfg(feature = "store")]
pub use backstop_store::{
    Credential, DedupStore, DedupStoreBuilder, MemoryBudget, Takeover, VaultSettings,
};
