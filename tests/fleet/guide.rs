//! docs/operating.md, step by step: from nothing to protected hosts.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lab::{command, serve_by};

struct Ran {
    code: Option<i32>,
    told: Value,
    said: String,
}

async fn run(folder: &Path, words: &[&str]) -> Ran {
    let mut command = command(folder);
    let output = command.arg("--json").args(words).output().await.unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let last = told.lines().last().unwrap_or("null");
    Ran {
        code: output.status.code(),
        told: serde_json::from_str(last).unwrap_or_default(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn done(folder: &Path, words: &[&str]) -> Value {
    let ran = run(folder, words).await;
    assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.said);
    ran.told
}

async fn join(folder: &Path, server: &str, name: &str, is_operator: bool) {
    let mut words = vec!["enroll", "token", name, "--dir", "roster"];
    if is_operator {
        words.push("--operator");
    }
    let token = done(folder, &words).await;
    let token = token["token"].as_str().unwrap();
    let join = ["enroll", "join", "--server", server, "--token", token];
    done(folder, &[&join[..], &["--dir", name]].concat()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_protected_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("key"), [7; 32]).unwrap();
    done(path, &["--vault", "vault", "--key-file", "key", "init"]).await;
    done(path, &["enroll", "init", "--dir", "roster"]).await;
    let (mut server, address) = serve_by(path, "127.0.0.1:0", ["--roster", "roster"]).await;
    let address = address.to_string();
    for (name, is_operator) in [("web1", false), ("web2", false), ("eve", true)] {
        join(path, &address, name, is_operator).await;
    }
    let at = |name: &'static str| ["--server", &address, "--certificates", name];
    let mut image = vec![0; 5 << 20];
    fastrand::Rng::with_seed(1).fill(&mut image[..3 << 20]);
    fs::write(path.join("disk.img"), &image).unwrap();
    let protect = |name: &'static str, what: &'static str| {
        let at = at(name);
        let words: Vec<&str> = ["agent"].into_iter().chain(at).collect();
        async move { run(path, &[&words[..], &["--patience", "0s", what]].concat()).await }
    };
    let point = protect("web1", "web1/root=disk.img").await;
    assert_eq!(point.code, Some(0), "{}", point.said);
    assert_eq!(protect("web2", "web1/root=disk.img").await.code, Some(16));

    let status = done(path, &[&["status"], &at("eve")[..]].concat()).await;
    assert_eq!(status["sources"][0]["source"], "web1/root");
    assert_eq!(status["sources"][0]["newest"]["id"], point.told["id"]);
    assert!(status["sources"][0]["age"].as_u64().unwrap() < 600);
    assert_eq!(status["connections"][0]["peer"], "operator eve");
    let refused = run(path, &[&["status"], &at("web1")[..]].concat()).await;
    assert_eq!(refused.code, Some(16), "{}", refused.said);

    let restore = |name: &'static str| {
        let at = at(name);
        let words: Vec<&str> = ["restore", "web1/root@latest"]
            .into_iter()
            .chain(at)
            .collect();
        async move {
            run(
                path,
                &[&words[..], &["--overwrite", "--to", "back.img"]].concat(),
            )
            .await
        }
    };
    let own = restore("web1").await;
    assert_eq!(own.code, Some(0), "{}", own.said);
    assert!(fs::read(path.join("back.img")).unwrap() == image);
    assert_ne!(restore("web2").await.code, Some(0));
    let grant = ["access", "grant", "web2", "web1/root", "--for", "1h"];
    done(path, &[&grant[..], &at("eve")[..]].concat()).await;
    fs::remove_file(path.join("back.img")).unwrap();
    let granted = restore("web2").await;
    assert_eq!(granted.code, Some(0), "{}", granted.said);
    assert!(fs::read(path.join("back.img")).unwrap() == image);
    let list = done(path, &[&["access", "list"], &at("eve")[..]].concat()).await;
    assert_eq!(list[0]["agent"], "web2");
    let withdraw = ["access", "withdraw", "web2", "web1/root"];
    done(path, &[&withdraw[..], &at("eve")[..]].concat()).await;
    assert_ne!(restore("web2").await.code, Some(0));
    let audit = done(path, &[&["access", "audit"], &at("eve")[..]].concat()).await;
    let audit = audit.to_string();
    for what in ["opened", "granted", "withdrawn", "refused"] {
        assert!(audit.contains(what), "{what}: {audit}");
    }

    done(path, &["enroll", "revoke", "web1", "--dir", "roster"]).await;
    let revoked = protect("web1", "web1/root=disk.img").await;
    assert_ne!(revoked.code, Some(0), "{}", revoked.said);
    server.stop().await;
}
