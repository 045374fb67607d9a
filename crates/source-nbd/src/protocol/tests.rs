//! Each message comes back as it was, and no bytes make a decoder panic.

use proptest::collection::vec;
use proptest::prelude::*;

use super::errno::Errno;
use super::option_replies::{BlockSizes, Info, OptionReply, OptionReplyHeader};
use super::options::{ClientOption, ContextQuery, ExportQuery, OptionHeader};
use super::replies::{Chunk, ReplyHeader, StatusExtent};
use super::requests::Request;

fn options() -> impl Strategy<Value = ClientOption> {
    let export = (".{0,40}", vec(any::<u16>(), 0..5))
        .prop_map(|(export, infos)| ExportQuery { export, infos });
    let contexts = (".{0,40}", vec(".{0,40}", 0..5))
        .prop_map(|(export, queries)| ContextQuery { export, queries });
    prop_oneof![
        ".{0,40}".prop_map(ClientOption::ExportName),
        Just(ClientOption::Abort),
        Just(ClientOption::List),
        Just(ClientOption::StructuredReply),
        export.clone().prop_map(ClientOption::Info),
        export.prop_map(ClientOption::Go),
        contexts.clone().prop_map(ClientOption::ListMetaContext),
        contexts.prop_map(ClientOption::SetMetaContext),
        (11_u32..).prop_map(ClientOption::Unknown),
    ]
}

fn option_replies() -> impl Strategy<Value = OptionReply> {
    let sizes = any::<(u32, u32, u32)>().prop_map(|(minimum, preferred, maximum)| {
        Info::BlockSize(BlockSizes {
            minimum,
            preferred,
            maximum,
        })
    });
    let infos = prop_oneof![
        any::<(u64, u16)>().prop_map(|(length, flags)| Info::Export { length, flags }),
        sizes,
        ".{0,40}".prop_map(Info::Name),
        ".{0,40}".prop_map(Info::Description),
        Just(Info::Other),
    ];
    prop_oneof![
        Just(OptionReply::Ack),
        Just(OptionReply::Other),
        ".{0,40}".prop_map(OptionReply::Server),
        infos.prop_map(OptionReply::Info),
        (any::<u32>(), ".{0,40}").prop_map(|(id, name)| OptionReply::MetaContext { id, name }),
        (any::<u32>(), ".{0,40}").prop_map(|(kind, message)| OptionReply::Error {
            kind: kind | 1 << 31,
            message
        }),
    ]
}

fn chunks() -> impl Strategy<Value = Chunk> {
    let extents = vec(any::<(u32, u32)>(), 0..20).prop_map(|extents| {
        let extents = extents.into_iter();
        extents
            .map(|(length, flags)| StatusExtent { length, flags })
            .collect()
    });
    prop_oneof![
        Just(Chunk::None),
        (any::<u64>(), ..u32::MAX - 8).prop_map(|(offset, length)| Chunk::Data { offset, length }),
        any::<(u64, u32)>().prop_map(|(offset, length)| Chunk::Hole { offset, length }),
        (any::<u32>(), extents).prop_map(|(context, extents)| Chunk::Status { context, extents }),
        (1_u32.., ".{0,40}", any::<Option<u64>>()).prop_map(|(errno, message, offset)| {
            Chunk::Error {
                errno: Errno(errno),
                message,
                offset,
            }
        }),
    ]
}

proptest! {
    #[test]
    fn options_come_back(option in options()) {
        let bytes = option.encode();
        let (header, data) = bytes.split_at(OptionHeader::LENGTH);
        let header = OptionHeader::decode(header).unwrap();
        prop_assert_eq!(header.length as usize, data.len());
        prop_assert_eq!(header.option, option.number());
        prop_assert_eq!(ClientOption::decode(header.option, data).unwrap(), option);
    }

    #[test]
    fn option_replies_come_back(reply in option_replies(), option: u32) {
        let bytes = reply.encode(option);
        let (header, data) = bytes.split_at(OptionReplyHeader::LENGTH);
        let header = OptionReplyHeader::decode(header).unwrap();
        prop_assert_eq!(header.length as usize, data.len());
        prop_assert_eq!(header.option, option);
        prop_assert_eq!(OptionReply::decode(header.kind, data).unwrap(), reply);
    }

    #[test]
    fn requests_come_back(
        (flags, command, cookie, offset, length) in any::<(u16, u16, u64, u64, u32)>()
    ) {
        let request = Request { flags, command, cookie, offset, length };
        prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
    }

    #[test]
    fn replies_come_back(chunk in chunks(), cookie: u64, done: bool, error: u32) {
        let simple = ReplyHeader::Simple { error, cookie };
        prop_assert!(!ReplyHeader::is_chunk(&simple.encode()));
        prop_assert_eq!(ReplyHeader::decode(&simple.encode()).unwrap(), simple);

        let bytes = chunk.encode(cookie, done);
        prop_assert!(ReplyHeader::is_chunk(&bytes));
        let (header, payload) = bytes.split_at(ReplyHeader::CHUNK_LENGTH);
        let ReplyHeader::Chunk { done: told, kind, cookie: named, length } =
            ReplyHeader::decode(header).unwrap()
        else {
            panic!("a chunk is a chunk");
        };
        prop_assert_eq!((told, named), (done, cookie));
        let following = match chunk {
            Chunk::Data { length, .. } => length,
            _ => 0,
        };
        prop_assert_eq!(length as usize, payload.len() + following as usize);
        prop_assert_eq!(Chunk::decode(kind, length, payload).unwrap(), chunk);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..200), kind: u32, small in 0_u32..12) {
        for number in [kind, small, small | 1 << 31] {
            let _ = ClientOption::decode(number, &bytes);
            let _ = OptionReply::decode(number, &bytes);
            let kind = u16::try_from(number & 0xffff).unwrap() | u16::try_from(number >> 16).unwrap();
            let _ = Chunk::decode(kind, kind.into(), &bytes);
        }
        let _ = (OptionHeader::decode(&bytes), OptionReplyHeader::decode(&bytes));
        let _ = (Request::decode(&bytes), ReplyHeader::decode(&bytes));
    }

    /// A byte more or less is told, where the length says what is there.
    #[test]
    fn what_is_cut_or_too_long_is_refused(option in options(), chunk in chunks(), extra: u8) {
        let bytes = option.encode();
        let data = &bytes[OptionHeader::LENGTH..];
        let text_only = matches!(option, ClientOption::ExportName(_) | ClientOption::Unknown(_));
        if !text_only {
            let longer = [data, &[extra]].concat();
            prop_assert!(ClientOption::decode(option.number(), &longer).is_err());
            if let Some((_, shorter)) = data.split_last() {
                prop_assert!(ClientOption::decode(option.number(), shorter).is_err());
            }
        }
        let bytes = chunk.encode(1, true);
        let (header, payload) = bytes.split_at(ReplyHeader::CHUNK_LENGTH);
        let ReplyHeader::Chunk { kind, length, .. } = ReplyHeader::decode(header).unwrap() else {
            panic!("a chunk is a chunk");
        };
        let longer = [payload, &[extra]].concat();
        prop_assert!(Chunk::decode(kind, length, &longer).is_err());
    }
}

#[test]
fn lists_that_claim_too_much_take_no_memory() {
    let name = 0_u32.to_be_bytes();
    let contexts = [&name[..], &u32::MAX.to_be_bytes()].concat();
    assert!(ClientOption::decode(10, &contexts).is_err());
    let infos = [&name[..], &u16::MAX.to_be_bytes()].concat();
    assert!(ClientOption::decode(7, &infos).is_err());
    let long = [&5000_u32.to_be_bytes()[..], &[b'a'; 5000], &[0, 0]].concat();
    assert!(ClientOption::decode(7, &long).is_err());
}

#[test]
fn error_numbers_say_what_to_do() {
    use backstop_core::ErrorKind;
    for kind in [
        ErrorKind::InvalidInput,
        ErrorKind::Full,
        ErrorKind::Unsupported,
        ErrorKind::Unreadable,
    ] {
        assert_eq!(Errno::of(kind).kind(), kind);
    }
    assert_eq!(Errno::of(ErrorKind::Corrupt), Errno::EIO);
    assert_eq!(Errno::ESHUTDOWN.kind(), ErrorKind::Unavailable);
    let error = Errno::EIO.error("the export can't be read at 5+1", "");
    assert!(error.to_string().contains("input/output error"), "{error}");
    let error = Errno::EIO.error("the export can't be read at 5+1", "on fire");
    assert!(error.to_string().contains("on fire"), "{error}");
}
