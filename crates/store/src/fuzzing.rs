//! The decoders of everything that comes from the store, made callable for
//! fuzzing: each takes any bytes, must neither panic nor take memory beyond
//! them, and what it accepts must survive a round trip.

use backstop_core::{
    ByteCount, ChunkDigest, Encoding, PointId, Protection, RegionMap, ReplicaState, Slice,
    SliceContent, SnapshotId, SourceName, StreamName, SynchronizationId, VaultTime,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::approvals::ApprovalRequest;
use crate::header::{Credential, KeySlot, VaultHeader};
use crate::lease::Lease;
use crate::ledger::{LedgerEntry, PageRecord};
use crate::manifest::{Entry, Manifest};
use crate::map::node::{Node, no_children};
use crate::map::tree::ImageMap;
use crate::operators::Operators;
use crate::pack::frame::{self, Content, FrameHeader, HEADER_LENGTH, PlainFrame};
use crate::pack::index::Location;
use crate::pack::name::{PackKind, PackName};
use crate::pack::table::{self, TableEntry};
use crate::readers::ReaderRecord;
use crate::record::{
    self, CondemnedPack, CountedSlots, Counters, FoldedEntry, PackRecord, PointRecord,
    ReplicaEntry, UnfinishedEntry, UnfinishedStream,
};
use crate::seal::{Seal, SealingKey, VaultKey};

fn key() -> SealingKey {
    Seal::new(&VaultKey::from_bytes([5; 32]))
        .and_then(|seal| seal.pack_key(b"fuzzing"))
        .unwrap_or_else(|_| unreachable!("a fixed key is a key"))
}

/// A frame: as it comes, and as one whose seal is right.
pub fn frame(bytes: &[u8]) {
    let (key, offset) = (key(), 48);
    let _ = frame::open(&mut bytes.to_vec(), offset, &key, &"a pack");
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LENGTH>() else {
        return;
    };
    let mut sealed = bytes.to_vec();
    let Ok(tag) = key.seal(offset, head, &mut sealed[HEADER_LENGTH..]) else {
        return;
    };
    sealed.extend_from_slice(&tag);
    let expected = FrameHeader::decode(head)
        .ok()
        .filter(|header| header.payload_length as usize == payload.len());
    match (expected, frame::open(&mut sealed, offset, &key, &"a pack")) {
        (Some(header), Ok((opened, plain))) => {
            assert_eq!(header, opened);
            assert_eq!(plain, payload);
            assert_eq!(header.encode(), *head);
        }
        (None, Err(_)) => {}
        (expected, _) => panic!("a frame opens, or not, against its header {expected:?}"),
    }
}

/// The table of a pack, after its seal; the first bytes say where it stands.
pub fn pack_table(bytes: &[u8]) {
    let _ = table::decode_footer(bytes);
    let Some((end, plain)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let end = u64::from_le_bytes(*end);
    if let Ok(entries) = table::decode_plain(plain, end) {
        let (key, header) = (key(), [0; table::HEADER_LENGTH]);
        let Ok(mut again) = table::encode(&entries, end, &header, &key) else {
            panic!("a table that was read can't be written");
        };
        let footer = again.split_off(again.len() - table::FOOTER_LENGTH);
        assert_eq!(table::decode_footer(&footer).ok(), Some(again.len()));
        let again = table::decode(&mut again, end, &header, &key);
        assert_eq!(again.ok(), Some(entries));
    }
}

/// A node of an image map.
pub fn map_node(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(Node::decode(&node.encode()).ok(), Some(node));
    }
}

/// The root of a point.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    }
}

/// A value of the index.
pub fn index_entry(bytes: &[u8]) {
    if let Ok(location) = Location::decode(bytes) {
        assert!(location.end() >= location.offset);
        assert_eq!(Location::decode(&location.encode()).ok(), Some(location));
    }
}

fn record_round_trips<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(record) = record::decode::<T>("a record", bytes) {
        let Ok(again) = record::encode(&record) else {
            panic!("a record that was read can't be written");
        };
        assert_eq!(record::decode::<T>("a record", &again).ok(), Some(record));
    }
}

/// A record of the catalog, read as each kind.
pub fn catalog_record(bytes: &[u8]) {
    record_round_trips::<PointRecord>(bytes);
    record_round_trips::<ReplicaEntry>(bytes);
    record_round_trips::<UnfinishedEntry>(bytes);
    record_round_trips::<PackRecord>(bytes);
    record_round_trips::<Counters>(bytes);
    record_round_trips::<CountedSlots>(bytes);
    record_round_trips::<Lease>(bytes);
    record_round_trips::<CondemnedPack>(bytes);
    record_round_trips::<FoldedEntry>(bytes);
    record_round_trips::<VaultTime>(bytes);
    record_round_trips::<Protection>(bytes);
    record_round_trips::<Operators>(bytes);
    record_round_trips::<ApprovalRequest>(bytes);
    record_round_trips::<ReaderRecord>(bytes);
    record_round_trips::<PageRecord>(bytes);
    record_round_trips::<LedgerEntry>(bytes);
}

/// `vault.json`.
pub fn vault_header(bytes: &[u8]) {
    if let (Ok(header), Ok(seal)) = (
        VaultHeader::decode(bytes),
        Seal::new(&VaultKey::from_bytes([5; 32])),
    ) {
        let _ = header.accepts(&seal);
    }
}

/// A key slot; passphrases are left out, since stretching one takes long by
/// design.
pub fn key_slot(bytes: &[u8]) {
    if let Ok(slot) = KeySlot::decode(bytes) {
        let _ = slot.open(&Credential::None);
        let _ = slot.open(&Credential::key([5; 32]));
    }
}

fn digest(number: u8) -> ChunkDigest {
    ChunkDigest::of(&[number])
}

fn nodes() -> Vec<Node> {
    let slice = |start, length, content| Slice {
        start,
        length,
        content,
    };
    let chunk = |number, skip| SliceContent::Chunk {
        digest: digest(number),
        skip,
    };
    let slices = vec![
        slice(0, 4096, chunk(1, 0)),
        slice(4096, 512, chunk(2, 0)),
        slice(8192, 9000, chunk(1, 8192)),
        slice(70_000, 300_000, SliceContent::Unreadable),
    ];
    let mut children = no_children();
    children[0] = Some(digest(3));
    children[63] = Some(digest(4));
    let leaf = RegionMap::from_slices(slices).map(Node::Leaf);
    leaf.into_iter()
        .chain([Node::Inner { level: 1, children }])
        .collect()
}

/// Valid objects to start from: target, name and bytes.
///
/// # Errors
/// None, but for defects.
pub fn seeds() -> backstop_core::Result<Vec<(&'static str, String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, bytes| seeds.push((target, name.to_owned(), bytes));
    let header = |payload_length, plain_length, encoding| FrameHeader {
        payload_length,
        plain_length,
        content: Content::Chunk,
        encoding,
    };
    let raw = PlainFrame {
        digest: digest(0),
        header: header(5, 5, Encoding::Raw),
        payload: bytes::Bytes::from_static(b"hello"),
    };
    let mut whole = raw.header.encode().to_vec();
    whole.extend_from_slice(&raw.payload);
    add("frame", "right", whole);
    let mut sealed = Vec::new();
    frame::seal_into(&mut sealed, 48, &raw, &key())?;
    add("frame", "sealed", sealed);

    let entries = [
        TableEntry {
            digest: digest(1),
            offset: 48,
            header: header(100, 4096, Encoding::Zstd),
        },
        TableEntry {
            digest: digest(2),
            offset: 176,
            header: header(70, 70, Encoding::Raw),
        },
    ];
    let end = 48
        + entries
            .iter()
            .map(|e| e.header.frame_length() as u64)
            .sum::<u64>();
    let mut sealed = table::encode(&entries, end, &[0; table::HEADER_LENGTH], &key())?;
    sealed.truncate(sealed.len() - table::FOOTER_LENGTH);
    let plain = key().open(end, &[0; table::HEADER_LENGTH], &mut sealed, &"a table")?;
    add(
        "pack_table",
        "two",
        [&end.to_le_bytes()[..], plain].concat(),
    );

    for (number, node) in nodes().iter().enumerate() {
        add("map_node", &number.to_string(), node.encode());
    }
    let image = ImageMap {
        length: ByteCount(5 << 30),
        root: Some(digest(7)),
    };
    let document = Entry::Document {
        length: 300_000,
        chunks: vec![digest(8), digest(9)],
    };
    let entries = [
        ("disk".to_owned(), Entry::Image(image)),
        ("documents/label".to_owned(), document),
        (
            "empty".to_owned(),
            Entry::Image(ImageMap::hole(ByteCount(0))),
        ),
    ];
    add(
        "manifest",
        "three",
        Manifest {
            entries: entries.into(),
        }
        .encode(),
    );
    let location = Location {
        pack: 300,
        offset: 70_000,
        payload_length: 4000,
        plain_length: 65_536,
    };
    add("index_entry", "one", location.encode());

    let source = SourceName::new("web server")?;
    let replica = ReplicaEntry {
        source: source.clone(),
        state: ReplicaState::Consistent,
        head: Some(PointId::from_bytes([1; 16])),
    };
    add("catalog_record", "replica", record::encode(&replica)?);
    let unfinished = UnfinishedEntry {
        source,
        synchronization: SynchronizationId::from_bytes([2; 16]),
        snapshot: SnapshotId::from_bytes([3; 16]),
        base: None,
        kind: backstop_core::PointKind::Initial,
        verify: false,
        maps_lost: false,
        streams: vec![UnfinishedStream {
            name: StreamName::disk(),
            map: image,
            next_region: 17,
        }],
        bytes_added: 123_456,
        plain_bytes_added: 234_567,
    };
    add("catalog_record", "unfinished", record::encode(&unfinished)?);
    let pack = PackRecord {
        name: PackName::from_bytes([7; 24]),
        kind: PackKind::Map,
        bytes: 5000,
        table_bytes: 200,
        frames: 4,
        plain_bytes: 9000,
        payload_bytes: 4500,
    };
    add("catalog_record", "pack", record::encode(&pack)?);
    let condemned = CondemnedPack {
        at: backstop_core::Timestamp(1_700_000_000_000),
        readers: Some(vec!["readers/0011223344556677.json".to_owned()]),
    };
    add("catalog_record", "condemned", record::encode(&condemned)?);
    let counted = CountedSlots {
        ids: vec!["0011223344556677".to_owned()],
    };
    add("catalog_record", "slots", record::encode(&counted)?);
    add("catalog_record", "point", POINT.as_bytes().to_vec());
    add("catalog_record", "page", PAGE.as_bytes().to_vec());
    add("catalog_record", "summary", SUMMARY.as_bytes().to_vec());
    add("vault_header", "one", HEADER.as_bytes().to_vec());
    for (name, slot) in [
        ("open", OPEN_SLOT),
        ("raw", RAW_SLOT),
        ("passphrase", PASSPHRASE_SLOT),
    ] {
        add("key_slot", name, slot.as_bytes().to_vec());
    }
    Ok(seeds)
}

const POINT: &str = r#"{"format":0,"point":{"id":"01010101010101010101010101010101","source":"vm","time":1700000000000,"sequence":3,"kind":"express-full","consistency":"crash","snapshot_time":null,"base":null,"synchronization":"02020202020202020202020202020202","streams":[{"name":"disk","length":4096}],"counts":{"bytes_changed":1,"bytes_read":2,"bytes_sampled":1,"bytes_sent":3,"bytes_unreadable":0},"bytes_added":77,"sample":{"compared":1,"differed":0},"marks":{"pinned":true,"holds":["lawsuit"]},"provenance":{"host":"a"}},"manifest":"0303030303030303030303030303030303030303030303030303030303030303","epoch":7,"state":{"state":"consistent"},"group":{"id":"01010101010101010101010101010101","members":2}}"#;
const PAGE: &str = r#"{"format":0,"page":{"entries":[{"sequence":4,"event":"removed","points":["01010101010101010101010101010101"]},{"sequence":4,"event":"expired","point":"01010101010101010101010101010101","expiry":{"at":5,"until":6}},{"sequence":5,"event":"marked","point":"01010101010101010101010101010101","marks":{"pinned":true,"holds":["lawsuit"]}},{"sequence":6,"event":"state","source":"vm","state":{"state":"consistent"}},{"sequence":7,"event":"condemned","packs":["0000000000000001-00112233445566778899aabbccddeeff"]}]}}"#;
const SUMMARY: &str = r#"{"format":0,"page":{"summary":{"sequence":9,"part":0,"parts":1,"points":["01010101010101010101010101010101"],"marks":[],"states":[["vm",{"state":"pending"}]],"condemned":[]}}}"#;
const HEADER: &str = r#"{"magic":"backstop vault","format":0,"id":"00112233445566778899aabbccddeeff","created":1700000000000,"encrypted":true,"catalog":1,"check":"00112233445566778899aabbccddeeff"}"#;
const OPEN_SLOT: &str = r#"{"format":0,"id":"0011223344556677","check":"00112233445566778899aabbccddeeff","kind":"open","key":"0505050505050505050505050505050505050505050505050505050505050505"}"#;
const RAW_SLOT: &str = r#"{"format":0,"id":"0011223344556677","check":"00112233445566778899aabbccddeeff","kind":"raw","sealed":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000102030405060708090a0b0c0d0e0f"}"#;
const PASSPHRASE_SLOT: &str = r#"{"format":0,"id":"0011223344556677","check":"00112233445566778899aabbccddeeff","kind":"passphrase","salt":"00112233445566778899aabbccddeeff","memory_kib":32768,"passes":3,"lanes":1,"sealed":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f000102030405060708090a0b0c0d0e0f"}"#;

#[cfg(test)]
mod tests;
