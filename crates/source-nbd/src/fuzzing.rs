//! Server and client, made callable for fuzzing: each gets all that its peer
//! ever says, must end, neither panic nor take memory beyond its limits, and
//! what it tells as read must be whole.

use std::sync::Arc;
use std::time::Duration;

use backstop_core::memory::MemorySource;
use backstop_core::{BlockSource, ByteCount, ByteOffset, Extent};
use bytes::Bytes;
use futures::future::join3;

use crate::protocol::numbers::{
    BASE_ALLOCATION, CMD_BLOCK_STATUS, CMD_DISC, CMD_READ, HAS_FLAGS, IHAVEOPT, NBDMAGIC, OPT_GO,
    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY,
};
use crate::protocol::option_replies::{Info, OptionReply};
use crate::protocol::options::{ClientOption, ContextQuery, ExportQuery};
use crate::protocol::replies::{Chunk, StatusExtent};
use crate::protocol::requests::Request;
use crate::{NbdClientLimits, NbdExport, NbdServer, NbdServerLimits, NbdSource};

/// The length of the image on either side, in bytes.
const LENGTH: u32 = 64 << 10;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime
        .unwrap_or_else(|error| unreachable!("no threads are started: {error}"))
        .block_on(work);
}

/// A server that is told these bytes.
pub fn nbd_server(bytes: &[u8]) {
    let part = (ByteOffset(10_000), Bytes::from_static(&[7; 5000]));
    let Ok(image) = MemorySource::sparse(ByteCount(LENGTH.into()), [part]) else {
        return;
    };
    let limits = NbdServerLimits {
        handshake: Duration::from_secs(5),
        ..NbdServerLimits::default()
    };
    let server = NbdServer::new()
        .with_export("disk", NbdExport::read_only(Arc::new(image)))
        .with_limits(limits);
    run(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        // It ends well or badly.
        let _ = server.serve_connection(stream).await;
    });
}

/// A client that is answered these bytes.
pub fn nbd_client(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    run(async {
        let stream = tokio::io::join(std::io::Cursor::new(bytes), tokio::io::sink());
        let Ok(source) = NbdSource::over(stream, "disk", NbdClientLimits::default()).await else {
            return;
        };
        let length = source.geometry().length.0.min(u64::from(LENGTH));
        let range = Extent::whole(ByteCount(length));
        let reads = [range, Extent::whole(ByteCount(length / 2))];
        let (read, many, data) = join3(
            source.read(range.offset(), range.length()),
            source.read_extents(&reads),
            source.data_extents(range),
        )
        .await;
        if let Ok(read) = read {
            assert_eq!(read.len() as u64, length);
        }
        for (answer, asked) in many.unwrap_or_default().iter().zip(reads) {
            assert_eq!(answer.len() as u64, asked.length().0);
        }
        let mut at = ByteOffset(0);
        for extent in data.unwrap_or_default() {
            assert!(extent.offset() >= at && extent.end() <= range.end());
            at = extent.end();
        }
    });
}

/// What a client says, and what a server says, when all goes well.
pub fn seeds() -> [(&'static str, &'static str, Vec<u8>); 2] {
    [
        ("nbd_server", "conversation", client_says()),
        ("nbd_client", "conversation", server_says()),
    ]
}

fn client_says() -> Vec<u8> {
    let export = "disk".to_owned();
    let queries = vec![BASE_ALLOCATION.to_owned()];
    let mut said = vec![0, 0, 0, 3];
    for option in [
        ClientOption::List,
        ClientOption::StructuredReply,
        ClientOption::SetMetaContext(ContextQuery {
            export: export.clone(),
            queries,
        }),
        ClientOption::Go(ExportQuery {
            export,
            infos: vec![3],
        }),
    ] {
        said.extend(option.encode());
    }
    for (command, length) in [
        (CMD_READ, LENGTH),
        (CMD_BLOCK_STATUS, LENGTH),
        (CMD_DISC, 0),
    ] {
        let request = Request {
            flags: 0,
            command,
            cookie: 1,
            offset: 0,
            length,
        };
        said.extend(request.encode());
    }
    said
}

fn server_says() -> Vec<u8> {
    let mut said = [NBDMAGIC, IHAVEOPT].map(u64::to_be_bytes).concat();
    said.extend([0, 3]);
    let context = OptionReply::MetaContext {
        id: 1,
        name: BASE_ALLOCATION.to_owned(),
    };
    let info = OptionReply::Info(Info::Export {
        length: LENGTH.into(),
        flags: HAS_FLAGS,
    });
    for (option, reply) in [
        (OPT_STRUCTURED_REPLY, OptionReply::Ack),
        (OPT_SET_META_CONTEXT, context),
        (OPT_SET_META_CONTEXT, OptionReply::Ack),
        (OPT_GO, info),
        (OPT_GO, OptionReply::Ack),
    ] {
        said.extend(reply.encode(option));
    }
    let hole = |length| Chunk::Hole { offset: 0, length };
    let extents = vec![StatusExtent {
        length: LENGTH,
        flags: 0,
    }];
    let status = Chunk::Status {
        context: 1,
        extents,
    };
    // In the order that the client asks.
    for (cookie, chunk) in [
        (1, hole(LENGTH)),
        (2, hole(LENGTH)),
        (3, hole(LENGTH / 2)),
        (4, status),
    ] {
        said.extend(chunk.encode(cookie, true));
    }
    said
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The kept seeds in `fuzz/seeds` are what is made here;
    /// `BACKSTOP_WRITE_SEEDS=1` writes them anew.
    #[test]
    fn seeds_are_kept_and_every_cut_of_them_is_survived() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (target, name, bytes) in seeds() {
            let path = folder.join(target).join(name);
            if std::env::var_os("BACKSTOP_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{}", path.display());
            let run = match target {
                "nbd_server" => nbd_server,
                _ => nbd_client,
            };
            for end in 0..=bytes.len() {
                run(&bytes[..end]);
            }
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << (at % 8);
                run(&bad);
            }
        }
    }

    /// The seed of the client is a conversation that goes well to its end.
    #[test]
    fn the_conversation_of_the_client_reads_everything() {
        run(async {
            let stream = tokio::io::join(std::io::Cursor::new(server_says()), tokio::io::sink());
            let source = NbdSource::over(stream, "disk", NbdClientLimits::default()).await;
            let source = source.unwrap();
            let length = ByteCount(LENGTH.into());
            let reads = [
                Extent::whole(length),
                Extent::whole(ByteCount(length.0 / 2)),
            ];
            let (read, many, data) = join3(
                source.read(ByteOffset(0), length),
                source.read_extents(&reads),
                source.data_extents(reads[0]),
            )
            .await;
            assert_eq!(read.unwrap().len() as u64, length.0);
            assert_eq!(many.unwrap().len(), 2);
            assert_eq!(data.unwrap(), [reads[0]]);
        });
    }
}
