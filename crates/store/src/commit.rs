//! The commit: the one step before which nothing of a synchronization is
//! visible, and after which nothing of it is lost.
//!
//! The order is: chunks and nodes are in durable packs and indexed; manifests
//! and point records too; then one batch makes the points visible, and its
//! flush makes them last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backstop_core::{
    ByteCount, Document, Encoding, Error, ErrorKind, HashedChunk, MAX_CHUNK_LENGTH, NewPoint,
    RecoveryPoint, ReplicaState, Result, StreamSummary, Timestamp, VerifiedChunk,
};
use bytes::Bytes;
use metrics::counter;

use crate::catalog::{self, Batch};
use crate::ledger::{self, Attempt};
use crate::manifest::{Entry, Manifest};
use crate::nodes::raw_frame;
use crate::pack::frame::{Content, FrameHeader, PlainFrame};
use crate::pack::name::PackKind;
use crate::record::{self, PointGroup, PointRecord, ReplicaEntry};
use crate::removal;
use crate::session::{Session, Settled};
use crate::vault::Vault;

/// How a document is named in a manifest, so that it meets no image.
pub(crate) const DOCUMENTS: &str = "documents/";

/// The longest document, in bytes.
const MAX_DOCUMENT: usize = 1 << 20;

/// One point of a commit.
enum Member {
    /// Committed before: a lost reply, asked again.
    Before(Box<RecoveryPoint>),
    New(Arc<Session>, Box<NewPoint>),
}

/// Commits synchronizations as points, all or none.
pub(crate) async fn commit(
    vault: &Arc<Vault>,
    points: Vec<NewPoint>,
) -> Result<Vec<RecoveryPoint>> {
    let _relying = vault.gate.read().await;
    let _one = vault.commit.lock().await;
    let mut members = Vec::with_capacity(points.len());
    for point in points {
        members.push(member(vault, point).await?);
    }
    let now = vault.time().await?.time;
    let mut records = Vec::with_capacity(members.len());
    let mut fresh = Vec::new();
    let mut attempt = Attempt::new(vault);
    let group = group(&members);
    for member in members {
        match member {
            Member::Before(point) => records.push(*point),
            Member::New(session, point) => {
                // Never given again, whatever becomes of this commit: the
                // record may be durable before it fails.
                let sequence = attempt.take();
                let record = prepare(vault, &session, &point, (sequence, now), group).await?;
                records.push(record.point.clone());
                fresh.push((session, point, record));
            }
        }
    }
    if fresh.is_empty() {
        return Ok(records);
    }
    let writer = vault.writer()?;
    let failures = writer.failures();
    let ledger = match ledger::waiting(vault)? {
        Some((frames, written)) => {
            writer.append(PackKind::Map, frames, ()).await?;
            Some(written)
        }
        None => None,
    };
    writer.finish_all().await?;
    writer.check(failures)?;
    for (session, _, _) in &fresh {
        session.check_whole().await?;
    }
    let mut batch = Batch::default();
    ledger::put_counters(vault, &mut batch)?;
    if let Some(written) = &ledger {
        ledger::count(vault, written, &mut batch)?;
    }
    for (_, new, record) in &fresh {
        let point = &record.point;
        let key = vault.catalog.point_key(&point.source, point.sequence);
        let replica = ReplicaEntry {
            source: point.source.clone(),
            state: new.state.clone(),
            head: Some(point.id),
        };
        batch.put(&key, &record::encode(record)?);
        batch.put(&catalog::id_key(point.id), &key);
        batch.put(&catalog::synchronization_key(point.synchronization), &key);
        batch.put(
            &vault.catalog.replica_key(&point.source),
            &record::encode(&replica)?,
        );
        batch.delete(&vault.catalog.unfinished_key(&point.source));
        batch.delete(&vault.catalog.folded_key(&point.source));
    }
    let decide = || attempt.decide();
    vault.commit_deciding(batch, decide).await?;
    if let Some(written) = &ledger {
        ledger::counted(vault, written);
    }
    counter!("backstop_store_points").increment(fresh.len() as u64);
    for (session, _, _) in fresh {
        session.end().await;
        vault.forget(session.begin.id);
    }
    Ok(records)
}

/// How several new points tell that they belong together.
fn group(members: &[Member]) -> Option<PointGroup> {
    let fresh = members.iter().filter_map(|member| match member {
        Member::New(_, point) => Some(point.id),
        Member::Before(_) => None,
    });
    let ids: Vec<_> = fresh.collect();
    match ids[..] {
        [id, _, ..] => Some(PointGroup {
            id,
            members: u32::try_from(ids.len()).unwrap_or(u32::MAX),
        }),
        _ => None,
    }
}

async fn member(vault: &Arc<Vault>, point: NewPoint) -> Result<Member> {
    if let Some(session) = vault.session(point.synchronization) {
        if vault.point_by(&catalog::id_key(point.id)).await?.is_some() {
            return Err(Error::conflict(format!(
                "recovery point {} exists already",
                point.id
            )));
        }
        let replica = vault.replica_entry(&session.begin.source).await?;
        let state = replica.map_or(ReplicaState::Pending, |replica| replica.state);
        point.check_state(&session.begin.source, &state)?;
        return Ok(Member::New(session, Box::new(point)));
    }
    match vault.committed(point.synchronization).await? {
        Some(committed) => Ok(Member::Before(Box::new(committed))),
        None => Err(Error::not_found(format!(
            "synchronization {} is not under way; begin again",
            point.synchronization
        ))),
    }
}

/// Puts everything of a point into packs, its record last.
async fn prepare(
    vault: &Arc<Vault>,
    session: &Session,
    new: &NewPoint,
    (sequence, now): (u64, Timestamp),
    group: Option<PointGroup>,
) -> Result<PointRecord> {
    let Settled { maps, .. } = session.settle().await?;
    let mut entries = BTreeMap::new();
    for (spec, map) in session.begin.streams.iter().zip(maps) {
        entries.insert(spec.name.as_str().to_owned(), Entry::Image(map));
    }
    for document in &new.facts.documents {
        let (name, entry) = store_document(vault, session, document).await?;
        entries.insert(name, entry);
    }
    let manifest = raw_frame(Content::Manifest, Manifest { entries }.encode())?;
    let digest = manifest.digest;
    let added = session.append(PackKind::Map, vec![manifest]).await?;
    let facts = &new.facts;
    let streams = session.begin.streams.iter();
    let mut record = PointRecord {
        manifest: Some(digest),
        epoch: vault.catalog.epoch(),
        began: vault.began.load(Ordering::Acquire),
        protection: removal::protection(vault).await?,
        state: new.state.clone(),
        group,
        committed: Some(now),
        frame: None,
        expiry: None,
        point: RecoveryPoint {
            id: new.id,
            source: session.begin.source.clone(),
            time: new.time,
            sequence,
            kind: facts.kind,
            consistency: facts.consistency,
            snapshot_time: facts.snapshot_time,
            base: session.begin.base,
            synchronization: session.begin.id,
            streams: streams
                .map(|spec| StreamSummary {
                    name: spec.name.clone(),
                    length: spec.length,
                })
                .collect(),
            counts: facts.counts,
            bytes_added: Some(ByteCount(added.bytes)),
            plain_bytes_added: Some(ByteCount(added.plain_bytes)),
            sample: facts.sample,
            marks: new.marks.clone(),
            provenance: facts.provenance.clone(),
        },
    };
    let frame = compressed_frame(vault, Content::Point, record::encode(&record)?)?;
    record.frame = Some(frame.digest);
    session.append(PackKind::Map, vec![frame]).await?;
    Ok(record)
}

async fn store_document(
    vault: &Arc<Vault>,
    session: &Session,
    document: &Document,
) -> Result<(String, Entry)> {
    if document.content.len() > MAX_DOCUMENT {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "document {:?} is longer than {MAX_DOCUMENT} bytes",
                document.name
            ),
        ));
    }
    let content = Bytes::from(document.content.clone());
    let length = content.len();
    let codecs = Arc::clone(&vault.codecs);
    let compress = move || {
        let starts = (0..length).step_by(MAX_CHUNK_LENGTH as usize);
        let hashed = starts.map(|at| {
            HashedChunk::new(content.slice(at..length.min(at + MAX_CHUNK_LENGTH as usize)))
        });
        codecs.compress(hashed.collect::<Result<_>>()?)
    };
    let chunks = vault.cpu.run(compress).await??;
    let digests = chunks.iter().map(VerifiedChunk::digest).collect();
    let frames = chunks.iter().map(chunk_frame).collect();
    session.append(PackKind::Data, frames).await?;
    let entry = Entry::Document {
        length: length as u64,
        chunks: digests,
    };
    Ok((format!("{DOCUMENTS}{}", document.name), entry))
}

/// A chunk as it goes into a pack.
pub(crate) fn chunk_frame(chunk: &VerifiedChunk) -> PlainFrame {
    PlainFrame {
        digest: chunk.digest(),
        header: FrameHeader {
            payload_length: u32::try_from(chunk.payload().len()).unwrap_or(u32::MAX),
            plain_length: chunk.length(),
            content: Content::Chunk,
            encoding: chunk.encoding(),
        },
        payload: chunk.payload().clone(),
    }
}

/// A record as it goes into a pack, compressed where that pays.
pub(crate) fn compressed_frame(
    vault: &Vault,
    content: Content,
    plain: Vec<u8>,
) -> Result<PlainFrame> {
    let mut frame = raw_frame(content, plain)?;
    if let Ok(hashed) = HashedChunk::new(frame.payload.clone()) {
        for chunk in vault.codecs.compress(vec![hashed])? {
            if chunk.encoding() == Encoding::Zstd {
                frame.header.encoding = Encoding::Zstd;
                frame.header.payload_length =
                    u32::try_from(chunk.payload().len()).unwrap_or(u32::MAX);
                frame.payload = chunk.payload().clone();
            }
        }
    }
    Ok(frame)
}
