//! What is encoded comes back, and what is added later does no harm.

use super::*;

fn facts() -> PointFacts {
    let mut facts = PointFacts::new(PointKind::ExpressFull);
    facts.snapshot_time = Some(Timestamp(7));
    facts.sample.compared = 3;
    facts.provenance.insert("how".into(), "so".into());
    for content in [&b""[..], b"three", &[0xff; 300]] {
        facts.documents.push(Document {
            name: format!("{} bytes", content.len()),
            content: content.to_vec(),
        });
    }
    facts
}

#[test]
fn commits_come_back_with_their_documents() {
    let commits: Vec<_> = [facts(), PointFacts::new(PointKind::Initial), facts()]
        .into_iter()
        .zip(1..)
        .map(|(facts, number)| Commit {
            synchronization: SynchronizationId::from_bytes([number; 16]),
            facts,
        })
        .collect();
    let message = encode_commits(commits.clone()).unwrap();
    let back = decode_commits(message.clone()).unwrap();
    assert_eq!(format!("{back:?}"), format!("{commits:?}"));
    for length in 0..message.len() {
        assert!(decode_commits(message.slice(..length)).is_err());
    }
    let longer: Bytes = message.iter().copied().chain([0]).collect();
    assert!(decode_commits(longer).is_err());
}

#[test]
fn a_document_is_no_longer_than_its_message() {
    let told = br#"{"commits":[{"synchronization":"01010101010101010101010101010101","kind":"initial","documents":[{"name":"d","length":18446744073709551615}]}]}"#;
    let mut message = u32::try_from(told.len()).unwrap().to_le_bytes().to_vec();
    message.extend(told);
    let error = decode_commits(message.into()).unwrap_err();
    assert_eq!(error.to_string(), "a commit ends early");
}

#[test]
fn beginnings_come_back() {
    let request = BeginRequest {
        id: SynchronizationId::from_bytes([1; 16]),
        source: SourceName::new("host/disk").unwrap(),
        snapshot: SnapshotId::from_bytes([2; 16]),
        streams: vec![StreamSpec {
            name: StreamName::new("disk").unwrap(),
            length: ByteCount(5),
        }],
        base: Some(PointId::from_bytes([3; 16])),
        doubt: Some(InconsistencyReason::Requested),
    };
    let message = encode(&Begin::from(request.clone())).unwrap();
    let back: Begin = decode("a beginning", &message).unwrap();
    assert_eq!(
        format!("{:?}", BeginRequest::from(back)),
        format!("{request:?}")
    );
    for plan in [
        Plan::Initial,
        Plan::ExpressFull,
        Plan::Check {
            reason: "it was asked for".into(),
        },
    ] {
        let regions = vec![RegionIndex(4), RegionIndex(0)];
        let message = encode(&Begun::new(9, &plan, regions.clone())).unwrap();
        let back: Begun = decode("the answer", &message).unwrap();
        assert_eq!(back.parts(), (9, plan, regions));
    }
}

#[test]
fn replicas_come_back() {
    let whole = ReplicaStatus {
        state: ReplicaState::Consistent,
        head: Some(PointId::from_bytes([3; 16])),
        unfinished: Some(Unfinished {
            synchronization: SynchronizationId::from_bytes([1; 16]),
            snapshot: SnapshotId::from_bytes([2; 16]),
        }),
    };
    let bare = ReplicaStatus {
        state: ReplicaState::Pending,
        head: None,
        unfinished: None,
    };
    for status in [None, Some(bare), Some(whole)] {
        let message = encode(&ReplicaAnswer::from(status.clone())).unwrap();
        let back: ReplicaAnswer = decode("the answer", &message).unwrap();
        assert_eq!(Option::<ReplicaStatus>::from(back), status);
    }
}

/// As of a later minor version.
#[test]
fn what_is_added_later_is_passed_over() {
    let message = br#"{"source":"vm","later":[1,2]}"#;
    let asked: ReplicaQuestion = decode("a question", message).unwrap();
    assert_eq!(asked.source.as_str(), "vm");
    let message = br#"{"kind":"of-a-later-version","context":"something is wrong","later":1}"#;
    let failure: Failure = decode("an error", message).unwrap();
    let error = failure.into_error();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.to_string(), "something is wrong");
}

#[test]
fn errors_keep_their_kinds_and_tell_no_causes() {
    for (kind, _) in KINDS {
        let cause = std::io::Error::other("a secret place");
        let error = Error::new(kind, "a sentence").with_source(cause);
        let message = encode(&Failure::of(&error)).unwrap();
        assert!(!String::from_utf8_lossy(&message).contains("secret"));
        let back: Failure = decode("an error", &message).unwrap();
        let back = back.into_error();
        assert_eq!((back.kind(), back.context()), (kind, "a sentence"));
    }
}
