//! What a view promises, one test a promise.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::{FIRST_NEW_INO, FileKind, Ino, Timestamp};
use selvedge_view::{AclKind, OpenFlags, RenameMode, SetAttr, SetTime, View, ViewError, XattrMode};
use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use support::{BASE_TIME, Base, Bench, exists, list, read};

const R: OpenFlags = OpenFlags { read: true, write: false, exclusive: false };
const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };

fn file(ino: u64, bytes: &[u8]) -> Base {
    Base::File { ino, nlink: 1, bytes: bytes.to_vec() }
}

fn base() -> Base {
    Base::Dir {
        ino: 2,
        entries: vec![
            ("file", file(10, b"base content")),
            ("big", file(11, &[3; 1 << 20])),
            ("link", Base::Link { ino: 12, target: "file" }),
            ("dir", Base::Dir { ino: 20, entries: vec![("x", file(21, b"x")), ("y", file(22, b"y"))] }),
        ],
    }
}

fn create(bench: &Bench, view: &View, parent: Ino, name: &[u8], bytes: &[u8]) -> Ino {
    let (attr, handle) = view.create(&bench.request(), parent, name, 0o644, RW).unwrap();
    if !bytes.is_empty() {
        view.write(handle, 0, bytes).unwrap();
    }
    view.release(handle);
    attr.ino
}

fn overwrite(bench: &Bench, view: &View, ino: Ino, bytes: &[u8]) {
    let handle = view.open_file(&bench.request(), ino, RW).unwrap();
    view.write(handle, 0, bytes).unwrap();
    view.release(handle);
}

fn working_files(bench: &Bench) -> Vec<String> {
    let Some(dir) = bench.upper_dir() else { return Vec::new() };
    let entries = std::fs::read_dir(dir.join("files")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn reads_never_copy_up() {
    let bench = Bench::new(&base());
    let view = bench.open();
    for ino in [10, 11, 21, 22] {
        // Opened for writing too: only a write changes something.
        let handle = view.open_file(&bench.request(), Ino(ino), RW).unwrap();
        view.read(handle, 0, 1 << 20).unwrap();
        view.fsync(handle, false).unwrap();
        view.release(handle);
    }
    list(&bench, &view, view.root());
    view.readlink(Ino(12)).unwrap();
    view.close().unwrap();
    assert_eq!(bench.upper_dir(), None, "reading made an upper");
}

#[test]
fn changing_attributes_of_a_base_file_copies_no_data() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let set = SetAttr { mode: Some(0o600), mtime: Some(SetTime::Now), ..SetAttr::default() };
    view.setattr(Ino(11), &set).unwrap();
    view.setxattr(&bench.request(), Ino(11), b"user.k", b"v", XattrMode::Set).unwrap();
    view.rename(&bench.request(), view.root(), b"big", Ino(20), b"moved", RenameMode::Replace).unwrap();
    view.link(&bench.request(), Ino(11), view.root(), b"second").unwrap();
    assert_eq!(working_files(&bench), Vec::<String>::new());
    assert_eq!(read(&bench, &view, Ino(11)), vec![3; 1 << 20]);
}

#[test]
fn handles_opened_before_a_copy_up_see_what_is_written_after_it() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let early = view.open_file(&bench.request(), Ino(10), R).unwrap();
    assert_eq!(view.read(early, 0, 4).unwrap(), b"base");
    overwrite(&bench, &view, Ino(10), b"NEW!");
    assert_eq!(view.read(early, 0, 99).unwrap(), b"NEW! content");
    assert!(matches!(view.write(early, 0, b"x"), Err(ViewError::BadHandle)));
    view.release(early);
    assert!(matches!(view.read(early, 0, 1), Err(ViewError::BadHandle)));
}

#[test]
fn a_handle_opened_beside_a_copy_up_sees_what_is_written() {
    const FILES: u64 = 2000;
    let names: Vec<&'static str> = (0..FILES).map(|at| &*format!("f{at}").leak()).collect();
    let entries = names.iter().zip(100..).map(|(name, ino)| (*name, file(ino, b"old"))).collect();
    let bench = Arc::new(Bench::new(&Base::Dir { ino: 2, entries }));
    let view = Arc::new(bench.open());
    let (gate, written) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let writer = {
        let (bench, view) = (Arc::clone(&bench), Arc::clone(&view));
        let (gate, written) = (Arc::clone(&gate), Arc::clone(&written));
        std::thread::spawn(move || {
            for ino in 100..100 + FILES {
                gate.wait();
                overwrite(&bench, &view, Ino(ino), b"new");
                written.wait();
            }
        })
    };
    for ino in 100..100 + FILES {
        gate.wait();
        let handle = view.open_file(&bench.request(), Ino(ino), R).unwrap();
        written.wait();
        assert_eq!(view.read(handle, 0, 99).unwrap(), b"new", "node {ino}");
        view.release(handle);
    }
    writer.join().unwrap();
}

#[test]
fn an_unlinked_file_lives_until_it_is_released_and_forgotten() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let ino = create(&bench, &view, view.root(), b"temp", b"kept");
    for ino in [ino, Ino(10)] {
        let name: &[u8] = if ino == Ino(10) { b"file" } else { b"temp" };
        let handle = view.open_file(&bench.request(), ino, RW).unwrap();
        view.unlink(&bench.request(), view.root(), name).unwrap();
        assert!(matches!(view.lookup(view.root(), name), Err(ViewError::NotFound)));
        view.write(handle, 0, b"more").unwrap();
        assert_eq!(&view.read(handle, 0, 4).unwrap(), b"more");
        assert_eq!(view.getattr(ino).unwrap().nlink, 0);
        // The kernel forgets before or after the release; either way it goes.
        if ino == Ino(10) {
            view.forget(ino);
            view.release(handle);
        } else {
            view.release(handle);
            view.forget(ino);
        }
    }
    eventually("the bytes of unlinked files are removed", || working_files(&bench).is_empty());
    assert!(matches!(view.getattr(ino), Err(ViewError::NotFound)));
}

#[test]
fn a_replaced_file_is_removed_once_its_successor_is_durable() {
    let bench = Bench::new(&base());
    let view = bench.open();
    for round in 0..3u8 {
        let old = view.lookup(view.root(), b"file").unwrap().ino;
        let new = create(&bench, &view, view.root(), b"new", &[round; 5000]);
        view.rename(&bench.request(), view.root(), b"new", view.root(), b"file", RenameMode::Replace)
            .unwrap();
        view.forget(old);
        assert_eq!(view.lookup(view.root(), b"file").unwrap().ino, new);
        if round == 1 {
            // A name that goes before it has settled lets go as well.
            view.unlink(&bench.request(), view.root(), b"file").unwrap();
            view.forget(new);
            create(&bench, &view, view.root(), b"file", b"next");
        }
    }
    eventually("only the last file is left", || working_files(&bench).len() == 1);
    assert_eq!(read(&bench, &view, view.lookup(view.root(), b"file").unwrap().ino), [2; 5000]);
}

#[test]
fn after_fsync_of_the_directory_a_replaced_name_survives_a_power_cut() {
    for (fsync, expected) in [(true, &b"new"[..]), (false, b"new or old")] {
        let mut bench = Bench::new(&base());
        let view = bench.open();
        create(&bench, &view, view.root(), b"new", b"new");
        view.rename(&bench.request(), view.root(), b"new", view.root(), b"file", RenameMode::Replace)
            .unwrap();
        if fsync {
            let handle = view.opendir(&bench.request(), view.root()).unwrap();
            view.fsyncdir(handle).unwrap();
        }
        bench.kill(view);
        bench.boot_id = "boot-2".to_owned();
        let view = bench.open();
        let found = read(&bench, &view, view.lookup(view.root(), b"file").unwrap().ino);
        if fsync {
            assert_eq!(found, expected);
            assert!(matches!(view.lookup(view.root(), b"new"), Err(ViewError::NotFound)));
        } else if found == b"base content" {
            let moved = view.lookup(view.root(), b"new").unwrap().ino;
            assert_eq!(read(&bench, &view, moved), b"new", "the rename is undone whole");
        } else {
            assert_eq!(found, b"new");
        }
    }
}

#[test]
fn a_file_that_was_durable_never_loses_its_name_to_a_rename() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let (_, handle) = view.create(&bench.request(), view.root(), b"new", 0o644, RW).unwrap();
    view.write(handle, 0, b"durable").unwrap();
    view.fsync(handle, false).unwrap();
    view.write(handle, 7, b" and more").unwrap();
    view.release(handle);
    view.rename(&bench.request(), view.root(), b"new", view.root(), b"file", RenameMode::Replace).unwrap();
    bench.kill(view);
    bench.boot_id = "boot-2".to_owned();
    let view = bench.open();
    let file = view.lookup(view.root(), b"file").unwrap().ino;
    assert_eq!(read(&bench, &view, file), b"durable and more");
}

#[test]
fn what_was_unlinked_and_open_at_a_kill_is_swept_at_the_next_opening() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    create(&bench, &view, view.root(), b"temp", b"kept");
    let ino = view.lookup(view.root(), b"temp").unwrap().ino;
    let handle = view.open_file(&bench.request(), ino, RW).unwrap();
    view.unlink(&bench.request(), view.root(), b"temp").unwrap();
    view.write(handle, 0, b"more").unwrap();
    bench.kill(view);
    assert_eq!(working_files(&bench).len(), 1);
    let view = bench.open();
    eventually("orphans are swept", || working_files(&bench).is_empty());
    view.close().unwrap();
}

#[test]
fn a_lookup_merges_three_frozen_layers_and_the_upper() {
    let bench = Bench::new(&base());
    let steps: [&dyn Fn(&View); 4] = [
        &|view| {
            overwrite(&bench, view, Ino(10), b"layer 1");
            create(&bench, view, view.root(), b"one", b"1");
            view.unlink(&bench.request(), Ino(20), b"x").unwrap();
        },
        &|view| {
            let set = SetAttr { mode: Some(0o400), ..SetAttr::default() };
            view.setattr(Ino(10), &set).unwrap();
            view.unlink(&bench.request(), view.root(), b"one").unwrap();
            create(&bench, view, Ino(20), b"x", b"again");
        },
        &|view| {
            create(&bench, view, view.root(), b"one", b"a second one");
            view.unlink(&bench.request(), Ino(20), b"x").unwrap();
            view.unlink(&bench.request(), Ino(20), b"y").unwrap();
            view.rmdir(&bench.request(), view.root(), b"dir").unwrap();
            view.mkdir(&bench.request(), view.root(), b"dir", 0o755).unwrap();
        },
        &|view| overwrite(&bench, view, Ino(10), b"UPPER"),
    ];
    for (layer, step) in steps.iter().enumerate() {
        let view = bench.open();
        step(&view);
        view.close().unwrap();
        if layer < 3 {
            bench.freeze();
        }
    }
    let view = bench.open();
    let names: Vec<_> = list(&bench, &view, view.root()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"big"[..], b"dir", b"file", b"link", b"one"]);
    let attr = view.lookup(view.root(), b"file").unwrap();
    assert_eq!((attr.ino, attr.mode), (Ino(10), 0o400));
    assert_eq!(read(&bench, &view, Ino(10)), b"UPPER 1ntent");
    let one = view.lookup(view.root(), b"one").unwrap();
    assert_eq!(read(&bench, &view, one.ino), b"a second one");
    let dir = view.lookup(view.root(), b"dir").unwrap();
    assert_ne!(dir.ino, Ino(20), "a new directory is not the old one");
    assert_eq!(list(&bench, &view, dir.ino), []);
}

#[test]
fn times_follow_posix() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let start = view.getattr(Ino(10)).unwrap();
    assert_eq!((start.mtime, start.ctime), (BASE_TIME, BASE_TIME));

    let exact = Timestamp { sec: 1_600_000_000, nsec: 987_654_321 };
    let set = SetAttr { mtime: Some(SetTime::At(exact)), ..SetAttr::default() };
    for written in [false, true] {
        if written {
            overwrite(&bench, &view, Ino(10), b"bytes");
            let attr = view.getattr(Ino(10)).unwrap();
            assert!(attr.mtime > exact && attr.ctime >= attr.mtime, "a write moves both times: {attr:?}");
        }
        let attr = view.setattr(Ino(10), &set).unwrap();
        assert_eq!(attr.mtime, exact, "after a write: {written}");
        assert!(attr.ctime > exact);
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let attr = view.setattr(Ino(10), &mode).unwrap();
        assert_eq!(attr.mtime, exact, "chmod is no modification");
        view.link(&bench.request(), Ino(10), view.root(), if written { b"l2" } else { b"l1" }).unwrap();
        assert_eq!(view.getattr(Ino(10)).unwrap().mtime, exact, "a link is no modification");
    }
    let dir = view.getattr(Ino(20)).unwrap();
    assert_eq!(dir.mtime, BASE_TIME);
    create(&bench, &view, Ino(20), b"new", b"");
    let after = view.getattr(Ino(20)).unwrap();
    assert!(after.mtime > BASE_TIME && after.ctime == after.mtime);
}

#[test]
fn later_changes_never_have_earlier_times() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let mut last = BASE_TIME;
    for round in 0..300u32 {
        let name = format!("f{round}");
        let bytes: &[u8] = if round % 2 == 0 { b"written" } else { b"" };
        let ino = create(&bench, &view, view.root(), name.as_bytes(), bytes);
        let mtime = view.getattr(ino).unwrap().mtime;
        assert!(mtime >= last, "file {round} is older than the one before it: {mtime:?} < {last:?}");
        let dir = view.getattr(view.root()).unwrap().mtime;
        last = mtime.max(dir);
    }
}

#[test]
fn new_nodes_get_numbers_that_no_file_ever_had() {
    let bench = Bench::new(&base());
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let view = bench.open();
        for at in 0..5 {
            let name = format!("n{}-{at}", seen.len());
            let ino = create(&bench, &view, view.root(), name.as_bytes(), b"");
            assert!(ino.0 >= FIRST_NEW_INO);
            assert!(seen.insert(ino), "{ino:?} was used before");
        }
        view.close().unwrap();
    }
}

#[test]
fn a_read_only_view_takes_no_changes() {
    let bench = Bench::new(&base());
    let view = bench.open_with(true);
    let request = bench.request();
    let refused = |result: Result<(), ViewError>| assert!(matches!(result, Err(ViewError::ReadOnly)));
    refused(view.mkdir(&request, view.root(), b"d", 0o755).map(drop));
    refused(view.create(&request, view.root(), b"f", 0o644, RW).map(drop));
    refused(view.unlink(&request, view.root(), b"file"));
    refused(view.rename(&request, view.root(), b"file", view.root(), b"g", RenameMode::Replace));
    refused(view.setattr(Ino(10), &SetAttr { mode: Some(0), ..SetAttr::default() }).map(drop));
    refused(view.setattr(Ino(10), &SetAttr { size: Some(0), ..SetAttr::default() }).map(drop));
    refused(view.setxattr(&request, Ino(10), b"user.a", b"", XattrMode::Set));
    refused(view.open_file(&request, Ino(10), RW).map(drop));
    assert_eq!(read(&bench, &view, Ino(10)), b"base content");
    view.close().unwrap();
    assert_eq!(bench.upper_dir(), None);
}

#[test]
fn bad_names_and_kinds_are_refused() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (root, long) = (view.root(), [b'n'; 256]);
    let mkdir = |name: &[u8]| view.mkdir(&bench.request(), root, name, 0o755).map(drop);
    assert!(matches!(mkdir(&long), Err(ViewError::NameTooLong)));
    assert!(mkdir(&long[..255]).is_ok());
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
        assert!(matches!(mkdir(name), Err(ViewError::Invalid(_))), "{name:?}");
    }
    let symlink = |target: &[u8]| view.symlink(&bench.request(), root, b"s", target).map(drop);
    assert!(matches!(symlink(&[b't'; 4096]), Err(ViewError::NameTooLong)));
    assert!(matches!(view.lookup(Ino(10), b"x"), Err(ViewError::NotDirectory)));
    assert!(matches!(view.readlink(Ino(10)), Err(ViewError::Invalid(_))));
    assert!(matches!(view.open_file(&bench.request(), Ino(20), R), Err(ViewError::IsDirectory)));
    assert!(matches!(view.opendir(&bench.request(), Ino(10)), Err(ViewError::NotDirectory)));
    let other = view.setxattr(&bench.request(), Ino(10), b"system.other", b"x", XattrMode::Set);
    assert!(matches!(other, Err(ViewError::NotSupported(_))));
    let acl = view.set_acl(&bench.request(), Ino(10), AclKind::Access, b"x", true);
    assert!(matches!(acl, Err(ViewError::Invalid(_))));
    let size = SetAttr { size: Some(0), ..SetAttr::default() };
    assert!(matches!(view.setattr(Ino(20), &size), Err(ViewError::IsDirectory)));
}

#[test]
fn a_directory_that_was_removed_takes_no_names() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let dir = view.mkdir(&bench.request(), view.root(), b"gone", 0o755).unwrap().ino;
    view.rmdir(&bench.request(), view.root(), b"gone").unwrap();
    assert_eq!(view.getattr(dir).unwrap().nlink, 0);
    assert!(matches!(view.mkdir(&bench.request(), dir, b"sub", 0o755), Err(ViewError::NotFound)));
    assert!(matches!(view.lookup(dir, b"sub"), Err(ViewError::NotFound)));
}

#[test]
fn a_sparse_file_keeps_its_holes_when_it_is_copied_up() {
    let bench = Bench::new(&Base::Dir { ino: 2, entries: vec![] });
    let view = bench.open();
    let ino = create(&bench, &view, view.root(), b"sparse", b"head");
    let size = SetAttr { size: Some(64 << 20), ..SetAttr::default() };
    view.setattr(ino, &size).unwrap();
    view.close().unwrap();
    bench.freeze();
    let view = bench.open();
    overwrite(&bench, &view, ino, b"HEAD");
    let attr = view.getattr(ino).unwrap();
    assert_eq!(attr.size, 64 << 20);
    assert!(attr.blocks * 512 < 1 << 20, "the copy takes {} bytes", attr.blocks * 512);
}

#[test]
fn sixteen_threads_lose_nothing() {
    let bench = Arc::new(Bench::new(&base()));
    let view = Arc::new(bench.open());
    let shared = view.mkdir(&bench.request(), view.root(), b"shared", 0o755).unwrap().ino;
    let workers: Vec<_> = (0..16u8)
        .map(|me| {
            let (bench, view) = (Arc::clone(&bench), Arc::clone(&view));
            std::thread::spawn(move || {
                for round in 0..40u32 {
                    let name = format!("w{me}-{round}");
                    let bytes = vec![me; 1000 + round as usize];
                    let ino = create(&bench, &view, shared, name.as_bytes(), &bytes);
                    if round % 3 == 0 {
                        view.unlink(&bench.request(), shared, name.as_bytes()).unwrap();
                        view.forget(ino);
                    } else if round % 3 == 1 {
                        let new = format!("r{me}-{round}");
                        let root = view.root();
                        view.rename(
                            &bench.request(),
                            shared,
                            name.as_bytes(),
                            root,
                            new.as_bytes(),
                            RenameMode::Replace,
                        )
                        .unwrap();
                    }
                    // All share one base file: each writes its own part.
                    let handle = view.open_file(&bench.request(), Ino(11), RW).unwrap();
                    view.write(handle, u64::from(me) * 65536 + u64::from(round), &[me + 100]).unwrap();
                    view.fsync(handle, true).unwrap();
                    view.release(handle);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    let check = |view: &View| {
        for me in 0..16u8 {
            for round in 0..40u32 {
                let (dir, name) = match round % 3 {
                    1 => (view.root(), format!("r{me}-{round}")),
                    _ => (shared, format!("w{me}-{round}")),
                };
                match view.lookup(dir, name.as_bytes()) {
                    Ok(attr) => {
                        assert_ne!(round % 3, 0);
                        assert_eq!(read(&bench, view, attr.ino), vec![me; 1000 + round as usize]);
                    }
                    Err(ViewError::NotFound) => assert_eq!(round % 3, 0, "{name} is lost"),
                    Err(error) => panic!("{error}"),
                }
            }
            let big = read(&bench, view, Ino(11));
            let start = usize::from(me) * 65536;
            assert_eq!(big[start..start + 40], [me + 100; 40]);
            assert_eq!(big[start + 40], 3);
        }
    };
    check(&view);
    let view = Arc::into_inner(view).unwrap();
    view.close().unwrap();
    check(&bench.open());
}

#[test]
fn the_journal_and_the_log_stay_short_under_a_long_run() {
    let bench = Bench::new(&base());
    let view = bench.open();
    for round in 0..20_000u32 {
        let set = SetAttr { mode: Some(round % 0o777), ..SetAttr::default() };
        view.setattr(Ino(10), &set).unwrap();
    }
    let logs = ["catalog.journal", "catalog.db-wal"].map(|name| bench.upper_dir().unwrap().join(name));
    for log in &logs {
        let bytes = log.metadata().unwrap().len();
        assert!(bytes <= 8 << 20, "{} has {bytes} bytes", log.display());
    }
    view.close().unwrap();
    assert!(!logs.iter().any(|log| exists(log)), "an orderly end leaves one file");
}

#[test]
fn a_thread_on_a_full_disk_is_opened_and_deleted_from() {
    let disk = support::SmallDisk::new(6 << 20);
    let bench = Bench::new_in(disk.path(), &base());
    let view = bench.open();
    let ino = create(&bench, &view, view.root(), b"mine", &vec![1; 400_000]);
    view.close().unwrap();
    let mut filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    let view = bench.open();
    assert_eq!(read(&bench, &view, ino), vec![1; 400_000]);
    view.unlink(&bench.request(), view.root(), b"mine").unwrap();
    view.forget(ino);
    view.close().unwrap();
    let view = bench.open();
    assert!(matches!(view.lookup(view.root(), b"mine"), Err(ViewError::NotFound)));
}

#[test]
fn a_full_disk_gets_its_room_back_however_many_files_are_removed() {
    // More than are removed in one round, each with a page of its own.
    const FILES: u64 = 20_000;
    const PAGES: u64 = FILES * 4096;
    let disk = support::SmallDisk::new(2 * PAGES);
    let bench = Bench::new_in(disk.path(), &base());
    let view = bench.open();
    let free = || {
        let disk = rustix::fs::statvfs(disk.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    let name = |number: u64| format!("f{number}").into_bytes();
    let inos: Vec<Ino> =
        (0..FILES).map(|number| create(&bench, &view, view.root(), &name(number), b"x")).collect();
    let mut filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
    assert_eq!(free(), 0);
    for (number, ino) in (0..).zip(&inos) {
        view.unlink(&bench.request(), view.root(), &name(number)).unwrap();
        view.forget(*ino);
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    while free() < PAGES / 10 * 9 {
        assert!(Instant::now() < deadline, "{} bytes of {PAGES} are free", free());
        std::thread::sleep(Duration::from_millis(50));
    }
    view.close().unwrap();
}

#[test]
fn a_full_disk_is_enospc_and_the_thread_opens_again() {
    let disk = support::SmallDisk::new(6 << 20);
    let bench = Bench::new_in(disk.path(), &base());
    let view = bench.open();
    let (_, handle) = view.create(&bench.request(), view.root(), b"filler", 0o644, RW).unwrap();
    let mut offset = 0;
    let error = loop {
        match view.write(handle, offset, &vec![9; 65536]) {
            Ok(written) => offset += u64::from(written),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, ViewError::Host { source, .. } if source.raw_os_error() == Some(libc::ENOSPC)),
        "{error}"
    );
    view.release(handle);
    // What was acknowledged is there, and deleting makes room again.
    let filler = view.lookup(view.root(), b"filler").unwrap();
    assert!(filler.size >= offset);
    view.unlink(&bench.request(), view.root(), b"filler").unwrap();
    view.forget(filler.ino);
    let ino = create(&bench, &view, view.root(), b"after", &vec![1; 200_000]);
    view.close().unwrap();
    let view = bench.open();
    assert_eq!(read(&bench, &view, ino), vec![1; 200_000]);
    assert!(matches!(view.lookup(view.root(), b"filler"), Err(ViewError::NotFound)));
    assert_eq!(view.getattr(ino).unwrap().kind, FileKind::Regular);
    view.close().unwrap();
}

#[test]
fn a_sync_beside_deletions_finds_nothing_wrong() {
    const FILES: u64 = 2000;
    let names: Vec<&'static str> = (0..FILES).map(|number| &*format!("f{number}").leak()).collect();
    let entries = names.iter().zip(100..).map(|(name, ino)| (*name, file(ino, b"base"))).collect();
    let bench = Bench::new(&Base::Dir { ino: 2, entries });
    let view = bench.open();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for (name, ino) in names.iter().zip(100..) {
                // A file that replaced another, is not durable yet, and goes.
                let (root, name) = (view.root(), name.as_bytes());
                let new = create(&bench, &view, root, b"new", b"new");
                view.rename(&bench.request(), root, b"new", root, name, RenameMode::Replace).unwrap();
                view.forget(Ino(ino));
                view.unlink(&bench.request(), root, name).unwrap();
                view.forget(new);
            }
            over.store(true, std::sync::atomic::Ordering::Release);
        });
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Acquire) {
                    view.sync().unwrap();
                }
            });
        }
    });
    view.close().unwrap();
}
