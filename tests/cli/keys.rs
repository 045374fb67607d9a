//! What opens a vault: added, changed, removed, and the last one kept.

use crate::lab::{Lab, run};

#[test]
fn keys_come_and_go_and_the_last_stays() {
    let lab = Lab::with_point();
    std::fs::write(lab.path("pass"), "correct horse\n").unwrap();
    std::fs::write(lab.path("other"), [9; 32]).unwrap();
    let with = |credential: &[&str], arguments: &[&str]| {
        let mut command = lab.bare();
        command.args(["--vault", "vault"]).args(credential);
        run(command.args(arguments))
    };
    let slots = lab.json(["key", "list"]);
    assert_eq!(slots.as_array().unwrap().len(), 1);
    assert_eq!(slots[0]["kind"], "key");
    let first = slots[0]["id"].as_str().unwrap();
    lab.run(["key", "remove", first])
        .expect(14)
        .says(&["last", "add another"]);
    lab.run(["key", "add"]).expect(2);

    let pass = ["--passphrase-file", "pass"];
    with(&pass, &["sources"]).expect(5);
    let added = lab.json(["key", "add", "--new-passphrase-file", "pass"]);
    assert_eq!(added["kind"], "passphrase");
    with(&pass, &["points", "vm"]).expect(0);

    with(&pass, &["key", "remove", first]).expect(0);
    lab.run(["sources"]).expect(5);
    with(&pass, &["key", "remove", first])
        .expect(4)
        .says(&["no key slot"]);

    let slot = added["id"].as_str().unwrap();
    let change = ["key", "replace", slot, "--new-key-file", "other"];
    with(&pass, &change).expect(0);
    with(&pass, &["sources"]).expect(5);
    let other = ["--key-file", "other"];
    with(&other, &["restore", "vm@latest", "--to", "back.img"]).expect(0);
    let listed = with(&other, &["key", "list"]).expect(0);
    assert!(!listed.out.contains(slot), "{}", listed.out);
    with(&pass, &change).expect(5);
    with(&other, &change).expect(4).says(&["no key slot", slot]);
}

#[test]
fn a_recovery_key_is_told_once_and_opens_the_vault_as_it_is_typed() {
    let lab = Lab::with_point();
    let added = lab.json(["key", "add", "--recovery"]);
    assert_eq!(added["kind"], "recovery");
    let text = added["recovery_key"].as_str().unwrap();
    let listed = lab.run(["key", "list"]).expect(0);
    assert!(listed.out.contains("recovery") && !listed.out.contains(text));
    let with = |arguments: &[&str]| {
        let mut command = lab.bare();
        command.args(["--vault", "vault", "--recovery-key-file", "paper"]);
        run(command.args(arguments))
    };
    let typed = text.to_lowercase().replace('-', " ").replace('0', "o");
    std::fs::write(lab.path("paper"), typed).unwrap();
    with(&["points", "vm"]).expect(0);
    let mut wrong = text.to_owned();
    let last = if wrong.ends_with('7') { "8" } else { "7" };
    wrong.replace_range(wrong.len() - 1.., last);
    std::fs::write(lab.path("paper"), wrong).unwrap();
    with(&["points", "vm"])
        .expect(3)
        .says(&["mistyped", "checksum"]);
    std::fs::write(lab.path("paper"), "short").unwrap();
    with(&["points", "vm"]).expect(3).says(&["5 characters"]);
    // A key file of a wrong length is told by itself, too.
    std::fs::write(lab.path("key"), [1; 31]).unwrap();
    lab.run(["sources"]).expect(3).says(&["32 bytes"]);
}

#[test]
fn the_vaults_key_is_rotated_and_the_old_one_goes() {
    let lab = Lab::with_point();
    let ring = lab.json(["key", "ring"]);
    let old = ring[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ring.as_array().unwrap().len(), 1);
    assert!(ring[0]["packs"]["count"].as_u64().unwrap() > 0);
    let rotated = lab.json(["key", "rotate"]);
    let new = rotated["current"].as_str().unwrap();
    let kept = lab.run(["key", "retire"]).expect(0).out;
    assert!(kept.contains(&format!("kept vault key {old}")), "{kept}");
    let planned = lab.json(["collect", "--reseal", "--dry-run"]);
    assert_eq!(planned["resealed"], planned["old_keys"]);
    assert!(planned["written"].as_u64().unwrap() > 0);
    let collected = lab.run(["collect", "--reseal"]).expect(0).out;
    assert!(collected.contains("sealed anew"), "{collected}");
    let retired = lab.json(["key", "retire"]);
    assert_eq!(retired["retired"], serde_json::json!([old]));
    let ring = lab.json(["key", "ring"]);
    assert_eq!(ring.as_array().unwrap().len(), 1);
    assert_eq!(ring[0]["id"], new);
    lab.run(["restore", "vm@latest", "--to", "back.img"])
        .expect(0);
}

/// A key management service in eight lines of shell.
#[cfg(unix)]
const SERVICE: &str = r#"#!/bin/sh
mkdir -p kms
test -e kms/down && { echo "the service is down" >&2; exit 1; }
case "$2" in
wrap) name="$$"; cat > "kms/$name"; printf %s "$name" ;;
unwrap) name="$(cat)"; test -e "kms/$name" || exit 5; cat "kms/$name" ;;
esac
"#;

#[cfg(unix)]
#[test]
fn a_program_keeps_the_key_of_a_slot() {
    use std::os::unix::fs::PermissionsExt;

    let lab = Lab::with_point();
    let script = lab.path("service");
    std::fs::write(&script, SERVICE).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = "./service quiet";
    let with = |arguments: &[&str]| {
        let mut program = lab.bare();
        program.args(["--vault", "vault", "--key-command", command]);
        run(program.args(arguments))
    };
    with(&["sources"])
        .expect(5)
        .says(&["no key slot for a key provider command", "raw key"]);
    let added = lab.json(["key", "add", "--new-key-command", command]);
    assert_eq!(added["kind"], "provider");
    assert_eq!(added["reference"], "./service");
    with(&["restore", "vm@latest", "--to", "back.img"]).expect(0);
    with(&["key", "rotate"]).expect(0);
    with(&["sources"]).expect(0);
    std::fs::write(lab.path("kms/down"), "").unwrap();
    with(&["sources"]).expect(11).says(&["the service is down"]);
    std::fs::remove_dir_all(lab.path("kms")).unwrap();
    with(&["sources"])
        .expect(5)
        .says(&["no key slot that opens with this key provider"]);
    lab.run(["sources", "--key-command", command]).expect(2);
}
