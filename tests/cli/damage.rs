//! Damage costs its own range: it is named, and everything else comes back.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lab::{Lab, image, run};

/// Flips a byte in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_chunk_costs_its_own_range() {
    let lab = Lab::with_point();
    flip(&lab.packs("data")[0]);

    let mut restore = lab.command(["--json", "restore", "vm@latest", "--to", "back.img"]);
    let restore = run(&mut restore).expect(9);
    let restore = restore.says(&["back.img", "restored without"]);
    let report = restore.json();
    let missing = report["missing"].as_array().unwrap();
    assert!(!missing.is_empty(), "{report}");

    restore.restored(&image(1), &lab.read("back.img"));
    let bytes = report["bytes_missing"].as_u64().unwrap();
    // One chunk, though the image may use it twice.
    assert!((1..=2 << 18).contains(&bytes), "{report}");

    // People are told the same.
    let restore = lab
        .run(["restore", "vm@latest", "--to", "again.img"])
        .expect(9);
    for range in missing {
        let (at, length) = (range["offset"].to_string(), range["length"].to_string());
        let told = restore.out.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(&at) && words.next() == Some(&length)
        });
        assert!(told, "{range} in {restore:#?}");
    }
    assert!(lab.read("again.img") == lab.read("back.img"));
}

#[test]
fn a_missing_pack_costs_what_it_held() {
    let lab = Lab::with_point();
    let pack = lab.packs("data").remove(0);
    fs::remove_file(pack).unwrap();
    let mut restore = lab.command(["--json", "restore", "vm@latest", "--to", "back.img"]);
    let restore = run(&mut restore).expect(9);
    let restore = restore.says(&["restored without"]);
    restore.restored(&image(1), &lab.read("back.img"));
    lab.run(["points", "vm"]).expect(0);
}

#[test]
fn a_damaged_map_is_an_error_or_a_range() {
    let lab = Lab::with_point();
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    for pack in lab.packs("map") {
        let kept = fs::read(&pack).unwrap();
        flip(&pack);
        lab.image("back.img", b"what was there");
        let restore = ["restore", "vm@latest", "--to", "back.img", "--overwrite"];
        let restore = run(lab.command(["--json"]).args(restore));
        assert!(!restore.err.contains("panicked"), "{restore:#?}");
        let back = lab.read("back.img");
        match restore.code {
            Some(0 | 9) => restore.restored(&image(1), &back),
            Some(8) => {
                let said = restore.says(&["damaged"]);
                assert!(back == b"what was there", "{said:#?}");
            }
            _ => panic!("{restore:#?}"),
        }
        fs::write(&pack, kept).unwrap();
    }
    lab.run(["restore", "vm@latest", "--to", "back.img", "--overwrite"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
}

/// Two points that share almost all of their data.
fn with_two_points() -> (Lab, [Vec<u8>; 2]) {
    let lab = Lab::with_point();
    let (first, mut second) = (image(1), image(1));
    let last = second.iter().rposition(|byte| *byte != 0).unwrap();
    second[last] ^= 1;
    lab.image("vm.img", &second);
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    (lab, [first, second])
}

#[test]
fn a_verifying_check_heals_damaged_data_of_all_points() {
    let (lab, images) = with_two_points();
    let points = lab.json(["points", "vm"]);
    let pack = lab.packs("data").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0x5a);
    fs::write(&pack, bytes).unwrap();
    let restore = ["restore", "vm@latest", "--to", "back.img"];
    let told = lab.run(restore).expect(9);
    told.says(&["check vm --image", "--verify"]);

    let check = lab.json(["check", "vm", "--image", "vm.img", "--verify"]);
    assert!(check["bytes_changed"].as_u64().unwrap() > 0, "{check}");
    lab.run(["restore", "vm@latest", "--to", "back.img", "--overwrite"])
        .expect(0);
    assert!(lab.read("back.img") == images[1]);
    for (point, image) in points.as_array().unwrap().iter().zip(&images) {
        let id = point["id"].as_str().unwrap();
        lab.run(["restore", id, "--to", "back.img", "--overwrite"])
            .expect(0);
        assert!(lab.read("back.img") == *image, "{point}");
    }
}

/// Maps are read as the list grows, so damage may be met in the middle.
#[test]
fn a_list_that_ends_with_an_error_is_json_all_the_same() {
    let lab = Lab::with_vault();
    let mut content = vec![1; 40 << 20];
    lab.image("vm.img", &content);
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    let first = lab.json(["points", "vm"])[0]["id"].clone();
    // Every other page: each a range of its own, and no two regions alike.
    for (number, page) in content.chunks_mut(4096).enumerate().step_by(2) {
        page[..8].copy_from_slice(&number.to_be_bytes());
    }
    lab.image("vm.img", &content);
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    let diff = ["diff", first.as_str().unwrap(), "vm@latest"];
    assert!(lab.json(diff).as_array().unwrap().len() > 5000);

    let pack = lab.packs("map").remove(0);
    let kept = fs::read(&pack).unwrap();
    let mut in_the_middle = 0;
    for at in (0..kept.len()).step_by(kept.len() / 40) {
        let mut bytes = kept.clone();
        bytes[at] ^= 1;
        fs::write(&pack, bytes).unwrap();
        let ended = run(lab.command(["--json"]).args(diff));
        let told = ended.json();
        let error = match &told {
            Value::Array(ranges) => ranges.last().unwrap(),
            other => other,
        };
        if ended.code != Some(0) {
            let code = error["error"]["exit_code"].as_i64().unwrap();
            assert_eq!(ended.code.map(i64::from), Some(code), "{error}");
            in_the_middle += usize::from(told.is_array());
            ended.says(&["damaged"]);
        }
    }
    assert!(in_the_middle > 0, "no damage was met in the middle");
}

#[test]
fn a_check_heals_lost_maps() {
    let (lab, images) = with_two_points();
    for pack in lab.packs("map") {
        fs::remove_file(pack).unwrap();
    }
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(8);
    lab.run(["check", "vm", "--image", "vm.img"]).expect(0);
    lab.run(["restore", "vm@latest", "--to", "back.img", "--overwrite"])
        .expect(0);
    assert!(lab.read("back.img") == images[1]);
}

#[test]
fn verification_names_damage_and_the_next_synchronization_heals_it() {
    let lab = Lab::with_point();
    lab.run(["verify"]).expect(0);
    flip(&lab.packs("data")[0]);
    let beside = lab.run(["verify", "--beside"]).expect(8);
    assert!(beside.out.contains("damaged: vm"), "{beside:#?}");
    let sources = lab.json(["sources"]);
    assert_eq!(sources[0]["state"], "consistent", "a reader keeps nothing");

    let found = run(&mut lab.command(["--json", "verify"])).expect(8).json();
    assert_eq!(found["damaged"], 1, "{found}");
    let range = &found["ranges"][0];
    assert_eq!(
        (&range["source"], &range["stream"]),
        (&"vm".into(), &"disk".into())
    );
    assert!(range["extent"]["length"].as_u64().unwrap() > 0, "{found}");
    assert_eq!(lab.json(["sources"])[0]["state"], "inconsistent");

    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    assert_eq!(lab.json(["sources"])[0]["state"], "consistent");
    lab.run(["verify"]).expect(0);

    // A table costs nothing that is needed.
    let pack = lab.packs("map").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let end = bytes.len();
    bytes[end - 40] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let table = run(&mut lab.command(["--json", "verify"])).expect(8).json();
    assert_eq!(
        (&table["damaged"], &table["damaged_tables"]),
        (&0.into(), &1.into())
    );
    fs::remove_file(&pack).unwrap();
    let gone = run(&mut lab.command(["--json", "verify"])).expect(8).json();
    assert!(gone["damaged"].as_u64().unwrap() > 0, "{gone}");
    assert!(!gone["ranges"].as_array().unwrap().is_empty(), "{gone}");
}

#[test]
fn a_vault_without_its_catalog_says_so_and_is_rebuilt() {
    let lab = Lab::with_point();
    lab.image("vm.img", &image(2));
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    lab.run(["hold", "vm@latest", "--reason", "audit"])
        .expect(0);
    let before = lab.json(["points", "vm"]);
    // While it has an owner it is not touched.
    fs::remove_dir_all(lab.path("vault/db")).unwrap();
    for command in [["points", "vm"], ["verify", "--parts=1"]] {
        let told = lab.run(command).expect(8);
        assert!(told.err.contains("rebuild"), "{told:#?}");
    }
    let report = run(&mut lab.command(["--json", "rebuild"]))
        .expect(0)
        .json();
    assert_eq!(report["points"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(lab.json(["points", "vm"]), before);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(2));
    lab.run(["verify"]).expect(0);

    // A vault that is well may be rebuilt too.
    let told = lab.run(["rebuild"]).expect(0);
    assert!(told.out.contains("points that are back"), "{told:#?}");
    for pack in lab.packs("data") {
        fs::remove_file(pack).unwrap();
    }
    let told = lab.run(["rebuild"]).expect(8);
    assert!(told.out.contains("back, but damaged"), "{told:#?}");
    assert_eq!(lab.json(["sources"])[0]["state"], "inconsistent");
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    lab.run(["restore", "vm@latest", "--to", "again.img"])
        .expect(0);
    assert!(lab.read("again.img") == image(2));
}
