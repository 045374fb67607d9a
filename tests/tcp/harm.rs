//! Peers with a certificate that mean harm: what they say is written byte by byte, as
//! docs/wire.md has it, and the server goes on for others.

use std::sync::Arc;
use std::time::Duration;

use backstop::memory::MemoryStore;
use backstop::{ChunkDigest, ProtectionServer, ProtectionService};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::hostile::others_are_served;
use crate::lab::{Running, Signer, serve_own};

const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    signer: Signer,
    running: Running,
}

impl Lab {
    async fn new() -> Self {
        let server = ProtectionServer::builder().with_shared_vault(Arc::new(MemoryStore::new()));
        let service: Arc<dyn ProtectionService> = server.build().await.unwrap().service();
        let signer = Signer::new();
        let running = serve_own(&signer, service).await;
        Self { signer, running }
    }

    /// Whoever else is there is served, and soon.
    async fn goes_on(&self) {
        let served = others_are_served(&self.signer, &self.running);
        tokio::time::timeout(PATIENCE, served).await.unwrap();
    }

    /// Inside of TLS, with a certificate that is good.
    async fn tls(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.running.address).await.unwrap();
        let name = "server.backstop".try_into().unwrap();
        let config = self.signer.raw_client("web1");
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }

    async fn http(&self) -> Http {
        let (requests, connection) = h2::client::handshake(self.tls().await).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Http(requests)
    }
}

#[derive(Clone)]
struct Http(SendRequest<Bytes>);

fn request(call: &str, length: u64) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("https://server.backstop/0/{call}"))
        .header("content-length", length)
        .body(())
        .unwrap()
}

impl Http {
    /// Gives the status and the answer.
    async fn ask(&self, call: &str, message: impl Into<Bytes>) -> (u16, Bytes) {
        let message = message.into();
        let mut requests = self.0.clone().ready().await.unwrap();
        let request = request(call, message.len() as u64);
        let (response, mut sending) = requests.send_request(request, false).unwrap();
        sending.send_data(message, true).unwrap();
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut answer = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            let _ = body.flow_control().release_capacity(data.len());
            answer.extend_from_slice(&data);
        }
        (status, answer.into())
    }

    /// Begins a synchronization of an image of 1 MiB; gives its number.
    async fn begin(&self, id: u128) -> Result<u64, Value> {
        let message = json!({
            "id": format!("{id:032x}"), "source": format!("web1/{id}"), "snapshot": format!("{id:032x}"),
            "streams": [{"name": "disk", "length": 1 << 20}],
        });
        let (status, answer) = self.ask("begin", message.to_string()).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        if status == 200 {
            return Ok(answer["session"].as_u64().unwrap());
        }
        Err(answer)
    }
}

fn kind(answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap();
    answer["kind"].as_str().unwrap().to_owned()
}

/// A `write` of one chunk that fills the beginning of region 0.
fn write(session: u64, digest: &ChunkDigest, length: u32, encoding: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(session.to_le_bytes());
    message.extend([0; 4]);
    message.extend([0; 8]);
    message.extend(1u32.to_le_bytes());
    message.extend(1u32.to_le_bytes());
    message.extend(0u32.to_le_bytes());
    message.extend(length.to_le_bytes());
    message.push(1);
    message.extend(digest.as_bytes());
    message.extend(0u32.to_le_bytes());
    message.extend(digest.as_bytes());
    message.extend(length.to_le_bytes());
    message.push(encoding);
    message.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    message.extend(payload);
    message
}

/// A zstd frame (RFC 8878, 3.1.1) of blocks that each say: this byte, 128 KiB of it.
fn bomb(mib: usize) -> Vec<u8> {
    let blocks = mib * 8;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    for block in 1..=blocks {
        let header = u32::from(block == blocks) | 1 << 1 | (128 << 10) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(7);
    }
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_lie_are_refused_and_change_nothing() {
    let lab = Lab::new().await;
    let http = lab.http().await;
    let session = http.begin(1).await.unwrap();
    let content = vec![7u8; 5000];
    let digest = ChunkDigest::of(&content);
    // What is right is taken: this is how it is written.
    let right = write(session, &digest, 5000, 0, &content);
    assert_eq!(http.ask("write", right.clone()).await.0, 200);
    assert_eq!(http.ask("write", right).await.0, 200, "and once more");
    let other = ChunkDigest::of(b"another");
    let most = 4 << 20;
    let lies = [
        ("another digest", write(session, &other, 5000, 0, &content)),
        (
            "a shorter payload",
            write(session, &digest, 5001, 0, &content),
        ),
        ("a longer one", write(session, &digest, 4999, 0, &content)),
        ("no frame", write(session, &digest, 5000, 1, &content)),
        (
            "an unknown encoding",
            write(session, &digest, 5000, 9, &content),
        ),
        ("a bomb", write(session, &digest, 5000, 1, &bomb(1 << 10))),
        (
            "a large bomb",
            write(session, &digest, most, 1, &bomb(8 << 10)),
        ),
        (
            "a huge chunk",
            write(session, &digest, u32::MAX, 1, &bomb(1)),
        ),
    ];
    for (what, lie) in lies {
        let (status, answer) = http.ask("write", lie).await;
        assert_eq!(status, 400, "{what}: {answer:?}");
        assert_eq!(kind(&answer), "invalid-input", "{what}: {answer:?}");
    }
    let known = http.ask("needed", {
        let mut message = session.to_le_bytes().to_vec();
        message.extend([0; 12]);
        message.extend(2u32.to_le_bytes());
        message.extend(digest.as_bytes());
        message.extend(other.as_bytes());
        message
    });
    assert_eq!(known.await, (200, Bytes::from_static(&[0b10])));
    lab.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_is_not_believed() {
    let lab = Lab::new().await;
    let http = lab.http().await;
    // Four GiB, and as many digests.
    let mut requests = http.0.clone().ready().await.unwrap();
    let (response, _sending) = requests
        .send_request(request("write", 4 << 30), false)
        .unwrap();
    assert_eq!(response.await.unwrap().status(), 400);
    let session = http.begin(1).await.unwrap();
    let mut message = session.to_le_bytes().to_vec();
    message.extend([0; 12]);
    message.extend([0xff; 4]);
    let (status, answer) = http.ask("needed", message).await;
    assert_eq!((status, kind(&answer).as_str()), (400, "invalid-input"));
    // A synchronization that nobody goes on with is one of so many.
    let mut refused = None;
    for id in 2..100 {
        if let Err(answer) = http.begin(id).await {
            refused = Some((id, answer));
            break;
        }
    }
    let (id, answer) = refused.unwrap();
    assert_eq!((id, &answer["kind"]), (65, &json!("unavailable")));
    lab.goes_on().await;
}

/// Messages that are announced and never come hold no more than one peer's part of
/// the memory: others have theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_slowly_holds_up_nobody_else() {
    let lab = Lab::new().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let http = lab.http().await;
        for _ in 0..60 {
            let mut requests = http.0.clone().ready().await.unwrap();
            let (response, mut sending) = requests
                .send_request(request("write", 16 << 20), false)
                .unwrap();
            sending.send_data(Bytes::from_static(b"x"), false).unwrap();
            held.push((response, sending));
        }
        lab.goes_on().await;
    }
}

/// The bytes of an HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The beginning of a connection, and headers of a request that has no end
/// (RFC 7541, with literals that are not indexed).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: &[u8] = b"\x83\x87\x04\x08/0/write\x01\x0fserver.backstop";

const END_HEADERS: u8 = 4;

/// Sends bytes for as long as the server takes them.
async fn pour(lab: &Lab, frames: impl Iterator<Item = Vec<u8>>) {
    let stream = lab.tls().await;
    let (mut from, mut to) = tokio::io::split(stream);
    let pouring = async {
        if to.write_all(PREFACE).await.is_err() {
            return;
        }
        for frame in frames {
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
        let _ = to.flush().await;
    };
    let reading = async {
        let mut answer = [0; 4096];
        while from.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    // Either the server ends it, or it has taken all.
    tokio::select! {
        () = pouring => {}
        () = reading => {}
    }
    lab.goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_streams_are_too_many() {
    let lab = Lab::new().await;
    let streams = || (0..10_000u32).map(|number| 2 * number + 1);
    pour(
        &lab,
        streams().map(|stream| frame(1, END_HEADERS, stream, HEADERS)),
    )
    .await;
    // And each taken back at once (CVE-2023-44487).
    let resets = streams().flat_map(|stream| {
        let reset = frame(3, 0, stream, &8u32.to_be_bytes());
        [frame(1, END_HEADERS, stream, HEADERS), reset]
    });
    pour(&lab, resets).await;
    // Headers that never end (CVE-2024-27316).
    let begun = std::iter::once(frame(1, 0, 1, HEADERS));
    let more = (0..10_000).map(|_| frame(9, 0, 1, b"\0\x01a\x01b"));
    pour(&lab, begun.chain(more)).await;
    // Pings and settings that all want an answer.
    let pings = (0..20_000).map(|_| [frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, &[])].concat());
    pour(&lab, pings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_inside_of_tls_end_their_connection_alone() {
    let lab = Lab::new().await;
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..20 {
        let bytes: Vec<u8> = (0..random.usize(1..3000)).map(|_| random.u8(..)).collect();
        let mut stream = lab.tls().await;
        if random.bool() {
            let _ = stream.write_all(PREFACE).await;
        }
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
    }
    lab.goes_on().await;
}
