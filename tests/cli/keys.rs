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
