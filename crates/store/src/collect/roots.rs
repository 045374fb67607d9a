//! From what everything that is needed is reached: recovery points, unfinished
//! synchronizations, and synchronizations under way.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{ChunkDigest, PointId, Result};

use crate::catalog::{FOLDED, UNFINISHED};
use crate::failure;
use crate::manifest::Entry;
use crate::map::tree::ImageMap;
use crate::pack::frame::Content;
use crate::record::{self, FoldedEntry, PointRecord, UnfinishedEntry};
use crate::vault::Vault;

/// What is needed for its own sake.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    /// How many points and synchronizations there are.
    pub(crate) count: u64,
    /// Roots of maps, manifests, records of points, and chunks of documents.
    pub(crate) frames: Vec<(Content, ChunkDigest)>,
    /// Whether folded maps are among them.
    pub(crate) has_folded: bool,
    /// What could not be read, each named.
    pub(crate) lost: Vec<String>,
}

impl Roots {
    /// The roots of now. What becomes one later is made of these, of what is
    /// stored later, and of what synchronizations rely on later, which is
    /// recorded as they do.
    ///
    /// A dry run knows of points that would be `gone` by now.
    pub(super) async fn find(vault: &Arc<Vault>, gone: &HashSet<PointId>) -> Result<Self> {
        let mut roots = Self::default();
        let mut points: Vec<PointRecord> = Vec::new();
        {
            // Nothing is committed between the two.
            let _one = vault.commit.lock().await;
            roots.add_sessions(vault).await?;
            let pages = vault.ledger.pages();
            roots
                .frames
                .extend(pages.iter().map(|page| (Content::Ledger, *page)));
            // What somebody wrote who went away before it was durable.
            vault.catalog.flush().await?;
            for record in vault.all_points().await? {
                if gone.contains(&record.point.id) {
                    continue;
                }
                roots.count += 1;
                roots
                    .frames
                    .extend(record.frame.map(|digest| (Content::Point, digest)));
                points.push(record);
            }
            let mut unfinished = vault.catalog.scan(&[UNFINISHED]).await?;
            while let Some((_, value)) = unfinished.next().await? {
                let what = "the record of an unfinished synchronization";
                let entry: UnfinishedEntry = record::decode(what, &value)?;
                roots.count += 1;
                for stream in &entry.streams {
                    roots.add_map(&stream.map);
                }
            }
            let mut folded = vault.catalog.scan(&[FOLDED]).await?;
            while let Some((_, value)) = folded.next().await? {
                let entry: FoldedEntry = record::decode("the record of folded maps", &value)?;
                roots.has_folded = true;
                for stream in &entry.streams {
                    roots.add_map(&stream.map);
                }
            }
        }
        for record in &points {
            roots.add_manifest(vault, record).await?;
        }
        Ok(roots)
    }

    fn add_map(&mut self, map: &ImageMap) {
        self.frames
            .extend(map.root.map(|root| (Content::Node, root)));
    }

    /// What synchronizations under way have written so far.
    async fn add_sessions(&mut self, vault: &Arc<Vault>) -> Result<()> {
        let sessions = vault.all_sessions();
        for session in &sessions {
            match session.settle().await {
                Ok(settled) => {
                    self.count += 1;
                    settled.maps.iter().for_each(|map| self.add_map(map));
                }
                // One that is over can't be committed any more.
                Err(_) if session.check_whole().await.is_err() => {}
                Err(error) => return Err(error),
            }
            // After it was settled: what is claimed later is made of that.
            session.claimed().iter().for_each(|map| self.add_map(map));
        }
        if !sessions.is_empty() {
            // So that the maps can be read.
            vault.writer()?.finish_all().await?;
        }
        Ok(())
    }

    /// Adds what a point needs; one whose manifest is damaged is lost.
    pub(crate) async fn add_manifest(&mut self, vault: &Vault, record: &PointRecord) -> Result<()> {
        let manifest = match vault.manifest(record).await {
            Ok(manifest) => manifest,
            Err(error) if failure::is_damage(&error) => {
                let point = record.point.id;
                self.lost
                    .push(format!("the manifest of recovery point {point}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let digest = record.manifest;
        self.frames
            .extend(digest.map(|digest| (Content::Manifest, digest)));
        for entry in manifest.entries.values() {
            match entry {
                Entry::Image(map) => self.add_map(map),
                Entry::Document { chunks, .. } => {
                    let chunks = chunks.iter().map(|digest| (Content::Chunk, *digest));
                    self.frames.extend(chunks);
                }
            }
        }
        Ok(())
    }
}
