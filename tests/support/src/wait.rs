//! Waiting with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `condition` holds, asking every few milliseconds.
///
/// # Panics
/// When `limit` passes first; the message says what was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
