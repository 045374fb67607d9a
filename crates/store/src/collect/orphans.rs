//! Packs that are complete and unknown to the catalog: a crash left them, before
//! their index entries were written or before the commit that needed them.
//!
//! Nothing refers to them, unless the catalog has lost what did. So those of an
//! epoch in which a recovery point stands that the catalog does not know stay,
//! for a rebuild to look at. Others are condemned, and deleted as all that is
//! condemned: a rebuild must not take what is left of them for a damaged history.

use std::collections::{BTreeMap, HashSet};

use backstop_core::{Error, ErrorKind, Result};

use super::{Run, condemn};
use crate::catalog::{PACKS, id_key, synchronization_key};
use crate::pack::frame::{self, Content};
use crate::pack::name::{PackKind, PackName};
use crate::pack::table;
use crate::record::{self, PackHold, PackRecord, PointRecord};
use crate::vault::Vault;

/// A pack that the catalog does not know.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    name: PackName,
    kind: PackKind,
    bytes: u64,
}

/// Condemns orphans of owners before this one.
pub(super) async fn condemn(run: &mut Run<'_>) -> Result<()> {
    let vault = run.vault;
    let mut known = HashSet::new();
    // Listed before the catalog is read: what comes later is no orphan.
    run.report.requests += 1;
    let listed = vault.reader.store.list().await?;
    let mut packs = vault.catalog.scan(&[PACKS]).await?;
    while let Some((_, value)) = packs.next().await? {
        known.insert(record::decode::<PackRecord>("a pack's record", &value)?.name);
    }
    let mut orphans: BTreeMap<u64, Vec<Orphan>> = BTreeMap::new();
    for (file, bytes) in listed {
        let Some((name, kind)) = PackName::parse_file(&file) else {
            continue;
        };
        if name.epoch < vault.catalog.epoch() && !known.contains(&name) {
            let orphan = Orphan { name, kind, bytes };
            orphans.entry(name.epoch).or_default().push(orphan);
        }
    }
    let mut condemned = Vec::new();
    for (epoch, orphans) in orphans {
        let mut holds_lost = false;
        for orphan in orphans.iter().filter(|orphan| orphan.kind == PackKind::Map) {
            holds_lost |= holds_lost_point(run, orphan).await?;
        }
        for orphan in &orphans {
            if holds_lost {
                tracing::warn!(epoch, pack = %orphan.name, "kept: a recovery point of its time is not in the catalog");
                run.report.lost_points.add(orphan.bytes);
                continue;
            }
            if !run.options.dry_run {
                run.report.requests += 2;
                condemned.push(record_of(vault, orphan).await?);
            }
            run.report.orphans.add(orphan.bytes);
        }
    }
    if condemned.is_empty() {
        return Ok(());
    }
    condemn::unknown(vault, condemned).await
}

/// What the catalog is to know of an orphan until it is deleted; of one that can't
/// be read, only what it is called.
async fn record_of(vault: &Vault, orphan: &Orphan) -> Result<PackRecord> {
    let store = &*vault.reader.store;
    let mut record = PackRecord {
        name: orphan.name,
        kind: orphan.kind,
        key: vault.seal.current(),
        bytes: orphan.bytes,
        table_bytes: 0,
        frames: 0,
        plain_bytes: 0,
        payload_bytes: 0,
        lock: None,
        // Only packs that the catalog knows are held.
        hold: PackHold::None,
    };
    let read = async {
        let pack = table::unknown_pack(store, orphan.name, orphan.kind, &vault.seal).await?;
        record.key = pack.vault_key;
        let (entries, table_bytes) = table::read(store, &pack, orphan.bytes).await?;
        record.table_bytes = table_bytes;
        record.frames = entries.len() as u64;
        Ok(())
    };
    match read.await {
        Ok(()) => Ok(record),
        Err(error) if is_unreadable(&error) => Ok(record),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            Ok(record)
        }
        Err(error) => Err(error),
    }
}

/// Whether an error tells that a pack can't be read, now or ever.
fn is_unreadable(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::WrongKey)
}

/// Whether a map pack holds a point that the catalog does not know. One that
/// can't be read may.
async fn holds_lost_point(run: &mut Run<'_>, orphan: &Orphan) -> Result<bool> {
    let vault = run.vault;
    run.report.requests += 3;
    let points = match points(vault, orphan).await {
        Ok(points) => points,
        // Deleted since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) if is_unreadable(&error) => {
            tracing::warn!(pack = %orphan.name, %error, "a pack can't be read");
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    for record in points {
        let (id, synchronization) = (record.point.id, record.point.synchronization);
        let known = vault.point_by(&id_key(id)).await?.is_some()
            || vault
                .point_by(&synchronization_key(synchronization))
                .await?
                .is_some();
        if !known {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The records of points in a map pack.
async fn points(vault: &Vault, orphan: &Orphan) -> Result<Vec<PointRecord>> {
    let store = &*vault.reader.store;
    let pack = table::unknown_pack(store, orphan.name, orphan.kind, &vault.seal).await?;
    let (entries, _) = table::read(store, &pack, orphan.bytes).await?;
    let mut points = Vec::new();
    for entry in entries {
        if entry.header.content != Content::Point {
            continue;
        }
        let end = entry.offset + entry.header.frame_length() as u64;
        let mut sealed = vault.reader.read(&pack, entry.offset..end).await?;
        let (header, payload) = frame::open(&mut sealed, entry.offset, &pack.key, &pack.name)?;
        let mut plain = vec![0; header.plain_length as usize];
        vault.codecs.decompress_with(|decompressor| {
            decompressor.decompress(header.encoding, payload, &mut plain)
        })?;
        points.push(record::decode("a point's record in a pack", &plain)?);
    }
    Ok(points)
}
