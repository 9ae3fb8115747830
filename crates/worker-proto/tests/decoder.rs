//! The decoder against everything that can arrive.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use proptest::prelude::*;
use selvedge_worker_proto::{Command, DecodeError, Decoder, Envelope, Event, FrameError, MAX_BODY, encode};

/// Feeds `stream` in pieces of the given sizes, over and over, and returns the bodies up to the first error.
fn decode(stream: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, Result<bool, FrameError>) {
    let mut decoder = Decoder::new();
    let mut bodies = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (mut piece, tail) = rest.split_at((*size).clamp(1, rest.len()));
        rest = tail;
        while !piece.is_empty() {
            match decoder.feed(&mut piece) {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => assert!(piece.is_empty(), "bytes are left over"),
                Err(error) => return (bodies, Err(error)),
            }
        }
    }
    (bodies, Ok(decoder.at_boundary()))
}

fn stream_of(bodies: &[Vec<u8>]) -> Vec<u8> {
    bodies.iter().flat_map(|body| encode(body).unwrap()).collect()
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let bodies = vec![b"{}".to_vec(), vec![b'x'; 300], b"y".to_vec()];
    assert_eq!(decode(&stream_of(&bodies), &[1]), (bodies, Ok(true)));
}

#[test]
fn a_length_over_the_limit_is_refused_before_any_body() {
    for length in [MAX_BODY as u64 + 1, u64::from(u32::MAX)] {
        let header = u32::try_from(length).unwrap().to_le_bytes();
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(&mut &header[..]), Err(FrameError::Oversize { length }));
        // And again, whatever follows.
        assert_eq!(decoder.feed(&mut &b"\x01\0\0\0x"[..]), Err(FrameError::Oversize { length }));
        assert!(!decoder.at_boundary());
    }
}

#[test]
fn the_longest_body_is_allowed_and_one_more_byte_is_not() {
    let body = vec![b'x'; MAX_BODY];
    assert_eq!(decode(&encode(&body).unwrap(), &[4096]), (vec![body.clone()], Ok(true)));
    let longer = [body, vec![b'x']].concat();
    assert_eq!(encode(&longer), Err(FrameError::Oversize { length: MAX_BODY as u64 + 1 }));
}

#[test]
fn an_empty_frame_is_refused() {
    assert_eq!(Decoder::new().feed(&mut &[0; 4][..]), Err(FrameError::Empty));
    assert_eq!(encode(b""), Err(FrameError::Empty));
}

#[test]
fn invalid_utf8_is_named() {
    let error = Envelope::<Command>::from_json(b"{\"id\":1,\"msg\":{\"\xff\":{}}}").unwrap_err();
    assert!(matches!(error, DecodeError::Utf8 { .. }), "{error}");
}

#[test]
fn an_unknown_kind_is_named_with_its_number() {
    for body in [r#"{"id":9,"msg":{"Dance":{"fast":true}}}"#, r#"{"id":9,"msg":"Dance"}"#] {
        let error = Envelope::<Command>::from_json(body.as_bytes()).unwrap_err();
        assert!(
            matches!(&error, DecodeError::UnknownKind { id: Some(9), kind } if kind == "Dance"),
            "{error}"
        );
    }
    // An event is no command.
    let error = Envelope::<Command>::from_json(br#"{"id":9,"msg":{"Stopping":{}}}"#).unwrap_err();
    assert!(matches!(error, DecodeError::UnknownKind { .. }), "{error}");
    let long = format!(r#"{{"id":9,"msg":{{"{}":{{}}}}}}"#, "ü".repeat(20_000));
    assert!(Envelope::<Event>::from_json(long.as_bytes()).unwrap_err().to_string().len() < 200);
}

#[test]
fn a_known_kind_with_the_wrong_contents_is_not_called_unknown() {
    let bodies = [
        r#"{"id":9,"msg":{"Stop":{"force":"yes"}}}"#,
        r#"{"id":9,"msg":{"Hello":{}}}"#,
        r#"{"id":9,"msg":{"Stop":{},"Status":{}}}"#,
        r#"{"id":9,"fds":-1,"msg":{"Status":{}}}"#,
    ];
    for body in bodies {
        let error = Envelope::<Command>::from_json(body.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::Json { id: Some(9), .. }), "{body}: {error}");
    }
}

/// On a small stack, so that following it would end the test program.
#[test]
fn deep_nesting_is_refused_where_it_counts_and_skipped_where_it_does_not() {
    let test = || {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let depth = MAX_BODY / (open.len() + close.len()) - 100;
            let value = format!("{}0{}", open.repeat(depth), close.repeat(depth));
            let refused = [
                value.clone(),
                open.repeat(MAX_BODY / open.len()),
                format!(r#"{{"id":1,"msg":{value}}}"#),
                format!(r#"{{"id":1,"msg":{{"Stop":{{"force":{value}}}}}}}"#),
                format!(r#"{{"id":1,"x":{value},"msg":{{"Dance":{{}}}}}}"#),
            ];
            for body in refused {
                let error = Envelope::<Command>::from_json(body.as_bytes()).unwrap_err();
                assert!(matches!(error, DecodeError::Json { .. }), "{error}");
            }
            // A field that this version does not know may hold anything.
            let skipped = [
                format!(r#"{{"id":1,"msg":{{"Status":{{"x":{value}}}}}}}"#),
                format!(r#"{{"id":1,"x":{value},"msg":{{"Status":{{}}}}}}"#),
            ];
            for body in skipped {
                assert!(body.len() <= MAX_BODY);
                assert_eq!(
                    Envelope::from_json(body.as_bytes()).unwrap(),
                    Envelope::new(1, Command::Status {})
                );
            }
        }
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(test).unwrap().join().unwrap();
}

proptest! {
    #[test]
    fn frames_survive_any_cutting(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8),
        sizes in proptest::collection::vec(1usize..400, 1..8),
    ) {
        prop_assert_eq!(decode(&stream_of(&bodies), &sizes), (bodies, Ok(true)));
    }

    #[test]
    fn a_truncated_stream_gives_its_whole_frames_and_is_seen_to_be_torn(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let stream = stream_of(&bodies);
        let cut = cut.index(stream.len());
        let (found, clean) = decode(&stream[..cut], &[7]);
        prop_assert_eq!(&found[..], &bodies[..found.len()]);
        prop_assert_eq!(clean, Ok(stream_of(&found).len() == cut));
    }

    #[test]
    fn random_bytes_never_panic_and_never_ask_for_more_than_a_frame(
        stream in proptest::collection::vec(any::<u8>(), 0..2000),
        small in any::<bool>(),
    ) {
        // Random lengths are nearly always too long; small ones get further.
        let stream: Vec<u8> = if small {
            stream.chunks(9).flat_map(|chunk| [&[5, 0, 0, 0], chunk].concat()).collect()
        } else {
            stream
        };
        let mut decoder = Decoder::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            prop_assert!((1..=MAX_BODY).contains(&decoder.wanted()));
            match decoder.feed(&mut rest) {
                Ok(Some(body)) => {
                    let _ = Envelope::<Command>::from_json(&body);
                    let _ = Envelope::<Event>::from_json(&body);
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }

    #[test]
    fn messages_damaged_anywhere_never_panic(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut body = br#"{"id":7,"fds":0,"msg":{"Failed":{"kind":"failed","message":"caf\u00e9"}}}"#.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = Envelope::<Event>::from_json(&body);
    }
}
