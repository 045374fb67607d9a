//! Expiry by policy, and what keeps a point against it.

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
