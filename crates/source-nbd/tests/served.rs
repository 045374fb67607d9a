//! The server held against real clients: nbdinfo, nbdcopy, qemu-img, qemu-io.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests stop at the first surprise"
)]

mod lab;
#[path = "../../../tests/rights/mod.rs"]
mod rights;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use backstop_core::memory::MemorySource;
use backstop_core::{ByteCount, ByteOffset, Extent};
use backstop_source_nbd::{NbdExport, NbdServer};
use bytes::Bytes;

use lab::{Served, image};
use rights::{demand, is_left_out};

/// Runs a real client; all that it said.
async fn client(program: &'static str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran
        .await
        .unwrap()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut said = String::from_utf8_lossy(&ran.stdout).into_owned();
    said += &String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

async fn peer(program: &'static str, arguments: &[&str]) -> String {
    demand("qemu", client(program, arguments).await)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_clients_read_what_is_served() {
    if is_left_out("qemu") {
        return;
    }
    for (seed, length) in [
        (1, 20_000_000),
        (2, 30 << 20),
        (3, 7_000_001),
        (4, 513),
        (5, 1),
    ] {
        let (whole, source) = image(length, seed);
        let export = NbdExport::read_only(Arc::new(source)).with_description("an image");
        let served = Served::new(NbdServer::new().with_export("disk", export));
        let uri = served.uri("disk");

        let info = peer("nbdinfo", &["--json", &uri]).await;
        for said in [
            format!("\"export-size\": {length}"),
            "\"structured\": true".to_owned(),
            "\"is_read_only\": true".to_owned(),
            "\"description\": \"an image\"".to_owned(),
            "base:allocation".to_owned(),
        ] {
            assert!(info.contains(&said), "{said} in {info}");
        }
        let copied = served.path("copied");
        peer("nbdcopy", &[&uri, text(&copied)]).await;
        assert!(
            std::fs::read(&copied).unwrap() == whole,
            "seed {seed}: nbdcopy"
        );

        let original = served.path("original");
        std::fs::write(&original, &whole).unwrap();
        let raw = ["compare", "-f", "raw", "-F", "raw"];
        peer("qemu-img", &[&raw[..], &[&uri, text(&original)]].concat()).await;
        let converted = served.path("converted");
        let convert = [
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            &uri,
            text(&converted),
        ];
        peer("qemu-img", &convert).await;
        let raw = ["compare", "-f", "qcow2", "-F", "raw"];
        peer(
            "qemu-img",
            &[&raw[..], &[text(&converted), text(&original)]].concat(),
        )
        .await;
        served.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn real_clients_are_told_of_holes_errors_and_refusals() {
    if is_left_out("qemu") {
        return;
    }
    let data = Bytes::from(vec![7; 1 << 20]);
    let parts = [
        (ByteOffset(1 << 20), data.clone()),
        (ByteOffset(6 << 20), data),
    ];
    let bad = Extent::new(ByteOffset(6 << 20), ByteCount(4096)).unwrap();
    let source = MemorySource::sparse(ByteCount(8 << 20), parts).unwrap();
    let source = source.with_unreadable(bad);
    let export = NbdExport::read_only(Arc::new(source));
    let served = Served::new(NbdServer::new().with_export("", export));
    let uri = served.uri("");

    let map = peer("nbdinfo", &["--map", &uri]).await;
    let told: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    let hole = "3";
    assert_eq!(
        told,
        [
            ["0", "1048576", hole],
            ["1048576", "1048576", "0"],
            ["2097152", "4194304", hole],
            ["6291456", "1048576", "0"],
            ["7340032", "1048576", hole],
        ],
        "{map}"
    );
    let map = peer("qemu-img", &["map", "-f", "raw", "--output=json", &uri]).await;
    assert_eq!(map.matches("\"zero\": true").count(), 3, "{map}");

    let read = [
        "-r",
        "-f",
        "raw",
        "-c",
        "read -P 7 1M 1M",
        "-c",
        "read -P 0 2M 4M",
        &uri,
    ];
    let said = peer("qemu-io", &read).await;
    assert!(!said.contains("failed"), "{said}");
    let said = client("qemu-io", &["-r", "-f", "raw", "-c", "read 6M 1M", &uri]).await;
    let said = said.unwrap_or_else(|error| error);
    assert!(said.contains("Input/output error"), "{said}");
    // Only that range was lost.
    let said = peer(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "read -P 7 6400k 4k", &uri],
    )
    .await;
    assert!(!said.contains("failed"), "{said}");
    let said = client("qemu-io", &["-f", "raw", "-c", "write 0 4k", &uri]).await;
    let said = said.unwrap_err();
    assert!(said.contains("Permission denied"), "{said}");
    served.stop().await;
}
