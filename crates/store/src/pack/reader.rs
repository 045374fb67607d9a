//! Reading frames back: neighbours in one request, nodes through windows.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use backstop_core::{ChunkDigest, Codecs, Error, ErrorKind, Result};
use bytes::Bytes;
use moka::sync::Cache;

use super::frame::{self, Content};
use super::index::{Index, Location, Pack};
use super::sink::PackStore;
use super::writer::PackWriter;

/// The size of the windows through which map packs are read, in bytes: nodes
/// that were written together are read together.
const WINDOW: u64 = 128 << 10;

/// How many bytes of windows are kept.
const WINDOWS_HELD: u64 = 4 << 20;

/// Frames that are less than this apart are read in one request, in bytes.
const GAP: u64 = 32 << 10;

/// The longest request for several frames, in bytes.
const SPAN: u64 = 4 << 20;

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

    /// Where frames stand, all of them readable: packs under way that hold one
    /// are finished first.
    pub(crate) async fn locate(
        &self,
        content: Content,
        digests: &[ChunkDigest],
    ) -> Result<Vec<Option<Location>>> {
        if let Some(writer) = &self.writer
            && self.index.any_pending(content, digests)
        {
            writer.finish_all().await?;
        }
        self.index.locate(content, digests).await
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
        let location = location
            .ok_or_else(|| Error::corrupt(format!("{content:?} {digest} is not in the vault")))?;
        let pack = self.index.pack(location.pack).await?;
        let sealed = self.read_windowed(location, &pack).await?;
        let first = open_content(content, digest, location, &pack, sealed, codecs);
        match first {
            // It may have been damaged only on its way here, and the window
            // would keep the damage: the store is asked once more.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                for number in windows_of(location) {
                    self.windows.invalidate(&(location.pack, number));
                }
                let range = location.offset..location.end();
                let sealed = self.store.read(&pack.path, range).await?;
                open_content(content, digest, location, &pack, sealed, codecs)
            }
            first => first,
        }
    }

    async fn read_windowed(&self, location: Location, pack: &Pack) -> Result<Vec<u8>> {
        let length = usize::try_from(location.frame_length()).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(length);
        let windows = windows_of(location);
        if windows.end() - windows.start() > 1 {
            return self
                .store
                .read(&pack.path, location.offset..location.end())
                .await;
        }
        for number in windows {
            let start = number * WINDOW;
            let window = if let Some(window) = self.windows.get(&(location.pack, number)) {
                window
            } else {
                let read = self.store.read(&pack.path, start..start + WINDOW).await?;
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
