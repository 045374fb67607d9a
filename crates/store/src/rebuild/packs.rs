//! What stands in the packs: their frames come into the index, records of points
//! and pages of the ledger are read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use backstop_core::{ByteCount, ChunkDigest, ErrorKind, Monitor, Objects, Progress, Result};
use futures::{StreamExt, stream};

use super::owners::NamedPage;
use crate::catalog::{Batch, NEXT_PACK, PACKS, numbered_key};
use crate::failure;
use crate::keys::ring::VaultKeyId;
use crate::ledger::PageRecord;
use crate::pack::frame::Content;
use crate::pack::index::{Location, Pack};
use crate::pack::name::{PackKind, PackName};
use crate::pack::salvage::{self, Salvaged};
use crate::pack::table::{self, TableEntry};
use crate::record::{self, NextPack, PackHold, PackRecord, PointRecord};
use crate::vault::Vault;

/// Whether a frame is the record of a point, or a page of the ledger.
fn is_record(content: Content) -> bool {
    matches!(content, Content::Point | Content::Ledger)
}

/// How many packs are looked at together.
const READING: usize = 4;

/// A pack in the store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) number: u64,
    pub(super) name: PackName,
    pub(super) kind: PackKind,
    pub(super) bytes: u64,
}

/// What was found in packs.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) packs: Objects,
    pub(super) frames: u64,
    pub(super) damaged_tables: u64,
    pub(super) unreadable: Objects,
    /// Records of points and pages of which only the frame's header was found.
    damaged_records: u64,
    /// The numbers of packs by their names.
    pub(super) numbers: HashMap<PackName, u64>,
    /// Records of points, and pages of the ledger.
    records: Vec<(Content, ChunkDigest, Location)>,
}

/// The packs of a vault, those of earlier owners first.
pub(super) async fn listed(vault: &Vault) -> Result<Vec<Listed>> {
    let mut packs: Vec<(PackName, PackKind, u64)> = Vec::new();
    for (file, bytes) in vault.reader.store.list().await? {
        if let Some((name, kind)) = PackName::parse_file(&file) {
            packs.push((name, kind, bytes));
        }
    }
    packs.sort_unstable_by_key(|(name, _, _)| *name);
    let numbered = (0..).zip(packs);
    Ok(numbered
        .map(|(number, (name, kind, bytes))| Listed {
            number,
            name,
            kind,
            bytes,
        })
        .collect())
}

/// A pack and the frames that it holds.
struct Opened {
    listed: Listed,
    key: VaultKeyId,
    table_bytes: u32,
    entries: Vec<TableEntry>,
    is_damaged: bool,
    damaged_records: u64,
}

/// Writes the index entries and records of all packs.
pub(super) async fn index(
    vault: &Arc<Vault>,
    packs: Vec<Listed>,
    monitor: &dyn Monitor,
) -> Result<Found> {
    let mut found = Found::default();
    let total = packs.iter().map(|pack| pack.bytes).sum();
    let next = packs.len() as u64;
    let mut opened = stream::iter(packs)
        .map(|listed| open(vault, listed))
        .buffered(READING);
    let mut done = 0;
    while let Some(pack) = opened.next().await {
        let pack = pack?;
        let listed = pack.listed;
        found.packs.add(listed.bytes);
        found.frames += pack.entries.len() as u64;
        found.damaged_tables += u64::from(pack.is_damaged && !pack.entries.is_empty());
        if pack.is_damaged && pack.entries.is_empty() {
            found.unreadable.add(listed.bytes);
        }
        found.damaged_records += pack.damaged_records;
        found.numbers.insert(listed.name, listed.number);
        for entry in &pack.entries {
            let content = entry.header.content;
            if is_record(content) {
                let location = Location::of(listed.number, entry);
                found.records.push((content, entry.digest, location));
            }
        }
        let batch = {
            let shared = Arc::clone(vault);
            vault.cpu.run(move || batch(&shared, &pack)).await??
        };
        vault.catalog.write(batch).await?;
        done += listed.bytes;
        monitor.tell_progress(Progress {
            done: ByteCount(done),
            total: ByteCount(total),
        })?;
    }
    let mut batch = Batch::default();
    batch.put(NEXT_PACK, &record::encode(&NextPack { number: next })?);
    vault.catalog.write(batch).await?;
    vault.catalog.flush().await?;
    vault.writer()?.number_from(next).await;
    Ok(found)
}

/// The frames of a pack: by its table, or without it.
async fn open(vault: &Arc<Vault>, listed: Listed) -> Result<Opened> {
    let store = &*vault.reader.store;
    let (name, kind) = (listed.name, listed.kind);
    let (pack, begins) = match table::unknown_pack(store, name, kind, &vault.seal).await {
        Ok(pack) => (pack, Ok(())),
        // Its frames may still open.
        Err(error) if failure::is_damage(&error) => {
            let key = vault.seal.ring().current();
            let pack = Pack::new(name, kind, key, &vault.seal).await?;
            (pack, Err(error))
        }
        // Nothing of it can be read; what it holds is missing.
        Err(error) if error.kind() == ErrorKind::WrongKey => {
            tracing::warn!(pack = %name, %error, "a pack is sealed under a key that is gone");
            return Ok(Opened {
                listed,
                key: vault.seal.ring().current(),
                table_bytes: 0,
                entries: Vec::new(),
                is_damaged: true,
                damaged_records: 0,
            });
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            // A header tells nothing by itself; a table under its seal does.
            return match as_of_this_format(vault, listed).await? {
                Some(opened) => Ok(opened),
                None => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let key = pack.vault_key;
    let table = match begins {
        Ok(()) => table::read(store, &pack, listed.bytes).await,
        Err(error) => Err(error),
    };
    match table {
        Ok((entries, table_bytes)) => Ok(Opened {
            listed,
            key,
            table_bytes,
            entries,
            is_damaged: false,
            damaged_records: 0,
        }),
        Err(error) if failure::is_damage(&error) || error.kind() == ErrorKind::NotFound => {
            tracing::warn!(pack = %listed.name, %error, "a pack's table can't be read");
            let frames = salvage::frames(&vault.reader, &pack, listed.bytes, &vault.codecs).await?;
            let mut damaged_records = 0;
            let whole = frames.into_iter().filter_map(|frame| match frame {
                Salvaged::Whole(entry) => Some(entry),
                Salvaged::Damaged(content) => {
                    damaged_records += u64::from(is_record(content));
                    None
                }
            });
            let entries = whole.collect();
            Ok(Opened {
                listed,
                key,
                table_bytes: 0,
                entries,
                is_damaged: true,
                damaged_records,
            })
        }
        Err(error) => Err(error),
    }
}

/// A pack whose header tells of a newer format, if it is of this one all the
/// same: its header is damaged.
async fn as_of_this_format(vault: &Arc<Vault>, listed: Listed) -> Result<Option<Opened>> {
    for key in vault.seal.ring().keys.iter().map(|key| key.id) {
        let pack = Pack::new(listed.name, listed.kind, key, &vault.seal).await?;
        match table::read(&*vault.reader.store, &pack, listed.bytes).await {
            Ok((entries, table_bytes)) => {
                tracing::warn!(pack = %listed.name, "a pack's header is damaged");
                return Ok(Some(Opened {
                    listed,
                    key,
                    table_bytes,
                    entries,
                    is_damaged: false,
                    damaged_records: 0,
                }));
            }
            Err(error) if failure::is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What the index and the catalog tell of a pack.
fn batch(vault: &Vault, pack: &Opened) -> Result<Batch> {
    let Listed {
        number,
        name,
        kind,
        bytes,
    } = pack.listed;
    let sum = |length: fn(&TableEntry) -> u32| -> u64 {
        pack.entries
            .iter()
            .map(|entry| u64::from(length(entry)))
            .sum()
    };
    let record = PackRecord {
        name,
        kind,
        key: pack.key,
        bytes,
        table_bytes: pack.table_bytes,
        frames: pack.entries.len() as u64,
        plain_bytes: sum(|entry| entry.header.plain_length),
        payload_bytes: sum(|entry| entry.header.payload_length),
        lock: None,
        hold: if vault.place.locks.can_lock() {
            PackHold::Unknown
        } else {
            PackHold::None
        },
    };
    let mut batch = Batch::default();
    for entry in &pack.entries {
        let key = vault.catalog.chunk_key(entry.header.content, &entry.digest);
        batch.put(&key, &Location::of(number, entry).encode());
    }
    batch.put(&numbered_key(PACKS, number), &record::encode(&record)?);
    Ok(batch)
}

/// What was read of them.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Each once.
    pub(super) records: Vec<PointRecord>,
    pub(super) pages: Vec<NamedPage>,
    /// How many of either are known to be there and can't be read.
    pub(super) damaged: u64,
}

/// Reads the records of points and the pages of the ledger. What can't be read
/// is counted and passed over.
pub(super) async fn records(vault: &Arc<Vault>, found: &Found) -> Result<Records> {
    // Copies of one are the same; of those that can be read, any does.
    let mut copies: BTreeMap<(Content, ChunkDigest), Vec<Location>> = BTreeMap::new();
    for (content, digest, location) in &found.records {
        copies
            .entry((*content, *digest))
            .or_default()
            .push(*location);
    }
    let mut all = Records {
        damaged: found.damaged_records,
        ..Records::default()
    };
    let mut readings = stream::iter(copies)
        .map(|((content, digest), copies)| async move {
            let read = read_any(vault, content, &digest, &copies).await;
            (
                content,
                digest,
                read.and_then(|plain| Read::decode(content, digest, &plain)),
            )
        })
        .buffered(READING);
    while let Some((content, digest, read)) = readings.next().await {
        match read {
            Ok(Read::Point(record)) => all.records.push(*record),
            Ok(Read::Page(page)) => all.pages.push((digest, *page)),
            Err(error) if failure::is_damage(&error) => {
                tracing::warn!(?content, %digest, %error, "a record can't be read");
                all.damaged += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A record of either kind.
enum Read {
    Point(Box<PointRecord>),
    Page(Box<PageRecord>),
}

impl Read {
    fn decode(content: Content, digest: ChunkDigest, plain: &[u8]) -> Result<Self> {
        if content == Content::Ledger {
            let page = record::decode("a page of the ledger", plain)?;
            return Ok(Self::Page(Box::new(page)));
        }
        let mut record: PointRecord = record::decode("a point's record in a pack", plain)?;
        record.frame = Some(digest);
        Ok(Self::Point(Box::new(record)))
    }
}

/// The first copy of a frame that can be read.
pub(super) async fn read_any(
    vault: &Vault,
    content: Content,
    digest: &ChunkDigest,
    copies: &[Location],
) -> Result<Vec<u8>> {
    let mut last = None;
    for location in copies {
        let read = vault
            .reader
            .read_at(content, digest, *location, &vault.codecs)
            .await;
        match read {
            Err(error) if failure::is_damage(&error) => last = Some(error),
            read => return read,
        }
    }
    let gone = || backstop_core::Error::corrupt(format!("{content:?} {digest} has no copy"));
    Err(last.unwrap_or_else(gone))
}
