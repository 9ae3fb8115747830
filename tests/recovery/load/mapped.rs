//! Stores through a shared mapping, which must be in the file after msync(2), and in the mapping always.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use super::Load;
use crate::sys::{Mapping, aligned};

const LENGTH: usize = 64 * 1024;

pub(crate) fn run(load: &mut Load<'_>) {
    let path = load.dir.join("mapped");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut mapping = Mapping::shared(&file, LENGTH);
    let mut copy = vec![0; LENGTH];
    let mut buffer = aligned(LENGTH);
    while load.goes_on() {
        for _ in 0..16 {
            let at = load.random.below(LENGTH);
            let byte = load.random.bytes(1)[0];
            (mapping[at], copy[at]) = (byte, byte);
        }
        assert!(*mapping == *copy, "what was stored is there");
        mapping.sync();
        assert_eq!(direct.read_at(&mut buffer, 0).unwrap(), LENGTH);
        assert!(*buffer == *copy, "what was stored and synced is in the file");
    }
}
