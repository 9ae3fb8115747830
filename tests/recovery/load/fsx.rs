//! Everything that changes one file, in any order, compared with a copy in memory: after the manner of fsx.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags, copy_file_range, fadvise, fallocate};

use super::Load;
use crate::sys::Mapping;

const LENGTH: usize = 192 * 1024;

/// A range of the file.
#[derive(Clone, Copy)]
struct Range {
    offset: usize,
    length: usize,
}

impl Range {
    fn some(load: &mut Load<'_>, within: usize) -> Self {
        let length = (1 + load.random.below(20_000)).min(within);
        Self { offset: load.random.below(within - length + 1), length }
    }

    const fn end(self) -> usize {
        self.offset + self.length
    }
}

fn open(path: &Path, flags: i32) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags)
        .open(path)
        .unwrap()
}

pub(crate) fn run(load: &mut Load<'_>) {
    let path = load.dir.join(format!("fsx{}", load.number));
    let mut file = open(&path, libc::O_EXCL);
    let mut copy: Vec<u8> = Vec::new();
    while load.goes_on() {
        match load.random.below(20) {
            0..=4 => write(load, &file, &mut copy),
            5..=6 => store(load, &file, &mut copy),
            7 => {
                let length = load.random.below(LENGTH);
                file.set_len(length as u64).unwrap();
                copy.resize(length, 0);
            }
            8..=10 => clear(load, &file, &mut copy),
            11 => move_within(load, &file, &mut copy),
            12 => file.sync_all().unwrap(),
            13 => {
                drop(file);
                file = open(&path, 0);
            }
            14 => assert_eq!(file.metadata().unwrap().len(), copy.len() as u64),
            15 => fadvise(&file, 0, None, Advice::DontNeed).unwrap(),
            16 if !copy.is_empty() => {
                let mapping = Mapping::read_only(&file, copy.len());
                assert!(*mapping == *copy, "{} as it is mapped", path.display());
            }
            _ => read(load, &file, &copy),
        }
    }
    assert!(std::fs::read(&path).unwrap() == copy, "{}", path.display());
}

fn write(load: &mut Load<'_>, file: &File, copy: &mut Vec<u8>) {
    let range = Range::some(load, LENGTH);
    let data = load.random.bytes(range.length);
    file.write_all_at(&data, range.offset as u64).unwrap();
    copy.resize(copy.len().max(range.end()), 0);
    copy[range.offset..range.end()].copy_from_slice(&data);
}

/// Through a mapping, which reaches the file when it goes.
fn store(load: &mut Load<'_>, file: &File, copy: &mut [u8]) {
    if copy.is_empty() {
        return;
    }
    let range = Range::some(load, copy.len());
    let data = load.random.bytes(range.length);
    let mut mapping = Mapping::shared(file, copy.len());
    mapping[range.offset..range.end()].copy_from_slice(&data);
    copy[range.offset..range.end()].copy_from_slice(&data);
    if load.random.below(2) == 0 {
        mapping.sync();
    }
}

/// Holes, zeroes, and room that is only reserved.
fn clear(load: &mut Load<'_>, file: &File, copy: &mut Vec<u8>) {
    let range = Range::some(load, LENGTH);
    let (flags, zeroes, grows) = match load.random.below(4) {
        0 => (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, true, false),
        1 => (FallocateFlags::ZERO_RANGE, true, true),
        2 => (FallocateFlags::KEEP_SIZE, false, false),
        _ => (FallocateFlags::empty(), false, true),
    };
    fallocate(file, flags, range.offset as u64, range.length as u64).unwrap();
    if grows {
        copy.resize(copy.len().max(range.end()), 0);
    }
    if zeroes {
        let end = copy.len().min(range.end());
        copy[range.offset.min(end)..end].fill(0);
    }
}

/// A copy from the first half to the second, which the kernel makes.
fn move_within(load: &mut Load<'_>, file: &File, copy: &mut Vec<u8>) {
    if copy.len() < LENGTH / 2 {
        return;
    }
    let from = Range::some(load, LENGTH / 2);
    let mut to = (LENGTH / 2 + load.random.below(LENGTH / 2 - from.length)) as u64;
    let (start, mut read, mut left) = (usize::try_from(to).unwrap(), from.offset as u64, from.length);
    while left > 0 {
        let moved = copy_file_range(file, Some(&mut read), file, Some(&mut to), left).unwrap();
        assert!(moved > 0, "a copy ends after {} of {}", from.length - left, from.length);
        left -= moved;
    }
    copy.resize(copy.len().max(start + from.length), 0);
    copy.copy_within(from.offset..from.end(), start);
}

fn read(load: &mut Load<'_>, file: &File, copy: &[u8]) {
    let range = Range::some(load, LENGTH);
    let mut data = vec![0; range.length];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], (range.offset + filled) as u64).unwrap() {
            0 => break,
            more => filled += more,
        }
    }
    let expected = copy.get(range.offset..copy.len().min(range.end())).unwrap_or_default();
    assert!(data[..filled] == *expected, "{} bytes at {}", range.length, range.offset);
}
