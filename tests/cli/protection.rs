//! What keeps points from being removed, what brings them back, and what takes
//! two operators.

use serde_json::Value;

#[cfg(feature = "aws")]
use crate::lab::run;
use crate::lab::{Lab, change, image};
#[cfg(feature = "aws")]
use crate::rights::server::{put, s3};

/// Protects `vm` so many times; gives the points' ids, oldest first.
fn points(lab: &Lab, count: u64) -> Vec<String> {
    let mut content = image(1);
    let mut ids = Vec::new();
    for nth in 0..count {
        lab.image("vm.img", &content);
        let point = lab.json(["protect", "vm", "--image", "vm.img"]);
        ids.push(point["id"].as_str().unwrap().to_owned());
        change(&mut content, 70 + nth, 3);
    }
    ids
}

fn ids(points: &Value) -> Vec<&str> {
    let points = points.as_array().unwrap().iter();
    points.map(|point| point["id"].as_str().unwrap()).collect()
}

const KEEP_ONE: [&str; 6] = ["expire", "vm", "--keep-last", "1", "--min-age", "0s"];

#[test]
fn expired_points_come_back() {
    let lab = Lab::empty();
    lab.run(["init", "--undo", "7"]).expect(0);
    let points = points(&lab, 3);
    let expired = lab.run(KEEP_ONE).expect(0);
    assert!(expired.out.contains("`undo` brings it back"), "{expired:?}");
    assert_eq!(ids(&lab.json(["points", "vm"])), [&points[2]]);
    let waiting = lab.json(["points", "vm", "--expired"]);
    assert_eq!(ids(&waiting), [&points[0], &points[1]]);
    assert!(waiting[0]["until"].as_str() > waiting[0]["expired"].as_str());
    lab.run(["restore", &points[0], "--to", "gone.img"])
        .expect(4)
        .says(&["has expired", "undo"]);
    assert_eq!(lab.json(["stats"])["expired"]["count"], 2);
    let collected = lab.json(["collect"]);
    assert_eq!(
        (&collected["roots"], &collected["purged"]),
        (&3.into(), &0.into())
    );

    let back = lab.json(["undo", &points[0][..12]]);
    assert_eq!(ids(&back), [&points[0]]);
    assert_eq!(ids(&lab.json(["points", "vm"])), [&points[0], &points[2]]);
    lab.run(["restore", &points[0], "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
    lab.run(["undo", &"0".repeat(32)])
        .expect(4)
        .says(&["removed for good"]);
    lab.run(["undo", "0000"]).expect(4);
    lab.run(["undo", "zzzz"]).expect(3);
    lab.run(["undo"]).expect(2);
}

#[test]
fn minimum_retention_is_for_good() {
    let lab = Lab::with_vault();
    let points = points(&lab, 3);
    lab.run(["protection", "set"]).expect(2);
    let set = ["protection", "set", "--minimum-retention", "30"];
    let shown = lab.json(set);
    assert_eq!(shown["minimum_retention_seconds"], 30 * 86_400);
    for days in ["29", "0"] {
        lab.run(["protection", "set", "--minimum-retention", days])
            .expect(14)
            .says(&["30 days", "can't be shortened"]);
    }
    lab.run(["protection", "set", "--minimum-retention", "4000"])
        .expect(2);
    // A policy that would let them go is planned round it.
    let report = lab.json(KEEP_ONE);
    assert_eq!(
        report[0]["expired"].as_array().unwrap().len(),
        0,
        "{report}"
    );
    let kept = &report[0]["kept"][0];
    assert_eq!(kept["reasons"][0], "minimum-retention");
    assert!(kept["until"].as_str().unwrap().starts_with("20"), "{kept}");
    assert_eq!(ids(&lab.json(["points", "vm"])), points);
    let table = lab.run(["protection", "show"]).expect(0);
    assert!(
        table.out.contains("30days") && table.out.contains("nobody"),
        "{table:?}"
    );
}

#[test]
fn two_operators_lift_a_hold() {
    let lab = Lab::with_vault();
    let points = points(&lab, 2);
    lab.json(["hold", &points[0], "--reason", "lawsuit"]);
    for name in ["anna", "ben"] {
        let made = lab.json(["operator", "key", "--to", name]);
        lab.run(["operator", "add", name, made["key"].as_str().unwrap()])
            .expect(0);
    }
    lab.run(["operator", "key", "--to", "ben"]).expect(13);
    lab.run(["operator", "add", "eve", "12"]).expect(2);
    lab.run(["protection", "set", "--operators", "3"])
        .expect(14)
        .says(&["register"]);
    let shown = lab.json(["protection", "set", "--operators", "2", "--undo", "9"]);
    assert_eq!(
        (&shown["operators_needed"], &shown["operators"]),
        (&2.into(), &2.into())
    );

    let release = ["release", &points[0], "--reason", "lawsuit"];
    lab.run(release)
        .expect(14)
        .says(&["lawsuit", "approval of 2"]);
    lab.run(["protection", "set", "--undo", "8"]).expect(14);
    lab.run(["operator", "remove", "ben"]).expect(14);
    let of = |name: &'static str| ["--as", name, "--operator-key", name];
    let ask = ["approval", "request"].into_iter().chain(of("anna"));
    let ask = ask.chain(["lift-hold", &points[0], "--reason", "lawsuit"]);
    let request = lab.json(ask.collect::<Vec<_>>());
    let id = request["id"].as_str().unwrap().to_owned();
    let waiting = lab.json(["approval", "list"]);
    assert_eq!(waiting[0]["approved_by"][0], "anna");
    assert_eq!(waiting[0]["action"]["what"], "lift-marks");
    let confirm = |signer: [&'static str; 4]| {
        let confirm = ["approval", "confirm", &id].map(str::to_owned).into_iter();
        lab.run(confirm.chain(signer.map(str::to_owned)))
    };
    confirm(of("anna"))
        .expect(14)
        .says(&["approved", "already"]);
    confirm(["--as", "ben", "--operator-key", "anna"]).expect(5);
    confirm(["--as", "eve", "--operator-key", "ben"]).expect(4);
    assert_eq!(
        lab.json(["points", "vm"])[0]["marks"]["holds"][0],
        "lawsuit"
    );
    confirm(of("ben")).expect(0);
    assert_eq!(
        lab.json(["points", "vm"])[0]["marks"]["holds"],
        serde_json::json!([])
    );
    confirm(of("ben")).expect(4).says(&["no request"]);
}

#[test]
fn a_store_that_locks_nothing_says_so() {
    let lab = Lab::with_vault();
    let set = ["protection", "set", "--minimum-retention", "14"];
    let asked = [&set[..], &["--object-lock", "compliance"]].concat();
    lab.run(asked).expect(12).says(&["locks no objects"]);
    let shown = lab.json(["protection", "show"]);
    assert_eq!(shown.get("object_lock"), None);
    assert_eq!(shown["minimum_retention_seconds"], 0);
    lab.run(["protection", "set", "--object-lock", "firmly"])
        .expect(2);
}

/// By a URL, as a user names a bucket: nothing else tells what locks objects.
#[cfg(feature = "aws")]
#[test]
fn a_bucket_locks_and_holds_what_points_need() {
    let Some(peer) = s3() else {
        return;
    };
    let enabled = "x-amz-bucket-object-lock-enabled: true\r\n";
    let made = put(&peer.address, "/locks", enabled);
    assert!(made.contains(" 200 "), "{made}");
    let lab = Lab::empty();
    let on_s3 = |arguments: &[&str]| {
        let mut command = lab.bare();
        command
            .env("AWS_ENDPOINT", format!("http://{}", peer.address))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .args(["--vault", "s3://locks/vault", "--json"])
            .args(arguments);
        run(&mut command).expect(0).json()
    };
    let locked = ["--minimum-retention", "14", "--object-lock", "governance"];
    on_s3(&[&["init"][..], &locked].concat());
    lab.image("vm.img", &image(1));
    let point = on_s3(&["protect", "vm", "--image", "vm.img"]);
    let shown = on_s3(&["protection", "show"]);
    assert_eq!(shown["object_lock"], "governance");
    let locks = &shown["locks"];
    assert!(locks["locked"]["count"].as_u64().unwrap() >= 2, "{shown}");
    assert_eq!(locks["unlocked"]["count"], 0, "{shown}");
    let id = point["id"].as_str().unwrap();
    on_s3(&["hold", id, "--reason", "lawsuit"]);
    let held = on_s3(&["protection", "show"])["locks"]["held"]["count"].clone();
    assert!(held.as_u64().unwrap() >= 2, "{held}");
    on_s3(&["release", id, "--reason", "lawsuit"]);
    let held = on_s3(&["collect"])["locks"]["held"]["count"].clone();
    assert_eq!(held, 0);
}
