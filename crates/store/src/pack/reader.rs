//! Reading frames back: neighbours in one request, nodes through windows.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use backstop_core::{ChunkDigest, Codecs, Error, ErrorKind, PooledBuffer, REGION_LENGTH, Result};
use bytes::Bytes;
use metrics::counter;
use moka::sync::Cache;

use super::frame::{self, Content};
use super::index::{Index, Location, Pack};
use super::sink::PackStore;
use super::table;
use super::writer::PackWriter;
use crate::failure;

/// The size of the windows through which map packs are read, in bytes: nodes
/// that were written together are read together.
const WINDOW: u64 = 128 << 10;

/// How many bytes of windows are kept.
const WINDOWS_HELD: u64 = 4 << 20;

/// Frames that are less than this apart are read in one request, in bytes.
const GAP: u64 = 32 << 10;

/// The longest request for several frames, in bytes: what a whole region takes
/// that can't be compressed, with the headers of its frames.
pub(crate) const SPAN: u64 = REGION_LENGTH as u64 + (64 << 10);

/// Reads frames of durable packs.
#[derive(Debug)]
pub(crate) struct PackReader {
    pub(crate) store: Arc<dyn PackStore>,
    pub(crate) index: Arc<Index>,
    /// The packs under way, if this vault is open as its owner.
    pub(crate) writer: Option<PackWriter>,
    windows: Cache<(u64, u64), Bytes>,
}

/// Frames of one pack that are read together: which of the frames asked for,
/// and the pack's bytes around them.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) pack: Arc<Pack>,
    pub(crate) range: Range<u64>,
    /// Places in the list that was asked for.
    pub(crate) frames: Vec<usize>,
}

impl PackReader {
    pub(crate) fn new(
        store: Arc<dyn PackStore>,
        index: Arc<Index>,
        writer: Option<PackWriter>,
    ) -> Self {
        let windows = Cache::builder()
            .max_capacity(WINDOWS_HELD)
            .weigher(|_, window: &Bytes| u32::try_from(window.len()).unwrap_or(u32::MAX))
            .build();
        Self {
            store,
            index,
            writer,
            windows,
        }
    }

    /// Where frames stand, all of them readable: packs under way are finished
    /// first if one stands nowhere else.
    pub(crate) async fn locate(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        let mut found = self.index.locate_durable(content, digests).await?;
        let Some(writer) = &self.writer else {
            return Ok(found);
        };
        let missing: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let sought: Vec<_> = missing.iter().map(|at| digests[*at]).collect();
        // A pack that can't be finished is told to who wrote it; here it
        // matters only if one of these frames was in it.
        let finished = if self.index.any_pending(content, &sought) {
            writer.finish_all().await
        } else {
            Ok(())
        };
        // Asked again in any case: one may have become durable in between.
        let late = self.index.locate_durable(content, &sought).await?;
        if late.iter().any(Option::is_none) {
            finished?;
        }
        for (at, location) in missing.into_iter().zip(late) {
            found[at] = location;
        }
        Ok(found)
    }

    /// Where frames stand that could not be read where they were found, by the
    /// catalog alone: another copy may have taken the place of a bad one.
    pub(crate) async fn relocate(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        if let Some(writer) = &self.writer
            && self.index.any_pending(content, digests)
            && let Err(error) = writer.finish_all().await
        {
            // Told to who wrote it.
            tracing::debug!(%error, "a pack could not be finished");
        }
        self.index.locate_indexed(content, digests).await
    }

    /// Drops what was read before, so that it is read from the store again.
    pub(crate) fn forget_cached(&self) {
        self.windows.invalidate_all();
    }

    /// Groups frames into requests.
    pub(crate) async fn spans(&self, frames: &[Location]) -> Result<Vec<Span>> {
        let mut order: Vec<usize> = (0..frames.len()).collect();
        order.sort_unstable_by_key(|at| (frames[*at].pack, frames[*at].offset));
        let mut spans: Vec<(u64, Span)> = Vec::new();
        for at in order {
            let frame = &frames[at];
            match spans.last_mut() {
                Some((number, span))
                    if *number == frame.pack
                        && frame.offset <= span.range.end + GAP
                        && frame.end() - span.range.start <= SPAN =>
                {
                    span.range.end = span.range.end.max(frame.end());
                    span.frames.push(at);
                }
                _ => {
                    let pack = self.index.pack(frame.pack).await?;
                    let range = frame.offset..frame.end();
                    spans.push((
                        frame.pack,
                        Span {
                            pack,
                            range,
                            frames: vec![at],
                        },
                    ));
                }
            }
        }
        Ok(spans.into_iter().map(|(_, span)| span).collect())
    }

    /// Reads a node, manifest or record and checks its name.
    pub(crate) async fn read_content(
        &self,
        content: Content,
        digest: &ChunkDigest,
        codecs: &Codecs,
    ) -> Result<Vec<u8>> {
        let [location] = self.locate(content, std::slice::from_ref(digest)).await?[..] else {
            return Err(Error::internal("one question had not one answer"));
        };
        let Some(location) = location else {
            // Or it is no damage.
            self.store.check_vault().await?;
            let what = format!("{content:?} {digest} is not in the vault");
            return Err(Error::corrupt(what));
        };
        let first = match self.index.pack(location.pack).await {
            Ok(pack) => self
                .read_windowed(location, &pack)
                .await
                .and_then(|sealed| open_content(content, digest, location, &pack, sealed, codecs)),
            Err(error) => Err(error),
        };
        match first {
            Err(error) if failure::is_damage(&error) => {
                let again = self.read_again(content, digest, location, codecs).await;
                if let Err(error) = &again
                    && failure::is_damage(error)
                {
                    self.refuse_newer(location.pack).await?;
                    self.index.mark_bad(content, digest).await;
                }
                again
            }
            first => first,
        }
    }

    /// Fails if a pack of which something can't be read is of a newer format.
    pub(crate) async fn refuse_newer(&self, number: u64) -> Result<()> {
        match self.index.pack(number).await {
            Ok(pack) => table::refuse_newer(&*self.store, &pack).await,
            // Without what the catalog tells of it nothing is known.
            Err(_) => Ok(()),
        }
    }

    /// Reads the copy of a frame that stands at this place and checks its name.
    pub(crate) async fn read_at(
        &self,
        content: Content,
        digest: &ChunkDigest,
        location: Location,
        codecs: &Codecs,
    ) -> Result<Vec<u8>> {
        let pack = self.index.pack(location.pack).await?;
        let sealed = self.read_windowed(location, &pack).await?;
        open_content(content, digest, location, &pack, sealed, codecs)
    }

    /// Reads once more what was damaged: maybe only on its way here, and the
    /// window would keep the damage; and there may be another copy.
    async fn read_again(
        &self,
        content: Content,
        digest: &ChunkDigest,
        location: Location,
        codecs: &Codecs,
    ) -> Result<Vec<u8>> {
        for number in windows_of(location) {
            self.windows.invalidate(&(location.pack, number));
        }
        let found = self.relocate(content, std::slice::from_ref(digest)).await?;
        let location = found.into_iter().flatten().next().unwrap_or(location);
        let pack = &*self.index.pack(location.pack).await?;
        let range = location.offset..location.end();
        let sealed = self.read(pack, range).await?;
        open_content(content, digest, location, pack, sealed, codecs)
    }

    /// Reads a range of a pack that the catalog names.
    pub(crate) async fn read(&self, pack: &Pack, range: Range<u64>) -> Result<Vec<u8>> {
        match self.store.read(&pack.path, range).await {
            Err(error) => Err(self.must_be_there(error).await),
            Ok(read) => {
                count_read(read.len());
                Ok(read)
            }
        }
    }

    /// Fills a buffer from `offset` on; it comes back shorter only at the
    /// pack's end.
    pub(crate) async fn read_into(
        &self,
        pack: &Pack,
        offset: u64,
        buffer: PooledBuffer,
    ) -> Result<PooledBuffer> {
        match self.store.read_into(&pack.path, offset, buffer).await {
            Err(error) => Err(self.must_be_there(error).await),
            Ok(read) => {
                count_read(read.len());
                Ok(read)
            }
        }
    }

    /// What the catalog names and the store has not, or can't read, is damage,
    /// which costs what was in it and nothing else; unless the whole vault has
    /// gone away, which damages nothing.
    async fn must_be_there(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) {
            return error;
        }
        if let Err(gone) = self.store.check_vault().await {
            return gone;
        }
        match error.kind() {
            ErrorKind::NotFound => Error::corrupt(error.context().to_owned()).with_source(error),
            _ => error,
        }
    }

    async fn read_windowed(&self, location: Location, pack: &Pack) -> Result<Vec<u8>> {
        let length = usize::try_from(location.frame_length()).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(length);
        let windows = windows_of(location);
        if windows.end() - windows.start() > 1 {
            return self.read(pack, location.offset..location.end()).await;
        }
        for number in windows {
            let start = number * WINDOW;
            let window = if let Some(window) = self.windows.get(&(location.pack, number)) {
                window
            } else {
                let read = self.read(pack, start..start + WINDOW).await?;
                let window = Bytes::from(read);
                self.windows.insert((location.pack, number), window.clone());
                window
            };
            let from = location.offset.saturating_sub(start);
            let to = (location.end() - start).min(window.len() as u64);
            let part = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            out.extend_from_slice(
                part.and_then(|(from, to)| window.get(from..to))
                    .unwrap_or(&[]),
            );
        }
        Ok(out)
    }
}

fn count_read(bytes: usize) {
    counter!("backstop_store_reads").increment(1);
    counter!("backstop_store_read_bytes").increment(bytes as u64);
}

/// The windows that a frame lies in.
fn windows_of(location: Location) -> RangeInclusive<u64> {
    location.offset / WINDOW..=location.end().saturating_sub(1) / WINDOW
}

/// The plain bytes of a frame, checked against its name.
fn open_content(
    content: Content,
    digest: &ChunkDigest,
    location: Location,
    pack: &Pack,
    mut sealed: Vec<u8>,
    codecs: &Codecs,
) -> Result<Vec<u8>> {
    let (header, payload) = frame::open(&mut sealed, location.offset, &pack.key, &pack.name)?;
    let mut plain = vec![0; header.plain_length as usize];
    codecs.decompress_with(|decompressor| {
        decompressor.decompress(header.encoding, payload, &mut plain)
    })?;
    if header.content != content || ChunkDigest::of(&plain) != *digest {
        return Err(Error::corrupt(format!(
            "frame at {} of pack {} holds something else than {content:?} {digest}",
            location.offset, pack.name
        )));
    }
    Ok(plain)
}
