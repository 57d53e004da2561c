use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const CHUNK: &str = "000000860000004bba8a02430b3a6576656e742d747970650700056368756e6b0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d747970650700056576656e747b226279746573223a2265794a306558426c496a6f6963476c755a794a39222c2270223a2261626364227ddc9d8443";
const EXCEPTION: &str = "000000b2000000613590d5d30f3a657863657074696f6e2d747970650700137468726f74746c696e67457863657074696f6e0d3a636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e0d3a6d6573736167652d74797065070009657863657074696f6e7b226d657373616765223a22546f6f206d616e792072657175657374732c20706c656173652077616974206265666f726520747279696e6720616761696e2e227de8ffb26a";
const ERROR: &str = "0000005a0000004a8188a08d0b3a6572726f722d636f646507000f496e7465726e616c4661696c7572650e3a6572726f722d6d657373616765070004626f6f6d0d3a6d6573736167652d747970650700056572726f72f8d6999d";

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn all() -> Vec<u8> {
    [bytes(CHUNK), bytes(EXCEPTION), bytes(ERROR)].concat()
}

type Seen = (String, String, Option<Vec<u8>>);

fn scan<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<Seen>, bool), FrameError> {
    let mut scanner = FrameScanner::default();
    let mut seen = Vec::new();
    for piece in pieces {
        scanner
            .push(piece, |frame| {
                let payload = frame.payload.map(<[u8]>::to_vec);
                seen.push((frame.message_type.to_owned(), frame.kind.to_owned(), payload));
            })
            .map_err(|bad| bad.error)?;
    }
    Ok((seen, scanner.at_boundary()))
}

fn expected() -> Vec<Seen> {
    let chunk = br#"{"bytes":"eyJ0eXBlIjoicGluZyJ9","p":"abcd"}"#.to_vec();
    let exception =
        br#"{"message":"Too many requests, please wait before trying again."}"#.to_vec();
    vec![
        ("event".into(), "chunk".into(), Some(chunk)),
        ("exception".into(), "throttlingException".into(), Some(exception)),
        ("error".into(), "InternalFailure".into(), Some(vec![])),
    ]
}

#[test]
fn the_three_frames_read_the_same_whole_and_one_byte_at_a_time() {
    let all = all();
    assert_eq!(scan([all.as_slice()]).unwrap(), (expected(), true));
    assert_eq!(scan(all.chunks(1)).unwrap(), (expected(), true));
}

#[test]
fn a_stream_cut_at_any_offset_gives_the_frames_before_and_is_not_at_a_boundary() {
    let all = all();
    let ends = [0, 134, 134 + 178, all.len()];
    for at in 0..=all.len() {
        let (seen, boundary) = scan([&all[..at], &[]]).unwrap();
        let whole = ends.iter().filter(|end| **end <= at).count() - 1;
        assert_eq!(seen, expected()[..whole], "cut at {at}");
        assert_eq!(boundary, ends.contains(&at), "cut at {at}");
        let (seen, boundary) = scan([&all[..at], &all[at..]]).unwrap();
        assert_eq!((seen, boundary), (expected(), true), "split at {at}");
    }
}

#[test]
fn one_changed_bit_anywhere_is_noticed() {
    let frame = bytes(CHUNK);
    for at in 0..frame.len() {
        for bit in 0..8 {
            let mut changed = frame.clone();
            changed[at] ^= 1 << bit;
            for piece in [changed.len(), 1, 7] {
                let result = scan(changed.chunks(piece));
                assert!(result.is_err(), "byte {at}, bit {bit}, pieces of {piece}: {result:?}");
            }
        }
    }
}

fn prelude(total: u32, headers: u32) -> Vec<u8> {
    let mut prelude = [total.to_be_bytes(), headers.to_be_bytes()].concat();
    let checksum = crc32fast::hash(&prelude);
    prelude.extend(checksum.to_be_bytes());
    prelude
}

#[test]
fn absurd_lengths_are_refused_as_soon_as_the_prelude_is_there() {
    for (total, headers) in [
        (0, 0),
        (15, 0),
        (16, 1),
        (u32::MAX, 0),
        (u32::MAX, u32::MAX),
        (200_000, 131_073),
        (25_165_824 + 17, 0),
    ] {
        for piece in [12, 1, 5] {
            let result = scan(prelude(total, headers).chunks(piece));
            assert_eq!(result, Err(FrameError::Lengths), "{total} {headers}");
        }
    }
    let mut wrong = prelude(u32::MAX, 0);
    wrong[11] ^= 1;
    assert_eq!(scan([wrong.as_slice()]), Err(FrameError::PreludeChecksum));
}

fn frame(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = prelude((headers.len() + payload.len() + 16) as u32, headers.len() as u32);
    frame.extend(headers);
    frame.extend(payload);
    let checksum = crc32fast::hash(&frame);
    frame.extend(checksum.to_be_bytes());
    frame
}

#[test]
fn malformed_headers_are_refused_whatever_their_form() {
    let name = |name: &str| [&[name.len() as u8], name.as_bytes()].concat();
    let text = |value: &str| [&[7, 0, value.len() as u8], value.as_bytes()].concat();
    let kind = [name(":event-type"), text("chunk")].concat();
    for headers in [
        vec![5],
        vec![0, 7, 0, 0],
        name(":event-type"),
        [name(":event-type"), vec![7, 0]].concat(),
        [name(":event-type"), vec![7, 255, 255, 1]].concat(),
        [name(":event-type"), vec![10]].concat(),
        [name(":event-type"), vec![4, 0, 0, 0, 1]].concat(),
        [name(":event-type"), vec![7, 0, 1, 0xff]].concat(),
        [kind.clone(), kind.clone()].concat(),
    ] {
        assert_eq!(
            scan([frame(&headers, b"").as_slice()]),
            Err(FrameError::Headers),
            "{headers:?}"
        );
    }
    let others = [
        [name("a"), vec![0]].concat(),
        [name("b"), vec![1]].concat(),
        [name("c"), vec![2, 1]].concat(),
        [name("d"), vec![3, 1, 2]].concat(),
        [name("e"), vec![4, 1, 2, 3, 4]].concat(),
        [name("f"), vec![5, 1, 2, 3, 4, 5, 6, 7, 8]].concat(),
        [name("g"), vec![6, 0, 2, 1, 2]].concat(),
        [name("h"), vec![8, 1, 2, 3, 4, 5, 6, 7, 8]].concat(),
        [vec![1, b'i', 9], vec![7; 16]].concat(),
        kind,
    ]
    .concat();
    assert_eq!(scan([frame(&others, b"x").as_slice()]).unwrap().0[0].1, "chunk");
}

#[test]
fn a_frame_too_long_to_keep_is_checked_and_passed_over_in_bounded_memory() {
    let headers = [&[11u8], b":event-type".as_slice(), &[7, 0, 5], b"chunk"].concat();
    let long = frame(&headers, &vec![b'x'; KEPT + 1]);
    let mut scanner = FrameScanner::default();
    let mut seen = 0;
    for piece in long.chunks(8192) {
        scanner
            .push(piece, |frame| {
                assert_eq!((frame.kind, frame.payload), ("chunk", None));
                seen += 1;
            })
            .unwrap();
        assert!(scanner.held.capacity() < 1024);
    }
    assert_eq!((seen, scanner.at_boundary()), (1, true));
    let mut wrong = long;
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    assert_eq!(scan(wrong.chunks(8192)), Err(FrameError::Checksum));
}

#[test]
fn a_bad_frame_tells_how_much_before_it_was_good() {
    let mut wrong = [bytes(CHUNK), bytes(CHUNK)].concat();
    *wrong.last_mut().unwrap() ^= 1;
    let error = FrameError::Checksum;

    let whole = FrameScanner::default().push(&wrong, |_| ());
    let mut later = FrameScanner::default();
    later.push(&wrong[..200], |_| ()).unwrap();

    assert_eq!(whole, Err(BadFrame { error, good: Some(134) }));
    assert_eq!(later.push(&wrong[200..], |_| ()), Err(BadFrame { error, good: None }));
}

#[test]
fn our_exception_is_read_by_the_library() {
    let bytes = exception("serviceUnavailableException", "The service is \"stopping\".");
    let mut buffer = BytesMut::from(bytes.as_ref());
    let Ok(DecodedFrame::Complete(message)) = MessageFrameDecoder::new().decode_frame(&mut buffer)
    else {
        panic!("not a whole frame");
    };
    assert_eq!(message.payload().as_ref(), br#"{"message":"The service is \"stopping\"."}"#);
    assert_eq!(scan([bytes.as_ref()]).unwrap().0[0].1, "serviceUnavailableException");
}

proptest! {
    #[test]
    fn bytes_of_any_kind_neither_panic_nor_grow_memory(bytes in proptest::collection::vec(any::<u8>(), 0..600), piece in 1usize..64) {
        let mut scanner = FrameScanner::default();
        for part in bytes.chunks(piece) {
            if scanner.push(part, |_| ()).is_err() { break; }
        }
        prop_assert!(scanner.held.capacity() <= 4096);
    }

    #[test]
    fn cutting_anywhere_gives_the_frames_that_the_library_reads(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..6),
        piece in 1usize..500,
    ) {
        let mut stream = Vec::new();
        for payload in &payloads {
            let message = Message::new(payload.clone())
                .add_header(Header::new(":message-type", HeaderValue::String("event".into())))
                .add_header(Header::new(":event-type", HeaderValue::String("chunk".into())));
            write_message_to(&message, &mut stream).unwrap();
        }
        let (seen, boundary) = scan(stream.chunks(piece)).unwrap();
        prop_assert!(boundary);
        let seen: Vec<Vec<u8>> = seen.into_iter().filter_map(|(_, _, payload)| payload).collect();
        prop_assert_eq!(seen, payloads);
    }
}
