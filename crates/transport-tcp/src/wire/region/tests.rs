//! What is encoded comes back, and nothing else is taken.

use backstop_core::{Codecs, HashedChunk};
use proptest::prelude::*;

use super::*;

fn digests() -> impl Strategy<Value = ChunkDigest> {
    any::<[u8; 32]>().prop_map(ChunkDigest::from_bytes)
}

fn places() -> impl Strategy<Value = Place> {
    (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(|(session, stream, region)| Place {
        session,
        at: RegionAddress {
            stream: stream as usize,
            region: RegionIndex(region),
        },
    })
}

fn pieces() -> impl Strategy<Value = Piece> {
    let content = prop_oneof![
        Just(PieceContent::Hole),
        Just(PieceContent::Data(SliceContent::Unreadable)),
        (digests(), any::<u32>())
            .prop_map(|(digest, skip)| PieceContent::Data(SliceContent::Chunk { digest, skip })),
    ];
    (any::<u32>(), any::<u32>(), content).prop_map(|(start, length, content)| Piece {
        start,
        length,
        content,
    })
}

fn slices() -> impl Strategy<Value = CheckSlice> {
    let digest = proptest::option::of(digests());
    (any::<u32>(), any::<u32>(), digest, any::<bool>()).prop_map(
        |(start, length, digest, is_unreadable)| CheckSlice {
            start,
            length,
            digest,
            is_unreadable,
        },
    )
}

fn chunks(plain: Vec<Vec<u8>>) -> Vec<VerifiedChunk> {
    let plain = plain.into_iter().filter(|plain| !plain.is_empty());
    let hashed = plain.map(|plain| HashedChunk::new(Bytes::from(plain)).unwrap());
    Codecs::new(1).compress(hashed.collect()).unwrap()
}

fn list<T: std::fmt::Debug>(one: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(one, 0..20)
}

/// Cut short or with something behind it, a message is refused.
fn is_strict<T>(message: &Bytes, decode: impl Fn(Bytes) -> Result<T>) {
    for length in 0..message.len() {
        assert!(decode(message.slice(..length)).is_err(), "{length} bytes");
    }
    let longer: Bytes = message.iter().copied().chain([0]).collect();
    assert!(decode(longer).is_err());
}

proptest! {
    #[test]
    fn messages_come_back(
        place in places(),
        digests in list(digests()),
        slices in list(slices()),
        told in list(proptest::option::of(digests())),
        ranges in list((any::<u32>(), any::<u32>())),
        received in any::<u32>(),
        place_regions in 0u64..20,
    ) {
        let message = place.encode();
        is_strict(&message, Place::decode);
        prop_assert_eq!(Place::decode(message).unwrap(), place.clone());
        let message = encode_needed(&place, &digests);
        is_strict(&message, decode_needed);
        prop_assert_eq!(decode_needed(message).unwrap(), (place.clone(), digests));
        let message = encode_slices(&slices);
        is_strict(&message, decode_slices);
        prop_assert_eq!(decode_slices(message).unwrap(), slices);
        let message = encode_digests(&told);
        is_strict(&message, decode_digests);
        prop_assert_eq!(decode_digests(message).unwrap(), told);
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(at, length)| {
                Extent::new(ByteOffset(at.into()), ByteCount(length.into())).unwrap()
            })
            .collect();
        let message = encode_ranges(&place, &ranges);
        is_strict(&message, decode_ranges);
        prop_assert_eq!(decode_ranges(message).unwrap(), (place, ranges));
        let regions: Vec<_> = (0..place_regions).map(|at| RegionIndex(at * at)).collect();
        let message = encode_regions(&regions);
        is_strict(&message, decode_regions);
        prop_assert_eq!(decode_regions(message).unwrap(), regions);
        let outcome = WriteOutcome { chunks_received: received };
        prop_assert_eq!(decode_outcome(encode_outcome(outcome)).unwrap(), outcome);
    }

    #[test]
    fn bits_come_back(bits in proptest::collection::vec(any::<bool>(), 0..70)) {
        let message = encode_bits(&bits);
        prop_assert_eq!(message.len(), bits.len().div_ceil(8));
        is_strict(&message, |message| decode_bits(message, bits.len()));
        prop_assert_eq!(decode_bits(message, bits.len()).unwrap(), bits);
    }

    #[test]
    fn updates_come_back_and_are_checked(
        place in places(),
        pieces in list(pieces()),
        plain in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                (any::<u8>(), 1usize..3000).prop_map(|(byte, length)| vec![byte; length]),
            ],
            0..5,
        ),
    ) {
        let update = RegionUpdate { at: place.at.clone(), pieces, chunks: chunks(plain) };
        let message = encode_update(place.session, &update);
        is_strict(&message, decode_update);
        let decoded = decode_update(message.clone()).unwrap();
        prop_assert_eq!(&decoded.pieces, &update.pieces);
        let mut decompressor = Decompressor::new().unwrap();
        let (session, checked) = decoded.check(&mut decompressor).unwrap();
        prop_assert_eq!((session, checked.at), (place.session, update.at.clone()));
        for (checked, sent) in checked.chunks.iter().zip(&update.chunks) {
            prop_assert_eq!(
                (checked.digest(), checked.length(), checked.encoding(), checked.payload()),
                (sent.digest(), sent.length(), sent.encoding(), sent.payload()),
            );
        }
        // The last byte is one of a payload, if there is any.
        if !update.chunks.is_empty() {
            let mut bad = message.to_vec();
            *bad.last_mut().unwrap() ^= 1;
            let bad = decode_update(bad.into()).unwrap();
            prop_assert!(bad.check(&mut decompressor).is_err());
        }
    }

    #[test]
    fn anything_may_come(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = Bytes::from(message);
        let _ = Place::decode(message.clone());
        let _ = decode_needed(message.clone());
        let _ = decode_update(message.clone());
        let _ = decode_ranges(message.clone());
        let _ = decode_slices(message.clone());
        let _ = decode_digests(message.clone());
        let _ = decode_regions(message);
    }
}

/// A count is believed only as far as the message reaches.
#[test]
fn a_count_of_four_billion_makes_no_memory() {
    let place = Place {
        session: 1,
        at: RegionAddress {
            stream: 0,
            region: RegionIndex(0),
        },
    };
    let mut message = BytesMut::from(&place.encode()[..]);
    message.put_u32_le(u32::MAX);
    message.put_u32_le(u32::MAX);
    message.put_slice(&[0; 100]);
    let message = message.freeze();
    let told = decode_update(message.clone()).unwrap_err().to_string();
    assert_eq!(told, "an update of a region tells more items than it has");
    assert!(decode_needed(message.clone()).is_err());
    assert!(decode_ranges(message).is_err());
}
