//! Whatever ends a worker, by whatever means: its supervisor is unharmed and knows how it ended, nothing is left in
//! the mount table and the process table, and every acknowledged change is there after a remount, byte for byte.
//!
//! The supervisor of every worker here is the test itself, which also runs the writers: threads that keep what was
//! acknowledged in a model beside each operation, and stop at the first error.
//!
//! Needs root and `/dev/fuse`; without them the tests fail, since they would prove nothing.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where something is not as it must be"
)]

mod deaths;
mod model;
mod operation;
mod orphan;
mod points;
mod random;
mod scene;
mod snapshots;
mod start;
mod stopped;
mod writer;

/// The worker that is shipped.
const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");
