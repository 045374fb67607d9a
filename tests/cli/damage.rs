//! Damage costs its own range: it is named, and everything else comes back.

use std::fs;
use std::path::Path;

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

    let (expected, back) = (image(1), lab.read("back.img"));
    assert_eq!(back.len(), expected.len());
    let mut wanted = expected;
    let mut bytes = 0;
    for range in missing {
        let number = |field: &str| usize::try_from(range[field].as_u64().unwrap()).unwrap();
        let (at, length) = (number("offset"), number("length"));
        assert!(range["error"].as_str().unwrap().len() > 10, "{range}");
        wanted[at..at + length].fill(0);
        bytes += length;
    }
    assert!(
        back == wanted,
        "all but the missing ranges is there, and they are zeros"
    );
    assert_eq!(report["bytes_missing"], bytes as u64);
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
    assert!(lab.read("again.img") == wanted);
}

#[test]
fn a_missing_pack_costs_what_it_held() {
    let lab = Lab::with_point();
    let pack = lab.packs("data").remove(0);
    fs::remove_file(pack).unwrap();
    let restore = lab
        .run(["restore", "vm@latest", "--to", "back.img"])
        .expect(9);
    restore.says(&["restored without"]);
    assert_eq!(lab.read("back.img").len(), image(1).len());
    lab.run(["points", "vm"]).expect(0);
}

#[test]
fn a_damaged_map_is_an_error_or_a_range() {
    let lab = Lab::with_point();
    for pack in lab.packs("map") {
        let kept = fs::read(&pack).unwrap();
        flip(&pack);
        let restore = lab.run(["restore", "vm@latest", "--to", "back.img", "--overwrite"]);
        assert!(matches!(restore.code, Some(0 | 8 | 9)), "{restore:#?}");
        assert!(!restore.err.contains("panicked"), "{restore:#?}");
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
