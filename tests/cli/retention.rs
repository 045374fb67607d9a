//! Expiry by policy, what keeps a point against it, and the space it gives back.

use serde_json::Value;

use crate::lab::{Lab, change, image};

/// A vault with a source of five points; gives their ids, oldest first.
fn five_points() -> (Lab, Vec<String>) {
    let lab = Lab::with_vault();
    let mut content = image(1);
    let mut ids = Vec::new();
    for day in 0..5 {
        lab.image("vm.img", &content);
        let point = lab.json(["protect", "vm", "--image", "vm.img"]);
        ids.push(point["id"].as_str().unwrap().to_owned());
        change(&mut content, 50 + day, 3);
    }
    (lab, ids)
}

fn ids(points: &Value) -> Vec<&str> {
    points
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["id"].as_str().unwrap())
        .collect()
}

#[test]
fn points_expire_by_the_numbers_that_are_given() {
    let (lab, points) = five_points();
    let keep_two = ["expire", "vm", "--keep-last", "2", "--min-age", "0s"];

    // Everything is younger than a day.
    let report = lab.json(["expire", "vm", "--keep-last", "2"]);
    assert_eq!(
        report[0]["expired"].as_array().unwrap().len(),
        0,
        "{report}"
    );

    let preview = lab.json(keep_two.iter().chain(&["--dry-run"]).copied());
    assert_eq!(preview[0]["dry_run"], true);
    assert_eq!(
        ids(&lab.json(["points", "vm"])).len(),
        5,
        "a dry run removes nothing"
    );

    lab.json(["pin", &points[0]]);
    let held = lab.json(["hold", &points[1], "--reason", "lawsuit"]);
    assert_eq!(held["marks"]["holds"][0], "lawsuit");

    let report = lab.json(keep_two);
    assert_eq!(report[0]["source"], "vm");
    assert_eq!(
        report[0]["expired"].as_array().unwrap(),
        &[points[2].as_str()]
    );
    let kept = &report[0]["kept"];
    assert_eq!(kept[0]["reasons"][0], "pinned");
    assert_eq!(kept[1]["reasons"][0], "held");
    assert!(
        kept[3]["reasons"]
            .as_array()
            .unwrap()
            .contains(&"head".into()),
        "{report}"
    );
    let left = [&points[0], &points[1], &points[3], &points[4]];
    assert_eq!(ids(&lab.json(["points", "vm"])), left);

    lab.json(["unpin", &points[0]]);
    lab.json(["release", &points[1], "--reason", "lawsuit"]);
    lab.json(["expire", "--all", "--keep-last", "1", "--min-age", "0s"]);
    assert_eq!(ids(&lab.json(["points", "vm"])), [&points[4]]);
    lab.run(["restore", &points[0], "--to", "gone.img"])
        .expect(4);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == lab.read("vm.img"));
}

#[test]
fn the_newest_never_expires() {
    let lab = Lab::with_point();
    lab.json(["expire", "vm", "--keep-last", "0", "--min-age", "0s"]);
    assert_eq!(lab.json(["points", "vm"]).as_array().unwrap().len(), 1);
}

#[test]
fn the_space_of_expired_points_comes_back() {
    let lab = Lab::with_vault();
    for seed in 1..=3 {
        lab.image("vm.img", &image(seed));
        lab.json(["protect", "vm", "--image", "vm.img"]);
    }
    let stored = || lab.json(["stats"])["stored_bytes"].as_u64().unwrap();
    let before = stored();
    let idle = lab.json(["collect"]);
    assert_eq!(idle["dropped"]["count"], 0, "{idle}");
    assert_eq!(idle["roots"], 3, "{idle}");
    lab.json(["expire", "vm", "--keep-last", "1", "--min-age", "0s"]);

    // The expiry itself stands in a pack too, for a rebuild.
    let expired = stored();
    assert!((before..before + 4096).contains(&expired), "{expired}");
    let told = lab.json(["collect", "--dry-run"]);
    assert_eq!(told["dry_run"], true, "{told}");
    assert!(told["dropped"]["count"].as_u64().unwrap() > 0, "{told}");
    assert_eq!(stored(), expired, "a dry run gives nothing back");

    let done = lab.json(["collect"]);
    assert_eq!(done["dropped"], told["dropped"], "{done}");
    assert_eq!(done["waiting"]["count"], 0, "{done}");
    assert!(stored() * 10 < before * 4, "{} of {before}", stored());
    assert_eq!(lab.json(["collect"])["deleted"]["count"], 0);
    let table = lab.run(["collect"]).expect(0).out;
    assert!(table.contains("looked at") && table.contains("deleted"));
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(3));

    let folded = lab.json(["fold", "--all"]);
    assert_eq!(folded[0]["source"], "vm", "{folded}");
    assert_eq!(folded[0]["folded"], 0, "nothing is in pieces: {folded}");
    lab.run(["fold"]).expect(2);
    lab.run(["fold", "nobody"]).expect(4);

    let whole = lab.json(["verify"]);
    assert_eq!(whole["packs"], whole["all"], "{whole}");
    assert_eq!(
        (&whole["damaged"], &whole["is_partial"]),
        (&0.into(), &false.into())
    );
    let part = lab.json(["verify", "--parts", "2"]);
    assert!(part["packs"]["count"].as_u64().unwrap() >= 1, "{part}");
    lab.run(["verify", "--beside"]).expect(0);
    lab.run(["verify", "--parts", "0"]).expect(2);

    lab.run(["collect", "--most-dead", "101"]).expect(2);
    lab.run(["--takeover", "collect"]).expect(0);
}
