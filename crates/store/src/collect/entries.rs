//! What the index says of frames.

use backstop_core::Result;
use bytes::Bytes;
use futures::future::try_join_all;

use super::copies::Frame;
use crate::pack::index::Location;
use crate::vault::Vault;

/// How many entries are looked at while nobody else changes the index.
pub(super) const AT_ONCE: usize = 256;

/// The entry of a frame, as it was read: whoever changes it later looks whether it
/// is still the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: [u8; 17],
    value: Option<Bytes>,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// There is none.
    Nothing,
    /// The frame stands here.
    At(Location),
    /// It is damaged.
    Unreadable,
}

impl Entry {
    pub(super) fn said(&self) -> Said {
        match self.value.as_deref().map(Location::decode) {
            None => Said::Nothing,
            Some(Ok(at)) => Said::At(at),
            Some(Err(_)) => Said::Unreadable,
        }
    }
}

/// The entries of frames.
pub(super) async fn entries_of(vault: &Vault, frames: &[Frame]) -> Result<Vec<Entry>> {
    let asked = frames.iter().map(|(content, digest)| async move {
        let key = vault.catalog.chunk_key(*content, digest);
        let value = vault.catalog.get(&key).await?;
        Ok(Entry { key, value })
    });
    try_join_all(asked).await
}
