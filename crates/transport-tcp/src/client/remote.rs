//! A synchronization that the server at the other end holds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use backstop_core::{
    CheckSlice, ChunkDigest, Extent, Plan, RegionAddress, RegionIndex, RegionUpdate, Result,
    Synchronization, WriteOutcome,
};

use super::connection::Connection;
use crate::wire::Call;
use crate::wire::control::Begun;
use crate::wire::region::{self, Place};

pub(super) struct Remote {
    connection: Arc<Connection>,
    session: u64,
    plan: Plan,
    /// As the server told last.
    resume_at: Mutex<Vec<RegionIndex>>,
}

impl Remote {
    pub(super) fn new(connection: Arc<Connection>, begun: Begun) -> Self {
        let (session, plan, resume_at) = begun.parts();
        Self {
            connection,
            session,
            plan,
            resume_at: Mutex::new(resume_at),
        }
    }

    fn resume_at(&self) -> MutexGuard<'_, Vec<RegionIndex>> {
        self.resume_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, at: &RegionAddress) -> Place {
        Place {
            session: self.session,
            at: at.clone(),
        }
    }
}

#[async_trait]
impl Synchronization for Remote {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn resume_at(&self, stream: usize) -> RegionIndex {
        self.resume_at().get(stream).copied().unwrap_or_default()
    }

    async fn needed(&self, at: &RegionAddress, digests: &[ChunkDigest]) -> Result<Vec<bool>> {
        let message = region::encode_needed(&self.place(at), digests);
        let answer = self.connection.ask(Call::Needed, message).await?;
        region::decode_bits(answer, digests.len())
    }

    async fn write(&self, update: RegionUpdate) -> Result<WriteOutcome> {
        let message = region::encode_update(self.session, &update);
        let data = update.chunks.iter().map(|chunk| chunk.payload().len());
        let data = data.sum();
        drop(update);
        let answer = self.connection.ask_with(Call::Write, message, data);
        region::decode_outcome(answer.await?)
    }

    async fn slices(&self, at: &RegionAddress, within: Extent) -> Result<Vec<CheckSlice>> {
        let message = region::encode_ranges(&self.place(at), &[within]);
        region::decode_slices(self.connection.ask(Call::Slices, message).await?)
    }

    async fn block_digests(
        &self,
        at: &RegionAddress,
        ranges: &[Extent],
    ) -> Result<Vec<Option<ChunkDigest>>> {
        let message = region::encode_ranges(&self.place(at), ranges);
        region::decode_digests(self.connection.ask(Call::BlockDigests, message).await?)
    }

    async fn progress(&self, stream: usize, next: RegionIndex) -> Result<()> {
        let place = self.place(&RegionAddress {
            stream,
            region: next,
        });
        let answer = self.connection.ask(Call::Progress, place.encode()).await?;
        *self.resume_at() = region::decode_regions(answer)?;
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let place = self.place(&RegionAddress {
            stream: 0,
            region: RegionIndex(0),
        });
        self.connection
            .ask(Call::Abort, place.encode())
            .await
            .map(drop)
    }
}
