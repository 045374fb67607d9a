//! From pieces and chunks to the server: what it needs is asked, compressed
//! and written.

use backstop_core::{
    Error, ErrorKind, HashedChunk, Piece, RegionAddress, RegionUpdate, Result, VerifiedChunk,
};
use futures::future::try_join_all;
use metrics::counter;

use crate::cut::CutRegion;
use crate::synchronize::Run;

/// A region of which the server has said what it needs.
struct Answered {
    at: RegionAddress,
    pieces: Vec<Piece>,
    wanted: usize,
    /// Chunks that need not be sent.
    known: Vec<HashedChunk>,
}

impl Run<'_> {
    /// Sends new content of some regions, all different.
    pub(crate) async fn send(&self, regions: Vec<CutRegion>) -> Result<()> {
        let regions: Vec<CutRegion> = regions
            .into_iter()
            .filter(|region| !region.pieces.is_empty())
            .collect();
        for region in &regions {
            self.ledger.count_changed(region.bytes_changed());
            self.ledger.count_unreadable(region.bytes_unreadable());
        }
        let needed = try_join_all(regions.iter().map(|region| self.needed(region))).await?;
        let mut wanted = Vec::new();
        let mut answered = Vec::with_capacity(regions.len());
        for (region, needed) in regions.into_iter().zip(needed) {
            let before = wanted.len();
            let mut known = Vec::new();
            for (chunk, needed) in region.chunks.into_iter().zip(needed) {
                if needed {
                    wanted.push(chunk);
                } else {
                    known.push(chunk);
                }
            }
            answered.push(Answered {
                at: region.at,
                pieces: region.pieces,
                wanted: wanted.len() - before,
                known,
            });
        }
        let mut compressed = self.compress(wanted).await?.into_iter();
        let writes = answered.into_iter().map(|region| {
            let chunks = compressed.by_ref().take(region.wanted).collect();
            (region, chunks)
        });
        let writes: Vec<_> = writes.collect();
        let writes = writes
            .into_iter()
            .map(|(region, chunks)| self.write(region, chunks));
        try_join_all(writes).await?;
        Ok(())
    }

    async fn needed(&self, region: &CutRegion) -> Result<Vec<bool>> {
        if region.chunks.is_empty() {
            return Ok(Vec::new());
        }
        let digests: Vec<_> = region.chunks.iter().map(HashedChunk::digest).collect();
        let needed = self.sync.needed(&region.at, &digests).await?;
        if needed.len() == digests.len() {
            return Ok(needed);
        }
        Err(Error::internal(format!(
            "the service was asked for {} chunks and answered for {}",
            digests.len(),
            needed.len()
        )))
    }

    async fn compress(&self, chunks: Vec<HashedChunk>) -> Result<Vec<VerifiedChunk>> {
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        let codecs = self.agent.codecs.clone();
        self.agent.cpu.run(move || codecs.compress(chunks)).await?
    }

    async fn write(&self, region: Answered, chunks: Vec<VerifiedChunk>) -> Result<()> {
        let update = RegionUpdate {
            at: region.at,
            pieces: region.pieces,
            chunks,
        };
        self.count_sent(&update);
        let mut again = update.clone();
        match self.sync.write(update).await {
            Err(error) if error.kind() == ErrorKind::ChunkMissing && !region.known.is_empty() => {
                // What the server knew is gone meanwhile: once with everything.
                tracing::debug!(%error, region = again.at.region.0, "sent again with all chunks");
                again.chunks.extend(self.compress(region.known).await?);
                self.count_sent(&again);
                self.sync.write(again).await?;
                Ok(())
            }
            done => done.map(|_| ()),
        }
    }

    fn count_sent(&self, update: &RegionUpdate) {
        let payloads = update
            .chunks
            .iter()
            .map(|chunk| chunk.payload().len() as u64);
        let bytes = payloads.sum();
        self.ledger.count_sent(bytes);
        counter!("backstop_agent_sent_bytes").increment(bytes);
    }
}
