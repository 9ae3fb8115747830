//! A thread with one large file, which is patched when it is changed.

use super::{Base, Bench, read};
use selvedge_store::Ino;
use selvedge_view::{FileBytes, Handle, OpenFlags, Patching, View};
use std::path::PathBuf;

pub const LARGE: Ino = Ino(10);
pub const SIZE: usize = 1 << 20;
pub const BLOCK: usize = 4096;
pub const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };

/// Bytes that tell where they are from.
pub fn bytes(seed: usize) -> Vec<u8> {
    (0..SIZE).map(|at| ((at / 7) ^ (at >> 8) ^ seed).to_le_bytes()[0]).collect()
}

/// A thread with one large file, to be patched in small blocks.
pub fn bench() -> Bench {
    patching(Bench::new(&base()))
}

pub fn base() -> Base {
    Base::Dir { ino: 2, entries: vec![("large", Base::File { ino: LARGE.0, nlink: 1, bytes: bytes(0) })] }
}

pub fn patching(mut bench: Bench) -> Bench {
    bench.patching = Some(Patching { from: 64 << 10, block: BLOCK as u64, request: BLOCK as u64 });
    bench
}

pub fn open(bench: &Bench, view: &View) -> Handle {
    view.open_file(&bench.request(), LARGE, RW).unwrap()
}

/// Writes without a sync.
pub fn write(bench: &Bench, view: &View, at: usize, data: &[u8]) {
    let handle = open(bench, view);
    assert_eq!(view.write(handle, at as u64, data).unwrap() as usize, data.len());
    view.release(handle);
}

pub fn working_file(bench: &Bench) -> PathBuf {
    bench.upper_dir().unwrap().join("files").join(format!("{:x}", LARGE.0))
}

#[track_caller]
pub fn assert_reads(bench: &Bench, view: &View, expected: &[u8]) {
    let found = read(bench, view, LARGE);
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "the first byte that differs");
}

pub fn is_patched(view: &View) -> bool {
    matches!(view.file_bytes(LARGE).unwrap(), Some(FileBytes::Patched { .. }))
}
