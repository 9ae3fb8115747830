//! Room on the disk, holes and data.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::{WORKER, mounted, sys};
use selvedge_test_support::Repo;

const BLOCK: u64 = 4096;

/// Where data begins and ends, through a descriptor of its own.
fn map(path: &Path) -> Vec<(u64, u64)> {
    map_of(&File::open(path).unwrap())
}

fn map_of(file: &File) -> Vec<(u64, u64)> {
    let (mut extents, mut at) = (Vec::new(), 0);
    loop {
        match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return extents,
            found => {
                let start = found.unwrap();
                at = seek(file, SeekFrom::Hole(start)).unwrap();
                extents.push((start, at));
            }
        }
    }
}

#[test]
fn fallocate_does_what_it_does_on_the_host() {
    let repo = Repo::with_tree(|source| fs::write(source.join("file"), vec![7; 20_000]).unwrap());
    let mount = repo.mounting(WORKER).start();
    let host = repo.dir().join("host");
    fs::write(&host, vec![7; 20_000]).unwrap();
    let here = OpenOptions::new().read(true).write(true).open(mount.path().join("file")).unwrap();
    let there = OpenOptions::new().read(true).write(true).open(&host).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    let steps = [
        (FallocateFlags::PUNCH_HOLE | keep, 100, 9000),
        (FallocateFlags::empty(), 15_000, 10_000),
        (keep, 0, 100_000),
        (FallocateFlags::ZERO_RANGE, 18_000, 20_000),
        (FallocateFlags::ZERO_RANGE | keep, 1000, 100_000),
        (FallocateFlags::PUNCH_HOLE, 0, 10),
        (FallocateFlags::COLLAPSE_RANGE, 0, BLOCK),
        (FallocateFlags::INSERT_RANGE, 0, BLOCK),
        (FallocateFlags::empty(), 0, 0),
    ];
    for (flags, offset, length) in steps {
        let outcome = fallocate(&here, flags, offset, length);
        let asked = FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE;
        if flags.intersects(asked) {
            assert_eq!(outcome, Err(Errno::OPNOTSUPP), "{flags:?}");
            continue;
        }
        assert_eq!(outcome, fallocate(&there, flags, offset, length), "{flags:?} {offset} {length}");
        assert_eq!(here.metadata().unwrap().len(), there.metadata().unwrap().len(), "{flags:?}");
        assert!(fs::read(mount.path().join("file")).unwrap() == fs::read(&host).unwrap(), "{flags:?}");
    }
    assert!(here.metadata().unwrap().blocks() * 512 >= 100_000, "the room is taken");
    let read_only = File::open(mount.path().join("file")).unwrap();
    assert_eq!(fallocate(&read_only, FallocateFlags::empty(), 0, 1), Err(Errno::BADF));
    drop((here, there, read_only));
    mount.stop();
}

#[test]
fn room_that_was_asked_for_is_there_after_a_remount() {
    let (repo, mount) = mounted();
    let path = mount.path().join("file");
    let file = File::create_new(&path).unwrap();
    sys::posix_fallocate(&file, 1 << 20).unwrap();
    drop(file);
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    let meta = fs::metadata(mount.path().join("file")).unwrap();
    assert_eq!(meta.len(), 1 << 20);
    assert!(meta.blocks() * 512 >= 1 << 20);
    mount.stop();
}

#[test]
fn holes_are_found_in_imported_and_in_changed_files() {
    let sparse = |path: &Path| {
        let file = File::create_new(path).unwrap();
        file.set_len(64 * BLOCK).unwrap();
        file.write_all_at(&[1; 100], 8 * BLOCK).unwrap();
        file.write_all_at(&[2; 100], 40 * BLOCK).unwrap();
    };
    let repo = Repo::with_tree(|source| sparse(&source.join("base")));
    let mount = repo.mounting(WORKER).start();
    let expected = vec![(8 * BLOCK, 9 * BLOCK), (40 * BLOCK, 41 * BLOCK)];
    let base = mount.path().join("base");
    assert_eq!(map(&base), expected);
    let file = File::open(&base).unwrap();
    assert_eq!(seek(&file, SeekFrom::Data(8 * BLOCK + 7)).unwrap(), 8 * BLOCK + 7);
    assert_eq!(seek(&file, SeekFrom::Hole(3)).unwrap(), 3);
    assert_eq!(seek(&file, SeekFrom::Hole(50 * BLOCK)).unwrap(), 50 * BLOCK);
    assert_eq!(seek(&file, SeekFrom::Data(50 * BLOCK)), Err(Errno::NXIO));
    assert_eq!(seek(&file, SeekFrom::Hole(64 * BLOCK)), Err(Errno::NXIO));
    drop(file);
    let writer = OpenOptions::new().read(true).write(true).open(&base).unwrap();
    writer.write_all_at(&[3; 10], 20 * BLOCK).unwrap();
    let changed = vec![expected[0], (20 * BLOCK, 21 * BLOCK), expected[1]];
    assert_eq!(map_of(&writer), changed, "also while somebody may write");
    drop(writer);
    assert_eq!(map(&base), changed);
    let whole = mount.path().join("whole");
    fs::write(&whole, [9; 5000]).unwrap();
    assert_eq!(map(&whole), [(0, 5000)]);
    fs::write(mount.path().join("empty"), b"").unwrap();
    assert_eq!(map(&mount.path().join("empty")), []);
    mount.stop();
}

#[test]
fn what_is_stored_through_a_mapping_is_never_taken_for_a_hole() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("mapped");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 * BLOCK).unwrap();
    let mut mapping = sys::Mapping::shared(&file, 64 * 4096);
    drop(file);
    mapping[10 * 4096] = 1;
    // Nobody has written this page to the worker yet.
    assert_eq!(map(&path), [(10 * BLOCK, 11 * BLOCK)]);
    mapping[30 * 4096] = 1;
    assert_eq!(map(&path), [(10 * BLOCK, 11 * BLOCK), (30 * BLOCK, 31 * BLOCK)]);
    drop(mapping);
    mount.stop();
}
