//! A second vault: replication to it, comparing, healing from it.

use std::fs;

use crate::lab::{Lab, image, run};

/// A lab with two points, and a second vault with a key of its own.
fn lab() -> Lab {
    let lab = Lab::with_point();
    lab.image("vm.img", &image(2));
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
    fs::write(lab.path("key2"), [8; 32]).unwrap();
    let mut init = lab.bare();
    init.args(["--vault", "second", "--key-file", "key2", "init"]);
    run(&mut init).expect(0);
    lab
}

const OTHER: [&str; 4] = ["--other", "second", "--other-key-file", "key2"];

fn with<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().copied().chain(OTHER).collect()
}

#[test]
fn a_second_vault_takes_the_points_and_gives_back_what_is_damaged() {
    let lab = lab();
    let dry = lab.json(with(&["replicate", "--dry-run"]));
    assert_eq!(dry["points"].as_array().unwrap().len(), 2, "{dry}");
    let done = lab.json(with(&["replicate", "vm"]));
    assert_eq!(done["points"], dry["points"]);
    assert!(done["bytes_sent"].as_u64().unwrap() > 0);
    let again = lab.run(with(&["replicate"])).expect(0);
    assert!(again.out.contains("held before"), "{again:#?}");
    let same = lab.json(with(&["compare"]));
    assert_eq!(same["same"], 2, "{same}");

    let mut restore = lab.bare();
    restore.args(["--vault", "second", "--key-file", "key2", "restore"]);
    restore.args(["vm@latest", "--to", "back.img"]);
    run(&mut restore).expect(0);
    assert!(lab.read("back.img") == image(2));

    for pack in lab.packs("data") {
        fs::remove_file(pack).unwrap();
    }
    lab.run(["verify", "--beside"]).expect(8);
    let healed = lab.json(with(&["heal"]));
    assert_eq!(healed["healed"]["left"], 0, "{healed}");
    lab.run(["restore", "vm@latest", "--to", "again.img"])
        .expect(0);
    assert!(lab.read("again.img") == image(2));
}

#[test]
fn what_can_t_be_the_second_vault_is_told() {
    let lab = lab();
    let wrong = ["replicate", "--other", "second", "--other-key-file", "key"];
    lab.run(wrong).expect(5);
    let nowhere = ["replicate", "--other", "nowhere"];
    let told = lab.run(nowhere).expect(4);
    assert!(told.err.contains("nowhere"), "{told:#?}");
    let itself = ["replicate", "--other", "vault", "--other-key-file", "key"];
    let told = lab.run(itself).expect(3);
    assert!(told.err.contains("itself"), "{told:#?}");
    let told = lab.run(with(&["replicate", "nobody"])).expect(4);
    assert!(told.err.contains("nobody"), "{told:#?}");
}
