//! The stream between a supervisor and its worker: cut into frames the same however it arrives, and every body is a
//! message or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_fuzz::{bounded, message};
use selvedge_worker_proto::{Command, Decoder, Event, MAX_BODY};

fuzz_target!(|data: &[u8]| {
    let whole = bounded(data.len() + MAX_BODY + 4096, || cut(data, usize::MAX));
    assert_eq!(cut(data, 1), whole, "one byte at a time it comes to something else");
    for body in whole.0 {
        message::<Command>(&body);
        message::<Event>(&body);
    }
});

/// The frames in `data`, fed in pieces, and whether the stream broke.
fn cut(data: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut decoder = Decoder::new();
    let mut bodies = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let (mut part, beyond) = rest.split_at(rest.len().min(piece).min(decoder.wanted()));
        rest = beyond;
        match decoder.feed(&mut part) {
            Ok(body) => bodies.extend(body),
            Err(_) => return (bodies, true),
        }
        assert!(part.is_empty(), "no more was fed than it wanted");
    }
    (bodies, false)
}
