//! The client held against the contract of a source, over our own server and
//! over real ones: qemu-nbd and nbdkit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests stop at the first surprise"
)]

mod lab;
#[path = "../../../tests/rights/mod.rs"]
mod rights;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backstop_core::memory::MemorySource;
use backstop_core::{
    BlockSource, ByteCount, ByteOffset, ErrorKind, Extent, ExtentSet, conformance,
};
use backstop_source_nbd::{NbdClientLimits, NbdEndpoint, NbdExport, NbdServer, NbdSource};
use bytes::Bytes;
use tokio::net::TcpListener;

use lab::{Served, image};
use rights::{demand, is_left_out, run};

fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
}

/// A client and our server over a pipe in memory.
async fn over_a_pipe(image: MemorySource, limits: NbdClientLimits) -> NbdSource {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let server = NbdServer::new().with_export("disk", NbdExport::read_only(Arc::new(image)));
    tokio::spawn(async move { server.serve_connection(theirs).await.unwrap() });
    NbdSource::over(ours, "disk", limits).await.unwrap()
}

#[tokio::test]
async fn an_export_of_ours_is_a_block_source() {
    let small = NbdClientLimits { bytes_in_flight: 1 };
    for (seed, length) in [(1, 0), (2, 1), (3, 9_000_001), (4, 13 << 20)] {
        for limits in [NbdClientLimits::default(), small] {
            let (whole, source) = image(length, seed);
            let export = over_a_pipe(source, limits).await;
            assert!(export.is_read_only() && export.tells_holes());
            conformance::block_source(&export, &whole, &ExtentSet::new()).await;
        }
    }
    let (whole, source) = image(9_000_001, 5);
    let bad = [extent(4096, 4096), extent(8_000_000, 5000)];
    let unreadable: ExtentSet = bad
        .iter()
        .map(|bad| bad.aligned_out(ByteCount(4096), ByteOffset(9_000_001)))
        .collect();
    let source = bad.into_iter().fold(source, MemorySource::with_unreadable);
    let export = over_a_pipe(source, NbdClientLimits::default()).await;
    conformance::block_source(&export, &whole, &unreadable).await;
}

#[tokio::test]
async fn holes_of_an_export_are_told() {
    let parts = [
        (ByteOffset(100_000), Bytes::from(vec![1; 100])),
        (ByteOffset(3 << 30), Bytes::from(vec![2; 4096])),
    ];
    let length = ByteCount((5 << 30) + 7);
    let source = MemorySource::sparse(length, parts).unwrap();
    let export = over_a_pipe(source, NbdClientLimits::default()).await;
    let data = export.data_extents(Extent::whole(length)).await.unwrap();
    // In whole blocks.
    assert_eq!(data, [extent(98_304, 4096), extent(3 << 30, 4096)]);
    let within = extent((3 << 30) + 5, 7);
    assert_eq!(export.data_extents(within).await.unwrap(), [within]);
    let none = export.data_extents(extent(4 << 30, 1 << 30)).await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_too_and_gone_when_the_server_is() {
    let (whole, source) = image(3_000_000, 6);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = NbdServer::new().with_export("disk", NbdExport::read_only(Arc::new(source)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server.serve_tcp(listener, stopped).await;
    });
    let endpoint = NbdEndpoint::Tcp(host);
    let missing = NbdSource::connect(&endpoint, "tape").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let export = NbdSource::connect(&endpoint, "disk").await.unwrap();
    conformance::block_source(&export, &whole, &ExtentSet::new()).await;

    stop.send(()).unwrap();
    serving.await.unwrap();
    let lost = export.read(ByteOffset(0), ByteCount(1)).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    let refused = NbdSource::connect(&endpoint, "disk").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

/// A real server, ended by its id.
struct Foreign(Child);

impl Foreign {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let started = command.spawn().map_err(|error| error.to_string());
        Self(demand("qemu", started))
    }

    /// Connects as soon as it listens.
    async fn connect(&mut self, socket: &Path) -> NbdSource {
        loop {
            let ended = self.0.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {ended:?}");
            if let Ok(stream) = tokio::net::UnixStream::connect(socket).await {
                return NbdSource::over(stream, "", NbdClientLimits::default())
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_qemu_are_block_sources() {
    if is_left_out("qemu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (raw, socket) = (path("raw"), path("socket"));
    let (whole, _) = image(9 << 20, 7);
    std::fs::write(&raw, &whole).unwrap();
    for format in ["qcow2", "vmdk", "vhdx", "raw"] {
        let disk = path(&format!("disk.{format}"));
        let convert = ["convert", "-f", "raw", "-O", format, &raw, &disk];
        demand("qemu", run("qemu-img", &convert));
        let serve = [
            "--read-only",
            "--format",
            format,
            "--socket",
            &socket,
            &disk,
        ];
        let mut server = Foreign::start("qemu-nbd", &serve);
        let export = server.connect(Path::new(&socket)).await;
        assert!(export.is_read_only() && export.tells_holes(), "{format}");
        conformance::block_source(&export, &whole, &ExtentSet::new()).await;
        let data = export.data_extents(Extent::whole(ByteCount(9 << 20)));
        let data: ExtentSet = data.await.unwrap().into_iter().collect();
        // QEMU knows none of VHDX.
        let has_holes = data.total() < ByteCount(9 << 20);
        assert_eq!(has_holes, format != "vhdx", "{format}: holes are told");

        // The server that is killed is gone, and says so.
        drop(server);
        let lost = export.read(ByteOffset(0), ByteCount(1)).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_of_older_servers_are_block_sources() {
    if is_left_out("qemu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (raw, socket) = (path("raw"), path("socket"));
    let (whole, _) = image(5 << 20, 8);
    std::fs::write(&raw, &whole).unwrap();
    let file = format!("file={raw}");
    let blocks = [
        "blocksize-policy",
        "blocksize-minimum=4096",
        "blocksize-error-policy=error",
    ];
    for options in [
        &["file", &file][..],
        // No structured replies, so no holes.
        &["--no-sr", "file", &file],
        // Whole blocks only.
        &["--filter", blocks[0], "file", &file, blocks[1], blocks[2]],
        &[
            "--filter",
            blocks[0],
            "file",
            &file,
            "blocksize-maximum=65536",
            blocks[2],
        ],
    ] {
        // What a server leaves behind is in the way of the next.
        let _ = std::fs::remove_file(&socket);
        let serve = ["--foreground", "--readonly", "--unix", &socket];
        let mut server = Foreign::start("nbdkit", &[&serve[..], options].concat());
        let export = server.connect(Path::new(&socket)).await;
        assert_eq!(export.tells_holes(), options[0] != "--no-sr");
        conformance::block_source(&export, &whole, &ExtentSet::new()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_asked_to_stop_answers_what_was_asked_first() {
    let (whole, source) = image(2_000_000, 9);
    let served =
        Served::new(NbdServer::new().with_export("disk", NbdExport::read_only(Arc::new(source))));
    let endpoint = NbdEndpoint::Unix(served.path("socket"));
    let export = NbdSource::connect(&endpoint, "disk").await.unwrap();
    let read = export
        .read(ByteOffset(0), ByteCount(2_000_000))
        .await
        .unwrap();
    assert!(read == whole);
    served.stop().await;
    let lost = export.read(ByteOffset(0), ByteCount(1)).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
}
