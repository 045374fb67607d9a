//! Packs of a newer format, and what stands in packs.

use super::*;

/// Everything after its header is of a format that nobody here knows.
fn newer_pack(bytes: &mut [u8]) {
    bytes[8] = 1;
    for byte in &mut bytes[48..] {
        *byte ^= 0x5a;
    }
}

#[tokio::test]
async fn a_newer_pack_is_refused() {
    for (folder, is_data) in [(".data", true), (".map", false)] {
        let (lab, point) = made().await;
        lab.change(folder, |bytes| newer_pack(bytes)).await;
        let before = lab.objects().await;
        let vault = lab.builder().open().await.unwrap();
        let what = "pack 0000000000000001-";
        let image = vault.open(point, &StreamName::disk()).await;
        match image {
            Ok(image) if is_data => {
                let all = Extent::new(ByteOffset(0), ByteCount(5000)).unwrap();
                let read = image.read(all.offset(), all.length()).await;
                refused(what, read);
            }
            image => refused(what, image.map(drop)),
        }
        let options = VerifyOptions::default();
        refused(what, vault.verify(&options, &NoMonitor).await);
        let options = CollectOptions::default();
        refused(what, vault.collect(&options, &NoMonitor).await);
        let replica = vault.replica(&begin(1, None).source).await.unwrap();
        assert_eq!(replica.unwrap().state, ReplicaState::Consistent);
        let digest = ChunkDigest::of(&[1; 5000]);
        assert!(!vault.vault.index.is_bad(Content::Chunk, &digest));
        vault.close().await.unwrap();
        let options = RebuildOptions::default();
        let rebuilt = lab.builder().rebuild(&options, &NoMonitor).await;
        refused(what, rebuilt);
        let after = lab.objects().await;
        for (path, bytes) in before {
            if path.as_ref().contains("/packs/") || path.as_ref().ends_with("vault.json") {
                assert_eq!(after.get(&path), Some(&bytes), "{path}");
            }
        }
    }
}

/// A header that one flipped bit makes look newer costs nothing.
#[tokio::test]
async fn a_damaged_header_is_not_taken_for_a_newer_pack() {
    let (lab, point) = made().await;
    lab.change("/packs/", |bytes| bytes[8] ^= 0x40).await;
    let options = RebuildOptions::default();
    let (vault, report) = lab.builder().rebuild(&options, &NoMonitor).await.unwrap();
    assert_eq!(report.points.len(), 1);
    let image = vault.open(point, &StreamName::disk()).await.unwrap();
    let read = image.read(ByteOffset(0), ByteCount(5000)).await.unwrap();
    assert_eq!(read, vec![1; 5000]);
    vault.close().await.unwrap();
}

#[tokio::test]
async fn what_stands_in_packs_is_refused_if_it_is_newer() {
    is_of_newer("a node", &Node::decode(&[3, 9, 9]).unwrap_err());
    is_of_newer("a manifest", &Manifest::decode(&[1, 9, 9]).unwrap_err());
    let newer = br#"{"format":1,"surprise":[]}"#;
    let point = record::decode::<record::PointRecord>("a point's record in a pack", newer);
    is_of_newer("a point's record", &point.unwrap_err());
    let page = record::decode::<PageRecord>("a page of the ledger", newer);
    is_of_newer("a page of the ledger", &page.unwrap_err());

    // Read from a pack, it is no damage of it.
    let (lab, _) = made().await;
    let vault = lab.builder().open().await.unwrap();
    let inner = &vault.vault;
    let plain = vec![3, 9, 9];
    let digest = ChunkDigest::of(&plain);
    let frame = raw_frame(Content::Node, plain).unwrap();
    let writer = inner.writer().unwrap();
    writer.append(PackKind::Map, vec![frame], ()).await.unwrap();
    let node = crate::map::tree::NodeSource::get(&*inner.nodes, &digest).await;
    refused("a node of an image map", node);
    assert!(!inner.index.is_bad(Content::Node, &digest));
    vault.close().await.unwrap();
}
