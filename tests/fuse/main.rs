//! What a mount does for the programs in it, on a real kernel with the real worker.
//!
//! Needs root and `/dev/fuse`; without them the tests fail, since they would prove nothing. Each test first proves
//! that it is inside its mount.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails where something is not as it must be"
)]

mod acl;
mod attributes;
mod caches;
mod calls;
mod contents;
mod differential;
mod ending;
mod helper;
mod listing;
mod names;
mod passthrough;
mod refusals;
mod requests;
mod settings;
mod snapshots;
mod space;
mod special;
#[expect(unsafe_code, reason = "mappings and what else only C can say; argued there")]
mod sys;
mod unasked;
mod unprivileged;
mod writeback;
mod xattrs;

use selvedge_test_support::{Mounted, Repo};

/// The worker that is shipped.
const WORKER: &str = env!("CARGO_BIN_EXE_selvedge-fuse-worker");

/// A repository with an empty thread, mounted.
fn mounted() -> (Repo, Mounted) {
    let repo = Repo::empty();
    let mounted = repo.mounting(WORKER).start();
    (repo, mounted)
}

/// The error number of a failure.
fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("a failure").raw_os_error().expect("an error number")
}
