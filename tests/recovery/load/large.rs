//! Requests of a mebibyte: the ones a kill can catch while the kernel copies them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use super::Load;
use crate::sys::{Mapping, aligned};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 4;

pub(crate) fn buffered(load: &mut Load<'_>) {
    let path = load.dir.join("large buffered");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    work(load, &file, true);
}

pub(crate) fn direct(load: &mut Load<'_>) {
    let path = load.dir.join("large direct");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
    work(load, &options.open(&path).unwrap(), false);
}

fn work(load: &mut Load<'_>, file: &File, cached: bool) {
    let mut buffer = aligned(BLOCK);
    let mut marks = [None; BLOCKS];
    let mut round = 0_u64;
    while load.goes_on() {
        let block = load.random.below(marks.len());
        round += 1;
        if load.random.below(2) == 0 {
            fill(&mut buffer, round);
            write(file, &buffer, block as u64 * BLOCK as u64);
            marks[block] = Some(round);
        } else if let Some(mark) = marks[block] {
            if cached {
                // What the kernel has is let go, so that reading asks the worker.
                let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
            }
            buffer.fill(0);
            let mut read = 0;
            while read < BLOCK {
                let more = file.read_at(&mut buffer[read..], (block * BLOCK + read) as u64).unwrap();
                assert!(more > 0, "block {block} ends after {read}");
                read += more;
            }
            check(&buffer, mark);
        }
    }
}

fn write(file: &File, buffer: &Mapping, offset: u64) {
    let mut written = 0;
    while written < buffer.len() {
        written += file.write_at(&buffer[written..], offset + written as u64).unwrap();
    }
}

fn fill(buffer: &mut Mapping, mark: u64) {
    for (at, word) in buffer.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(mark << 32 | at as u64).to_le_bytes());
    }
}

fn check(buffer: &Mapping, mark: u64) {
    for (at, word) in buffer.chunks_exact(8).enumerate() {
        let found = u64::from_le_bytes(word.try_into().unwrap());
        assert_eq!(found, mark << 32 | at as u64, "word {at} of a block written as {mark}");
    }
}
