//! `enroll`: tokens, joining and revoking, with the real program.

use std::sync::Arc;

use backstop::memory::MemoryStore;
use backstop::{ProtectionServer, Roster, SystemClock, TcpServer};

use crate::lab::{Lab, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_once_and_is_revoked() {
    let lab = Lab::empty();
    let enroll = |words: &[&str]| {
        let mut command = lab.bare();
        command.args(["--json", "enroll"]).args(words);
        run(&mut command)
    };
    enroll(&["init", "--dir", "roster"]).expect(0);
    enroll(&["init", "--dir", "roster"]).expect(13);
    let token = enroll(&["token", "web1", "--dir", "roster", "--hours", "1"]);
    let token = token.expect(0).json()["token"].as_str().unwrap().to_owned();

    let roster = Roster::open(lab.path("roster"), Arc::new(SystemClock)).unwrap();
    let builder = TcpServer::builder(roster.identity().unwrap(), roster.authority().unwrap())
        .with_gate(Arc::new(roster.clone()))
        .with_joins(Arc::new(roster));
    let server = ProtectionServer::builder().with_shared_vault(Arc::new(MemoryStore::new()));
    let service = server.build().await.unwrap().service();
    let server = builder.listen("127.0.0.1:0", service).await.unwrap();
    let address = server.address().unwrap().to_string();
    let running = tokio::spawn(server.run());

    let join = |token: &str, folder: &str| {
        enroll(&[
            "join", "--server", &address, "--token", token, "--dir", folder,
        ])
    };
    join("nonsense", "me").expect(3);
    let joined = tokio::task::block_in_place(|| join(&token, "me"))
        .expect(0)
        .json();
    assert_eq!(
        (&joined["name"], &joined["role"]),
        (&"web1".into(), &"agent".into())
    );
    for file in ["identity.key", "identity.pem", "authority.pem"] {
        assert!(lab.path("me").join(file).is_file(), "{file}");
    }
    // What is there is not written over, and that costs no token.
    join(&token, "me").expect(13);
    tokio::task::block_in_place(|| join(&token, "other")).expect(16);

    let list = || enroll(&["list", "--dir", "roster"]).expect(0).json();
    assert!(list()[0]["revoked"].is_null());
    enroll(&["revoke", "web1", "--dir", "roster"]).expect(0);
    enroll(&["revoke", "web1", "--operator", "--dir", "roster"]).expect(4);
    assert!(list()[0]["revoked"].is_string());
    running.abort();
}
