//! Which chunks a synchronization may name, and which of those that it sends
//! have to be stored.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use backstop_core::{
    ChunkDigest, Deduplication, Error, ErrorKind, PieceContent, RegionMap, RegionUpdate, Result,
    SliceContent, VerifiedChunk,
};

use super::Session;
use crate::digest_map::DigestSet;
use crate::fetch;
use crate::pack::frame::Content;

impl Session {
    /// Whether this synchronization may name a chunk without sending it in a
    /// region that holds these. One that is bad has to be sent, which heals it.
    pub(super) fn may_name(&self, held: &HashSet<ChunkDigest>, digest: &ChunkDigest) -> bool {
        let own = || {
            let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            own.contains(digest)
        };
        (held.contains(digest) || own()) && !self.vault.index.is_bad(Content::Chunk, digest)
    }

    /// The plain lengths of chunks that are stored or wait to be.
    pub(super) async fn lengths(&self, digests: &[ChunkDigest]) -> Result<Vec<Option<u32>>> {
        // First what waits: from there it goes to where the index finds it.
        let mut lengths = self.queued.lengths(digests);
        let located = self.vault.index.locate(Content::Chunk, digests).await?;
        for (length, location) in lengths.iter_mut().zip(located) {
            *length = location.map(|at| at.plain_length).or(*length);
        }
        Ok(lengths)
    }

    /// Checks that every chunk a piece names is known and long enough.
    pub(super) async fn check_names(&self, map: &RegionMap, update: &RegionUpdate) -> Result<()> {
        let sent: HashMap<ChunkDigest, u32> = update
            .chunks
            .iter()
            .map(|chunk| (chunk.digest(), chunk.length()))
            .collect();
        let mut wanted: HashMap<ChunkDigest, u32> = HashMap::new();
        for piece in &update.pieces {
            if let PieceContent::Data(SliceContent::Chunk { digest, skip }) = piece.content {
                let end = skip.saturating_add(piece.length);
                match sent.get(&digest) {
                    Some(length) if end <= *length => {}
                    Some(_) => return Err(too_short(&digest)),
                    None => {
                        let known = wanted.entry(digest).or_default();
                        *known = end.max(*known);
                    }
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = wanted.keys().copied().collect();
        if self.begin.deduplication == Deduplication::OwnReplica {
            let held = held_by(map, &digests);
            // Before the index is asked: even the time that takes would tell
            // what others have stored.
            if let Some(digest) = digests.iter().find(|digest| !self.may_name(&held, digest)) {
                return Err(not_known(digest));
            }
        }
        for (digest, length) in digests.iter().zip(self.lengths(&digests).await?) {
            match length {
                Some(length) if wanted[digest] <= length => {}
                Some(_) => return Err(too_short(digest)),
                None => return Err(not_known(digest)),
            }
        }
        Ok(())
    }

    /// As [`lengths`](Self::lengths). Where stored data is in doubt, or maps are
    /// lost, what is stored is read before it is relied on.
    pub(super) async fn sound_lengths(&self, digests: &[ChunkDigest]) -> Result<Vec<Option<u32>>> {
        let known = self.lengths(digests).await?;
        if !self.begin.verify && !self.maps_lost.load(Ordering::Acquire) {
            return Ok(known);
        }
        let index = &self.vault.index;
        // First what waits, as above.
        let queued = self.queued.lengths(digests);
        let all = digests.iter().zip(known.iter().zip(queued));
        let stored: Vec<ChunkDigest> = all
            .filter(|(_, (known, queued))| known.is_some() && queued.is_none())
            .map(|(digest, _)| *digest)
            .filter(|digest| !index.any_pending(Content::Chunk, &[*digest]))
            .collect();
        if stored.is_empty() {
            return Ok(known);
        }
        fetch::confirm(&self.vault, &stored).await?;
        self.lengths(digests).await
    }

    /// Which of the sent chunks the vault lacks, each once. What it lacked when
    /// it was asked for, and this synchronization has not sent since, is not
    /// looked for again: what another sent meanwhile is then stored twice.
    pub(super) async fn lacking(&self, chunks: Vec<VerifiedChunk>) -> Result<Vec<VerifiedChunk>> {
        let mut asked = Vec::new();
        let mut lacked = DigestSet::default();
        {
            let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            for digest in chunks.iter().map(VerifiedChunk::digest) {
                if absent.contains(&digest) && !own.contains(&digest) {
                    lacked.insert(digest);
                } else {
                    asked.push(digest);
                }
                own.insert(&digest);
            }
        }
        let known = self.sound_lengths(&asked).await?;
        let unknown = asked
            .into_iter()
            .zip(known)
            .filter(|(_, known)| known.is_none());
        lacked.extend(unknown.map(|(digest, _)| digest));
        let lacking = chunks
            .into_iter()
            .filter(|chunk| lacked.remove(&chunk.digest()));
        Ok(lacking.collect())
    }
}

/// The chunks of a region, as often as slices name them.
pub(super) fn chunks_of(map: &RegionMap) -> impl Iterator<Item = ChunkDigest> + '_ {
    map.slices().iter().filter_map(|slice| match slice.content {
        SliceContent::Chunk { digest, .. } => Some(digest),
        SliceContent::Unreadable => None,
    })
}

/// Which of these chunks a region holds. Few are asked about, and a region that
/// was often changed has many slices: these are looked at and not gathered.
pub(super) fn held_by(map: &RegionMap, asked: &[ChunkDigest]) -> HashSet<ChunkDigest> {
    let mut sorted = asked.to_vec();
    sorted.sort_unstable();
    let is_asked = |digest: &ChunkDigest| sorted.binary_search(digest).is_ok();
    chunks_of(map).filter(is_asked).collect()
}

fn not_known(digest: &ChunkDigest) -> Error {
    Error::new(
        ErrorKind::ChunkMissing,
        format!("chunk {digest} is not known to this synchronization; send it"),
    )
}

fn too_short(digest: &ChunkDigest) -> Error {
    Error::invalid_input(format!("a piece reaches past the end of chunk {digest}"))
}
