//! Marks everything that is needed: from the roots down, each map node once.
//!
//! Nodes are read level by level in the order in which they stand in their
//! packs, so that a walk reads packs and not single nodes.

use std::collections::HashSet;
use std::sync::Arc;

use backstop_core::{ChunkDigest, Error, Result, SliceContent};
use futures::{StreamExt, stream};

use super::inventory::{Inventory, Reached};
use super::roots::Roots;
use super::unstored::Unstored;
use crate::failure;
use crate::map::node::Node;
use crate::pack::frame::{self, CONTENTS, Content};
use crate::vault::Vault;

/// Nodes that are less than this apart are read in one request, in bytes.
const GAP: u64 = 32 << 10;

/// The longest request, in bytes.
const SPAN: u64 = 1 << 20;

/// How many requests are under way.
const READING: usize = 4;

/// How many lost nodes are named.
const NAMED: usize = 4;

/// So many names of frames that have several copies wait to be asked for.
const WAITING: usize = 32 << 10;

/// What nodes lead to.
#[derive(Debug, Default)]
struct Found {
    /// Places of nodes to be read.
    nodes: Vec<u32>,
    /// Nodes that are in none of the packs that are looked at.
    elsewhere: Vec<ChunkDigest>,
    /// Frames of which there are several copies, each once.
    several: HashSet<(Content, ChunkDigest)>,
    /// Offsets of nodes of the span that could not be read.
    damaged: Vec<u64>,
    /// Frames that are in none of the packs, if that is asked for.
    missing: Vec<(Content, ChunkDigest)>,
    read: u64,
}

impl Found {
    fn add(&mut self, inventory: &Inventory, content: Content, digest: &ChunkDigest) {
        let reached = inventory.reach(content, digest);
        if reached == Reached::Elsewhere && inventory.tells_missing {
            self.missing.push((content, *digest));
        }
        match reached {
            Reached::New(place) if content == Content::Node => self.nodes.push(place),
            Reached::Elsewhere if content == Content::Node => self.elsewhere.push(*digest),
            Reached::Several => {
                self.several.insert((content, *digest));
            }
            Reached::New(_) | Reached::Before | Reached::Elsewhere => {}
        }
    }

    fn add_node(&mut self, inventory: &Inventory, node: &Node) {
        self.read += 1;
        match node {
            Node::Inner { children, .. } => {
                for digest in children.iter().flatten() {
                    self.add(inventory, Content::Node, digest);
                }
            }
            Node::Leaf(map) => {
                let mut last = None;
                for slice in map.slices() {
                    if let SliceContent::Chunk { digest, .. } = slice.content
                        && last.replace(digest) != Some(digest)
                    {
                        self.add(inventory, Content::Chunk, &digest);
                    }
                }
            }
        }
    }

    fn absorb(&mut self, mut other: Self) {
        self.nodes.append(&mut other.nodes);
        self.elsewhere.append(&mut other.elsewhere);
        self.several.extend(other.several);
        self.missing.append(&mut other.missing);
        self.read += other.read;
    }
}

/// Nodes of one pack that are read together.
struct Span {
    pack: u32,
    start: u64,
    end: u64,
    nodes: Vec<(u64, u32)>,
}

/// What a walk has cost, and what it did not find.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(super) nodes: u64,
    pub(super) requests: u64,
    /// How many map nodes can't be read.
    pub(super) lost: u64,
    /// Map nodes that can't be read, and, if the inventory is asked to tell,
    /// frames that are in none of its packs; perhaps several times.
    pub(crate) missing: Vec<(Content, ChunkDigest)>,
}

/// A walk from the roots to everything that they need.
struct Walk<'a> {
    vault: &'a Arc<Vault>,
    inventory: &'a Arc<Inventory>,
    unstored: Option<&'a Unstored>,
    /// The nodes read that are in none of the packs that are looked at.
    met: HashSet<ChunkDigest>,
    walked: Walked,
}

/// Whether a walk from these roots has found all maps.
///
/// # Errors
/// [`Corrupt`](backstop_core::ErrorKind::Corrupt) if one can't be read: what it
/// needs is not known.
pub(super) fn found_all(walked: &Walked, roots: &Roots) -> Result<()> {
    let nodes = walked.missing.iter();
    let nodes = nodes.filter(|(content, _)| *content == Content::Node);
    let named = nodes.map(|(_, digest)| format!("map node {digest}"));
    let named: Vec<_> = roots
        .lost
        .iter()
        .cloned()
        .chain(named)
        .take(NAMED)
        .collect();
    match walked.lost + roots.lost.len() as u64 {
        0 => Ok(()),
        lost => Err(Error::corrupt(format!(
            "{lost} of the vault's maps can't be read, so what they need is not known and nothing is \
             given back; check their sources, so that they are healed, or expire the points that \
             need them: {}",
            named.join("; ")
        ))),
    }
}

/// Marks what the roots need, as far as maps can be read.
pub(crate) async fn walk(
    vault: &Arc<Vault>,
    inventory: &Arc<Inventory>,
    roots: &Roots,
) -> Result<Walked> {
    walk_from(vault, inventory, &roots.frames, roots.unstored.as_ref()).await
}

/// The same for these roots. Where nothing may be changed, it is told what stands
/// in no pack yet.
pub(super) async fn walk_from(
    vault: &Arc<Vault>,
    inventory: &Arc<Inventory>,
    roots: &[(Content, ChunkDigest)],
    unstored: Option<&Unstored>,
) -> Result<Walked> {
    let mut walk = Walk {
        vault,
        inventory,
        unstored,
        met: HashSet::new(),
        walked: Walked::default(),
    };
    let mut found = Found::default();
    for (content, digest) in roots {
        found.add(inventory, *content, digest);
        if found.several.len() >= WAITING {
            walk.choose_copies(&mut found).await?;
        }
    }
    walk.walked.missing.append(&mut found.missing);
    loop {
        walk.choose_copies(&mut found).await?;
        if found.nodes.is_empty() && found.elsewhere.is_empty() {
            break;
        }
        found = walk.level(found).await?;
    }
    Ok(walk.walked)
}

impl Walk<'_> {
    /// Asks the index which copy of a frame counts.
    async fn choose_copies(&mut self, found: &mut Found) -> Result<()> {
        let several = std::mem::take(&mut found.several);
        if several.is_empty() {
            return Ok(());
        }
        for content in CONTENTS {
            let digests: Vec<ChunkDigest> = several
                .iter()
                .filter(|(of, _)| *of == content)
                .map(|(_, digest)| *digest)
                .collect();
            let located = self.vault.index.locate_indexed(content, &digests).await?;
            for (digest, location) in digests.iter().zip(located) {
                let is_bad = self.vault.index.is_marked_bad(content, digest);
                let pack = location.map(|at| at.pack).filter(|_| !is_bad);
                let mut reached = self.inventory.reach_copy(content, digest, pack);
                if reached == Reached::Elsewhere {
                    // The copy that counts may be lost: the others must not be.
                    reached = self.inventory.reach_copy(content, digest, None);
                }
                match reached {
                    Reached::New(place) if content == Content::Node => found.nodes.push(place),
                    Reached::Elsewhere if content == Content::Node => {
                        found.elsewhere.push(*digest);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Reads nodes and marks what they lead to.
    async fn level(&mut self, level: Found) -> Result<Found> {
        let mut found = Found::default();
        let (vault, inventory) = (self.vault, self.inventory);
        let mut reading = stream::iter(self.spans(level.nodes))
            .map(|span| read_span(vault, inventory, span))
            .buffer_unordered(READING);
        let mut damaged = Vec::new();
        while let Some(read) = reading.next().await {
            let (span, mut read) = read?;
            self.walked.requests += 1;
            damaged.extend(read.damaged.drain(..).map(|offset| (span.pack, offset)));
            found.absorb(read);
            if found.several.len() >= WAITING {
                self.choose_copies(&mut found).await?;
            }
        }
        drop(reading);
        for (pack, offset) in damaged {
            self.read_damaged(pack, offset, &mut found).await?;
        }
        for digest in level.elsewhere {
            if self.met.insert(digest) {
                self.read_node(&digest, &mut found).await?;
            }
        }
        self.walked.nodes += found.read;
        found.read = 0;
        self.walked.missing.append(&mut found.missing);
        Ok(found)
    }

    /// Groups nodes into requests.
    fn spans(&self, mut nodes: Vec<u32>) -> Vec<Span> {
        nodes.sort_unstable();
        let mut spans: Vec<Span> = Vec::new();
        for node in nodes {
            let place = self.inventory.place(node);
            let end = place.offset + u64::from(place.length);
            match spans.last_mut() {
                Some(span)
                    if span.pack == place.pack
                        && place.offset <= span.end + GAP
                        && end - span.start <= SPAN =>
                {
                    span.end = end;
                    span.nodes.push((place.offset, place.length));
                }
                _ => spans.push(Span {
                    pack: place.pack,
                    start: place.offset,
                    end,
                    nodes: vec![(place.offset, place.length)],
                }),
            }
        }
        spans
    }

    /// Reads a node that can't be read where it was found: there may be
    /// another copy, or it was damaged only on its way here.
    async fn read_damaged(&mut self, pack: u32, offset: u64, found: &mut Found) -> Result<()> {
        let held = &self.inventory.packs[pack as usize];
        let (_, entries) = self.vault.index.table(held.number).await?;
        self.walked.requests += 1;
        let entry = entries.iter().find(|entry| entry.offset == offset);
        match entry {
            Some(entry) => self.read_node(&entry.digest, found).await,
            None => Err(Error::internal("a pack's table has changed")),
        }
    }

    /// Reads one node, wherever the index says that it stands.
    async fn read_node(&mut self, digest: &ChunkDigest, found: &mut Found) -> Result<()> {
        let vault = self.vault;
        if let Some(unstored) = self.unstored
            && unstored.is_unstored(vault, digest).await?
        {
            if let Some(node) = unstored.node(vault, digest) {
                found.add_node(self.inventory, &node);
            }
            return Ok(());
        }
        self.walked.requests += 1;
        let bytes = vault
            .reader
            .read_content(Content::Node, digest, &vault.codecs)
            .await;
        match bytes.and_then(|bytes| Node::decode(&bytes)) {
            Ok(node) => found.add_node(self.inventory, &node),
            Err(error) if failure::is_damage(&error) => {
                if !self.read_copy(digest, found).await? {
                    self.walked.lost += 1;
                    self.walked.missing.push((Content::Node, *digest));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads a node that is damaged where the index says that it stands from
    /// another pack, if it is whole in one: the index will be mended.
    async fn read_copy(&mut self, digest: &ChunkDigest, found: &mut Found) -> Result<bool> {
        let (vault, inventory) = (self.vault, self.inventory);
        for place in inventory.places(Content::Node, digest) {
            let span = Span {
                pack: place.pack,
                start: place.offset,
                end: place.offset + u64::from(place.length),
                nodes: vec![(place.offset, place.length)],
            };
            self.walked.requests += 1;
            let (_, read) = read_span(vault, inventory, span).await?;
            if read.damaged.is_empty() {
                let number = inventory.packs[place.pack as usize].number;
                inventory.reach_copy(Content::Node, digest, Some(number));
                found.absorb(read);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

async fn read_span(
    vault: &Arc<Vault>,
    inventory: &Arc<Inventory>,
    span: Span,
) -> Result<(Span, Found)> {
    let pack = Arc::clone(&inventory.packs[span.pack as usize].pack);
    let read = vault.reader.read(&pack, span.start..span.end).await;
    let mut bytes = match read {
        Ok(bytes) => bytes,
        // Each of its nodes may have another copy.
        Err(error) if failure::is_damage(&error) => Vec::new(),
        Err(error) => return Err(error),
    };
    let (inventory, codecs) = (Arc::clone(inventory), Arc::clone(&vault.codecs));
    let decode = move || {
        let mut found = Found::default();
        for (offset, length) in &span.nodes {
            let from = usize::try_from(offset - span.start).unwrap_or(usize::MAX);
            let node = bytes
                .get_mut(from..from.saturating_add(*length as usize))
                .ok_or_else(|| Error::corrupt("a pack ends early"))
                .and_then(|sealed| frame::open(sealed, *offset, &pack.key, &pack.name))
                .and_then(|(header, payload)| {
                    let mut plain = vec![0; header.plain_length as usize];
                    codecs.decompress_with(|decompressor| {
                        decompressor.decompress(header.encoding, payload, &mut plain)
                    })?;
                    Node::decode(&plain)
                });
            match node {
                Ok(node) => found.add_node(&inventory, &node),
                Err(error) => {
                    tracing::debug!(pack = %pack.name, offset, %error, "a node can't be read");
                    found.damaged.push(*offset);
                }
            }
        }
        (span, found)
    };
    vault.cpu.run(decode).await
}
