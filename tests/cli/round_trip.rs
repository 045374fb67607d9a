//! Protecting, protecting again, and bringing both points back.

use crate::lab::{Lab, change, image};

#[test]
fn two_points_come_back_as_they_were() {
    let lab = Lab::with_vault();
    let day0 = image(1);
    lab.image("day0.img", &day0);
    let first = lab.json(["protect", "vm", "--image", "day0.img"]);
    assert_eq!(first["kind"], "initial");

    let mut day1 = day0.clone();
    let extents = change(&mut day1, 2, 40);
    lab.image("day1.img", &day1);
    lab.write("extents", &extents);
    let second = lab.json([
        "protect",
        "vm",
        "--image",
        "day1.img",
        "--extents",
        "extents",
    ]);
    assert_eq!(second["kind"], "express-full");
    assert_eq!(second["base"], first["id"]);
    let number = |field: &str| second[field].as_u64().unwrap();
    let changed = number("bytes_changed");
    assert!(changed > 0 && changed <= 40 * 4096, "{second}");
    // The changed pages and a sample of four slices of at most 256 KiB.
    assert!(number("bytes_read") <= changed + (4 << 18), "{second}");
    assert!(number("bytes_added") <= 2 * changed, "{second}");

    let (first, second) = (
        first["id"].as_str().unwrap(),
        second["id"].as_str().unwrap(),
    );
    lab.run(["restore", &first[..8], "--to", "back0.img"])
        .expect(0);
    lab.run(["restore", "vm@latest", "--to", "back1.img"])
        .expect(0);
    assert!(lab.read("back0.img") == day0, "the first point");
    assert!(lab.read("back1.img") == day1, "the second point");

    // What differs is what was changed.
    let told = lab.run(["diff", first, second]).expect(0).out;
    let mut told: Vec<&str> = told.lines().collect();
    let mut changed: Vec<&str> = extents.lines().collect();
    for lines in [&mut told, &mut changed] {
        lines.sort_unstable();
        lines.dedup();
    }
    let pages = |lines: &[&str]| -> Vec<u64> {
        let mut pages = Vec::new();
        for line in lines {
            let (at, length) = line.split_once(' ').unwrap();
            let (at, length): (u64, u64) = (at.parse().unwrap(), length.parse().unwrap());
            pages.extend((at..at + length).step_by(4096));
        }
        pages.sort_unstable();
        pages
    };
    assert_eq!(pages(&told), pages(&changed));
    assert_eq!(lab.run(["diff", first, first]).expect(0).out, "");

    // The lines are an extents file: back to the first day by what differs.
    lab.write("back", told.join("\n"));
    lab.run(["protect", "vm", "--image", "day0.img", "--extents", "back"])
        .expect(0);
    lab.run(["restore", "vm@latest", "--to", "back2.img"])
        .expect(0);
    assert!(lab.read("back2.img") == day0, "the third point");
}

#[cfg(unix)]
#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::with_point();
    let allocated = |name: &str| std::fs::metadata(lab.path(name)).unwrap().blocks() * 512;
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert_eq!(lab.read("back.img"), lab.read("vm.img"));
    assert!(allocated("back.img") <= allocated("vm.img") + (64 << 10));
}

#[test]
fn a_check_sends_only_what_differs() {
    let lab = Lab::with_point();
    let mut content = image(1);
    change(&mut content, 3, 5);
    lab.image("now.img", &content);
    let point = lab.json(["check", "vm", "--image", "now.img"]);
    assert_eq!(point["kind"], "consistency-check");
    // Differences are found in blocks counted from a slice's start, so that a
    // page may lie in two of them.
    assert!(
        point["bytes_changed"].as_u64().unwrap() <= 2 * 5 * 4096,
        "{point}"
    );
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == content);
}

#[test]
fn extents_without_a_point_protect_everything() {
    let lab = Lab::with_vault();
    lab.image("vm.img", &image(1));
    lab.write("extents", "0 4096\n");
    let run = lab
        .run(["protect", "vm", "--image", "vm.img", "--extents", "extents"])
        .expect(0);
    run.says(&["vm", "no recovery point yet"]);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
}

/// Changed extents that refer to another point than the newest can't be
/// trusted alone.
#[test]
fn another_base_becomes_a_check() {
    let lab = Lab::with_point();
    let first = lab.json(["points", "vm"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut content = image(1);
    change(&mut content, 4, 3);
    lab.image("now.img", &content);
    lab.run(["protect", "vm", "--image", "now.img"]).expect(0);
    lab.write("nothing", "# nothing changed since the first\n");
    let arguments = [
        "protect",
        "vm",
        "--image",
        "vm.img",
        "--extents",
        "nothing",
        "--base",
        &first,
    ];
    let point = lab.json(arguments);
    assert_eq!(point["kind"], "consistency-check");
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
}

/// Extents that leave out what changed are found by the sample.
#[test]
fn lying_extents_are_found() {
    let lab = Lab::with_point();
    let other = image(9);
    lab.image("other.img", &other);
    lab.write("nothing", "");
    let arguments = [
        "protect",
        "vm",
        "--image",
        "other.img",
        "--extents",
        "nothing",
        "--sample",
        "50",
    ];
    let point = lab.json(arguments);
    assert_eq!(point["kind"], "consistency-check", "{point}");
    assert!(point["sample"]["differed"].as_u64().unwrap() > 0, "{point}");
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == other);
}

#[test]
fn images_may_shrink_and_grow() {
    let lab = Lab::with_point();
    let mut content = image(1);
    for length in [5 << 20, (12 << 20) + 5] {
        content.resize(length, 0xaa);
        lab.image("now.img", &content);
        lab.write("extents", "0 4096\n");
        let point = lab.json([
            "protect",
            "vm",
            "--image",
            "now.img",
            "--extents",
            "extents",
        ]);
        assert_eq!(point["kind"], "consistency-check", "{point}");
        assert_eq!(point["length"], length as u64);
        lab.run(["restore", "vm@latest", "--overwrite", "--to", "back.img"])
            .expect(0);
        assert!(lab.read("back.img") == content, "{length} bytes");
    }
}

#[test]
fn a_restore_overwrites_only_when_told() {
    let lab = Lab::with_point();
    lab.write("there", "precious");
    let run = lab
        .run(["restore", "vm@latest", "--to", "there"])
        .expect(13);
    run.says(&["there", "exists"]);
    assert_eq!(lab.read("there"), b"precious");
    lab.run([
        "restore",
        "vm@latest",
        "--to",
        "there",
        "--overwrite",
        "--no-sync",
    ])
    .expect(0);
    assert!(lab.read("there") == image(1));
}

#[test]
fn vaults_open_by_passphrase_and_without() {
    for (variable, encrypted) in [(None, false), (Some("correct horse"), true)] {
        let lab = Lab::empty();
        lab.image("vm.img", &image(1));
        let command = |arguments: &[&str]| {
            let mut command = lab.bare();
            command
                .env("BACKSTOP_VAULT", lab.path("vault"))
                .arg("--json")
                .args(arguments);
            if let Some(passphrase) = variable {
                command.env("BACKSTOP_PASSPHRASE", passphrase);
            }
            crate::lab::run(&mut command).expect(0).json()
        };
        assert_eq!(command(&["init"])["encrypted"], encrypted);
        command(&["protect", "vm", "--image", "vm.img"]);
        command(&["restore", "vm@latest", "--to", "back.img"]);
        assert!(lab.read("back.img") == image(1));
    }
    // The file goes before the environment, and only its first line counts.
    let lab = Lab::empty();
    lab.write("passphrase", "correct horse\n");
    let run = |arguments: &[&str]| {
        let mut command = lab.bare();
        let vault = format!("file://{}", lab.path("vault").display());
        command
            .args(["--vault", &vault, "--passphrase-file", "passphrase"])
            .args(arguments);
        crate::lab::run(command.env("BACKSTOP_PASSPHRASE", "another")).expect(0)
    };
    run(&["init"]);
    run(&["sources"]);
}

#[test]
fn a_key_file_may_hold_digits() {
    let lab = Lab::with_vault();
    lab.write("key", format!("{}\n", "07".repeat(32)));
    lab.run(["sources"]).expect(0);
}
