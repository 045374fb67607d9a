//! The decoders of everything that comes from the store, made callable for
//! fuzzing: each takes any bytes, must neither panic nor take memory beyond
//! them, and what it accepts must survive a round trip.

use backstop_core::{
    ByteCount, ChunkDigest, Encoding, LockMode, PointId, Protection, RegionMap, ReplicaState,
    Slice, SliceContent, SnapshotId, SourceName, StreamName, SynchronizationId, VaultTime,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::approvals::ApprovalRequest;
use crate::header::VaultHeader;
use crate::keys::credential::Credential;
use crate::keys::ring::{Ring, RingId, VaultKeyId};
use crate::keys::slot::KeySlot;
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
    self, BadFrame, CondemnedPack, CountedSlots, Counters, FoldedEntry, PackHold, PackLock,
    PackRecord, PointRecord, ReplicaEntry, UnfinishedEntry, UnfinishedStream,
};
use crate::seal::{Base, SealingKey, Secret, sealing_key};

fn key() -> SealingKey {
    sealing_key(&[5; 32], &[b"fuzzing"]).unwrap_or_else(|_| unreachable!("a fixed key is a key"))
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
    record_round_trips::<BadFrame>(bytes);
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
    if let (Ok(header), Ok(base)) = (
        VaultHeader::decode(bytes),
        Base::new(Secret::from_bytes([5; 32])),
    ) {
        let _ = header.accepts(&base);
    }
}

/// A key slot, opened by what opens the seeds; passphrases are left out, since
/// stretching one takes long by design.
pub fn key_slot(bytes: &[u8]) {
    let Ok(slot) = KeySlot::decode(bytes) else {
        return;
    };
    for credential in [Credential::None, Credential::key([5; 32])] {
        if let Ok(Some(secret)) = slot.unlock_now(&credential) {
            let _ = slot.is_of(&secret.base);
            let _ = slot.open_ring(&secret);
        }
    }
}

/// A ring of vault keys, after its seal.
pub fn key_ring(bytes: &[u8]) {
    if let Ok(ring) = Ring::decode(bytes) {
        assert_eq!(&ring.encode()[..], bytes);
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
        at: backstop_core::Timestamp(1_700_000_000_000),
        bytes_added: 123_456,
        plain_bytes_added: 234_567,
    };
    add("catalog_record", "unfinished", record::encode(&unfinished)?);
    let pack = PackRecord {
        name: PackName::from_bytes([7; 24]),
        kind: PackKind::Map,
        key: VaultKeyId(7),
        bytes: 5000,
        table_bytes: 200,
        frames: 4,
        plain_bytes: 9000,
        payload_bytes: 4500,
        lock: Some(PackLock {
            mode: LockMode::Compliance,
            until: backstop_core::Timestamp(1_800_000_000_000),
        }),
        hold: PackHold::On,
    };
    add("catalog_record", "pack", record::encode(&pack)?);
    let condemned = CondemnedPack {
        at: backstop_core::Timestamp(1_700_000_000_000),
        readers: Some(vec!["readers/0011223344556677.json".to_owned()]),
    };
    add("catalog_record", "condemned", record::encode(&condemned)?);
    let bad = BadFrame {
        content: 1,
        digest: Some(ChunkDigest::of(b"bad")),
    };
    add("catalog_record", "bad_frame", record::encode(&bad)?);
    let counted = CountedSlots {
        ids: vec!["0011223344556677".to_owned()],
        ring: RingId(5),
    };
    add("catalog_record", "slots", record::encode(&counted)?);
    add("catalog_record", "point", POINT.as_bytes().to_vec());
    add("catalog_record", "page", PAGE.as_bytes().to_vec());
    add("catalog_record", "summary", SUMMARY.as_bytes().to_vec());
    add("vault_header", "one", HEADER.as_bytes().to_vec());
    add("key_ring", "one", Ring::of_byte(5).encode().to_vec());
    for (name, slot) in [
        ("open", OPEN_SLOT),
        ("raw", RAW_SLOT),
        ("passphrase", PASSPHRASE_SLOT),
    ] {
        add("key_slot", name, slot.as_bytes().to_vec());
    }
    Ok(seeds)
}

const POINT: &str = r#"{"format":0,"point":{"id":"01010101010101010101010101010101","source":"vm","time":1700000000000,"sequence":3,"kind":"express-full","consistency":"crash","snapshot_time":null,"base":null,"synchronization":"02020202020202020202020202020202","streams":[{"name":"disk","length":4096}],"counts":{"bytes_changed":1,"bytes_read":2,"bytes_sampled":1,"bytes_sent":3,"bytes_unreadable":0},"bytes_added":77,"sample":{"compared":1,"differed":0},"marks":{"pinned":true,"holds":["lawsuit"]},"provenance":{"host":"a"}},"manifest":"0303030303030303030303030303030303030303030303030303030303030303","epoch":7,"began":2,"protection":{"minimum-retention-seconds":864000,"undo-window-seconds":0},"state":{"state":"consistent"},"group":{"id":"01010101010101010101010101010101","members":2}}"#;
const PAGE: &str = r#"{"format":0,"epoch":7,"began":2,"page":{"entries":[{"sequence":4,"event":"removed","points":["01010101010101010101010101010101"]},{"sequence":4,"event":"expired","point":"01010101010101010101010101010101","expiry":{"at":5,"until":6}},{"sequence":5,"event":"marked","point":"01010101010101010101010101010101","marks":{"pinned":true,"holds":["lawsuit"]}},{"sequence":6,"event":"state","source":"vm","state":{"state":"consistent"}},{"sequence":7,"event":"condemned","packs":["0000000000000001-00112233445566778899aabbccddeeff"]},{"sequence":30,"event":"failed","epoch":7,"sequences":[4,5]},{"sequence":31,"event":"began","epoch":8,"began":31},{"sequence":4294967296,"event":"rebuilt","epoch":4294967297,"began":4294967296,"at":1700000000000,"older":[{"catalog":0,"seen":[[7,30],[8,32]],"at":1700000000000}],"accepted":[[7,40]],"refused":[[7,41]],"owners":[[8,31]],"failed":[[8,32]],"pages":[{"frame":"0303030303030303030303030303030303030303030303030303030303030303"}]}]}}"#;
const SUMMARY: &str = r#"{"format":0,"epoch":7,"began":2,"page":{"summary":{"sequence":9,"part":0,"parts":1,"points":["01010101010101010101010101010101"],"marks":[],"states":[["vm",{"state":"pending"}]],"condemned":[],"past":{"began":[[8,31]],"failed":[[7,4]]}}}}"#;
const HEADER: &str = r#"{"magic":"backstop vault","format":0,"id":"00112233445566778899aabbccddeeff","created":1700000000000,"encrypted":true,"catalog":1,"check":"00112233445566778899aabbccddeeff"}"#;
const OPEN_SLOT: &str = r#"{"format":0,"id":"edf5fa215f809bfa","ring_id":"0000000000000005","public":"2b34e64446874e7355238e7152639f59222f5dcd7d7e2608faafd198e8d08a4a","ring":"16c2d2f4ef3bb5e4c3821d75a475e5ed6a7afb8aa5c15b4742e1381437d4e40cbd04129bf0990804bdf30d81125b45fddfcc046783c5ea9355f6072d5b755e09df9b17181544369999e721cc3582b14468466f1ce8a4a37e76f6bd96eec2cb2f479e0778a814","check":"933ed02c20520bd46902fd54e52c615f","kind":"open","plain":"0505050505050505050505050505050505050505050505050505050505050505cbe56297eb4a6b740ed6aff5abba16c7c859ab4a559af7b3c028e096c4ad9e96"}"#;
const RAW_SLOT: &str = r#"{"format":0,"id":"fee95132066f9e59","ring_id":"0000000000000005","public":"74f15b012d4affc5372178cf8a8ae97e51b9f216f44ce626f5a74d8c82950474","ring":"e95ab36eb1ee85197ab27e16027730ab16504226aa0bc9d720ff8dab5af1f2327081355ad15f0004627265e524cca2239ccc12b75b56eca6de9808c304aa31120771c3cb9a470198117d5ab773ff61c156d933ed80a151a8f0460f2a02980f474d260ca96eaa","check":"f3851f2729678b27a62662723590692e","kind":"raw","sealed":"eb4ac530cb32b5db96ad1973cde1255e117d8720e4ac6cdea59408ed6709ea39dc5454a62c100686c82f48733575f3e65bec0dd850392090a72b635f0b6a84cec8c153ef9dd6c67bad2311b4d9aa6119"}"#;
const PASSPHRASE_SLOT: &str = r#"{"format":0,"id":"ff7bfc1c403543be","ring_id":"0000000000000005","public":"21ef17b0988c86a43e3dc596d1edf8ff102a630668a10cd8081c9c5c1de5a060","ring":"f2e1e412335063b5dbab4be2e2b1b4168f163bc58a82faed106bad528892de0ea56518a9181c97cf17128fab8be9f99bc7740b3dd6c13b3b86f29fb65178f877056113e6b2d6cc3a3f47b9dd149bc0c5e6df511086fc280bfc50f3721b15a609dfdb22ebc780","check":"b76b6f1232b1cbf881ca9b23a74c01ab","kind":"passphrase","salt":"cd6f3795bec1084ac8149a7e141b928d","memory_kib":32768,"passes":3,"lanes":1,"sealed":"748cbcc2ea60cabfa49ed3eca058e9f63dfa7e4aa475d8eba6d860c6e80c49c5d4587dc84bd4459b12d81dc177d0ee614f5e47a4dd0a361551f61db46758c394ee2df0a90a1414cbf45d55a03ea14dd5"}"#;

#[cfg(test)]
mod tests;
