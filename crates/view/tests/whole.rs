//! Large files that were changed in part and are used much: they become whole, and nobody sees that but by their speed.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::Timestamp;
use selvedge_view::{Allocate, SetAttr, SetTime, View};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::Bench;
use support::large::{
    BLOCK, LARGE, RW, SIZE, assert_reads, base, bench, bytes, is_patched, open, patching, working_file, write,
};

/// Requests for the file after which it had better be whole.
const MUCH: usize = SIZE / BLOCK;

/// Uses the file until it had better be whole, and lets go of it.
fn use_much(bench: &Bench, view: &View) {
    let handle = open(bench, view);
    (0..MUCH).for_each(|_| drop(view.read(handle, 0, 1).unwrap()));
    view.release(handle);
}

fn is_opened_past(bench: &Bench, view: &View) -> bool {
    let opened = view.open_past(&bench.request(), LARGE, RW).unwrap();
    let passed = opened.passed.is_some();
    drop(opened.passed);
    let last = view.release(opened.handle);
    assert!(!passed || view.let_go(LARGE, last));
    passed
}

#[test]
fn a_large_file_that_is_used_much_becomes_whole() {
    let mut bench = bench();
    let view = bench.open();
    let mut expected = bytes(0);
    write(&bench, &view, 5, &[1]);
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(is_patched(&view), "nobody opens it past the view");
    view.begin_passing();
    write(&bench, &view, 3 * BLOCK + 5, &[1]);
    (expected[5], expected[3 * BLOCK + 5]) = (1, 1);
    view.tidy().unwrap();
    assert!(is_patched(&view), "it was not used much since that is of any use");
    let time = Timestamp { sec: 1_234_567_890, nsec: 987_654_321 };
    view.setattr(LARGE, &SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() }).unwrap();
    let dated = view.getattr(LARGE).unwrap();
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(!is_patched(&view));
    assert_eq!(view.getattr(LARGE).unwrap(), dated, "nobody has changed it");
    assert!(is_opened_past(&bench, &view));
    assert_reads(&bench, &view, &expected);
    bench.kill(view);
    let view = bench.open();
    assert_eq!(view.getattr(LARGE).unwrap(), dated);
    assert_reads(&bench, &view, &expected);
    // What it became is in the next snapshot, and is changed in part again from then on.
    view.snapshot(b"whole", &|_| {}).unwrap();
    view.tidy().unwrap();
    write(&bench, &view, 9, &[2]);
    expected[9] = 2;
    assert!(is_patched(&view));
    assert!(!is_opened_past(&bench, &view));
    assert_reads(&bench, &view, &expected);
    view.close().unwrap();
    assert_reads(&bench, &bench.open(), &expected);
}

#[test]
fn what_is_changed_while_a_file_becomes_whole_is_in_it() {
    const WRITERS: usize = 6;
    const ROUNDS: u8 = 40;
    const LONGEST: usize = 12_000;
    let mut bench = patching(Bench::new_in_memory(&base()));
    let mut expected = bytes(0);
    let view = bench.open();
    view.begin_passing();
    let mut became = 0;
    for round in 0..ROUNDS {
        write(&bench, &view, 0, &[round]);
        expected[0] = round;
        let over = AtomicBool::new(false);
        // Who changes all of it makes it whole in another way.
        let part = (SIZE / 2 - BLOCK) / WRITERS;
        std::thread::scope(|scope| {
            for (writer, mine) in expected[BLOCK..].chunks_mut(part).take(WRITERS).enumerate() {
                let (bench, view, over) = (&bench, &view, &over);
                scope.spawn(move || {
                    let handle = open(bench, view);
                    let mut seed = usize::from(round) * 7919 + writer;
                    for step in 0_u32.. {
                        if over.load(Ordering::Relaxed) && step > 50 {
                            break;
                        }
                        seed = seed
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        // One that pauses now and then lets the others have their way.
                        if (seed >> 28) % 4 == 0 {
                            std::thread::sleep(Duration::from_micros((seed >> 40) as u64 % 5000));
                        }
                        let at = (seed >> 33) % (mine.len() - LONGEST);
                        let len = 1 + (seed >> 20) % LONGEST;
                        let place = (BLOCK + writer * part + at) as u64;
                        if step % 8 == 0 {
                            view.allocate(handle, Allocate::PunchHole, place, len as u64).unwrap();
                            mine[at..at + len].fill(0);
                        } else {
                            let byte = step.to_le_bytes()[0];
                            view.write(handle, place, &vec![byte; len]).unwrap();
                            mine[at..at + len].fill(byte);
                        }
                        let found = view.read(handle, place, u32::try_from(len).unwrap()).unwrap();
                        assert!(found == mine[at..at + len], "what was changed just now, step {step}");
                        if step % 50 == 0 {
                            view.fsync(handle, step % 100 == 0).unwrap();
                        }
                    }
                    view.release(handle);
                });
            }
            let deadline = Instant::now() + Duration::from_millis(500);
            while is_patched(&view) && Instant::now() < deadline {
                use_much(&bench, &view);
                view.tidy().unwrap();
            }
            became += u32::from(!is_patched(&view));
            over.store(true, Ordering::Relaxed);
        });
        assert_reads(&bench, &view, &expected);
        view.snapshot(b"round", &|_| {}).unwrap();
        view.tidy().unwrap();
    }
    println!("{became} of {ROUNDS} rounds");
    assert!(became > u32::from(ROUNDS) / 4, "it became whole beside its writers {became} times");
    bench.kill(view);
    assert_reads(&bench, &bench.open(), &expected);
}

#[test]
fn a_file_that_is_cut_and_grown_while_it_becomes_whole_has_zeros_there() {
    let bench = bench();
    let view = bench.open();
    view.begin_passing();
    let size = |size: usize| SetAttr { size: Some(size as u64), ..SetAttr::default() };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for cut in (SIZE / 4..SIZE).step_by(1013).rev() {
                view.setattr(LARGE, &size(cut)).unwrap();
                view.setattr(LARGE, &size(SIZE)).unwrap();
                if cut % 16 == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            use_much(&bench, &view);
            view.tidy().unwrap();
        }
    });
    let least = (SIZE / 4..SIZE).step_by(1013).next().unwrap();
    let mut expected = bytes(0);
    expected[least..].fill(0);
    assert_reads(&bench, &view, &expected);
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(!is_patched(&view));
    assert_reads(&bench, &view, &expected);
    view.close().unwrap();
}

#[test]
fn a_loss_of_power_that_takes_the_row_but_not_the_new_file_takes_nothing_that_was_synced() {
    let mut bench = bench();
    let view = bench.open();
    view.begin_passing();
    let mut expected = bytes(0);
    let handle = open(&bench, &view);
    view.write(handle, 10, &[1; 100]).unwrap();
    expected[10..110].fill(1);
    view.fsync(handle, true).unwrap();
    view.release(handle);
    let before = bench.path().with_file_name("before");
    copy(&bench.path(), &before);
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(!is_patched(&view));
    let file = working_file(&bench);
    let within = file.strip_prefix(bench.path()).unwrap();
    fs::rename(&file, before.join(within)).unwrap();
    drop(view);
    fs::remove_dir_all(bench.path()).unwrap();
    fs::rename(&before, bench.path()).unwrap();
    bench.boot_id = "boot-2".to_owned();
    let view = bench.open();
    assert!(is_patched(&view));
    assert_reads(&bench, &view, &expected);
    write(&bench, &view, 5 * BLOCK, &[2]);
    expected[5 * BLOCK] = 2;
    assert_reads(&bench, &view, &expected);
    view.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_file_that_is_removed_while_it_becomes_whole_leaves_nothing() {
    for round in 0..40 {
        let bench = patching(Bench::new_in_memory(&base()));
        let view = bench.open();
        view.begin_passing();
        write(&bench, &view, 0, &[1]);
        use_much(&bench, &view);
        let files = working_file(&bench).parent().unwrap().to_owned();
        std::thread::scope(|scope| {
            scope.spawn(|| view.tidy().unwrap());
            std::thread::sleep(Duration::from_micros(round * 100));
            view.unlink(&bench.request(), view.root(), b"large").unwrap();
            view.forget(LARGE);
        });
        view.tidy().unwrap();
        for dir in [files.clone(), files.with_file_name("tmp")] {
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "{}, round {round}", dir.display());
        }
        view.close().unwrap();
    }
}

#[test]
fn room_that_was_asked_for_stays_the_files_own() {
    let bench = bench();
    let view = bench.open();
    view.begin_passing();
    let handle = open(&bench, &view);
    view.write(handle, 0, &[1]).unwrap();
    view.allocate(handle, Allocate::ReserveKeepingSize, 0, 3 * SIZE as u64).unwrap();
    view.release(handle);
    (0..3).for_each(|_| use_much(&bench, &view));
    view.tidy().unwrap();
    assert!(is_patched(&view));
    let mut expected = bytes(0);
    expected[0] = 1;
    assert_reads(&bench, &view, &expected);
    assert!(working_file(&bench).metadata().unwrap().blocks() * 512 >= 3 * SIZE as u64);
}

#[test]
fn on_a_disk_without_room_for_it_a_file_stays_as_it_is() {
    let disk = support::SmallDisk::new(8 << 20);
    let bench = patching(Bench::new_in(disk.path(), &base()));
    let view = bench.open();
    view.begin_passing();
    write(&bench, &view, 0, &[1]);
    let mut expected = bytes(0);
    expected[0] = 1;
    let filler = disk.path().join("filler");
    let _ = fs::write(&filler, vec![1; 8 << 20]);
    // Room for a part of it.
    let filled = fs::File::options().write(true).open(&filler).unwrap();
    filled.set_len(filled.metadata().unwrap().len() - (SIZE as u64 / 2)).unwrap();
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(is_patched(&view));
    assert_reads(&bench, &view, &expected);
    let layer = working_file(&bench).parent().unwrap().with_file_name("tmp");
    assert_eq!(fs::read_dir(layer).unwrap().count(), 0, "nothing of the attempt is left");
    drop(filled);
    fs::remove_file(filler).unwrap();
    view.tidy().unwrap();
    assert!(is_patched(&view), "an attempt that failed is as dear as one that did not");
    use_much(&bench, &view);
    view.tidy().unwrap();
    assert!(!is_patched(&view));
    assert_reads(&bench, &view, &expected);
    view.close().unwrap();
}

#[test]
fn bytes_that_the_store_has_lost_do_not_become_the_threads_own() {
    let bench = bench();
    let view = bench.open();
    view.begin_passing();
    write(&bench, &view, 0, &[1]);
    let blob = walk(&bench.path()).into_iter().find(|path| {
        !path.starts_with(bench.path().join("layers")) && path.metadata().unwrap().len() == SIZE as u64
    });
    let blob = fs::File::options().write(true).open(blob.unwrap()).unwrap();
    blob.write_all_at(&[!bytes(0)[SIZE / 2]], SIZE as u64 / 2).unwrap();
    use_much(&bench, &view);
    let error = view.tidy().unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");
    assert!(is_patched(&view));
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
