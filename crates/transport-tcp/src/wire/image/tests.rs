//! What is encoded comes back, and nothing else is taken.

use backstop_core::ErrorKind;
use proptest::prelude::*;

use super::*;

fn extent(at: u64, length: u64) -> Extent {
    Extent::new(ByteOffset(at), ByteCount(length)).unwrap()
}

/// Ranges in order that don't overlap, some of which touch, from a start on.
fn ranges(start: u64, gaps: &[(u64, u64)]) -> Vec<Extent> {
    let mut at = start;
    let next = |(gap, length): &(u64, u64)| {
        let found = extent(at + gap, *length);
        at = found.end().0;
        found
    };
    gaps.iter().map(next).collect()
}

fn gaps() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let gap = prop_oneof![Just(0), 1u64..5000];
    proptest::collection::vec((gap, 1u64..20_000), 0..20)
}

type Sum = (Vec<(Extent, Vec<u8>)>, Vec<(Extent, ErrorKind, String)>);

fn sums_up(recovered: &RecoveredRange) -> Sum {
    let mut data: Vec<(Extent, Vec<u8>)> = Vec::new();
    for (extent, bytes) in &recovered.data {
        match data.last_mut() {
            Some((last, all)) if last.end() == extent.offset() => {
                *last = Extent::between(last.offset(), extent.end());
                all.extend(bytes);
            }
            _ => data.push((*extent, bytes.to_vec())),
        }
    }
    let missing = recovered.missing.iter();
    let missing =
        missing.map(|(extent, error)| (*extent, error.kind(), error.context().to_owned()));
    (data, missing.collect())
}

proptest! {
    #[test]
    fn parts_come_back(image: u64, stream: u32, at in 0..u64::MAX / 2, length in 0..u64::MAX / 2) {
        let part = Part { image, stream: stream as usize, range: extent(at, length) };
        let message = part.encode();
        for length in 0..message.len() {
            prop_assert!(Part::decode(message.slice(..length)).is_err());
        }
        let longer: Bytes = message.iter().copied().chain([0]).collect();
        prop_assert!(Part::decode(longer).is_err());
        prop_assert_eq!(Part::decode(message).unwrap(), part);
    }

    #[test]
    fn extents_come_back(start in 0u64..1 << 60, gaps in gaps(), behind in 1u64..1000) {
        let data = ranges(start, &gaps);
        let end = data.last().map_or(start, |last| last.end().0) + behind;
        let range = extent(start, end - start + 5);
        let told = Told { until: ByteOffset(end), data };
        let message = told.encode();
        for length in 0..message.len() {
            prop_assert!(Told::decode(message.slice(..length), range).is_err());
        }
        prop_assert_eq!(Told::decode(message.clone(), range).unwrap(), told);
        let other = extent(end, 5);
        prop_assert!(Told::decode(message, other).is_err(), "it would never end");
    }

    #[test]
    fn reads_come_back(
        start in 0u64..1 << 60,
        gaps in gaps(),
        lost in proptest::collection::vec(any::<bool>(), 20),
        alphabet in 1u8..=255,
    ) {
        let mut random = fastrand::Rng::with_seed(start);
        let mut read = RecoveredRange::default();
        let all = ranges(start, &gaps);
        for (range, lost) in all.iter().zip(lost) {
            if lost {
                read.missing.push((*range, Error::corrupt(format!("lost at {range}"))));
            } else {
                let data = (0..range.length().0).map(|_| random.u8(..alphabet));
                read.data.push((*range, data.collect()));
            }
        }
        let expected = sums_up(&read);
        let range = extent(start, READ_LENGTH_MAX);
        let codecs = Codecs::default();
        let message = encode_read(range, read, &codecs).unwrap();
        let back = |message: Bytes| {
            let read = Read::decode(message, range)?;
            codecs.decompress_with(|decompressor| read.recovered(decompressor))
        };
        for length in (0..message.len()).step_by(1 + message.len() / 100) {
            prop_assert!(back(message.slice(..length)).is_err());
        }
        let longer: Bytes = message.iter().copied().chain([0]).collect();
        prop_assert!(back(longer).is_err());
        prop_assert_eq!(sums_up(&back(message).unwrap()), expected);
    }

    #[test]
    fn anything_may_come(message in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = Bytes::from(message);
        let range = extent(0, READ_LENGTH_MAX);
        let _ = Part::decode(message.clone());
        let _ = Told::decode(message.clone(), range);
        if let Ok(read) = Read::decode(message, range) {
            let mut decompressor = Decompressor::new().unwrap();
            let _ = read.recovered(&mut decompressor);
        }
    }
}

#[test]
fn what_shrinks_is_compressed() {
    let codecs = Codecs::default();
    let range = extent(7, 300_000);
    let length = |data: Vec<u8>| {
        let read = RecoveredRange {
            data: vec![(range, data.into())],
            missing: Vec::new(),
        };
        encode_read(range, read, &codecs).unwrap().len()
    };
    assert!(length(vec![7; 300_000]) < 1000);
    let mut random = vec![0; 300_000];
    fastrand::Rng::with_seed(4).fill(&mut random);
    assert_eq!(length(random), 300_000 + 17);
}

#[test]
fn what_lies_outside_of_the_range_is_refused() {
    let range = extent(1000, 100);
    for (start, length) in [(0, 101), (100, 1), (50, 0), (u32::MAX, u32::MAX)] {
        let mut message = BytesMut::new();
        message.put_u32_le(1);
        message.put_u32_le(0);
        message.put_u32_le(start);
        message.put_u32_le(length);
        message.put_u8(1);
        assert!(
            Read::decode(message.freeze(), range).is_err(),
            "{start}+{length}"
        );
    }
    // Four billion runs make no memory.
    let mut message = BytesMut::new();
    message.put_u32_le(u32::MAX);
    message.put_u32_le(u32::MAX);
    message.put_slice(&[0; 100]);
    assert!(Read::decode(message.freeze(), range).is_err());
}
