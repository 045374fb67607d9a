//! The root of a recovery point: a sorted list of named entries.
//!
//! ```text
//! 1        format version, 0
//! varint   entries
//! then for each, names ascending:
//! string   name (varint length, UTF-8)
//! 1        kind: 1 image, 2 document
//! image:    varint length in bytes; 1 whether a root follows; 32 root
//! document: varint length in bytes; varint n; n x 32 the chunks, in order
//! ```
//!
//! Kind 3 is kept for directories.

use std::collections::BTreeMap;

use backstop_core::{ByteCount, ChunkDigest, MAX_CHUNK_LENGTH, Result};

use crate::codec::{Reader, put_varint};
use crate::header::newer;
use crate::map::tree::ImageMap;

/// What a name of a manifest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Image(ImageMap),
    Document {
        length: u64,
        chunks: Vec<ChunkDigest>,
    },
}

/// A recovery point's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) entries: BTreeMap<String, Entry>,
}

const VERSION: u8 = 0;
const IMAGE: u8 = 1;
const DOCUMENT: u8 = 2;

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.entries.len() as u64);
        for (name, entry) in &self.entries {
            put_varint(&mut out, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
            match entry {
                Entry::Image(map) => {
                    out.push(IMAGE);
                    put_varint(&mut out, map.length.0);
                    out.push(u8::from(map.root.is_some()));
                    out.extend(map.root.iter().flat_map(ChunkDigest::as_bytes));
                }
                Entry::Document { length, chunks } => {
                    out.push(DOCUMENT);
                    put_varint(&mut out, *length);
                    put_varint(&mut out, chunks.len() as u64);
                    out.extend(chunks.iter().flat_map(ChunkDigest::as_bytes));
                }
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new("a manifest", bytes);
        let version = reader.u8()?;
        if version > VERSION {
            return Err(newer(&format!("a manifest (format {version})")));
        }
        let count = reader.count(4)?;
        let mut entries = BTreeMap::new();
        let mut previous: Option<String> = None;
        for _ in 0..count {
            let name = std::str::from_utf8(reader.string()?)
                .map_err(|_| reader.damaged("a name is not UTF-8"))?
                .to_owned();
            if previous.as_ref().is_some_and(|previous| *previous >= name) {
                return Err(reader.damaged("its names are out of order"));
            }
            let entry = match reader.u8()? {
                IMAGE => decode_image(&mut reader)?,
                DOCUMENT => decode_document(&mut reader)?,
                _ => return Err(reader.damaged("an entry's kind is not known")),
            };
            previous = Some(name.clone());
            entries.insert(name, entry);
        }
        reader.finish()?;
        Ok(Self { entries })
    }
}

fn decode_image(reader: &mut Reader<'_>) -> Result<Entry> {
    let length = ByteCount(reader.varint()?);
    let root = match reader.u8()? {
        0 => None,
        1 => Some(reader.digest()?),
        _ => return Err(reader.damaged("an image has no root and no hole")),
    };
    Ok(Entry::Image(ImageMap { length, root }))
}

fn decode_document(reader: &mut Reader<'_>) -> Result<Entry> {
    let length = reader.varint()?;
    let count = reader.count(ChunkDigest::LENGTH)?;
    if length > (count as u64).saturating_mul(u64::from(MAX_CHUNK_LENGTH)) {
        return Err(reader.damaged("a document is longer than its chunks"));
    }
    let chunks = (0..count).map(|_| reader.digest()).collect::<Result<_>>()?;
    Ok(Entry::Document { length, chunks })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn manifests_round_trip(names in prop::collection::btree_map("[a-z/]{0,9}", (any::<u64>(), any::<bool>(), 0usize..3), 0..6)) {
            let entries = names.into_iter().map(|(name, (length, rooted, chunks))| {
                let digest = ChunkDigest::of(name.as_bytes());
                let entry = if chunks == 0 {
                    Entry::Image(ImageMap { length: ByteCount(length), root: rooted.then_some(digest) })
                } else {
                    Entry::Document { length: length % 1000, chunks: vec![digest; chunks] }
                };
                (name, entry)
            }).collect();
            let manifest = Manifest { entries };
            prop_assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::decode(&bytes);
        }
    }
}
