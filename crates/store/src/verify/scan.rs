//! Reads a pack without its table: frames tell themselves how long they are.

use backstop_core::{ErrorKind, Result};

use crate::failure;
use crate::pack::frame::{self, FrameHeader};
use crate::pack::index::Pack;
use crate::pack::table::{FOOTER_LENGTH, HEADER_LENGTH};
use crate::record::PackRecord;
use crate::vault::Vault;

/// How many frames of a pack can be read. One whose header is damaged hides
/// those behind it.
pub(super) async fn whole_frames(vault: &Vault, record: &PackRecord) -> Result<u64> {
    let pack = Pack::of(record, &vault.seal).await?;
    let tail = FOOTER_LENGTH as u64 + u64::from(record.table_bytes);
    let end = record.bytes.saturating_sub(tail);
    let (mut offset, mut whole) = (HEADER_LENGTH as u64, 0);
    while offset < end {
        match read(vault, &pack, offset).await {
            Ok((length, is_whole)) => {
                offset += length;
                whole += u64::from(is_whole);
            }
            Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(whole)
}

/// Reads the frame at an offset: its length, and whether it is whole.
async fn read(vault: &Vault, pack: &Pack, offset: u64) -> Result<(u64, bool)> {
    let head_end = offset + frame::HEADER_LENGTH as u64;
    let head = vault.reader.read(pack, offset..head_end).await?;
    let header = FrameHeader::decode(&head)?;
    let length = header.frame_length() as u64;
    let mut sealed = vault.reader.read(pack, offset..offset + length).await?;
    let is_whole = match frame::open(&mut sealed, offset, &pack.key, &pack.name) {
        Ok((header, payload)) => {
            let mut plain = vec![0; header.plain_length as usize];
            let plain = vault.codecs.decompress_with(|decompressor| {
                decompressor.decompress(header.encoding, payload, &mut plain)
            });
            plain.is_ok()
        }
        Err(_) => false,
    };
    Ok((length, is_whole))
}
