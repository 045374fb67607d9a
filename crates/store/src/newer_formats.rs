//! What a newer version has written: each kind of object is refused by name,
//! never taken for damage, and nothing is written over it.

mod packs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backstop_core::{
    Actor, AuditRecord, Audited, ByteCount, ByteOffset, ChunkDigest, Codecs, CollectOptions,
    CpuPool, Deduplication, Error, ErrorKind, Extent, Grant, HashedChunk, Maintenance, ManualClock,
    Marks, NewPoint, NoMonitor, Piece, PieceContent, PointFacts, PointId, PointKind, Protection,
    RebuildOptions, RecoveryStore, RegionAddress, RegionIndex, RegionUpdate, ReplicaState, Result,
    Role, SliceContent, SnapshotId, SourceName, StoreBegin, StreamName, StreamSpec,
    SynchronizationId, Timestamp, VerifyOptions,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use slatedb::BlockTransformer;

use crate::builder::DedupStoreBuilder;
use crate::catalog::{
    APPROVALS, AUDIT, AUDITED, Batch, CLEAN_EPOCH, CONDEMNED, COUNTED_SLOTS, COUNTERS, EVENTS,
    EXPIRED, FOLDED, GRANTS, LEDGER, NEXT_PACK, OPERATORS, PACKS, PAST, POINTS, PROTECTION,
    REPLICAS, TAKEOVER, UNFINISHED, USAGE, VAULT_TIME, VERIFIED,
};
use crate::keys::slot::KeySlot;
use crate::ledger::PageRecord;
use crate::manifest::Manifest;
use crate::map::node::Node;
use crate::nodes::raw_frame;
use crate::operators::OperatorKey;
use crate::pack::frame::Content;
use crate::pack::name::PackKind;
use crate::record;
use crate::sealed_blocks::SealedBlocks;
use crate::{Credential, DedupStore, GuardedAction, Takeover};

const START: Timestamp = Timestamp(1_700_000_000_000);

type Objects = BTreeMap<Path, Vec<u8>>;

struct Lab {
    store: Arc<InMemory>,
    clock: Arc<ManualClock>,
}

impl Lab {
    fn new() -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            clock: Arc::new(ManualClock::at(START)),
        }
    }

    /// With what no credential but this opens.
    fn builder(&self) -> DedupStoreBuilder {
        DedupStore::on(Arc::clone(&self.store) as _, "vault")
            .with_credential(Credential::key([7; 32]))
            .with_cpu_pool(CpuPool::inline())
            .with_clock(Arc::clone(&self.clock) as _)
            .with_takeover(Takeover::Force)
    }

    async fn objects(&self) -> Objects {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let mut objects = Objects::new();
        for object in listed {
            let got = self.store.get(&object.location).await.unwrap();
            let bytes = got.bytes().await.unwrap();
            objects.insert(object.location, bytes.to_vec());
        }
        objects
    }

    /// Changes the objects whose names contain this.
    async fn change(&self, part: &str, change: impl Fn(&mut Vec<u8>)) {
        let objects = self.objects().await.into_iter();
        let chosen: Vec<_> = objects
            .filter(|(path, _)| path.as_ref().contains(part))
            .collect();
        assert!(!chosen.is_empty(), "there is no object {part}");
        for (path, mut bytes) in chosen {
            change(&mut bytes);
            self.store.put(&path, bytes.into()).await.unwrap();
        }
    }

    /// Opening in any way is refused, and nothing is written.
    async fn refuses_to_open(&self, what: &str) {
        let before = self.objects().await;
        let options = RebuildOptions::default();
        refused(what, self.builder().open().await);
        refused(what, self.builder().open_read_only().await);
        refused(what, self.builder().rebuild(&options, &NoMonitor).await);
        assert_eq!(
            self.objects().await,
            before,
            "{what}: something was written"
        );
    }
}

/// That a call was refused, since something is newer.
fn refused<T>(what: &str, result: Result<T>) {
    let error = result
        .err()
        .unwrap_or_else(|| panic!("{what}: not refused"));
    is_of_newer(what, &error);
}

fn is_of_newer(what: &str, error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
    let text = error.to_string();
    assert!(
        text.contains(what) && text.contains("newer version"),
        "{what}: {text}"
    );
}

/// The JSON of an object, of the next format.
fn next_format(bytes: &[u8]) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(value["format"], 0);
    value["format"] = 1.into();
    value["surprise"] = serde_json::json!([1, 2]);
    serde_json::to_vec(&value).unwrap()
}

fn begin(number: u8, base: Option<PointId>) -> StoreBegin {
    StoreBegin {
        id: SynchronizationId::from_bytes([number; 16]),
        source: SourceName::new("a").unwrap(),
        snapshot: SnapshotId::from_bytes([number; 16]),
        streams: vec![StreamSpec {
            name: StreamName::disk(),
            length: ByteCount(4 << 20),
        }],
        base,
        deduplication: Deduplication::OwnReplica,
        kind: base.map_or(PointKind::Initial, |_| PointKind::ExpressFull),
        verify: false,
    }
}

/// Makes a point that holds a chunk of its own.
async fn protect(vault: &DedupStore, number: u8, base: Option<PointId>) -> PointId {
    let begin = begin(number, base);
    let writer = vault.begin(begin.clone()).await.unwrap();
    let hashed = HashedChunk::new(vec![number; 5000].into()).unwrap();
    let chunks = Codecs::new(1).compress(vec![hashed]).unwrap();
    let digest = chunks[0].digest();
    let update = RegionUpdate {
        at: RegionAddress {
            stream: 0,
            region: RegionIndex(0),
        },
        pieces: vec![Piece {
            start: 0,
            length: 5000,
            content: PieceContent::Data(SliceContent::Chunk { digest, skip: 0 }),
        }],
        chunks,
    };
    writer.write(update).await.unwrap();
    let state_before = base.map_or(ReplicaState::Pending, |_| ReplicaState::Consistent);
    let point = NewPoint {
        synchronization: begin.id,
        id: PointId::from_bytes([number; 16]),
        time: START,
        facts: PointFacts::new(begin.kind),
        marks: Marks::default(),
        state_before,
        state: ReplicaState::Consistent,
    };
    vault.commit(vec![point]).await.unwrap()[0].id
}

async fn made() -> (Lab, PointId) {
    let lab = Lab::new();
    let vault = lab.builder().create().await.unwrap();
    let point = protect(&vault, 1, None).await;
    vault.close().await.unwrap();
    (lab, point)
}

#[tokio::test]
async fn a_newer_vault_is_refused() {
    let (lab, _) = made().await;
    lab.change("vault.json", |bytes| *bytes = next_format(bytes))
        .await;
    lab.refuses_to_open("the vault (format 1)").await;
    let again = lab.builder().create().await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn a_newer_key_slot_is_refused() {
    let (lab, _) = made().await;
    lab.change("/keys/", |bytes| *bytes = next_format(bytes))
        .await;
    lab.refuses_to_open("a key slot (format 1)").await;
    lab.refuses_to_open("object keys/").await;
}

#[tokio::test]
async fn a_newer_ring_is_refused() {
    let (lab, _) = made().await;
    let vault = lab.builder().open_read_only().await.unwrap();
    let seal = Arc::clone(&vault.vault.seal);
    vault.close().await.unwrap();
    lab.change("/keys/", |bytes| {
        let slot = KeySlot::decode(bytes).unwrap();
        let newer = slot.with_newer_ring(seal.base(), &seal.ring()).unwrap();
        *bytes = newer.encode().unwrap();
    })
    .await;
    lab.refuses_to_open("a vault's ring of keys").await;
    lab.refuses_to_open("object keys/").await;
}

#[tokio::test]
async fn a_newer_lease_is_refused_and_a_newer_reader_is_waited_for() {
    let (lab, _) = made().await;
    let path = Path::from("vault/lease.json");
    let lease = br#"{"format":1,"owner":{"host":"b"}}"#.to_vec();
    lab.store.put(&path, lease.into()).await.unwrap();
    let before = lab.objects().await;
    refused("the lease (format 1)", lab.builder().open().await);
    assert_eq!(lab.objects().await, before);
    lab.store.delete(&path).await.unwrap();

    let vault = lab.builder().open().await.unwrap();
    let head = vault
        .replica(&begin(1, None).source)
        .await
        .unwrap()
        .unwrap();
    protect(&vault, 2, head.head).await;
    let path = Path::from("vault/readers/00112233.json");
    let reader = br#"{"format":1,"since":"long ago"}"#.to_vec();
    lab.store.put(&path, reader.into()).await.unwrap();
    vault.expire(&[PointId::from_bytes([1; 16])]).await.unwrap();
    let options = CollectOptions::default();
    vault.collect(&options, &NoMonitor).await.unwrap();
    let report = vault.collect(&options, &NoMonitor).await.unwrap();
    assert!(
        report.waiting.count > 0 && report.readers == 1,
        "{report:?}"
    );
    assert!(lab.objects().await.contains_key(&path));
    vault.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_block_of_the_catalog_is_refused() {
    let (lab, _) = made().await;
    lab.change("/db/wal/", |bytes| {
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
    })
    .await;
    let before = lab.objects().await;
    refused("a log of the catalog", lab.builder().open().await);
    assert_eq!(lab.objects().await, before);

    let seal = Arc::new(crate::seal::Seal::of_byte(3).unwrap());
    let blocks = SealedBlocks::new(Arc::clone(&seal));
    let sealed = blocks.encode(vec![5; 100].into()).await.unwrap();
    let mut newer = sealed.to_vec();
    newer[0] = 1;
    let failed = blocks.decode(newer.into()).await.unwrap_err();
    let error = crate::failure::of_sealed_catalog(&seal, "reading", failed);
    is_of_newer("a block of the vault's catalog", &error);
}

/// Calls that between them read every record.
async fn use_all(lab: &Lab) -> Vec<Error> {
    let vault = match lab.builder().open().await {
        Ok(vault) => vault,
        Err(error) => return vec![error],
    };
    let source = begin(1, None).source;
    let mut errors = Vec::new();
    errors.extend(vault.replicas().await.err());
    errors.extend(vault.points(&source).await.err());
    errors.extend(vault.expired(&source).await.err());
    errors.extend(vault.vault.unfinished_entry(&source).await.err());
    errors.extend(vault.statistics().await.err());
    errors.extend(vault.protection().await.err());
    errors.extend(vault.operators().await.err());
    errors.extend(vault.approval_requests().await.err());
    errors.extend(vault.grants().await.err());
    errors.extend(vault.audit(None, 10).await.err());
    errors.extend(vault.usage_by_month().await.err());
    errors.extend(vault.key_ring().await.err());
    let verified = vault.verify(&VerifyOptions::default(), &NoMonitor).await;
    errors.extend(verified.err());
    let collected = vault.collect(&CollectOptions::default(), &NoMonitor).await;
    errors.extend(collected.err());
    let marked = vault.mark(PointId::from_bytes([2; 16]), Marks::default());
    errors.extend(marked.await.err());
    let overridden = crate::orphans::overridden(&vault.vault.catalog).await;
    errors.extend(overridden.err());
    let folded = crate::folding::folded(&vault.vault, &source, PointId::from_bytes([2; 16])).await;
    errors.extend(folded.err());
    vault.vault.forget_all();
    errors.extend(vault.vault.catalog.close(false).await.err());
    errors
}

/// A vault whose catalog has a record of each kind.
async fn busy() -> Lab {
    let lab = Lab::new();
    let vault = lab.builder().create().await.unwrap();
    let source = begin(1, None).source;
    let first = protect(&vault, 1, None).await;
    let mut protection = Protection::default();
    protection.undo_window = Duration::from_hours(24);
    vault.set_protection(protection).await.unwrap();
    let second = protect(&vault, 2, Some(first)).await;
    vault.expire(&[first]).await.unwrap();
    let keys = [[1; 32], [2; 32]].map(OperatorKey::from_bytes);
    for (name, key) in ["anna", "ben"].iter().zip(&keys) {
        let added = vault.add_operator(name, key.public().unwrap());
        added.await.unwrap();
    }
    vault.need_operators(2).await.unwrap();
    let action = GuardedAction::NeedFewerOperators { needed: 1 };
    let asked = vault.request_approval(action, "anna", &keys[0]);
    asked.await.unwrap();
    let grant = Grant {
        agent: "web".into(),
        source: source.clone(),
        until: Timestamp(1),
    };
    vault.set_grant(grant.clone()).await.unwrap();
    let who = Actor {
        role: Role::Operator,
        name: "eve".into(),
        certificate: ChunkDigest::of(b""),
    };
    let what = Audited::Granted(grant);
    let time = Timestamp(1);
    let noted = AuditRecord { time, who, what };
    vault.add_audit(vec![noted], 10).await.unwrap();
    // What takes more than a few calls to come about.
    let made: [(&[u8], &str); 6] = [
        (
            &[&[CONDEMNED][..], &9u64.to_be_bytes()].concat(),
            r#"{"format":0,"at":1}"#,
        ),
        (TAKEOVER, r#"{"format":0,"at":1}"#),
        (VERIFIED, r#"{"format":0,"next_pack":0}"#),
        (CLEAN_EPOCH, r#"{"format":0,"epoch":0}"#),
        (LEDGER, r#"{"format":0,"pages":[]}"#),
        (PAST, r#"{"format":0}"#),
    ];
    let catalog = &vault.vault.catalog;
    let mut batch = Batch::default();
    for (key, value) in made {
        batch.put(key, value.as_bytes());
    }
    let base = second;
    let unfinished = format!(
        r#"{{"format":0,"source":"a","synchronization":"{}","snapshot":"{}","base":"{base}","kind":"express-full","verify":false,"streams":[],"bytes_added":0,"at":1700000000000}}"#,
        SynchronizationId::from_bytes([9; 16]),
        SnapshotId::from_bytes([9; 16]),
    );
    batch.put(&catalog.unfinished_key(&source), unfinished.as_bytes());
    let folded = format!(r#"{{"format":0,"source":"a","base":"{base}","streams":[]}}"#);
    batch.put(&catalog.folded_key(&source), folded.as_bytes());
    let month = [&[USAGE][..], b"2023-11"].concat();
    batch.put(&month, br#"{"format":0,"operations":{}}"#);
    catalog.write(batch).await.unwrap();
    catalog.flush().await.unwrap();
    vault.vault.forget_all();
    catalog.close(false).await.unwrap();
    lab
}

#[tokio::test]
async fn each_newer_record_of_the_catalog_is_refused() {
    let kinds: [&[u8]; 25] = [
        &[PACKS],
        &[REPLICAS],
        &[POINTS],
        &[EXPIRED],
        &[FOLDED],
        &[CONDEMNED],
        &[UNFINISHED],
        &[EVENTS],
        LEDGER,
        PAST,
        COUNTERS,
        NEXT_PACK,
        CLEAN_EPOCH,
        VERIFIED,
        TAKEOVER,
        COUNTED_SLOTS,
        &[USAGE],
        PROTECTION,
        VAULT_TIME,
        OPERATORS,
        &[APPROVALS],
        &[GRANTS],
        &[AUDIT],
        AUDITED,
        // Nothing is newer here.
        &[],
    ];
    for kind in kinds {
        let name = String::from_utf8_lossy(kind).into_owned();
        let lab = busy().await;
        let mut changed = Vec::new();
        if !kind.is_empty() {
            let vault = lab.builder().open().await.unwrap();
            let catalog = &vault.vault.catalog;
            let mut entries = catalog.scan(kind).await.unwrap();
            let mut batch = Batch::default();
            while let Some((key, value)) = entries.next().await.unwrap() {
                let value = next_format(&value);
                batch.put(&key, &value);
                changed.push((key, value));
            }
            assert!(!changed.is_empty(), "there is no record {name}");
            catalog.write(batch).await.unwrap();
            catalog.flush().await.unwrap();
            vault.vault.forget_all();
            catalog.close(false).await.unwrap();
        }
        let errors = use_all(&lab).await;
        let is_refused = |error: &Error| error.kind() == ErrorKind::Unsupported;
        assert_eq!(
            errors.iter().any(is_refused),
            !kind.is_empty(),
            "record {name}: {errors:?}"
        );
        for error in errors.iter().filter(|error| is_refused(error)) {
            is_of_newer("(format 1)", error);
        }
        let damaged = errors
            .iter()
            .find(|error| error.kind() == ErrorKind::Corrupt);
        assert!(damaged.is_none(), "record {name}: {damaged:?}");
        // As it was, whatever was called.
        let beside = lab.builder().open_read_only().await;
        let Ok(beside) = beside else { continue };
        for (key, value) in changed {
            let now = beside.vault.catalog.get_durable(&key).await.unwrap();
            assert_eq!(now.as_deref(), Some(&value[..]), "record {name}");
        }
        beside.close().await.unwrap();
    }
}
