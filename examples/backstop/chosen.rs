//! The sources that a command is for: one by its name, or all.

use backstop::{ProtectionServer, Result, SourceName};
use clap::Args;

/// For which sources a command is.
#[derive(Debug, Args)]
pub struct Chosen {
    /// The source
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub name: Option<String>,
    /// All sources
    #[arg(long)]
    pub all: bool,
}

impl Chosen {
    /// Their names.
    pub async fn sources(&self, server: &ProtectionServer) -> Result<Vec<SourceName>> {
        if let Some(name) = &self.name {
            return Ok(vec![SourceName::new(name)?]);
        }
        let replicas = server.sources().await?.into_iter();
        Ok(replicas.map(|replica| replica.source).collect())
    }
}
