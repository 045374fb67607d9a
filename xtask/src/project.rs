//! Where things are: the project's root and what tasks keep under target/.

use crate::problem::{Context, Outcome};
use std::path::PathBuf;

/// The folder of the workspace's Cargo.toml.
pub fn root() -> Outcome<PathBuf> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    // The tests of this crate and `cargo xtask` both run with this crate's own folder in the environment.
    own.ancestors()
        .find(|folder| {
            folder.join("Cargo.lock").exists() || folder.join(".cargo/config.toml").exists()
        })
        .map(std::path::Path::to_path_buf)
        .context("no folder above xtask/ looks like the workspace's root")
}

/// The build folder, and in it what tasks keep between runs.
pub fn target() -> Outcome<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => std::path::absolute(folder).context("CARGO_TARGET_DIR"),
        None => Ok(root()?.join("target")),
    }
}

/// The cargo that called us.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}
