//! Servers that break the protocol: each is told as such, and ends the
//! connection.

use backstop_core::{BlockSource, ByteCount, ByteOffset, Error, ErrorKind, Extent};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::protocol::errno::Errno;
use crate::protocol::numbers::*;
use crate::protocol::option_replies::{BlockSizes, Info, OptionReply};
use crate::protocol::options::OptionHeader;
use crate::protocol::replies::{Chunk, ReplyHeader, StatusExtent};
use crate::protocol::requests::Request;

const LENGTH: u64 = 1 << 20;

async fn greet(wire: &mut DuplexStream) {
    wire.write_all(b"NBDMAGICIHAVEOPT\0\x03").await.unwrap();
    let mut flags = [0; 4];
    wire.read_exact(&mut flags).await.unwrap();
}

/// The next option's number.
async fn option(wire: &mut DuplexStream) -> u32 {
    let mut header = [0; OptionHeader::LENGTH];
    wire.read_exact(&mut header).await.unwrap();
    let header = OptionHeader::decode(&header).unwrap();
    let mut data = vec![0; header.length as usize];
    wire.read_exact(&mut data).await.unwrap();
    header.option
}

async fn reply(wire: &mut DuplexStream, option: u32, replies: &[OptionReply]) {
    for reply in replies {
        // The client may have had enough.
        let _ = wire.write_all(&reply.encode(option)).await;
    }
}

fn export(length: u64, flags: u16) -> OptionReply {
    OptionReply::Info(Info::Export { length, flags })
}

/// Answers options, the choice of the export by `told`.
async fn choose(wire: &mut DuplexStream, told: &[OptionReply]) {
    greet(wire).await;
    loop {
        let asked = option(wire).await;
        let context = OptionReply::MetaContext {
            id: 5,
            name: BASE_ALLOCATION.to_owned(),
        };
        match asked {
            OPT_GO => return reply(wire, asked, told).await,
            OPT_SET_META_CONTEXT => reply(wire, asked, &[context, OptionReply::Ack]).await,
            _ => reply(wire, asked, &[OptionReply::Ack]).await,
        }
    }
}

async fn connect(told: Vec<OptionReply>) -> Result<(NbdSource, DuplexStream), Error> {
    let (ours, mut theirs) = tokio::io::duplex(1 << 22);
    let server = async move {
        choose(&mut theirs, &told).await;
        theirs
    };
    let client = NbdSource::over(ours, "disk", NbdClientLimits::default());
    let (source, theirs) = tokio::join!(client, server);
    Ok((source?, theirs))
}

async fn good() -> (NbdSource, DuplexStream) {
    connect(vec![export(LENGTH, HAS_FLAGS), OptionReply::Ack])
        .await
        .unwrap()
}

async fn request(wire: &mut DuplexStream) -> Request {
    let mut bytes = [0; Request::LENGTH];
    wire.read_exact(&mut bytes).await.unwrap();
    Request::decode(&bytes).unwrap()
}

fn data(offset: u64, length: u32) -> (Chunk, Vec<u8>) {
    (Chunk::Data { offset, length }, vec![1; length as usize])
}

fn plain(chunk: Chunk) -> (Chunk, Vec<u8>) {
    (chunk, Vec::new())
}

#[tokio::test]
async fn broken_handshakes_are_told() {
    let sizes = |minimum, maximum| {
        OptionReply::Info(Info::BlockSize(BlockSizes {
            minimum,
            preferred: 4096,
            maximum,
        }))
    };
    let good = export(LENGTH, HAS_FLAGS);
    let endless = vec![OptionReply::Info(Info::Other); 5000];
    for told in [
        vec![OptionReply::Ack],
        vec![export(u64::MAX, HAS_FLAGS), OptionReply::Ack],
        vec![export(LENGTH, 0), OptionReply::Ack],
        vec![good.clone(), sizes(0, 4096), OptionReply::Ack],
        vec![good.clone(), sizes(3, 4096), OptionReply::Ack],
        vec![good.clone(), sizes(1 << 30, 1 << 30), OptionReply::Ack],
        vec![good.clone(), sizes(4096, 512), OptionReply::Ack],
        endless,
    ] {
        let error = connect(told.clone()).await.map(drop).unwrap_err();
        let first = &told[..told.len().min(3)];
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{first:?}: {error}");
        assert!(error.to_string().contains("broke the protocol"), "{error}");
    }
    for (greeting, kind) in [
        (&b"SSH-2.0-OpenSSH_9.2p1 Debian"[..], ErrorKind::Unavailable),
        (
            b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0",
            ErrorKind::Unsupported,
        ),
        (b"NBDMAGICIHAVEOPT\0\x02", ErrorKind::Unsupported),
        (b"NBD", ErrorKind::Unavailable),
    ] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        theirs.write_all(greeting).await.unwrap();
        theirs.shutdown().await.unwrap();
        let error = NbdSource::over(ours, "disk", NbdClientLimits::default()).await;
        assert_eq!(error.map(drop).unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn servers_that_know_only_the_old_way_of_choosing_are_read() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    let server = async move {
        theirs.write_all(b"NBDMAGICIHAVEOPT\0\x01").await.unwrap();
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        let mut asked = option(&mut theirs).await;
        while asked != OPT_EXPORT_NAME {
            let (kind, message) = (REP_ERR_UNSUP, String::new());
            reply(&mut theirs, asked, &[OptionReply::Error { kind, message }]).await;
            asked = option(&mut theirs).await;
        }
        theirs.write_all(&LENGTH.to_be_bytes()).await.unwrap();
        theirs.write_all(&HAS_FLAGS.to_be_bytes()).await.unwrap();
        theirs.write_all(&[0; OLD_ZEROES]).await.unwrap();
        let Request { cookie, .. } = request(&mut theirs).await;
        let header = ReplyHeader::Simple { error: 0, cookie };
        theirs.write_all(&header.encode()).await.unwrap();
        theirs.write_all(b"hello").await.unwrap();
        theirs
    };
    let client = async {
        let source = NbdSource::over(ours, "disk", NbdClientLimits::default()).await;
        let source = source.unwrap();
        assert!(!source.tells_holes() && !source.is_read_only());
        let read = source.read(ByteOffset(7), ByteCount(5)).await.unwrap();
        assert_eq!(read, "hello");
    };
    tokio::join!(client, server);
}

/// What a read of 100 bytes at 1000 gives, answered by these chunks.
async fn read_answered(chunks: Vec<(Chunk, Vec<u8>)>) -> Result<Vec<u8>, Error> {
    let (source, mut wire) = good().await;
    let server = async {
        let Request { cookie, .. } = request(&mut wire).await;
        for (index, (chunk, bytes)) in chunks.iter().enumerate() {
            let head = chunk.encode(cookie, index + 1 == chunks.len());
            let _ = wire.write_all(&head).await;
            let _ = wire.write_all(bytes).await;
        }
    };
    let (read, ()) = tokio::join!(source.read(ByteOffset(1000), ByteCount(100)), server);
    read.map(|bytes| bytes.to_vec())
}

#[tokio::test]
async fn answers_to_reads_are_whole_and_once_or_nothing() {
    let hole = |offset, length| plain(Chunk::Hole { offset, length });
    let whole = read_answered(vec![data(1060, 40), hole(1010, 50), data(1000, 10)]).await;
    assert_eq!(
        whole.unwrap(),
        [vec![1; 10], vec![0; 50], vec![1; 40]].concat()
    );

    let status = Chunk::Status {
        context: 5,
        extents: vec![StatusExtent {
            length: 100,
            flags: 0,
        }],
    };
    for chunks in [
        vec![data(1000, 99)],
        vec![plain(Chunk::None)],
        vec![data(999, 100)],
        vec![data(1000, 101)],
        vec![data(1000, 100), data(1000, 100)],
        vec![data(1000, 60), hole(1050, 50)],
        vec![hole(u64::MAX, 100)],
        vec![hole(1000, 0), data(1000, 100)],
        vec![plain(status)],
    ] {
        let told: Vec<Chunk> = chunks.iter().map(|(chunk, _)| chunk.clone()).collect();
        let error = read_answered(chunks).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{told:?}");
        assert!(error.to_string().contains("broke the protocol"), "{error}");
    }
    let failed = Chunk::Error {
        errno: Errno::EIO,
        message: "on fire".to_owned(),
        offset: Some(1050),
    };
    let error = read_answered(vec![data(1000, 50), plain(failed)])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreadable);
    assert!(error.to_string().contains("on fire"), "{error}");
}

#[tokio::test]
async fn replies_that_were_not_agreed_on_end_the_connection() {
    let simple = |error, cookie| ReplyHeader::Simple { error, cookie }.encode();
    let chunk = |kind, length| ReplyHeader::Chunk {
        done: true,
        kind,
        cookie: 1,
        length,
    };
    for bytes in [
        simple(0, 1),
        simple(0, 77),
        vec![0; 20],
        chunk(CHUNK_STATUS, u32::MAX).encode(),
        chunk(CHUNK_DATA, 4).encode(),
        chunk(77, 0).encode(),
    ] {
        let (source, mut wire) = good().await;
        let read = source.read(ByteOffset(0), ByteCount(100));
        let server = async {
            assert_eq!(request(&mut wire).await.cookie, 1);
            wire.write_all(&bytes).await.unwrap();
            wire.write_all(&[0; 100]).await.unwrap();
        };
        let (read, ()) = tokio::join!(read, server);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
        // From now on it is of no use.
        let again = source.read(ByteOffset(0), ByteCount(100)).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

/// What a server's states of 10000 bytes at 500 make of them.
async fn states_answered(states: &[(u32, u32)]) -> Result<Vec<Extent>, Error> {
    let (source, mut wire) = good().await;
    let range = Extent::new(ByteOffset(500), ByteCount(10_000)).unwrap();
    let server = async {
        let Request { cookie, .. } = request(&mut wire).await;
        let states = states.iter();
        let extents = states.map(|&(length, flags)| StatusExtent { length, flags });
        let chunk = Chunk::Status {
            context: 5,
            extents: extents.collect(),
        };
        wire.write_all(&chunk.encode(cookie, true)).await.unwrap();
    };
    tokio::join!(source.data_extents(range), server).0
}

#[tokio::test]
async fn states_are_held_against_what_was_asked() {
    let data = |at, length| Extent::new(ByteOffset(at), ByteCount(length)).unwrap();
    // The last may reach further. A hole that is not known to be zeros is data.
    let told = states_answered(&[
        (100, STATE_ZERO | STATE_HOLE),
        (50, 0),
        (50, STATE_HOLE),
        (20_000, STATE_ZERO),
    ]);
    assert_eq!(told.await.unwrap(), [data(600, 100)]);
    let told = states_answered(&[(u32::MAX, 0)]);
    assert_eq!(told.await.unwrap(), [data(500, 10_000)]);
    for states in [&[][..], &[(0, 0)], &[(10_000, 0), (1, 0)]] {
        let error = states_answered(states).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{states:?}");
    }
}

/// An answer to somebody who went away is passed over, and its memory comes
/// back.
#[tokio::test]
async fn who_goes_away_is_not_waited_for() {
    let (source, mut wire) = good().await;
    for _ in 0..100 {
        let read = source.read(ByteOffset(0), ByteCount(LENGTH));
        let cookie = tokio::select! {
            biased;
            _ = read => panic!("nobody answers"),
            asked = request(&mut wire) => asked.cookie,
        };
        let (chunk, bytes) = data(0, u32::try_from(LENGTH).unwrap());
        let (head, other) = (chunk.encode(cookie, true), source.clone());
        let answered =
            tokio::spawn(async move { other.read(ByteOffset(5), ByteCount(1)).await.unwrap() });
        wire.write_all(&head).await.unwrap();
        wire.write_all(&bytes).await.unwrap();
        let next = request(&mut wire).await;
        assert_eq!(next.offset, 5);
        wire.write_all(&data(5, 1).0.encode(next.cookie, true))
            .await
            .unwrap();
        wire.write_all(&[9]).await.unwrap();
        assert_eq!(answered.await.unwrap(), [9][..]);
    }
}
