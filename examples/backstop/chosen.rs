//! The sources that a command is for: one by its name, or all.

use backstop::{ProtectionServer, Result, SourceName};

/// The source of that name; all without one.
pub async fn sources(name: Option<&str>, server: &ProtectionServer) -> Result<Vec<SourceName>> {
    if let Some(name) = name {
        return Ok(vec![SourceName::new(name)?]);
    }
    let replicas = server.sources().await?.into_iter();
    Ok(replicas.map(|replica| replica.source).collect())
}
