//! One owner at a time; readers beside it; a takeover when asked for.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, image};

/// Holds the vault's lock as another process would.
fn lock(lab: &Lab) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open(lab.path("vault/lock"))
        .unwrap();
    file.try_lock().unwrap();
    file
}

#[test]
fn an_owned_vault_is_refused_to_writers_and_open_to_readers() {
    let lab = Lab::with_point();
    let held = lock(&lab);
    for arguments in [
        &["protect", "vm", "--image", "vm.img"][..],
        &["check", "vm", "--image", "vm.img"],
        &["expire", "--all"],
        &["pin", "vm@latest"],
    ] {
        lab.run(arguments)
            .expect(6)
            .says(&["owned by process", "take over"]);
    }
    for arguments in [
        &["sources"][..],
        &["points", "vm"],
        &["stats"],
        &["diff", "vm@latest", "vm@latest"],
        &["restore", "vm@latest", "--to", "back.img"],
    ] {
        lab.run(arguments).expect(0);
    }
    assert!(lab.read("back.img") == image(1));
    drop(held);
    lab.run(["pin", "vm@latest"]).expect(0);
}

#[test]
fn a_vault_is_taken_over_when_asked_for() {
    let lab = Lab::with_point();
    let _held = lock(&lab);
    lab.image("now.img", &image(2));
    lab.run(["--takeover", "protect", "vm", "--image", "now.img"])
        .expect(0);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(2));
    assert_eq!(lab.json(["points", "vm"]).as_array().unwrap().len(), 2);
}

/// A second program on the vault while the first one protects.
#[cfg(target_os = "linux")]
#[test]
fn a_suspended_owner_is_fenced_by_a_takeover() {
    let lab = Lab::with_point();
    // Large enough to be caught at work.
    let mut content = Vec::new();
    for seed in 0..24 {
        content.extend(image(100 + seed));
    }
    lab.image("large.img", &content);
    let packs = lab.packs("data").len();
    let owner = protect_large(&lab);
    wait_for_packs(&lab, &owner, packs);
    let signal = |name| signal(&owner, name);
    signal("-STOP");
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(6);
    lab.run(["--takeover", "protect", "vm", "--image", "vm.img"])
        .expect(0);
    signal("-CONT");
    let old = owner.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    // Whether it learns of it by the fence or by its own pack, which the new
    // owner has swept away.
    assert_eq!(old.status.code(), Some(7), "{said}");
    // It changed nothing that the new owner has, and made no point.
    let sources = lab.json(["sources"]);
    assert_eq!(sources.as_array().unwrap().len(), 1, "{sources}");
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == image(1));
}

#[cfg(target_os = "linux")]
fn protect_large(lab: &Lab) -> Child {
    lab.command(["protect", "large", "--image", "large.img"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Until a process has begun to write packs beside those that there were.
#[cfg(target_os = "linux")]
fn wait_for_packs(lab: &Lab, process: &Child, before: usize) {
    while lab.packs("data").len() == before {
        // An ended child stays as a zombie until it is waited for.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()));
        let is_alive = stat.is_ok_and(|stat| !stat.contains(") Z "));
        assert!(is_alive, "the process ended before it was caught at work");
    }
}

#[cfg(target_os = "linux")]
fn signal(process: &Child, name: &str) {
    let mut kill = Command::new("kill");
    let sent = kill.args([name, &process.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// An interrupt ends the program promptly; the vault is as it was.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_leaves_nothing_half_made() {
    let lab = Lab::with_point();
    let mut content = Vec::new();
    for seed in 0..24 {
        content.extend(image(200 + seed));
    }
    lab.image("large.img", &content);
    let packs = lab.packs("data").len();
    let child = protect_large(&lab);
    wait_for_packs(&lab, &child, packs);
    signal(&child, "-INT");
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    lab.run(["points", "large"]).expect(4);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
    lab.run(["protect", "large", "--image", "large.img"])
        .expect(0);
    lab.run(["restore", "large@latest", "--to", "large.back"])
        .expect(0);
    assert!(lab.read("large.back") == content);
}
