//! Whether what points need is there: every map node is read once, and every
//! chunk looked for among the frames of all packs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use backstop_core::{
    ByteCount, ChunkDigest, CollectOptions, DamagedRange, ErrorKind, PointId, Result, VerifyReport,
};

use super::packs::read_any;
use crate::catalog::Batch;
use crate::collect::inventory::Inventory;
use crate::collect::roots::Roots;
use crate::collect::walk;
use crate::failure;
use crate::pack::frame::Content;
use crate::pack::index::Location;
use crate::record::PointRecord;
use crate::vault::Vault;
use crate::verify::ranges;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Points that can't be opened.
    pub(super) lost: HashSet<PointId>,
    missing: Vec<(Content, ChunkDigest)>,
}

/// Looks for what these points need; sees to it that the index names a copy
/// that can be read of each frame that has several.
pub(super) async fn look(vault: &Arc<Vault>, points: &[PointRecord]) -> Result<Looked> {
    let mut options = CollectOptions::default();
    options.memory = ByteCount(u64::MAX);
    let mut inventory = Inventory::take(vault, &options).await?;
    inventory.tells_missing = true;
    let inventory = Arc::new(inventory);
    choose_copies(vault, &inventory).await?;
    let mut looked = Looked::default();
    let mut roots = Roots::default();
    for record in points {
        let lost = roots.lost.len();
        roots.add_manifest(vault, record).await?;
        if roots.lost.len() > lost {
            looked.lost.insert(record.point.id);
        }
    }
    let walked = walk::walk(vault, &inventory, &roots).await?;
    looked.missing = walked.missing;
    // What stands in packs whose tables are damaged, only the index knows; what
    // stands in condemned ones alone goes with them.
    let condemned = vault.index.condemned();
    for content in [Content::Chunk, Content::Node] {
        let missing = looked.missing.iter().filter(|(of, _)| *of == content);
        let digests: Vec<ChunkDigest> = missing.map(|(_, digest)| *digest).collect();
        let located = vault.index.locate_indexed(content, &digests).await?;
        let held = digests.iter().zip(located);
        let held: HashSet<ChunkDigest> = held
            .filter(|(digest, at)| {
                at.is_some_and(|at| !condemned.contains(&at.pack))
                    && !vault.index.is_bad(content, digest)
            })
            .map(|(digest, _)| *digest)
            .collect();
        looked
            .missing
            .retain(|(of, digest)| *of != content || !held.contains(digest));
    }
    Ok(looked)
}

impl Looked {
    /// Which points of the catalog lack something, and where.
    pub(super) async fn damaged(
        &self,
        vault: &Arc<Vault>,
    ) -> Result<(HashSet<PointId>, Vec<DamagedRange>, bool)> {
        if self.missing.is_empty() {
            return Ok((HashSet::new(), Vec::new(), false));
        }
        let mut report = VerifyReport::default();
        ranges::find(vault, &self.missing, Vec::new(), &mut report).await?;
        let points = report.points.into_iter().map(|(_, id)| id).collect();
        Ok((points, report.ranges, report.has_more_ranges))
    }
}

/// The frames of condemned packs: their entries may name these.
async fn in_condemned(vault: &Arc<Vault>) -> Result<HashSet<(Content, ChunkDigest)>> {
    let mut frames = HashSet::new();
    for number in vault.index.condemned() {
        match vault.index.table(number).await {
            Ok((_, entries)) => {
                let all = entries.iter();
                frames.extend(all.map(|entry| (entry.header.content, entry.digest)));
            }
            Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
                tracing::warn!(pack = number, %error, "a condemned pack's table can't be read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(frames)
}

/// Of frames that stand in several packs, the index comes to name the newest
/// copy that can be read: that a table tells it is no proof. None of a condemned
/// pack, if there is another: nobody waits for who reads there.
async fn choose_copies(vault: &Arc<Vault>, inventory: &Inventory) -> Result<()> {
    let mut copies: HashMap<(Content, ChunkDigest), Vec<Location>> = HashMap::new();
    let in_condemned = in_condemned(vault).await?;
    let mut packs = inventory.packs_with_copies();
    for (content, digest) in &in_condemned {
        packs.extend(inventory.holders(*content, digest));
    }
    for number in packs {
        let (_, entries) = vault.index.table(number).await?;
        for entry in &entries {
            let (content, digest) = (entry.header.content, entry.digest);
            let is_alone = inventory.holders(content, &digest).count() == 1;
            if !is_alone || in_condemned.contains(&(content, digest)) {
                let location = Location::of(number, entry);
                copies.entry((content, digest)).or_default().push(location);
            }
        }
    }
    let mut batch = Batch::default();
    for ((content, digest), mut copies) in copies {
        // Packs are numbered by their owners' epochs.
        copies.sort_unstable_by_key(|copy| std::cmp::Reverse(copy.pack));
        let mut chosen = None;
        for copy in &copies {
            match read_any(vault, content, &digest, &[*copy]).await {
                Ok(_) => {
                    chosen = Some(copy);
                    break;
                }
                Err(error) if failure::is_damage(&error) => {
                    tracing::warn!(?content, %digest, %error, "a copy of a frame is damaged");
                }
                Err(error) => return Err(error),
            }
        }
        // Without a whole one, the newest is healed as any other.
        if let Some(copy) = chosen.or(copies.first()) {
            batch.put(&vault.catalog.chunk_key(content, &digest), &copy.encode());
        }
    }
    vault.catalog.write(batch).await
}
