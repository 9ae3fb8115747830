//! What the fuzz targets share: a bound on what decoding may allocate.

#[expect(unsafe_code, reason = "an allocator that counts is one by its nature")]
mod sys;

use std::fmt::Debug;

use selvedge_worker_proto::{Envelope, Message};

/// Runs `work`, and fails if it has more than `limit` bytes allocated at any one time.
pub fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let before = sys::start();
    let outcome = work();
    let peak = sys::peak().saturating_sub(before);
    assert!(peak <= limit, "{peak} bytes allocated, {limit} allowed");
    outcome
}

/// Decodes `body` as a message. One that is accepted is the same after it was written and read again.
pub fn message<M: Message + PartialEq + Debug>(body: &[u8]) {
    // Texts are kept once more, and a list of the smallest things holds some dozen times its own text.
    let limit = 64 * body.len() + 64 * 1024;
    let Ok(envelope) = bounded(limit, || Envelope::<M>::from_json(body)) else { return };
    let json = envelope.to_json().expect("what was read can be written");
    assert_eq!(Envelope::<M>::from_json(&json).expect("what was written can be read"), envelope);
}
