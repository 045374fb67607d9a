//! Reads a pack without its table: frames tell themselves how long they are.

use std::ops::Range;

use backstop_core::{ChunkDigest, Codecs, ErrorKind, Result};

use super::frame::{self, Content, FrameHeader};
use super::index::Pack;
use super::reader::PackReader;
use super::table::{HEADER_LENGTH, TableEntry};
use crate::failure;

/// How many requests each frame costs.
pub(crate) const REQUESTS: u64 = 2;

/// A frame that was found without a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Salvaged {
    /// It is whole.
    Whole(TableEntry),
    /// Its header can be read, and no more: what it says that it holds.
    Damaged(Content),
}

/// The frames of a pack that end before `end`. One whose header is damaged
/// hides those behind it.
pub(crate) async fn frames(
    reader: &PackReader,
    pack: &Pack,
    end: u64,
    codecs: &Codecs,
) -> Result<Vec<Salvaged>> {
    let mut found = Vec::new();
    let mut offset = HEADER_LENGTH as u64;
    while offset < end {
        match read(reader, pack, offset..end, codecs).await {
            Ok((length, frame)) => {
                offset += length;
                found.push(frame);
            }
            Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads the frame at the start of a range: its length, and what it is.
async fn read(
    reader: &PackReader,
    pack: &Pack,
    range: Range<u64>,
    codecs: &Codecs,
) -> Result<(u64, Salvaged)> {
    let offset = range.start;
    let head_end = offset + frame::HEADER_LENGTH as u64;
    let head = reader.read(pack, offset..head_end).await?;
    let header = FrameHeader::decode(&head)?;
    let length = header.frame_length() as u64;
    let to = (offset + length).min(range.end);
    let mut sealed = reader.read(pack, offset..to).await?;
    let opened = frame::open(&mut sealed, offset, &pack.key, &pack.name);
    let digest = opened.and_then(|(header, payload)| {
        let mut plain = vec![0; header.plain_length as usize];
        codecs.decompress_with(|decompressor| {
            decompressor.decompress(header.encoding, payload, &mut plain)
        })?;
        Ok(ChunkDigest::of(&plain))
    });
    let frame = digest.map_or(Salvaged::Damaged(header.content), |digest| {
        Salvaged::Whole(TableEntry {
            digest,
            offset,
            header,
        })
    });
    Ok((length, frame))
}
