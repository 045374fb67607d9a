//! Seals the blocks of the catalog: each under a key of its own, derived from
//! a vault key and a random salt.
//!
//! ```text
//! 1   version, 0
//! 4   id of the vault key, little-endian
//! 16  salt
//! n   block, sealed: number 0; the purpose and the first 5 bytes are bound
//! 16  tag
//! ```
//!
//! What was sealed under an older key is read until SlateDB's merging has
//! written it anew.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use slatedb::{BlockTransformer, Error};

use crate::keys::ring::VaultKeyId;
use crate::seal::{SALT_LENGTH, Seal, TAG_LENGTH, random};

/// What binds a sealed block to its place.
const PURPOSE: &[u8] = b"catalog block v0";

const VERSION: u8 = 0;

/// What stands before the salt, in bytes.
const HEAD: usize = 5;

/// What leads in the sealed block, in bytes.
const LEAD: usize = HEAD + SALT_LENGTH;

/// SlateDB's hook for blocks on their way to and from the store.
pub(crate) struct SealedBlocks {
    seal: Arc<Seal>,
}

impl SealedBlocks {
    pub(crate) fn new(seal: Arc<Seal>) -> Self {
        Self { seal }
    }

    /// SlateDB tells that a block could not be opened, and not why.
    #[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
    fn failed(&self, error: backstop_core::Error) -> Error {
        self.seal.note(&error);
        Error::data(error.to_string())
    }
}

/// What tells the key of a block, in bytes from its start. Tables and logs begin
/// with a block.
pub(crate) const KEY_TOLD: u64 = HEAD as u64;

/// The key of a block, by its first bytes.
pub(crate) fn key_of(start: &[u8]) -> Option<VaultKeyId> {
    let (head, _) = start.split_first_chunk::<HEAD>()?;
    let [version, id @ ..] = *head;
    (version == VERSION).then(|| VaultKeyId(u32::from_le_bytes(id)))
}

/// Whether a block is of a newer format, by its first bytes.
pub(crate) fn is_newer(start: &[u8]) -> bool {
    start.first().is_some_and(|version| *version > VERSION)
}

/// What a block is bound to.
fn bound(head: [u8; HEAD]) -> [u8; PURPOSE.len() + HEAD] {
    let mut bound = [0; PURPOSE.len() + HEAD];
    bound[..PURPOSE.len()].copy_from_slice(PURPOSE);
    bound[PURPOSE.len()..].copy_from_slice(&head);
    bound
}

#[async_trait]
impl BlockTransformer for SealedBlocks {
    async fn encode(&self, data: Bytes) -> Result<Bytes, Error> {
        let salt = random::<SALT_LENGTH>().map_err(|error| self.failed(error))?;
        let id = self.seal.current();
        let key = self
            .seal
            .block_key(id, &salt)
            .map_err(|error| self.failed(error))?;
        let mut head = [VERSION; HEAD];
        head[1..].copy_from_slice(&id.0.to_le_bytes());
        let mut out = Vec::with_capacity(LEAD + data.len() + TAG_LENGTH);
        out.extend_from_slice(&head);
        out.extend_from_slice(&salt);
        out.extend_from_slice(&data);
        let tag = key
            .seal(0, &bound(head), &mut out[LEAD..])
            .map_err(|error| self.failed(error))?;
        out.extend_from_slice(&tag);
        Ok(out.into())
    }

    async fn decode(&self, data: Bytes) -> Result<Bytes, Error> {
        let short = || Error::data("a block of the catalog is too short".into());
        let (head, rest) = data.split_first_chunk::<HEAD>().ok_or_else(short)?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_LENGTH>().ok_or_else(short)?;
        let [version, id @ ..] = *head;
        if version > VERSION {
            let newer = crate::header::newer("a block of the catalog");
            return Err(self.failed(newer));
        }
        let id = VaultKeyId(u32::from_le_bytes(id));
        self.seal
            .learn(id)
            .await
            .map_err(|error| self.failed(error))?;
        let key = self
            .seal
            .block_key(id, salt)
            .map_err(|error| self.failed(error))?;
        let mut plain = sealed.to_vec();
        let length = key
            .open(0, &bound(*head), &mut plain, &"a block of the catalog")
            .map_err(|error| self.failed(error))?
            .len();
        plain.truncate(length);
        Ok(plain.into())
    }

    fn encoded_overhead(&self) -> usize {
        LEAD + TAG_LENGTH
    }
}
