//! Bad input: each a clear sentence and its own exit code, and nothing
//! changed.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

use crate::lab::{Lab, image, run};

#[test]
fn the_command_line_is_checked() {
    let lab = Lab::empty();
    for arguments in [
        &[][..],
        &["--vault", "vault"],
        &["--vault", "vault", "explode"],
        &["sources"],
        &["--vault", "vault", "protect", "vm"],
        &[
            "--vault", "vault", "protect", "vm", "--image", "x", "--base", "abcd",
        ],
        &[
            "--vault",
            "vault",
            "--key-file",
            "a",
            "--passphrase-file",
            "b",
            "sources",
        ],
        &[
            "--vault",
            "vault",
            "--key-file",
            "a",
            "sources",
            "--passphrase-file",
            "b",
        ],
        &[
            "--vault", "vault", "protect", "vm", "--image", "x", "--sample", "65537",
        ],
        &["--vault", "vault", "--takeover", "points", "vm"],
        &["--vault", "vault", "stats", "--takeover"],
        &["--vault", "vault", "init", "--takeover"],
        &["--vault", "vault", "expire"],
        &["--vault", "vault", "expire", "vm", "--min-age", "soon"],
    ] {
        let run = run(lab.bare().args(arguments)).expect(2);
        assert!(run.err.contains("--help"), "{run:#?}");
    }
    let help = run(lab.bare().arg("--help")).expect(0).out;
    for code in ["0  done", "9  restored", "70  a defect"] {
        assert!(help.contains(code), "{help}");
    }
    assert!(
        run(lab.bare().arg("--version"))
            .expect(0)
            .out
            .starts_with("backstop ")
    );
}

#[test]
fn a_missing_vault() {
    let lab = Lab::empty();
    lab.image("vm.img", &image(1));
    for arguments in [
        &["sources"][..],
        &["protect", "vm", "--image", "vm.img"],
        &["stats"],
    ] {
        lab.run(arguments)
            .expect(4)
            .says(&["there is no vault at", "vault"]);
        assert!(!lab.path("vault").exists(), "nothing is made by asking");
    }
    fs::create_dir(lab.path("vault")).unwrap();
    lab.run(["sources"])
        .expect(4)
        .says(&["there is no vault at"]);
}

#[test]
fn a_place_that_can_be_no_vault() {
    let lab = Lab::empty();
    lab.write("vault", "I am a file");
    lab.run(["sources"])
        .expect(3)
        .says(&["vault", "not a folder"]);
    lab.run(["init"])
        .expect(13)
        .says(&["vault", "exists already"]);
    assert_eq!(lab.read("vault"), b"I am a file");
    let run = run(lab
        .bare()
        .args(["--vault", "gopher://there/vault", "sources"]));
    run.expect(3).says(&["gopher://there/vault"]);
}

#[test]
fn a_vault_that_exists() {
    let lab = Lab::with_point();
    lab.run(["init"]).expect(13).says(&["there is a vault at"]);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
}

#[test]
fn a_wrong_passphrase_or_key() {
    let lab = Lab::with_vault();
    lab.write("wrong", [8; 32]);
    lab.write("passphrase", "wrong");
    for (options, says) in [
        (&["--key-file", "wrong"][..], "opens with this raw key"),
        (
            &["--passphrase-file", "passphrase"],
            "its slots open with: raw key",
        ),
        (&[], "give its passphrase or key"),
    ] {
        for command in [&["sources"][..], &["expire", "--all"]] {
            let mut program = lab.bare();
            program
                .args(["--vault", "vault"])
                .args(options)
                .args(command);
            run(&mut program).expect(5).says(&["vault", says]);
        }
    }
}

#[test]
fn a_credential_that_is_none() {
    let lab = Lab::with_vault();
    lab.write("empty", "");
    lab.write("short", "0707");
    lab.write("long", vec![b'a'; 5000]);
    lab.write("binary", b"\xff\xfe");
    fs::create_dir(lab.path("folder")).unwrap();
    for (option, file, code, words) in [
        ("--key-file", "none", 4, "can't be read"),
        ("--key-file", "folder", 3, "can't be read"),
        (
            "--key-file",
            "short",
            3,
            "32 bytes or 64 hexadecimal digits",
        ),
        (
            "--key-file",
            "empty",
            3,
            "32 bytes or 64 hexadecimal digits",
        ),
        ("--key-file", "long", 3, "4096"),
        ("--passphrase-file", "none", 4, "can't be read"),
        ("--passphrase-file", "empty", 3, "passphrase is empty"),
        ("--passphrase-file", "binary", 3, "UTF-8"),
    ] {
        let mut program = lab.bare();
        program.args(["--vault", "vault", option, file, "sources"]);
        run(&mut program).expect(code).says(&[file, words]);
    }
    let mut program = lab.bare();
    program
        .args(["--vault", "vault", "sources"])
        .env("BACKSTOP_PASSPHRASE", "");
    run(&mut program)
        .expect(3)
        .says(&["BACKSTOP_PASSPHRASE", "empty"]);
}

#[test]
fn a_newer_format() {
    let lab = Lab::with_point();
    let header = String::from_utf8(lab.read("vault/vault.json")).unwrap();
    let newer = header.replace("\"format\":0", "\"format\":7,\"surprise\":[]");
    assert_ne!(newer, header);
    lab.write("vault/vault.json", newer);
    for arguments in [&["sources"][..], &["protect", "vm", "--image", "vm.img"]] {
        lab.run(arguments).expect(12).says(&["newer version"]);
    }
}

#[test]
fn truncated_objects() {
    let keep = |lab: &Lab, name: &PathBuf, bytes: usize| {
        let content = fs::read(name).unwrap();
        fs::write(lab.path("kept"), &content).unwrap();
        fs::write(name, &content[..bytes.min(content.len())]).unwrap();
    };
    let lab = Lab::with_point();
    let header = lab.path("vault/vault.json");
    for bytes in [0, 1, 40] {
        keep(&lab, &header, bytes);
        lab.run(["sources"]).expect(8).says(&["vault.json"]);
        fs::copy(lab.path("kept"), &header).unwrap();
    }
    let slot = fs::read_dir(lab.path("vault/keys"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for bytes in [0, 30] {
        keep(&lab, &slot, bytes);
        lab.run(["sources"])
            .expect(8)
            .says(&["key slot", "damaged"]);
        fs::copy(lab.path("kept"), &slot).unwrap();
    }
    // The pack of maps, cut off: the points are known, their content is not.
    let pack = lab.packs("map").remove(0);
    keep(&lab, &pack, 100);
    lab.run(["points", "vm"]).expect(0);
    let name = pack.file_stem().unwrap().to_str().unwrap();
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(8)
        .says(&[name, "ends early"]);
    assert!(!lab.path("back.img").exists());
    fs::copy(lab.path("kept"), &pack).unwrap();
    lab.run(["restore", "vm@latest", "--to", "whole.img"])
        .expect(0);
    assert!(lab.read("whole.img") == image(1));
}

#[test]
fn an_image_that_is_none() {
    let lab = Lab::with_point();
    symlink(lab.path("vm.img"), lab.path("link")).unwrap();
    fs::create_dir(lab.path("folder")).unwrap();
    for command in ["protect", "check"] {
        for (image, code, words) in [
            ("none.img", 4, "does not exist"),
            ("link", 3, "symbolic link"),
            ("folder", 3, "directory"),
            ("/dev/null", 3, "/dev/null"),
        ] {
            let run = lab.run([command, "vm", "--image", image]);
            run.expect(code).says(&[image, words]);
        }
    }
    let points = lab.json(["points", "vm"]);
    assert_eq!(points.as_array().unwrap().len(), 1, "{points}");
}

#[test]
fn extents_that_are_none() {
    let lab = Lab::with_point();
    let length = image(1).len();
    for (extents, words) in [
        (format!("{length} 1\n"), "outside"),
        ("0 4096\n99999999 4096\n".to_owned(), "99999999"),
        ("0 4096\nwhat\n".to_owned(), "line 2"),
        ("-1 5\n".to_owned(), "line 1"),
        (format!("{} {}\n", u64::MAX, u64::MAX), "2^64"),
    ] {
        lab.write("extents", extents);
        let run = lab.run(["protect", "vm", "--image", "vm.img", "--extents", "extents"]);
        run.expect(3).says(&[words]);
    }
    let run = lab.run(["protect", "vm", "--image", "vm.img", "--extents", "none"]);
    run.expect(4).says(&["none"]);
    let points = lab.json(["points", "vm"]);
    assert_eq!(points.as_array().unwrap().len(), 1, "{points}");
}

#[test]
fn names_that_are_none() {
    let lab = Lab::with_point();
    for name in ["", "a\nb", "bell\u{7}", " vm", &"x".repeat(256)] {
        for arguments in [
            &["protect", name, "--image", "vm.img"][..],
            &["check", name, "--image", "vm.img"],
            &["points", name],
            &["expire", name],
        ] {
            let run = lab.run(arguments).expect(3);
            assert!(run.err.starts_with("backstop: source name \""), "{run:#?}");
            assert_eq!(
                run.err.lines().count(),
                1,
                "control characters are not printed: {run:#?}"
            );
        }
    }
}

#[test]
fn unknown_sources_and_points() {
    let lab = Lab::with_point();
    lab.image("now.img", &image(2));
    for arguments in [
        &["points", "other"][..],
        &["check", "other", "--image", "now.img"],
        &["expire", "other"],
        &["restore", "other@latest", "--to", "back.img"],
    ] {
        lab.run(arguments).expect(4).says(&["source", "other"]);
    }
    let unknown = "00".repeat(16);
    for point in [unknown.as_str(), "0000"] {
        for arguments in [
            &["restore", point, "--to", "back.img"][..],
            &["diff", "vm@latest", point],
            &["pin", point],
            &[
                "protect",
                "vm",
                "--image",
                "vm.img",
                "--extents",
                "key",
                "--base",
                point,
            ],
        ] {
            // A list of extents is read first; any will do.
            lab.write("key2", "");
            let arguments: Vec<&str> = arguments
                .iter()
                .map(|word| if *word == "key" { "key2" } else { *word })
                .collect();
            lab.run(arguments)
                .expect(4)
                .says(&["recovery point", point]);
        }
    }
    for point in ["", "abc", "xyzw", "vm", &"0".repeat(33)] {
        lab.run(["restore", point, "--to", "back.img"])
            .expect(3)
            .says(&["NAME@latest"]);
    }
    assert!(!lab.path("back.img").exists());
    lab.run(["release", "vm@latest"])
        .expect(4)
        .says(&["no hold"]);
}

#[test]
fn a_target_that_is_none() {
    let lab = Lab::with_point();
    fs::create_dir(lab.path("folder")).unwrap();
    lab.run(["restore", "vm@latest", "--to", "folder"])
        .expect(13)
        .says(&["folder"]);
    lab.run(["restore", "vm@latest", "--to", "folder", "--overwrite"])
        .expect(3)
        .says(&["folder"]);
    lab.run(["restore", "vm@latest", "--to", "none/back.img"])
        .expect(4)
        .says(&["none"]);
}

/// Permissions don't hold the administrator, who meets a folder of the kernel in
/// which nothing can be made.
#[test]
fn a_folder_that_may_not_be_written() {
    let lab = Lab::with_point();
    let locked = lab.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(locked.join("probe"), "").is_ok() {
        run(lab.bare().args(["--vault", "/proc/vault", "init"]))
            .expect(4)
            .says(&["/proc/vault"]);
        lab.run(["restore", "vm@latest", "--to", "/proc/back.img"])
            .expect(4)
            .says(&["/proc/", "back.img"]);
        return;
    }
    run(lab.bare().args(["--vault", "locked/vault", "init"]))
        .expect(3)
        .says(&["locked"]);
    lab.run(["restore", "vm@latest", "--to", "locked/back.img"])
        .expect(3)
        .says(&["locked"]);
}

/// A live image is refused, not made a torn point of.
#[test]
fn an_image_that_is_written_to_meanwhile() {
    let lab = Lab::with_point();
    let before = lab.json(["points", "vm"]);
    let live = std::fs::File::options()
        .write(true)
        .open(lab.path("vm.img"));
    let live = live.unwrap();
    let output = lab
        .command(["protect", "vm", "--image", "vm.img"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut child = output.unwrap();
    let mut round = 0_u64;
    while child.try_wait().unwrap().is_none() {
        round += 1;
        live.write_all_at(&round.to_le_bytes(), 4096).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(14), "{said}");
    assert!(said.contains("vm.img was written to"), "{said}");
    assert_eq!(lab.json(["points", "vm"]), before);
    // Left alone it is protected.
    lab.run(["protect", "vm", "--image", "vm.img"]).expect(0);
}
