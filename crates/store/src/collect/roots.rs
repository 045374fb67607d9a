//! From what everything that is needed is reached: recovery points, unfinished
//! synchronizations, and synchronizations under way.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{ChunkDigest, PointId, Result, SourceName};
use bytes::Bytes;

use super::unstored::Unstored;
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
    /// What is needed only as long as all of it can be read.
    pub(super) dispensable: Vec<Dispensable>,
    /// Of a dry run: what synchronizations under way hold in memory.
    pub(super) unstored: Option<Unstored>,
    /// What could not be read, each named.
    pub(crate) lost: Vec<String>,
}

/// Maps that nobody misses if they can't be read: folded ones, and those of a
/// synchronization that is to be continued, which starts over without them.
#[derive(Debug)]
pub(super) struct Dispensable {
    pub(super) source: SourceName,
    pub(super) is_unfinished: bool,
    /// Where the catalog has them, and how.
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// The roots of the maps.
    pub(super) frames: Vec<(Content, ChunkDigest)>,
}

/// What a dry run takes for removed by now.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) points: HashSet<PointId>,
    /// Keys of unfinished synchronizations.
    pub(super) unfinished: HashSet<Bytes>,
}

impl Roots {
    /// The roots of now. What becomes one later is made of these, of what is
    /// stored later, and of what synchronizations rely on later, which is
    /// recorded as they do.
    ///
    /// A dry run has nothing written for it, and takes some for `gone`.
    pub(super) async fn find(vault: &Arc<Vault>, dry_run: Option<&Gone>) -> Result<Self> {
        let mut roots = Self::default();
        let mut points: Vec<PointRecord> = Vec::new();
        {
            // Nothing is committed between the two.
            let _one = vault.commit.lock().await;
            match dry_run {
                Some(_) => roots.add_sessions_as_they_are(vault).await,
                None => roots.add_sessions(vault).await?,
            }
            let pages = vault.ledger.pages();
            roots
                .frames
                .extend(pages.iter().map(|page| (Content::Ledger, *page)));
            if dry_run.is_none() {
                // What somebody wrote who went away before it was durable.
                vault.catalog.flush().await?;
            }
            for record in vault.all_points().await? {
                if dry_run.is_some_and(|gone| gone.points.contains(&record.point.id)) {
                    continue;
                }
                roots.count += 1;
                roots
                    .frames
                    .extend(record.frame.map(|digest| (Content::Point, digest)));
                points.push(record);
            }
            roots.add_dispensable(vault, dry_run).await?;
        }
        for record in &points {
            roots.add_manifest(vault, record).await?;
        }
        Ok(roots)
    }

    async fn add_dispensable(&mut self, vault: &Vault, dry_run: Option<&Gone>) -> Result<()> {
        let mut unfinished = vault.catalog.scan(&[UNFINISHED]).await?;
        while let Some((key, value)) = unfinished.next().await? {
            if dry_run.is_some_and(|gone| gone.unfinished.contains(&key)) {
                continue;
            }
            let what = "the record of an unfinished synchronization";
            let entry: UnfinishedEntry = record::decode(what, &value)?;
            self.count += 1;
            let maps = entry.streams.iter().map(|stream| &stream.map);
            self.dispensable.push(Dispensable {
                frames: roots_of(maps),
                source: entry.source,
                is_unfinished: true,
                key,
                value,
            });
        }
        let mut folded = vault.catalog.scan(&[FOLDED]).await?;
        while let Some((key, value)) = folded.next().await? {
            let entry: FoldedEntry = record::decode("the record of folded maps", &value)?;
            let maps = entry.streams.iter().map(|stream| &stream.map);
            self.dispensable.push(Dispensable {
                frames: roots_of(maps),
                source: entry.source,
                is_unfinished: false,
                key,
                value,
            });
        }
        Ok(())
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

    /// The same without having it written.
    async fn add_sessions_as_they_are(&mut self, vault: &Arc<Vault>) {
        let mut unstored = Unstored::default();
        for session in &vault.all_sessions() {
            let nodes = session.roots_as_they_are().await;
            self.frames
                .extend(nodes.into_iter().map(|node| (Content::Node, node)));
            session.claimed().iter().for_each(|map| self.add_map(map));
            unstored.add(session);
            self.count += 1;
        }
        self.unstored = Some(unstored);
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

/// The roots of maps.
fn roots_of<'a>(maps: impl Iterator<Item = &'a ImageMap>) -> Vec<(Content, ChunkDigest)> {
    maps.filter_map(|map| map.root)
        .map(|root| (Content::Node, root))
        .collect()
}
