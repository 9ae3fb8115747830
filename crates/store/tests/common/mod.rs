//! What several tests need.

#![allow(dead_code, reason = "each test binary uses some of it")]

use selvedge_store::{Content, Entry, Ino, Meta, ObjectKind, Timestamp, Xattrs};

/// Bytes that do not repeat soon.
pub fn blob_of(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ size as u64;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// A regular file with these bytes.
pub fn file_entry(ino: u64, bytes: &[u8]) -> Entry {
    let time = Timestamp { sec: 1_700_000_000, nsec: 123_456_789 };
    Entry {
        meta: Meta {
            ino: Ino(ino),
            mode: 0o644,
            uid: 1000,
            gid: 100,
            nlink: 1,
            mtime: time,
            ctime: time,
            xattrs: Xattrs::new(),
        },
        content: Content::Regular { blob: ObjectKind::Blob.id(bytes), size: bytes.len() as u64, holes: None },
    }
}
