//! The decoders of everything that comes over the wire, and the server's answers
//! to any sequence of calls, made callable for fuzzing: neither may panic or take
//! memory beyond what has come, and what is accepted must survive a round trip.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use backstop_core::{
    ByteOffset, ChunkDigest, Clock, Codecs, CpuPool, Decompressor, HashedChunk, ManualClock, Piece,
    PieceContent, ProtectionService, RegionAddress, RegionIndex, RegionUpdate, Result,
    SliceContent, Timestamp, VerifiedChunk,
};
use bytes::Bytes;

use crate::gate::{Gate, OwnSources};
use crate::server::fuzzed::Fuzzed;
use crate::tls::{Peer, Role};
use crate::wire::control::{
    self, Begin, Beginning, Committed, Failure, ReplicaAnswer, ReplicaQuestion, decode, encode,
};
use crate::wire::region::{self, Place};
use crate::wire::{Asked, Call};

/// What is accepted of JSON is written as it was understood.
fn json<T: serde::Serialize + serde::de::DeserializeOwned>(message: &[u8]) {
    let Ok(first) = decode::<T>("a message", message) else {
        return;
    };
    let Ok(written) = encode(&first) else {
        panic!("what was read can't be written");
    };
    let again = decode::<T>("a message", &written).and_then(|again| encode(&again));
    assert_eq!(again.ok(), Some(written));
}

/// Any bytes as each of the messages.
pub fn message(bytes: &[u8]) {
    let message = Bytes::copy_from_slice(bytes);
    let is_same = |written: Bytes| assert_eq!(written, message);
    if let Ok(place) = Place::decode(message.clone()) {
        is_same(place.encode());
    }
    if let Ok((place, digests)) = region::decode_needed(message.clone()) {
        is_same(region::encode_needed(&place, &digests));
    }
    if let Ok((place, ranges)) = region::decode_ranges(message.clone()) {
        is_same(region::encode_ranges(&place, &ranges));
    }
    if let Ok(slices) = region::decode_slices(message.clone()) {
        is_same(region::encode_slices(&slices));
    }
    if let Ok(digests) = region::decode_digests(message.clone()) {
        is_same(region::encode_digests(&digests));
    }
    if let Ok(regions) = region::decode_regions(message.clone()) {
        is_same(region::encode_regions(&regions));
    }
    if let Ok(update) = region::decode_update(message.clone())
        && let Ok(mut decompressor) = Decompressor::new()
        && let Ok((session, update)) = update.check(&mut decompressor)
    {
        is_same(region::encode_update(session, &update));
    }
    let _ = region::decode_outcome(message.clone());
    let _ = control::decode_commits(message.clone());
    json::<ReplicaQuestion>(bytes);
    json::<ReplicaAnswer>(bytes);
    json::<Begin>(bytes);
    json::<Beginning>(bytes);
    json::<Committed>(bytes);
    json::<Failure>(bytes);
    json::<crate::status::TransportStatus>(bytes);
    if let Ok(path) = std::str::from_utf8(bytes) {
        let _ = Asked::of(path);
    }
}

/// An agent that says anything to a server.
pub struct Conversation {
    server: Fuzzed,
    /// What was begun last.
    session: u64,
}

/// Where what a step says comes from.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn one_of<T: Copy>(&mut self, choices: [T; 3]) -> T {
        choices[usize::from(self.byte() % 3)]
    }

    fn small(&mut self) -> u64 {
        u64::from(self.byte() % 4)
    }
}

/// Lengths of the images that are begun: within a region, and of several.
const LENGTHS: [u64; 3] = [10_000, 4 << 20, 9_000_000];

impl Conversation {
    /// With an agent of this name.
    ///
    /// # Errors
    /// None that is known.
    pub fn new(service: Arc<dyn ProtectionService>, agent: &str) -> Result<Self> {
        let peer = Peer {
            name: agent.to_owned(),
            role: Role::Agent,
            certificate: ChunkDigest::of(agent.as_bytes()),
        };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let gate: Arc<dyn Gate> = Arc::new(OwnSources);
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Ok(Self {
            server: Fuzzed::new(service, gate, CpuPool::inline(), clock, peer, from)?,
            session: 0,
        })
    }

    /// One call, right in its form or not.
    pub async fn step(&mut self, bytes: &[u8]) {
        let mut words = Words(bytes);
        let at = usize::from(words.byte()) % (Call::ALL.len() + 1);
        let Some(call) = Call::ALL.get(at).copied() else {
            // Anything at all.
            let at = usize::from(words.byte()) % Call::ALL.len();
            let message = Bytes::copy_from_slice(words.0);
            let _ = self.server.call(Call::ALL[at], message).await;
            return;
        };
        let Ok(message) = self.message(call, &mut words) else {
            return;
        };
        let answer = self.server.call(call, message).await;
        if call == Call::Begin
            && let Ok(answer) = answer
            && let Ok(Beginning::Begun(begun)) = decode("an answer", &answer)
        {
            self.session = begun.session;
        }
    }

    fn message(&self, call: Call, words: &mut Words<'_>) -> Result<Bytes> {
        let own = words.one_of(["own", "own/a", "another"]);
        let id = format!("{:032x}", words.small() + 1);
        Ok(match call {
            Call::Status => Bytes::new(),
            Call::Replica => format!(r#"{{"source":"{own}"}}"#).into(),
            Call::Begin => {
                let length = words.one_of(LENGTHS);
                let snapshot = format!("{:032x}", words.small());
                format!(
                    r#"{{"id":"{id}","source":"{own}","snapshot":"{snapshot}","streams":[{{"name":"disk","length":{length}}}]}}"#
                )
                .into()
            }
            Call::Commit => {
                let kind = words.one_of(["initial", "express-full", "consistency-check"]);
                let told =
                    format!(r#"{{"commits":[{{"synchronization":"{id}","kind":"{kind}"}}]}}"#);
                let length = u32::try_from(told.len()).unwrap_or_default();
                let mut message = length.to_le_bytes().to_vec();
                message.extend(told.bytes());
                message.into()
            }
            Call::Needed => {
                let place = self.place(words);
                let digests: Vec<_> = (0..words.small())
                    .map(|_| ChunkDigest::of(&[words.byte() % 4; 5000]))
                    .collect();
                region::encode_needed(&place, &digests)
            }
            Call::Write => {
                let place = self.place(words);
                let update = update(place.at, words)?;
                let mut message = region::encode_update(place.session, &update).to_vec();
                // A lie, now and then: of a digest, a length, or a payload.
                if words.byte().is_multiple_of(3) && !message.is_empty() {
                    let at = usize::from(words.byte()) * message.len() / 256;
                    message[at] ^= words.byte();
                }
                message.into()
            }
            Call::Slices | Call::BlockDigests => {
                let place = self.place(words);
                let start = u64::from(words.byte()) << 8;
                let range = backstop_core::Extent::new(
                    ByteOffset(start),
                    backstop_core::ByteCount(u64::from(words.byte()) << 8),
                )?;
                region::encode_ranges(&place, &[range])
            }
            Call::Progress | Call::Abort => self.place(words).encode(),
            _ => Bytes::copy_from_slice(words.0),
        })
    }

    fn place(&self, words: &mut Words<'_>) -> Place {
        Place {
            // Mostly one that is there.
            session: self.session.wrapping_add(u64::from(words.byte() % 8 == 7)),
            at: RegionAddress {
                stream: usize::from(words.byte() % 8 == 7),
                region: RegionIndex(words.small()),
            },
        }
    }
}

fn update(at: RegionAddress, words: &mut Words<'_>) -> Result<RegionUpdate> {
    let mut plain = Vec::new();
    for _ in 0..words.small() {
        plain.push(HashedChunk::new(vec![words.byte() % 4; 5000].into())?);
    }
    let chunks: Vec<VerifiedChunk> = Codecs::new(1).compress(plain)?;
    let mut start = 0;
    let pieces = (0..words.small()).map(|_| {
        start += u32::from(words.byte()) << 6;
        let digest = ChunkDigest::of(&[words.byte() % 4; 5000]);
        let content = match words.small() {
            0 => PieceContent::Hole,
            1 => PieceContent::Data(SliceContent::Unreadable),
            _ => PieceContent::Data(SliceContent::Chunk {
                digest,
                skip: u32::from(words.byte()),
            }),
        };
        let length = u32::from(words.byte()) << 4;
        let piece = Piece {
            start,
            length,
            content,
        };
        start += length;
        piece
    });
    let pieces = pieces.collect();
    Ok(RegionUpdate { at, pieces, chunks })
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conversation")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
