//! Things that are held for as long as the load runs: locks, and files that have no name any more.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;
use selvedge_test_support::wait_until;

use super::Load;
use crate::sys::lock_description;

pub(crate) fn run(load: &mut Load<'_>) {
    let path = load.dir.join("locked");
    let locked = File::create(&path).unwrap();
    flock(&locked, FlockOperation::LockExclusive).unwrap();
    let rival = File::open(&path).unwrap();
    let owned = File::create(load.dir.join("owned")).unwrap();
    fcntl_lock(&owned, FlockOperation::NonBlockingLockExclusive).unwrap();
    // Two descriptions of one file in one process exclude each other, unlike its owners' locks.
    let described = File::create(load.dir.join("described")).unwrap();
    lock_description(&described).unwrap();
    let other = File::create(load.dir.join("described")).unwrap();
    let nameless = |number: u64| {
        let path = load.dir.join(format!("nameless{number}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&number.to_le_bytes(), number % 40 * 1000).unwrap();
        fs::remove_file(path).unwrap();
        file
    };
    let mut held: Vec<(u64, File)> = (0..8).map(|number| (number, nameless(number))).collect();
    let mut next = 8;
    while load.goes_on() {
        assert_eq!(flock(&rival, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
        assert_eq!(lock_description(&other).unwrap_err().kind(), ErrorKind::WouldBlock);
        let at = load.random.below(held.len());
        let (number, file) = &held[at];
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, number % 40 * 1000).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), *number);
        file.write_all_at(b"more", 50_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 50_004);
        if load.random.below(10) == 0 {
            held[at] = (next, nameless(next));
            next += 1;
        }
    }
    fcntl_lock(&owned, FlockOperation::Unlock).unwrap();
    drop(described);
    // A child of another part of the load has it, too, until it executes its program.
    wait_until("the lock is free", Duration::from_mins(1), || lock_description(&other).is_ok());
}
