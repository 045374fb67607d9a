//! The start and the end of a pack: what it is, and the table of its frames.
//!
//! ```text
//! header, 48 bytes at offset 0
//! 0   8   "BKSTPACK"
//! 8   1   format version, 0
//! 9   1   kind: 1 data, 2 map
//! 10  2   zero
//! 12  4   id of the vault key it is sealed under, little-endian
//! 16  24  the pack's name
//! 40  8   zero
//!
//! frames, one after another
//!
//! table, sealed; its number is its own offset; the pack's header is bound to it
//!     varint  frames
//!     then for each, in the order of their offsets:
//!     32      digest
//!     1       content and encoding: content + 16 x encoding
//!     varint  payload length
//!     varint  plain length, less the payload length
//!     16      tag of the table
//!
//! footer, 16 bytes at the end
//! 0   4   length of the sealed table with its tag, little-endian
//! 4   4   zero
//! 8   8   "TABLEEND"
//! ```

use backstop_core::{ChunkDigest, Encoding, Error, ErrorKind, Result};

use super::frame::{Content, FrameHeader};
use super::index::Pack;
use super::name::{PackKind, PackName};
use super::sink::PackStore;
use crate::codec::{Reader, put_varint};
use crate::header::newer;
use crate::keys::ring::VaultKeyId;
use crate::seal::{Seal, SealingKey};

/// The size of a pack's header, in bytes.
pub(crate) const HEADER_LENGTH: usize = 48;

/// The size of a pack's footer, in bytes.
pub(crate) const FOOTER_LENGTH: usize = 16;

/// The version of everything in a pack.
const VERSION: u8 = 0;
const MAGIC: &[u8; 8] = b"BKSTPACK";
const END_MAGIC: &[u8; 8] = b"TABLEEND";

/// A pack's header.
pub(crate) fn encode_header(
    name: PackName,
    kind: PackKind,
    key: VaultKeyId,
) -> [u8; HEADER_LENGTH] {
    let mut bytes = [0; HEADER_LENGTH];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = VERSION;
    bytes[9] = kind.code();
    bytes[12..16].copy_from_slice(&key.0.to_le_bytes());
    bytes[16..40].copy_from_slice(&name.to_bytes());
    bytes
}

/// The vault key that a pack is sealed under, by its header. The catalog says it
/// too, and where tables stand: only packs that it does not know are asked.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a newer
/// format, [`ErrorKind::Corrupt`] if it is not
/// this pack's.
pub(crate) fn check_header(bytes: &[u8], name: PackName, kind: PackKind) -> Result<VaultKeyId> {
    if bytes.get(..8) == Some(MAGIC) && bytes.get(8).is_some_and(|version| *version > VERSION) {
        return Err(newer(&format!("pack {name}")));
    }
    let key = bytes.get(12..).and_then(<[u8]>::first_chunk);
    let key = key.map(|key| VaultKeyId(u32::from_le_bytes(*key)));
    key.filter(|key| bytes == encode_header(name, kind, *key))
        .ok_or_else(|| Error::corrupt(format!("pack {name} does not begin as it should")))
}

/// A pack that the catalog does not know.
///
/// # Errors
/// As [`check_header`]; [`ErrorKind::WrongKey`]
/// if the vault's ring does not have its key; those of the store.
pub(crate) async fn unknown_pack(
    store: &dyn PackStore,
    name: PackName,
    kind: PackKind,
    seal: &Seal,
) -> Result<Pack> {
    let header = store
        .read(&name.path(kind), 0..HEADER_LENGTH as u64)
        .await?;
    Pack::new(name, kind, check_header(&header, name, kind)?, seal).await
}

/// Fails if a pack is of a newer format: what can't be read of it then is no
/// damage. Asked where something can't be read, since it takes a request.
///
/// # Errors
/// [`ErrorKind::Unsupported`].
pub(crate) async fn refuse_newer(store: &dyn PackStore, pack: &Pack) -> Result<()> {
    let header = store.read(&pack.path, 0..HEADER_LENGTH as u64).await;
    match header.and_then(|header| check_header(&header, pack.name, pack.kind)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        _ => Ok(()),
    }
}

/// Where one frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    pub(crate) digest: ChunkDigest,
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
}

/// The size of the sealed table, from a footer.
pub(crate) fn decode_footer(bytes: &[u8]) -> Result<usize> {
    let mut reader = Reader::new("a pack's footer", bytes);
    let length = reader.u32()?;
    if reader.u32()? != 0 || reader.bytes(8)? != END_MAGIC {
        return Err(reader.damaged("its mark is missing"));
    }
    reader.finish()?;
    Ok(length as usize)
}

/// So much of a pack's end is read at first: most tables are shorter.
const TAIL: u64 = 64 << 10;

/// The table of a pack of this length that the catalog does not know, and the
/// length of the sealed table.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if it is no whole
/// pack; those of the store.
pub(crate) async fn read(
    store: &dyn PackStore,
    pack: &Pack,
    bytes: u64,
) -> Result<(Vec<TableEntry>, u32)> {
    let within = |error: Error| error.within(format_args!("pack {}", pack.name));
    let end = bytes
        .checked_sub(FOOTER_LENGTH as u64)
        .ok_or_else(|| within(Error::corrupt("it is too short")))?;
    let tail_start = bytes.saturating_sub(TAIL);
    let mut tail = store.read(&pack.path, tail_start..bytes).await?;
    let footer = tail.len().saturating_sub(FOOTER_LENGTH);
    let length = decode_footer(&tail[footer..]).map_err(within)? as u64;
    let start = end
        .checked_sub(length)
        .ok_or_else(|| within(Error::corrupt("its table is longer than it")))?;
    tail.truncate(footer);
    let mut sealed = match start.checked_sub(tail_start) {
        Some(before) => tail.split_off(usize::try_from(before).unwrap_or(footer).min(footer)),
        None => store.read(&pack.path, start..end).await?,
    };
    let entries = decode(&mut sealed, start, &pack.header(), &pack.key).map_err(within)?;
    Ok((entries, u32::try_from(length).unwrap_or(u32::MAX)))
}

/// The sealed table and the footer of a pack whose frames end at `offset`.
pub(crate) fn encode(
    entries: &[TableEntry],
    offset: u64,
    header: &[u8; HEADER_LENGTH],
    key: &SealingKey,
) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(entries.len() * 40 + 64);
    put_varint(&mut out, entries.len() as u64);
    for entry in entries {
        out.extend_from_slice(entry.digest.as_bytes());
        out.push(entry.header.content.code() | (entry.header.encoding as u8) << 4);
        put_varint(&mut out, u64::from(entry.header.payload_length));
        put_varint(
            &mut out,
            u64::from(
                entry
                    .header
                    .plain_length
                    .saturating_sub(entry.header.payload_length),
            ),
        );
    }
    let tag = key.seal(offset, header, &mut out)?;
    out.extend_from_slice(&tag);
    let length =
        u32::try_from(out.len()).map_err(|_| Error::internal("a pack's table passes 4 GiB"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(END_MAGIC);
    Ok(out)
}

/// Reads a sealed table (without the footer) that stands at `offset`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] if a bit is not as it was, or the frames do not fill
/// the pack up to the table.
pub(crate) fn decode(
    sealed: &mut [u8],
    offset: u64,
    header: &[u8; HEADER_LENGTH],
    key: &SealingKey,
) -> Result<Vec<TableEntry>> {
    let plain = key.open(offset, header, sealed, &"a pack's table")?;
    decode_plain(plain, offset)
}

/// [`decode`] after the seal.
pub(crate) fn decode_plain(plain: &[u8], end: u64) -> Result<Vec<TableEntry>> {
    let mut reader = Reader::new("a pack's table", plain);
    let count = reader.count(ChunkDigest::LENGTH + 3)?;
    let mut entries = Vec::with_capacity(count);
    let mut offset = HEADER_LENGTH as u64;
    for _ in 0..count {
        let digest = reader.digest()?;
        let code = reader.u8()?;
        let payload_length = reader.varint_u32()?;
        let shrunk = reader.varint_u32()?;
        let header = FrameHeader {
            payload_length,
            plain_length: payload_length
                .checked_add(shrunk)
                .ok_or_else(|| reader.damaged("a length is too large"))?,
            content: Content::from_code(code & 15)?,
            encoding: Encoding::try_from(code >> 4)?,
        };
        entries.push(TableEntry {
            digest,
            offset,
            header,
        });
        offset += header.frame_length() as u64;
    }
    if offset != end {
        return Err(reader.damaged("its frames do not fill the pack"));
    }
    reader.finish()?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pack::frame::CONTENTS;

    fn entries() -> impl Strategy<Value = Vec<TableEntry>> {
        let entry = (
            any::<[u8; 32]>(),
            1u32..300_000,
            0u32..300_000,
            0..CONTENTS.len(),
            any::<bool>(),
        );
        prop::collection::vec(entry, 0..40).prop_map(|entries| {
            let mut offset = HEADER_LENGTH as u64;
            let mut made = Vec::new();
            for (digest, payload_length, shrunk, content, zstd) in entries {
                let header = FrameHeader {
                    payload_length,
                    plain_length: payload_length + shrunk,
                    content: CONTENTS[content],
                    encoding: if zstd { Encoding::Zstd } else { Encoding::Raw },
                };
                made.push(TableEntry {
                    digest: ChunkDigest::from_bytes(digest),
                    offset,
                    header,
                });
                offset += header.frame_length() as u64;
            }
            made
        })
    }

    proptest! {
        #[test]
        fn tables_round_trip_and_no_bit_may_change(entries in entries(), flip: prop::sample::Index, bit in 0u8..8) {
            let key = crate::seal::sealing_key(&[3; 32], &[b"p"]).unwrap();
            let end = entries.last().map_or(HEADER_LENGTH as u64, |e| e.offset + e.header.frame_length() as u64);
            let name = PackName::generate(1).unwrap();
            let id = VaultKeyId(0x0403_0201);
            let header = encode_header(name, PackKind::Data, id);
            prop_assert_eq!(&header[12..16], &[1, 2, 3, 4]);
            prop_assert_eq!(check_header(&header, name, PackKind::Data).unwrap(), id);
            prop_assert!(check_header(&header, name, PackKind::Map).is_err());
            prop_assert!(check_header(&header[..20], name, PackKind::Data).is_err());
            let bytes = encode(&entries, end, &header, &key).unwrap();
            let (table, footer) = bytes.split_at(bytes.len() - FOOTER_LENGTH);
            prop_assert_eq!(decode_footer(footer).unwrap(), table.len());
            prop_assert_eq!(decode(&mut table.to_vec(), end, &header, &key).unwrap(), entries);
            let mut bad = table.to_vec();
            bad[flip.index(table.len())] ^= 1 << bit;
            prop_assert!(decode(&mut bad, end, &header, &key).is_err());
            prop_assert!(decode(&mut table.to_vec(), end + 1, &header, &key).is_err());
        }

        #[test]
        fn any_plain_table_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), end: u64) {
            let _ = decode_plain(&bytes, end);
        }
    }
}
