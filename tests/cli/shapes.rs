//! The shapes of the JSON that programs rely on, and that output which nobody
//! reads breaks nothing.

use std::process::Stdio;

use serde_json::Value;

use crate::lab::{Lab, image, program, run};

fn fields(object: &Value) -> Vec<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn points_are_objects_oldest_first() {
    let lab = Lab::with_point();
    lab.image("now.img", &image(2));
    let second = lab.json(["protect", "vm", "--image", "now.img"]);
    let points = lab.json(["points", "vm"]);
    let points = points.as_array().unwrap();
    assert_eq!(points.len(), 2);
    assert_eq!(
        points[1], second,
        "what `protect` prints is what `points` lists"
    );
    assert!(points[0]["time"].as_str().unwrap() < points[1]["time"].as_str().unwrap());
    for point in points {
        for field in [
            "id",
            "source",
            "time",
            "kind",
            "consistency",
            "base",
            "marks",
            "sample",
        ] {
            assert!(
                !point[field].is_null() || field == "base",
                "{field} in {point}"
            );
        }
        for amount in [
            "length",
            "bytes_changed",
            "bytes_added",
            "bytes_read",
            "bytes_sent",
            "bytes_sampled",
            "bytes_unreadable",
        ] {
            assert!(point[amount].is_u64(), "{amount} in {point}");
        }
        assert_eq!(point["source"], "vm");
        assert_eq!(point["consistency"], "crash");
        assert_eq!(point["id"].as_str().unwrap().len(), 32);
        assert!(point["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(point["marks"]["pinned"], false);
    }
}

#[test]
fn every_command_speaks_json() {
    let lab = Lab::empty();
    let vault = lab.json(["init"]);
    assert_eq!(fields(&vault), ["encrypted", "vault"]);
    assert_eq!(lab.json(["sources"]), Value::Array(vec![]));
    assert_eq!(lab.json(["expire", "--all"]), Value::Array(vec![]));
    lab.image("vm.img", &image(1));
    lab.json(["protect", "vm", "--image", "vm.img"]);
    let sources = lab.json(["sources"]);
    assert_eq!(sources[0]["source"], "vm");
    assert_eq!(sources[0]["state"], "consistent");
    assert_eq!(sources[0]["head"], lab.json(["points", "vm"])[0]["id"]);
    let stats = lab.json(["stats"]);
    assert_eq!(
        (&stats["replicas"], &stats["points"]),
        (&1.into(), &1.into())
    );
    assert_eq!(stats["logical_bytes"], image(1).len() as u64);
    assert_eq!(stats["sources"][0]["points"], 1);
    for ratio in ["deduplication_ratio", "compression_ratio", "ratio"] {
        assert!(stats[ratio].as_f64().unwrap() > 0.5, "{stats}");
        let of_source = &stats["sources"][0][ratio];
        assert!(of_source.as_f64().unwrap() > 0.5, "{stats}");
    }
    assert_eq!(stats["sources"][0]["head_bytes"], image(1).len() as u64);
    assert_eq!(
        stats["sources"][0]["plain_bytes_added"], stats["plain_bytes"],
        "all chunks are of the one source"
    );
    let restored = lab.json(["restore", "vm@latest", "--to", "back.img"]);
    assert_eq!(restored["missing"], Value::Array(vec![]));
    assert_eq!(restored["length"], image(1).len() as u64);
    assert_eq!(
        lab.json(["diff", "vm@latest", "vm@latest"]),
        Value::Array(vec![])
    );
    for command in ["pin", "unpin", "hold", "release"] {
        assert_eq!(lab.json([command, "vm@latest"])["source"], "vm");
    }
}

#[test]
fn options_may_stand_after_the_command() {
    let lab = Lab::with_point();
    let points = lab.json(["points", "vm"]);
    let vault = ["--vault", "vault", "--key-file", "key", "--large-vault"];
    for arguments in [&["points", "vm", "--json"][..], &["--json", "points", "vm"]] {
        let after = run(lab.bare().args(arguments).args(vault)).expect(0);
        assert_eq!(after.json(), points);
    }
    let keys = run(lab.bare().args(["key", "list", "--json"]).args(vault)).expect(0);
    assert_eq!(keys.json().as_array().unwrap().len(), 1);
    // What is said goes before the environment, wherever it stands.
    for arguments in [
        &["--vault", "vault", "points", "vm", "--json"][..],
        &["points", "vm", "--vault", "vault", "--json"],
    ] {
        let mut said = lab.bare();
        said.args(arguments).args(["--key-file", "key"]);
        said.env("BACKSTOP_VAULT", "elsewhere");
        assert_eq!(run(&mut said).expect(0).json(), points);
    }
    let mut told = lab.bare();
    told.args(["points", "vm", "--json", "--key-file", "key"]);
    assert_eq!(
        run(told.env("BACKSTOP_VAULT", "vault")).expect(0).json(),
        points
    );
    lab.run(["pin", "vm@latest", "--takeover"]).expect(0);
}

#[test]
fn errors_are_objects_too() {
    let lab = Lab::with_point();
    let mut command = lab.command(["--json", "points", "other"]);
    let run = run(&mut command).expect(4).says(&["source other"]);
    let object = run.json();
    assert_eq!(object["error"]["kind"], "not-found");
    assert_eq!(object["error"]["exit_code"], 4);
    assert!(
        object["error"]["message"]
            .as_str()
            .unwrap()
            .contains("source other")
    );
}

#[test]
fn nothing_is_printed_beside_the_result() {
    let lab = Lab::with_point();
    let run = lab
        .run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert_eq!(run.err, "", "no progress without a terminal");
}

/// `backstop points NAME | head -0`
#[test]
fn a_closed_pipe_is_no_failure() {
    let lab = Lab::with_point();
    for arguments in [
        &["points", "vm"][..],
        &["--json", "points", "vm"],
        &["diff", "vm@latest", "vm@latest"],
        &["--json", "stats"],
        &["protect", "vm", "--image", "vm.img"],
    ] {
        let mut child = lab
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "", "{arguments:?}");
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}");
    }
    let mut help = std::process::Command::new(program())
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(help.stdout.take());
    let ended = help.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&ended.stderr).contains("panicked"));
}

/// What can't be written is told, though the work was done.
#[cfg(target_os = "linux")]
#[test]
fn a_full_output_is_told() {
    let lab = Lab::with_point();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = lab.command(["points", "vm"]);
    let ended = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(10), "{ended:?}");
}
