//! When a worker reached which step of taking a mount over, for a measurement that wants to know where a pause goes.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// A file to which each step is appended: the process, the step, and nanoseconds of the monotonic clock.
const TRACE: &str = "SELVEDGE_TEST_TAKEOVER_TRACE";

/// Says that this process has reached `step`, if somebody wants to know.
pub(crate) fn reached(step: &str) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || OpenOptions::new().append(true).open(std::env::var_os(TRACE)?).ok();
    let Some(mut file) = FILE.get_or_init(open).as_ref() else { return };
    let now = clock_gettime(ClockId::Monotonic);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    // Who measures sees that a line is missing.
    let _ = file.write_all(format!("{} {step} {nanoseconds}\n", std::process::id()).as_bytes());
}
