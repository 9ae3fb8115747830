//! The store's promises, by subject.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails says where")]

mod common;
mod encoding;
mod export;
mod fsck;
mod gc;
mod import;
mod live;
mod objects;
mod refs;
mod repository;
mod round_trip;
