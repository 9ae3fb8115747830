//! Large files that change in part: what is copied, what is read, and what is left after each kind of death.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_view::{Allocate, SeekTo, SetAttr, ViewError, ViewOptions};
use std::os::unix::fs::MetadataExt;
use support::large::{
    BLOCK, LARGE, SIZE, assert_reads, base, bench, bytes, is_patched, open, patching, working_file, write,
};
use support::{Bench, read};

#[test]
fn a_byte_changed_in_a_large_file_costs_a_block() {
    let mut bench = bench();
    let view = bench.open();
    let mut expected = bytes(0);
    for at in [5, 3 * BLOCK + 17, SIZE - 1] {
        write(&bench, &view, at, &[0xab]);
        expected[at] = 0xab;
    }
    assert_reads(&bench, &view, &expected);
    let host = working_file(&bench).metadata().unwrap();
    assert_eq!(host.len(), SIZE as u64);
    assert!(host.blocks() * 512 <= 4 * BLOCK as u64, "{} bytes for three blocks", host.blocks() * 512);
    bench.kill(view);
    let view = bench.open();
    assert_reads(&bench, &view, &expected);
    // In a layer that is frozen it is changed no more: the next one gets what changed, and no more than that.
    let frozen = view.freeze().unwrap();
    let then = expected.clone();
    write(&bench, &view, 9 * BLOCK, &[1; 3 * BLOCK]);
    expected[9 * BLOCK..12 * BLOCK].fill(1);
    assert_reads(&bench, &view, &expected);
    assert_reads(&bench, &bench.open_frozen(&frozen), &then);
    assert!(working_file(&bench).metadata().unwrap().blocks() * 512 <= 7 * BLOCK as u64);
    view.close().unwrap();
    assert_reads(&bench, &bench.open(), &expected);
}

#[test]
fn after_a_loss_of_power_a_patched_file_has_what_was_synced_and_else_what_it_was_made_from() {
    for ordered in [false, true] {
        let mut bench = bench();
        let view = bench.open();
        let mut expected = bytes(0);
        let handle = open(&bench, &view);
        view.write(handle, 10, &[1; 100]).unwrap();
        expected[10..110].fill(1);
        if ordered {
            // By the way that is taken for everything at once.
            view.sync().unwrap();
        } else {
            view.fsync(handle, true).unwrap();
        }
        view.write(handle, 5 * BLOCK as u64 + 10, &[2; 100]).unwrap();
        let at_the_cut = working_file(&bench);
        let name = at_the_cut.strip_prefix(bench.path()).unwrap().to_owned();
        bench.kill(view);
        // Of the second block the disk has nothing, although it may have the note that it is there.
        let host = std::fs::File::options().write(true).open(bench.path().join(name)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&host, &[0; BLOCK], 5 * BLOCK as u64).unwrap();
        bench.boot_id = "boot-2".to_owned();
        let view = bench.open();
        assert_reads(&bench, &view, &expected);
        write(&bench, &view, 5 * BLOCK + 20, &[3]);
        expected[5 * BLOCK + 20] = 3;
        assert_reads(&bench, &view, &expected);
        view.close().unwrap();
    }
}

#[test]
fn a_patched_file_that_was_never_synced_is_what_it_was_after_a_loss_of_power() {
    let mut bench = bench();
    let view = bench.open();
    write(&bench, &view, 10, &[1; 100]);
    bench.kill(view);
    bench.boot_id = "boot-2".to_owned();
    let view = bench.open();
    assert_reads(&bench, &view, &bytes(0));
}

#[test]
fn what_a_successor_finds_patched_is_durable_after_its_sync() {
    let mut bench = bench();
    let view = bench.open();
    write(&bench, &view, 0, &[1]);
    view.sync().unwrap();
    write(&bench, &view, 7 * BLOCK, &[2; BLOCK]);
    let mut expected = bytes(0);
    expected[0] = 1;
    expected[7 * BLOCK..8 * BLOCK].fill(2);
    bench.kill(view);
    let view = bench.open();
    view.sync().unwrap();
    bench.kill(view);
    bench.boot_id = "boot-2".to_owned();
    assert_reads(&bench, &bench.open(), &expected);
}

#[test]
fn what_was_cut_off_never_comes_back() {
    let mut bench = bench();
    let view = bench.open();
    let cut = 300 * 1024 + 5;
    let size = |size: usize| SetAttr { size: Some(size as u64), ..SetAttr::default() };
    view.setattr(LARGE, &size(cut)).unwrap();
    view.setattr(LARGE, &size(SIZE)).unwrap();
    let mut expected = bytes(0);
    expected[cut..].fill(0);
    assert_reads(&bench, &view, &expected);
    assert!(is_patched(&view));
    let name = working_file(&bench).strip_prefix(bench.path()).unwrap().to_owned();
    bench.kill(view);
    // Whoever cut it shorter still died before anything else could be written down.
    let host = std::fs::File::options().write(true).open(bench.path().join(name)).unwrap();
    host.set_len(cut as u64 / 2).unwrap();
    let view = bench.open();
    write(&bench, &view, cut, &[9]);
    expected[cut / 2..].fill(0);
    expected.truncate(cut + 1);
    expected[cut] = 9;
    assert_reads(&bench, &view, &expected);
}

#[test]
fn writers_in_one_block_lose_nothing_of_each_other() {
    const PART: usize = BLOCK / 4;
    let bench = bench();
    let view = bench.open();
    let together = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let (bench, view, together) = (&bench, &view, &together);
            scope.spawn(move || {
                let handle = open(bench, view);
                for at in (0..SIZE).step_by(BLOCK).map(|block| block + usize::from(writer) * PART) {
                    together.wait();
                    view.write(handle, at as u64, &[1 + writer; PART]).unwrap();
                }
                view.release(handle);
            });
        }
    });
    let expected: Vec<u8> = (0..SIZE).map(|at| 1 + (at % BLOCK / PART).to_le_bytes()[0]).collect();
    assert_reads(&bench, &view, &expected);
}

#[test]
fn a_file_that_changed_everywhere_is_patched_no_more() {
    let bench = bench();
    let view = bench.open();
    let handle = open(&bench, &view);
    view.write(handle, 1, &[1]).unwrap();
    assert!(is_patched(&view));
    let new = bytes(3);
    view.write(handle, 0, &new).unwrap();
    view.fsync(handle, false).unwrap();
    view.release(handle);
    assert!(!is_patched(&view));
    assert_reads(&bench, &view, &new);
    write(&bench, &view, 0, &[7]);
    view.close().unwrap();
    assert_eq!(read(&bench, &bench.open(), LARGE)[..2], [7, new[1]]);
}

#[test]
fn holes_are_found_in_what_changed_and_in_what_did_not() {
    let bench = bench();
    let view = bench.open();
    let handle = open(&bench, &view);
    let punch = |at: usize, len: usize| view.allocate(handle, Allocate::PunchHole, at as u64, len as u64);
    punch(2 * BLOCK, 3 * BLOCK).unwrap();
    // The second hole is one of what the file is made from by then.
    view.freeze().unwrap();
    let report = view.snapshot(b"holes", &|_| {}).unwrap();
    view.tidy().unwrap();
    punch(8 * BLOCK, BLOCK).unwrap();
    let seek = |at: usize, to| usize::try_from(view.seek(handle, at as u64, to).unwrap()).unwrap();
    assert_eq!(seek(0, SeekTo::Hole), 2 * BLOCK, "{report:?}");
    assert_eq!(seek(2 * BLOCK, SeekTo::Data), 5 * BLOCK);
    assert_eq!(seek(5 * BLOCK, SeekTo::Hole), 8 * BLOCK);
    assert_eq!(seek(8 * BLOCK, SeekTo::Data), 9 * BLOCK);
    assert_eq!(seek(9 * BLOCK, SeekTo::Hole), SIZE);
    let mut expected = bytes(0);
    expected[2 * BLOCK..5 * BLOCK].fill(0);
    expected[8 * BLOCK..9 * BLOCK].fill(0);
    assert_reads(&bench, &view, &expected);
}

#[test]
fn a_full_disk_leaves_a_patched_file_as_it_was() {
    let disk = support::SmallDisk::new(8 << 20);
    let bench = patching(Bench::new_in(disk.path(), &base()));
    let view = bench.open();
    write(&bench, &view, 0, &[1]);
    let mut expected = bytes(0);
    expected[0] = 1;
    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![1; 8 << 20]);
    let handle = open(&bench, &view);
    let error = view.write(handle, 3 * BLOCK as u64 + 5, &vec![2; 64 << 10]).unwrap_err();
    assert!(
        matches!(&error, ViewError::Host { source, .. } if source.raw_os_error() == Some(libc::ENOSPC)),
        "{error}"
    );
    assert_reads(&bench, &view, &expected);
    std::fs::remove_file(filler).unwrap();
    view.write(handle, 3 * BLOCK as u64 + 5, &vec![2; 64 << 10]).unwrap();
    expected[3 * BLOCK + 5..3 * BLOCK + 5 + (64 << 10)].fill(2);
    assert_reads(&bench, &view, &expected);
    view.release(handle);
    view.close().unwrap();
}

#[test]
fn small_files_are_copied_as_a_whole() {
    let mut bench = bench();
    bench.patching = None;
    assert_eq!(ViewOptions::default().patching, None);
    let view = bench.open();
    write(&bench, &view, 0, &[1]);
    assert!(!is_patched(&view), "a mebibyte is copied faster than it is put together at each read");
}
