//! Images of other formats: recovery points brought out as such, and such taken
//! in, by QEMU's real programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{Lab, Run, image, run};
use crate::rights::{self, SmallDisk, demand, has_own_mounts, is_left_out};

const FORMATS: [&str; 4] = ["raw", "qcow2", "vmdk", "vhdx"];

/// Runs a real QEMU program in the lab's folder.
fn qemu(lab: &Lab, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.current_dir(lab.path("")).args(arguments);
    let ended = command.output().map_err(|error| error.to_string());
    let ended = demand("qemu", ended);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?}: {said}");
}

/// What of the lab's files begins so.
fn files(lab: &Lab, start: &str) -> Vec<String> {
    let entries = fs::read_dir(lab.path("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start)).collect()
}

/// Puts a program of this name first in the path of a command.
fn instead_of(lab: &Lab, program: &str, script: &str, command: &mut Command) {
    let folder = lab.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(program);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", folder.display()));
}

/// A sparse image of this length, by seed.
fn sparse(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; length];
    let mut at = 0;
    while at < length {
        let end = length.min(at + random.usize(1..300_000));
        random.fill(&mut content[at..end]);
        at = end + random.usize(1..2_000_000);
    }
    // The last byte is where rounding shows.
    content[length - 1] = 1;
    content
}

#[test]
fn every_format_there_and_back() {
    if is_left_out("qemu") {
        return;
    }
    for (seed, length) in [(1, 1), (2, 9_000_007)] {
        let lab = Lab::with_vault();
        let content = sparse(length, seed);
        lab.image("vm.img", &content);
        lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
        for format in FORMATS {
            let name = format!("out.{format}");
            let export = ["export", "vm@latest", "--format", format, &name];
            let told = lab.json(export);
            let number = |field: &str| told[field].as_u64().unwrap();
            assert_eq!(number("length"), length as u64, "{told}");
            let beyond = number("virtual_length") - number("length");
            assert!(beyond < 512 && (beyond == 0 || format != "raw"), "{told}");
            let on_disk = fs::metadata(lab.path(&name)).unwrap().len();
            assert_eq!(number("bytes_file"), on_disk, "{told}");
            qemu(
                &lab,
                "qemu-img",
                &["compare", "-f", format, "-F", "raw", &name, "vm.img"],
            );

            let vault = format!("vault-{format}");
            let other = |words: &[&str]| {
                let mut command = lab.bare();
                command.args(["--json", "--key-file", "key", "--vault", &vault]);
                run(command.args(words)).expect(0).json()
            };
            other(&["init"]);
            let size = length.to_string();
            // The format is told by the image, and by us.
            let point = other(&["import", "vm", &name, "--length", &size]);
            assert_eq!(
                (&point["kind"], &point["length"]),
                (&"initial".into(), &length.into())
            );
            let again = other(&["import", "vm", &name, "--format", format, "--length", &size]);
            assert_eq!(
                (&again["kind"], &again["bytes_changed"]),
                (&"consistency-check".into(), &0.into())
            );
            let back = format!("back.{format}");
            other(&["restore", "vm@latest", "--to", &back]);
            assert!(lab.read(&back) == content, "seed {seed}: {format}");
            // The whole disk of the file is the image, then zeros.
            let whole = other(&["import", "whole", &name]);
            assert_eq!(whole["length"], told["virtual_length"]);
        }
        assert_eq!(files(&lab, ".").len(), 0, "nothing unfinished is left");
    }
}

#[test]
fn holes_are_not_read_and_not_made() {
    use std::os::unix::fs::MetadataExt;
    if is_left_out("qemu") {
        return;
    }
    let lab = Lab::with_point();
    let data = 2_u64 << 20;
    for format in FORMATS {
        let name = format!("out.{format}");
        let told = lab.json([
            "export",
            "vm@latest",
            "--format",
            format,
            &name,
            "--no-sync",
        ]);
        let read = told["bytes_read"].as_u64().unwrap();
        assert!((data..6 << 20).contains(&read), "{told}");
        let allocated = fs::metadata(lab.path(&name)).unwrap().blocks() * 512;
        assert!(allocated < 8 << 20, "{format}: {allocated}");
    }
    let point = lab.json(["import", "again", "out.qcow2"]);
    let read = point["bytes_read"].as_u64().unwrap();
    assert!((data..6 << 20).contains(&read), "{point}");
}

/// The disk that the output lies on has hardly more room than the output
/// takes, and the one for temporary files next to none.
#[test]
fn no_copy_is_made_on_the_way() {
    let name = "exchange::no_copy_is_made_on_the_way";
    if is_left_out("qemu") || !has_own_mounts(name) {
        return;
    }
    let lab = Lab::with_point();
    let folders = ["small", "temporary"].map(|name| lab.path(name));
    for folder in &folders {
        fs::create_dir(folder).unwrap();
    }
    let temporary = SmallDisk::mount(&folders[1], 64);
    for format in FORMATS {
        // VHDX lays out blocks of 8 MiB, with holes in them.
        let disk = SmallDisk::mount(&folders[0], 6 << 10);
        let export = ["export", "vm@latest", "--format", format, "small/out"];
        run(lab.command(export).env("TMPDIR", &folders[1])).expect(0);
        qemu(
            &lab,
            "qemu-img",
            &["compare", "-f", format, "-F", "raw", "small/out", "vm.img"],
        );
        drop(disk);
    }
    let import = ["import", "again", "vm.qcow2"];
    qemu(
        &lab,
        "qemu-img",
        &["convert", "-O", "qcow2", "vm.img", "vm.qcow2"],
    );
    run(lab.command(import).env("TMPDIR", &folders[1])).expect(0);
    assert_eq!(
        fs::read_dir(&folders[1]).unwrap().count(),
        0,
        "folders of sockets go"
    );
    drop(temporary);
}

#[test]
fn a_full_disk_leaves_nothing_under_the_name() {
    let name = "exchange::a_full_disk_leaves_nothing_under_the_name";
    if is_left_out("qemu") || !has_own_mounts(name) {
        return;
    }
    let lab = Lab::with_point();
    let folder = lab.path("small");
    fs::create_dir(&folder).unwrap();
    let disk = SmallDisk::mount(&folder, 2 << 10);
    for format in FORMATS {
        let export = ["export", "vm@latest", "--format", format, "small/out"];
        lab.run(export).expect(10);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "{format}");
    }
    disk.allow_no_writes();
    for format in FORMATS {
        let export = ["export", "vm@latest", "--format", format, "small/out"];
        lab.run(export).expect(3).says(&["small/", "out"]);
    }
}

#[test]
fn what_is_there_is_replaced_only_when_told() {
    if is_left_out("qemu") {
        return;
    }
    let lab = Lab::with_point();
    for format in FORMATS {
        lab.write("out", "what was there");
        let export = ["export", "vm@latest", "--format", format, "out"];
        lab.run(export).expect(13).says(&["out exists"]);
        assert_eq!(lab.read("out"), b"what was there");
        run(lab.command(export).arg("--overwrite")).expect(0);
        qemu(
            &lab,
            "qemu-img",
            &["compare", "-f", format, "-F", "raw", "out", "vm.img"],
        );
    }
    let export = [
        "export",
        "vm@latest",
        "--format",
        "qcow2",
        "named",
        "--stream",
    ];
    run(lab.command(export).arg("disk")).expect(0);
    fs::remove_file(lab.path("named")).unwrap();
    run(lab.command(export).arg("tape")).expect(4);
    lab.run(["export", "vm@latest", "--format", "qcow2", "no/folder/out"])
        .expect(4);
    lab.run(["export", "vm@latest", "--format", "vdi", "out.vdi"])
        .expect(2);
    assert!(files(&lab, "named").is_empty() && files(&lab, ".").is_empty());
}

/// The ranges that an error names, `offset+length` each.
fn named(error: &str) -> Vec<(u64, u64)> {
    let words = error.split([' ', ',']);
    let ranges = words.filter_map(|word| word.split_once('+'));
    ranges
        .filter_map(|(at, length)| Some((at.parse().ok()?, length.parse().ok()?)))
        .collect()
}

#[test]
fn a_damaged_point_is_not_exported_and_the_damage_is_named() {
    if is_left_out("qemu") {
        return;
    }
    let lab = Lab::with_point();
    let pack = lab.packs("data").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let restore = run(&mut lab.command(["--json", "restore", "vm@latest", "--to", "back.img"]));
    let missing = restore.expect(9).json()["missing"][0].clone();
    let wanted = ["offset", "length"].map(|field| missing[field].as_u64().unwrap());
    for format in FORMATS {
        let export = ["--json", "export", "vm@latest", "--format", format, "out"];
        let told = lab.run(export).expect(8);
        let told = told.says(&["is not exported", "restore", "check vm"]);
        let error = told.json()["error"]["message"].clone();
        let ranges = named(error.as_str().unwrap());
        // One that was asked for may begin or end within it.
        let meets =
            |(at, length): &(u64, u64)| *at < wanted[0] + wanted[1] && at + length > wanted[0];
        assert!(!ranges.is_empty() && ranges.iter().all(meets), "{error}");
        assert!(files(&lab, "out").is_empty() && files(&lab, ".").is_empty());
    }
}

/// An export whose child is `script` instead of qemu-img.
fn export_by(lab: &Lab, script: &str) -> Run {
    let export = ["export", "vm@latest", "--format", "qcow2", "out"];
    let mut command = lab.command(export);
    instead_of(lab, "qemu-img", script, &mut command);
    run(&mut command)
}

#[test]
fn a_child_that_fails_or_is_killed_leaves_nothing() {
    let lab = Lab::with_point();
    // The file to make comes last.
    let half = "for last; do :; done; echo half > \"$last\"; ";
    let killed = export_by(&lab, &format!("{half} kill -9 $$"));
    killed.expect(11).says(&["qemu-img failed", "signal: 9"]);
    let failed = export_by(&lab, &format!("{half} echo it burns >&2; exit 1"));
    failed.expect(11).says(&["qemu-img failed", "it burns"]);
    let removed = export_by(&lab, "for last; do :; done; rm \"$last\"; exit 1");
    removed.expect(11).says(&["it said nothing"]);
    // It says that all is well, and has made nothing.
    let lied = export_by(
        &lab,
        "echo '{\"format\": \"qcow2\", \"virtual-size\": 512}'",
    );
    assert_eq!(lied.code, Some(70), "{lied:#?}");
    assert!(files(&lab, "out").is_empty() && files(&lab, ".").is_empty());
}

#[test]
fn without_qemu_it_is_said_what_to_install() {
    let lab = Lab::with_point();
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let without =
        |arguments: &[&str], code| run(lab.command(arguments).env("PATH", &empty)).expect(code);
    let export = without(&["export", "vm@latest", "--format", "qcow2", "out"], 4);
    export.says(&["qemu-img", "Debian package qemu-utils"]);
    assert!(files(&lab, "out").is_empty() && files(&lab, ".").is_empty());
    for format in ["qcow2", "vhdx"] {
        let import = without(&["import", "new", "vm.img", "--format", format], 4);
        import.says(&["Debian package qemu-utils"]);
    }
    // Raw images take nothing of it.
    without(&["export", "vm@latest", "--format", "raw", "out"], 0);
    without(&["import", "new", "out", "--format", "raw"], 0);
    assert!(lab.read("out") == image(1));
}

/// Until a file has content; what.
#[cfg(target_os = "linux")]
fn wait_for(file: &PathBuf) -> String {
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => std::thread::yield_now(),
        }
    }
}

/// Whether a process is there and not waiting to be buried.
#[cfg(target_os = "linux")]
fn is_alive(process: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_the_child_and_leaves_nothing() {
    let lab = Lab::with_point();
    lab.write("new.qcow2", "never opened");
    // Each waits for an interrupt, having begun its work.
    let wait = "echo $$ > started; exec sleep 600";
    let begin = format!("for last; do :; done; echo half > \"$last\"; {wait}");
    let export = &["export", "vm@latest", "--format", "qcow2", "out"][..];
    let import = &["import", "new", "new.qcow2", "--format", "qcow2"][..];
    let info = "echo '{\"format\": \"qcow2\", \"virtual-size\": 512}'";
    for (arguments, scripts) in [
        (
            export,
            [("qemu-img", begin.as_str()), ("qemu-nbd", "exit 1")],
        ),
        (import, [("qemu-img", info), ("qemu-nbd", wait)]),
    ] {
        let started = lab.path("started");
        let mut command = lab.command(arguments);
        for (program, script) in scripts {
            instead_of(&lab, program, script, &mut command);
        }
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let ours = piped.spawn().unwrap();
        let child = wait_for(&started);
        assert!(is_alive(&child));
        demand(
            "kill",
            rights::run("kill", &["-INT", &ours.id().to_string()]),
        );
        let ended = ours.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(130), "{said}");
        while is_alive(&child) {
            std::thread::yield_now();
        }
        fs::remove_file(started).unwrap();
        assert!(files(&lab, "out").is_empty() && files(&lab, ".").is_empty());
    }
    lab.run(["points", "new"]).expect(4);
}

#[cfg(target_os = "linux")]
#[test]
fn an_import_whose_server_is_killed_makes_no_point() {
    if is_left_out("qemu") {
        return;
    }
    let lab = Lab::with_vault();
    let mut content = Vec::new();
    for seed in 0..12 {
        content.extend(image(300 + seed));
    }
    lab.image("large.img", &content);
    qemu(
        &lab,
        "qemu-img",
        &["convert", "-O", "qcow2", "large.img", "large.qcow2"],
    );
    let mut command = lab.command(["import", "large", "large.qcow2"]);
    let real = demand("qemu", rights::run("sh", &["-c", "command -v qemu-nbd"]));
    let script = format!("echo $$ > started; exec {real} \"$@\"");
    instead_of(&lab, "qemu-nbd", &script, &mut command);
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ours = piped.spawn().unwrap();
    let child = wait_for(&lab.path("started"));
    // Until what it served has come to the vault.
    while lab.packs("data").is_empty() {
        assert!(is_alive(&ours.id().to_string()), "it ended too early");
        std::thread::yield_now();
    }
    demand("kill", rights::run("kill", &["-KILL", &child]));
    let ended = ours.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(11), "{said}");
    assert!(said.contains("qemu-nbd failed (signal: 9"), "{said}");
    lab.run(["points", "large"]).expect(4);
    // The same image is taken up again.
    lab.run(["import", "large", "large.qcow2"]).expect(0);
    lab.run(["restore", "large@latest", "--to", "back.img"])
        .expect(0);
    assert!(lab.read("back.img") == content);
}

#[test]
fn images_that_are_not_whole_are_refused() {
    if is_left_out("qemu") {
        return;
    }
    let lab = Lab::with_point();
    let img = |arguments: &[&str]| qemu(&lab, "qemu-img", arguments);
    let refused = |arguments: &[&str], words: &[&str]| {
        let import = [&["import", "new"][..], arguments].concat();
        lab.run(import).expect(3).says(words);
    };
    img(&["convert", "-O", "qcow2", "vm.img", "vm.qcow2"]);
    img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "vm.qcow2",
        "-F",
        "qcow2",
        "child.qcow2",
    ]);
    refused(
        &["child.qcow2"],
        &["only what differs from vm.qcow2", "qemu-img convert"],
    );
    img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "data_file=data",
        "apart.qcow2",
        "1M",
    ]);
    refused(&["apart.qcow2"], &["has its data in data"]);
    img(&[
        "create",
        "-f",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        "flat.vmdk",
        "1M",
    ]);
    refused(&["flat.vmdk"], &["has its data in", "flat-flat.vmdk"]);
    img(&["create", "-f", "vdi", "other.vdi", "1M"]);
    refused(&["other.vdi"], &["format vdi", "qemu-img convert"]);
    let secret = [
        "--object",
        "secret,id=s,data=x",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    ];
    let secret = [
        &["create", "-f", "qcow2"][..],
        &secret,
        &["secret.qcow2", "1M"],
    ]
    .concat();
    img(&secret);
    refused(&["secret.qcow2"], &["is encrypted"]);
    for format in ["qcow2", "vmdk", "vhdx"] {
        refused(
            &["vm.img", "--format", format],
            &["qemu-img failed", "vm.img"],
        );
    }
    refused(
        &["vm.qcow2", "--length", "100"],
        &["beyond its first 100 bytes"],
    );
    refused(
        &["vm.qcow2", "--length", "1000000000"],
        &["fewer than the 1000000000"],
    );
    lab.run(["import", "new", "nothing.qcow2"]).expect(4);
    lab.run(["points", "new"]).expect(4);

    // Snapshots inside are told of.
    img(&["snapshot", "-c", "before", "vm.qcow2"]);
    let told = lab.run(["import", "new", "vm.qcow2"]).expect(0);
    told.says(&["1 snapshots", "not imported"]);
    let points: Value = lab.json(["points", "new"]);
    assert_eq!(points.as_array().unwrap().len(), 1);
}
