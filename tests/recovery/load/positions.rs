//! Reads and writes at random positions of one file each, compared with a copy in memory.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use super::Load;

const LENGTH: usize = 256 * 1024;

pub(crate) fn run(load: &mut Load<'_>) {
    let path = load.dir.join(format!("positions{}", load.number));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut copy = Vec::new();
    while load.goes_on() {
        let length = 1 + load.random.below(9000);
        let offset = load.random.below(LENGTH - length);
        match load.random.below(12) {
            0..=4 => {
                let data = load.random.bytes(length);
                file.write_all_at(&data, offset as u64).unwrap();
                copy.resize(copy.len().max(offset + length), 0);
                copy[offset..offset + length].copy_from_slice(&data);
            }
            5 => {
                let size = load.random.below(LENGTH);
                file.set_len(size as u64).unwrap();
                copy.resize(size, 0);
            }
            6 => file.sync_data().unwrap(),
            7 => assert_eq!(file.metadata().unwrap().len(), copy.len() as u64),
            _ => {
                let mut data = vec![0; length];
                let mut read = 0;
                while read < length {
                    match file.read_at(&mut data[read..], (offset + read) as u64).unwrap() {
                        0 => break,
                        more => read += more,
                    }
                }
                let expected = copy.get(offset..copy.len().min(offset + length)).unwrap_or_default();
                assert!(data[..read] == *expected, "{} at {offset}+{length}", path.display());
            }
        }
    }
    assert!(std::fs::read(&path).unwrap() == copy, "{}", path.display());
}
