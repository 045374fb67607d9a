//! The kept seeds in `fuzz/seeds` are what the generator makes, and each is
//! accepted; `BACKSTOP_WRITE_SEEDS=1` writes them anew.

use std::path::Path;

use super::*;
use crate::keys::slot::SlotSecret;

fn run(target: &str, bytes: &[u8]) {
    match target {
        "frame" => frame(bytes),
        "pack_table" => pack_table(bytes),
        "map_node" => map_node(bytes),
        "manifest" => manifest(bytes),
        "index_entry" => index_entry(bytes),
        "catalog_record" => catalog_record(bytes),
        "vault_header" => vault_header(bytes),
        "key_slot" => key_slot(bytes),
        "key_ring" => key_ring(bytes),
        _ => panic!("there is no target {target}"),
    }
}

#[test]
fn seeds_are_kept_and_every_cut_of_them_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    for (target, name, bytes) in seeds().unwrap() {
        let path = folder.join(target).join(name);
        if std::env::var_os("BACKSTOP_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
        for end in 0..=bytes.len() {
            run(target, &bytes[..end]);
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            run(target, &bad);
        }
    }
}

#[test]
fn seeds_are_valid() {
    for (target, name, bytes) in seeds().unwrap() {
        let valid = match target {
            "frame" if name == "sealed" => {
                frame::open(&mut bytes.clone(), 48, &key(), &"a pack").is_ok()
            }
            "frame" => FrameHeader::decode(&bytes[..HEADER_LENGTH]).is_ok(),
            "pack_table" => {
                let (end, plain) = bytes.split_first_chunk().unwrap();
                table::decode_plain(plain, u64::from_le_bytes(*end)).is_ok()
            }
            "map_node" => Node::decode(&bytes).is_ok(),
            "manifest" => Manifest::decode(&bytes).is_ok(),
            "index_entry" => Location::decode(&bytes).is_ok(),
            "catalog_record" => match name.as_str() {
                "replica" => record::decode::<ReplicaEntry>("", &bytes).is_ok(),
                "bad_frame" => record::decode::<BadFrame>("", &bytes).is_ok(),
                "condemned" => record::decode::<CondemnedPack>("", &bytes).is_ok(),
                "unfinished" => record::decode::<UnfinishedEntry>("", &bytes).is_ok(),
                "slots" => record::decode::<CountedSlots>("", &bytes).is_ok(),
                "pack" => record::decode::<PackRecord>("", &bytes).is_ok(),
                "page" | "summary" => record::decode::<PageRecord>("", &bytes).is_ok(),
                _ => record::decode::<PointRecord>("", &bytes).is_ok(),
            },
            "vault_header" => VaultHeader::decode(&bytes).is_ok(),
            "key_ring" => Ring::decode(&bytes).is_ok(),
            // The slots that open do so with their ring.
            _ => KeySlot::decode(&bytes).is_ok_and(|slot| {
                let opened = [Credential::None, Credential::key([5; 32])]
                    .into_iter()
                    .find_map(|credential| slot.unlock_now(&credential).unwrap());
                let is_whole = |secret: SlotSecret| {
                    slot.is_of(&secret.base) && slot.open_ring(&secret).is_ok()
                };
                name == "passphrase" || opened.is_some_and(is_whole)
            }),
        };
        assert!(valid, "{target}/{name}");
    }
}
