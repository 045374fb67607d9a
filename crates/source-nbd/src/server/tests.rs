//! Clients that can be written only byte by byte: old ones, wrong ones, and
//! such that mean harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backstop_core::memory::MemorySource;
use backstop_core::{BlockSource, ByteCount, ByteOffset, ErrorKind, Extent, Geometry, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;
use crate::protocol::numbers::*;
use crate::protocol::option_replies::{OptionReply, OptionReplyHeader};
use crate::protocol::options::{ClientOption, ContextQuery, ExportQuery};
use crate::protocol::replies::{Chunk, ReplyHeader};
use crate::protocol::requests::Request;

const LENGTH: u64 = 5_000_000;

fn server() -> NbdServer {
    let image = MemorySource::new(vec![7; usize::try_from(LENGTH).unwrap()]);
    NbdServer::new().with_export("disk", NbdExport::read_only(Arc::new(image)))
}

/// A client's end, and how serving it ended.
struct Wire {
    stream: DuplexStream,
    served: JoinHandle<Result<()>>,
}

impl Wire {
    /// Connects and says the client's flags.
    async fn greet(server: NbdServer, flags: u16) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(async move { server.serve_connection(theirs).await });
        let mut wire = Self {
            stream: ours,
            served,
        };
        let mut greeting = [0; 18];
        wire.stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting, *b"NBDMAGICIHAVEOPT\0\x03");
        wire.send(&u32::from(flags).to_be_bytes()).await;
        wire
    }

    /// Up to the transmission.
    async fn transmit(server: NbdServer, structured: bool) -> Self {
        let mut wire = Self::greet(server, 3).await;
        if structured {
            assert_eq!(
                wire.ask(ClientOption::StructuredReply).await,
                [OptionReply::Ack]
            );
            let query = ContextQuery {
                export: "disk".to_owned(),
                queries: vec![BASE_ALLOCATION.to_owned()],
            };
            assert_eq!(wire.ask(ClientOption::SetMetaContext(query)).await.len(), 2);
        }
        let infos = wire.ask(ClientOption::Go(query("disk"))).await;
        assert_eq!(infos.last(), Some(&OptionReply::Ack));
        wire
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The server may have had enough.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends an option and collects the replies up to the last.
    async fn ask(&mut self, option: ClientOption) -> Vec<OptionReply> {
        self.send(&option.encode()).await;
        self.replies().await
    }

    async fn replies(&mut self) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let mut header = [0; OptionReplyHeader::LENGTH];
            self.stream.read_exact(&mut header).await.unwrap();
            let header = OptionReplyHeader::decode(&header).unwrap();
            let mut data = vec![0; header.length as usize];
            self.stream.read_exact(&mut data).await.unwrap();
            let reply = OptionReply::decode(header.kind, &data).unwrap();
            let is_last = matches!(reply, OptionReply::Ack | OptionReply::Error { .. });
            replies.push(reply);
            if is_last {
                return replies;
            }
        }
    }

    /// The kind of the refusal of an option.
    async fn refusal(&mut self, option: ClientOption) -> u32 {
        match &self.ask(option).await[..] {
            [OptionReply::Error { kind, .. }] => *kind,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) {
        let request = Request {
            flags,
            command,
            cookie: 9,
            offset,
            length,
        };
        self.send(&request.encode()).await;
    }

    /// The number of a simple reply.
    async fn simple(&mut self) -> u32 {
        let mut header = [0; ReplyHeader::SIMPLE_LENGTH];
        self.stream.read_exact(&mut header).await.unwrap();
        match ReplyHeader::decode(&header).unwrap() {
            ReplyHeader::Simple { error, cookie: 9 } => error,
            other => panic!("{other:?}"),
        }
    }

    /// One chunk without its data, and whether it is the last.
    async fn chunk(&mut self) -> (Chunk, bool) {
        let mut header = [0; ReplyHeader::CHUNK_LENGTH];
        self.stream.read_exact(&mut header).await.unwrap();
        let ReplyHeader::Chunk {
            done, kind, length, ..
        } = ReplyHeader::decode(&header).unwrap()
        else {
            panic!("no chunk");
        };
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.unwrap();
        if kind == CHUNK_DATA {
            let data = payload.split_off(8);
            assert!(data.iter().all(|byte| *byte == 7));
        }
        (Chunk::decode(kind, length, &payload).unwrap(), done)
    }

    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// That the server has ended the connection for a reason.
    async fn ended_badly(self) {
        let error = self.served.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }

    /// That the server still serves, and ends when it is told.
    async fn ends_well(mut self) {
        self.request(CMD_DISC, 0, 0, 0).await;
        self.served.await.unwrap().unwrap();
    }
}

fn query(export: &str) -> ExportQuery {
    ExportQuery {
        export: export.to_owned(),
        infos: vec![INFO_NAME, INFO_DESCRIPTION, 99],
    }
}

fn contexts(queries: &[&str]) -> ContextQuery {
    ContextQuery {
        export: String::new(),
        queries: queries.iter().map(|&query| query.to_owned()).collect(),
    }
}

#[tokio::test]
async fn options_are_answered_or_refused() {
    let mut wire = Wire::greet(server(), 3).await;
    assert_eq!(wire.refusal(ClientOption::Unknown(5)).await, REP_ERR_UNSUP);
    assert_eq!(
        wire.refusal(ClientOption::Info(query("tape"))).await,
        REP_ERR_UNKNOWN
    );
    assert_eq!(
        wire.ask(ClientOption::List).await,
        [OptionReply::Server("disk".to_owned()), OptionReply::Ack]
    );
    // The only export has no need of its name.
    assert_eq!(wire.ask(ClientOption::Info(query(""))).await.len(), 4);
    let chosen = ClientOption::SetMetaContext(contexts(&[BASE_ALLOCATION]));
    assert_eq!(wire.refusal(chosen.clone()).await, REP_ERR_INVALID);
    for (queries, found) in [
        (&[][..], 1),
        (&["base:"], 1),
        (&["base:allocation"], 1),
        (&["qemu:", "other:base:"], 0),
    ] {
        let list = ClientOption::ListMetaContext(contexts(queries));
        assert_eq!(wire.ask(list).await.len(), found + 1, "{queries:?}");
    }
    wire.ask(ClientOption::StructuredReply).await;
    assert_eq!(wire.ask(chosen).await.len(), 2);
    let namespace = ClientOption::SetMetaContext(contexts(&["base:"]));
    assert_eq!(wire.ask(namespace).await.len(), 1);
    // Data that is none, and more than is taken.
    let mut bad = ClientOption::Go(query("disk")).encode();
    bad.truncate(20);
    bad[12..16].copy_from_slice(&4_u32.to_be_bytes());
    wire.send(&bad).await;
    assert!(matches!(
        wire.replies().await[..],
        [OptionReply::Error {
            kind: REP_ERR_INVALID,
            ..
        }]
    ));
    let mut long = ClientOption::Unknown(77).encode();
    long[12..16].copy_from_slice(&100_000_u32.to_be_bytes());
    wire.send(&long).await;
    wire.send(&vec![0; 100_000]).await;
    assert!(matches!(
        wire.replies().await[..],
        [OptionReply::Error {
            kind: REP_ERR_TOO_BIG,
            ..
        }]
    ));
    assert_eq!(wire.ask(ClientOption::Abort).await, [OptionReply::Ack]);
    wire.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_old_way_of_choosing_is_served() {
    for (flags, zeroes) in [(3, 0), (1, OLD_ZEROES)] {
        let mut wire = Wire::greet(server(), flags).await;
        let option = ClientOption::ExportName("disk".to_owned());
        wire.send(&option.encode()).await;
        let told = wire.read(10 + zeroes).await;
        assert_eq!(told[..8], LENGTH.to_be_bytes());
        assert!(told[10..].iter().all(|byte| *byte == 0));
        // A read of more than is held at once.
        wire.request(CMD_READ, 0, 1, 3 << 20).await;
        assert_eq!(wire.simple().await, 0);
        assert!(wire.read(3 << 20).await == vec![7; 3 << 20]);
        wire.ends_well().await;
    }
    let mut wire = Wire::greet(server(), 3).await;
    let option = ClientOption::ExportName("tape".to_owned());
    wire.send(&option.encode()).await;
    wire.ended_badly().await;
}

#[tokio::test]
async fn wrong_requests_are_refused_and_the_next_is_answered() {
    let wrong = [
        (CMD_READ, 0, LENGTH, 1, 22),
        (CMD_READ, 0, LENGTH - 1, 2, 22),
        (CMD_READ, 0, u64::MAX, 2, 22),
        (CMD_READ, 0, 0, 0, 22),
        (CMD_READ, 1 << 9, 0, 1, 22),
        (CMD_READ, 0, 0, LONGEST_REQUEST + 1, 75),
        (CMD_TRIM, 0, 0, 1, 1),
        (CMD_WRITE_ZEROES, 0, 0, 1, 1),
        (CMD_RESIZE, 0, 0, 1, 1),
        (3, 0, 0, 0, 22),
        (1000, 0, 0, 0, 22),
    ];
    for structured in [false, true] {
        let mut wire = Wire::transmit(server(), structured).await;
        for (command, flags, offset, length, number) in wrong {
            wire.request(command, flags, offset, length).await;
            let told = if structured {
                match wire.chunk().await {
                    (Chunk::Error { errno, .. }, true) => errno.0,
                    other => panic!("{other:?}"),
                }
            } else {
                wire.simple().await
            };
            assert_eq!(told, number, "command {command}");
        }
        // The data of a write is no request.
        wire.request(CMD_WRITE, 0, 0, 4096).await;
        wire.send(&[0x25; 4096]).await;
        if structured {
            assert!(matches!(wire.chunk().await, (Chunk::Error { .. }, true)));
            wire.request(CMD_READ, CMD_FLAG_DF, 0, (1 << 20) + 1).await;
            assert!(matches!(wire.chunk().await, (Chunk::Error { .. }, true)));
            wire.request(CMD_READ, CMD_FLAG_DF, 5, 1 << 20).await;
            let whole = Chunk::Data {
                offset: 5,
                length: 1 << 20,
            };
            assert_eq!(wire.chunk().await, (whole, true));
            wire.request(CMD_BLOCK_STATUS, 0, 1, u32::try_from(LENGTH).unwrap() - 1)
                .await;
            let (status, done) = wire.chunk().await;
            let Chunk::Status {
                context: 1,
                extents,
            } = status
            else {
                panic!("{status:?}");
            };
            assert!(done && extents.len() == 1 && extents[0].flags == 0);
            assert_eq!(u64::from(extents[0].length), LENGTH - 1);
        } else {
            assert_eq!(wire.simple().await, 1);
            wire.request(CMD_BLOCK_STATUS, 0, 0, 1).await;
            assert_eq!(wire.simple().await, 22);
            wire.request(CMD_READ, 0, 0, 1).await;
            assert_eq!(wire.simple().await, 0);
            wire.read(1).await;
        }
        wire.ends_well().await;
    }
}

#[tokio::test]
async fn what_is_no_nbd_costs_its_own_connection() {
    let mut wire = Wire::greet(server(), 1 << 7).await;
    wire.send(b"GET / HTTP/1.1\r\n\r\n").await;
    wire.ended_badly().await;
    let mut wire = Wire::greet(server(), 3).await;
    wire.send(b"GET / HTTP/1.1\r\n\r\n").await;
    wire.ended_badly().await;
    // More than anybody needs, or can wait for.
    let mut wire = Wire::greet(server(), 3).await;
    let mut long = ClientOption::Unknown(77).encode();
    long[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    wire.send(&long).await;
    wire.ended_badly().await;
    let mut wire = Wire::greet(server(), 3).await;
    for _ in 0..256 {
        wire.refusal(ClientOption::Unknown(77)).await;
    }
    wire.ended_badly().await;

    let mut wire = Wire::transmit(server(), true).await;
    wire.send(&[0; Request::LENGTH]).await;
    wire.ended_badly().await;
    let mut wire = Wire::transmit(server(), true).await;
    wire.request(CMD_WRITE, 0, 0, u32::MAX).await;
    wire.ended_badly().await;
    // Gone in the middle of a request, and between two.
    let mut wire = Wire::transmit(server(), true).await;
    wire.send(&[0x25, 0x60]).await;
    drop(wire.stream);
    assert!(wire.served.await.unwrap().is_err());
    let wire = Wire::transmit(server(), true).await;
    drop(wire.stream);
    wire.served.await.unwrap().unwrap();
}

/// Random bytes at every stage: each connection ends, and nothing panics.
#[tokio::test]
async fn noise_ends_connections() {
    let mut random = fastrand::Rng::with_seed(0x0bd);
    for round in 0..300 {
        let mut wire = match round % 3 {
            0 => Wire::greet(server(), 3).await,
            stage => Wire::transmit(server(), stage == 1).await,
        };
        let mut bytes = match round % 3 {
            0 => ClientOption::SetMetaContext(contexts(&["base:allocation"; 4])).encode(),
            _ => Request {
                flags: 0,
                command: random.u16(..8),
                cookie: 1,
                offset: 0,
                length: random.u32(..100_000),
            }
            .encode(),
        };
        for _ in 0..random.usize(..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.extend((0..random.usize(..200)).map(|_| random.u8(..)));
        wire.send(&bytes).await;
        wire.stream.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let _ = wire.stream.read_to_end(&mut answers).await;
        // Well or badly, but it ends.
        let _ = wire.served.await.expect("no panic");
    }
}

/// A source that counts how much of it was asked for.
struct Counted {
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl BlockSource for Counted {
    fn geometry(&self) -> Geometry {
        Geometry {
            length: ByteCount(1 << 40),
            block: ByteCount(4096),
        }
    }

    async fn read(&self, _at: ByteOffset, length: ByteCount) -> Result<Bytes> {
        self.asked.fetch_add(length.0, Ordering::SeqCst);
        Ok(vec![7; usize::try_from(length.0).unwrap()].into())
    }

    async fn read_extents(&self, _extents: &[Extent]) -> Result<Vec<Bytes>> {
        panic!("not asked by a server")
    }

    async fn data_extents(&self, range: Extent) -> Result<Vec<Extent>> {
        Ok(vec![range])
    }

    async fn verify_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// Time stands still while anybody has something to do, so a pause lasts until
/// nobody has.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_costs_bounded_memory() {
    for structured in [false, true] {
        let asked = Arc::new(AtomicU64::new(0));
        let source = Counted {
            asked: Arc::clone(&asked),
        };
        let limits = NbdServerLimits {
            bytes_in_flight: 3 << 20,
            ..NbdServerLimits::default()
        };
        let server = NbdServer::new()
            .with_export("disk", NbdExport::read_only(Arc::new(source)))
            .with_limits(limits);
        let mut wire = Wire::transmit(server, structured).await;
        for number in 0..100 {
            wire.request(CMD_READ, 0, number << 25, LONGEST_REQUEST)
                .await;
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
        let asked = asked.load(Ordering::SeqCst);
        // What is held, and what the pipe has taken.
        assert!(
            (1 << 20..=4 << 20).contains(&asked),
            "{asked} bytes were read"
        );
        wire.served.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_chooses_is_let_go() {
    let wire = Wire::greet(server(), 3).await;
    wire.ended_badly().await;
    // One that has chosen may take its time.
    let mut wire = Wire::transmit(server(), true).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    wire.request(CMD_READ, 0, 0, 1).await;
    assert!(wire.chunk().await.1);
    wire.ends_well().await;
}
