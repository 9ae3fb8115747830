//! The worker is killed at any instant, and nobody who uses the mount notices: no call fails, nothing is lost, nothing
//! is done twice.
//!
//! The supervisor of a worker here is the test itself, or a service. Whoever uses the mounts is a process of its own (see
//! `application`): a supervisor that had a file of its mount open could not even start a successor, because the
//! new process flushes that file while nobody answers.
//!
//! Needs root and `/dev/fuse`; without them the tests fail, since they would prove nothing.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where something is not as it must be"
)]

mod application;
mod chaos;
mod ending;
mod forgotten;
mod hanging;
mod load;
#[path = "../crash/model.rs"]
mod model;
mod once;
mod open;
#[path = "../crash/operation.rs"]
mod operation;
mod passthrough;
mod patched;
mod poison;
#[path = "../crash/random.rs"]
mod random;
#[path = "../../crates/cli/tests/cli/sandbox.rs"]
#[allow(dead_code, reason = "these tests use a part")]
mod sandbox;
mod scene;
mod service;
#[path = "../fuse/sys.rs"]
#[expect(unsafe_code, reason = "memory mappings; argued there")]
#[allow(dead_code, reason = "these tests use a part")]
mod sys;
mod taken_down;
#[path = "../crash/writer.rs"]
#[allow(dead_code, reason = "these tests use a part")]
mod writer;

/// The worker that is shipped.
const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");
