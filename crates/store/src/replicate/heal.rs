//! Takes from a second vault what is damaged in this one.

use std::sync::Arc;

use backstop_core::{ByteCount, ChunkDigest, Error, HealReport, Result, VerifiedChunk};
use bytes::Bytes;

use crate::commit::{chunk_frame, compressed_frame};
use crate::dedup_store::DedupStore;
use crate::failure;
use crate::pack::frame::{self, Content};
use crate::pack::index::Location;
use crate::pack::name::PackKind;
use crate::pack::reader::Span;
use crate::usage::Operation;
use crate::vault::Vault;

impl DedupStore {
    /// Stores anew what was found damaged here and another vault holds, such as
    /// one that this was replicated to: what an owner has found, by verifying or
    /// reading. Each is checked against its name. All recovery points that
    /// need it are whole again.
    ///
    /// *Atomic*: each chunk, map node or record. *Cancelling* leaves those that
    /// were stored.
    ///
    /// # Errors
    /// Those of the stores. That the other vault lacks something, or has it
    /// damaged too, is told.
    pub async fn heal_from(&self, other: &Self) -> Result<HealReport> {
        let meter = &self.vault.place.meter;
        let healing = Box::pin(self.take_from(other));
        meter.during(Operation::Replicate, healing).await
    }

    async fn take_from(&self, other: &Self) -> Result<HealReport> {
        let vault = &self.vault;
        // The shared one: a synchronization may come to rely on what is on its
        // way, and has to be told if it is lost.
        let writer = vault.writer()?;
        let failures = writer.failures_before().await;
        let _read = other.vault.reading.begin();
        let mut report = HealReport::default();
        for (content, digest) in vault.index.bad_frames() {
            if !vault.index.is_bad(content, &digest) {
                // Somebody else is storing it anew.
                continue;
            }
            let frame = match content {
                Content::Chunk => read_chunk(&other.vault, &digest)
                    .await
                    .map(|chunk| chunk_frame(&chunk)),
                _ => match read_record(&other.vault, content, &digest).await {
                    Ok(plain) => compressed_frame(vault, content, plain),
                    Err(error) => Err(error),
                },
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) if failure::is_damage(&error) => {
                    tracing::warn!(?content, %digest, %error, "the other vault has it no better");
                    report.left += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let kind = match content {
                Content::Chunk => PackKind::Data,
                _ => PackKind::Map,
            };
            let added = writer.append(kind, vec![frame], ()).await?;
            report.bytes_added = report.bytes_added.saturating_add(ByteCount(added));
            report.healed += 1;
        }
        writer.finish_all().await?;
        writer.check(failures)?;
        // So that it lasts before it is told.
        vault.catalog.flush().await?;
        vault.nodes.forget_cached();
        Ok(report)
    }
}

async fn read_record(vault: &Vault, content: Content, digest: &ChunkDigest) -> Result<Vec<u8>> {
    let reader = &vault.reader;
    reader.read_content(content, digest, &vault.codecs).await
}

/// Reads chunks of one request, each checked against its name.
pub(super) async fn read_span(
    vault: &Arc<Vault>,
    span: &Span,
    wanted: &[(ChunkDigest, Location)],
) -> Result<Vec<VerifiedChunk>> {
    let mut bytes = vault.reader.read(&span.pack, span.range.clone()).await?;
    let (pack, start) = (Arc::clone(&span.pack), span.range.start);
    let (wanted, codecs) = (wanted.to_vec(), Arc::clone(&vault.codecs));
    let check = move || {
        let mut opened = Vec::with_capacity(wanted.len());
        for (digest, at) in &wanted {
            let from = usize::try_from(at.offset - start).unwrap_or(usize::MAX);
            let length = usize::try_from(at.frame_length()).unwrap_or(usize::MAX);
            let sealed = bytes
                .get_mut(from..from.saturating_add(length))
                .ok_or_else(|| Error::corrupt(format!("pack {} ends early", pack.name)))?;
            let (header, _) = frame::open(sealed, at.offset, &pack.key, &pack.name)?;
            opened.push((*digest, header, from + frame::HEADER_LENGTH));
        }
        let bytes = Bytes::from(bytes);
        codecs.decompress_with(|decompressor| {
            let checked = opened.iter().map(|(digest, header, from)| {
                let payload = bytes.slice(*from..from + header.payload_length as usize);
                let length = header.plain_length;
                VerifiedChunk::check(*digest, length, header.encoding, payload, decompressor)
            });
            checked.collect::<Result<Vec<_>>>()
        })
    };
    vault.cpu.run(check).await?
}

/// Reads one chunk from where the index says that it stands.
pub(super) async fn read_chunk(vault: &Arc<Vault>, digest: &ChunkDigest) -> Result<VerifiedChunk> {
    let missing = || Error::corrupt(format!("chunk {digest} is not in the vault"));
    let located = vault.reader.relocate(Content::Chunk, &[*digest]).await?;
    let location = located.into_iter().next().flatten().ok_or_else(missing)?;
    let spans = vault.reader.spans(&[location]).await?;
    let span = spans.first().ok_or_else(missing)?;
    let read = read_span(vault, span, &[(*digest, location)]).await;
    if let Err(error) = &read
        && failure::is_damage(error)
    {
        vault.index.mark_bad(Content::Chunk, digest).await;
    }
    read?.pop().ok_or_else(missing)
}
