//! Seals the blocks of the catalog: each under a key of its own, derived from
//! a random salt that leads it in.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use slatedb::{BlockTransformer, Error};

use crate::seal::{SALT_LENGTH, Seal, TAG_LENGTH, random};

/// What binds a sealed block to its place.
const PURPOSE: &[u8] = b"catalog block v0";

/// SlateDB's hook for blocks on their way to and from the store.
pub(crate) struct SealedBlocks {
    seal: Arc<Seal>,
}

impl SealedBlocks {
    pub(crate) fn new(seal: Arc<Seal>) -> Self {
        Self { seal }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn failed(error: backstop_core::Error) -> Error {
    Error::data(error.to_string())
}

#[async_trait]
impl BlockTransformer for SealedBlocks {
    async fn encode(&self, data: Bytes) -> Result<Bytes, Error> {
        let salt = random::<SALT_LENGTH>().map_err(failed)?;
        let key = self.seal.block_key(&salt).map_err(failed)?;
        let mut out = Vec::with_capacity(SALT_LENGTH + data.len() + TAG_LENGTH);
        out.extend_from_slice(&salt);
        out.extend_from_slice(&data);
        let tag = key
            .seal(0, PURPOSE, &mut out[SALT_LENGTH..])
            .map_err(failed)?;
        out.extend_from_slice(&tag);
        Ok(out.into())
    }

    async fn decode(&self, data: Bytes) -> Result<Bytes, Error> {
        let Some((salt, sealed)) = data.split_first_chunk::<SALT_LENGTH>() else {
            return Err(Error::data("a block of the catalog is too short".into()));
        };
        let key = self.seal.block_key(salt).map_err(failed)?;
        let mut plain = sealed.to_vec();
        let length = key
            .open(0, PURPOSE, &mut plain, &"a block of the catalog")
            .map_err(failed)?
            .len();
        plain.truncate(length);
        Ok(plain.into())
    }

    fn encoded_overhead(&self) -> usize {
        SALT_LENGTH + TAG_LENGTH
    }
}
