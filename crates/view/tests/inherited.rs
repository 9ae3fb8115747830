//! A view that goes on where a worker died: what that worker's connection had open is open, and what has no name is
//! kept for as long as somebody may still use it.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::Ino;
use selvedge_view::{Handle, OpenFlags, Opened, Request, SetAttr, View, ViewError};
use std::time::{Duration, Instant};
use support::{Base, Bench};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const READ: OpenFlags = OpenFlags { read: true, write: false, exclusive: false };

/// Longer than the upkeep thread lets work gather.
const UPKEEP: Duration = Duration::from_millis(900);

fn base() -> Base {
    let file = |ino, bytes: &[u8]| Base::File { ino, nlink: 1, bytes: bytes.to_vec() };
    let dir = Base::Dir { ino: 20, entries: vec![("x", file(22, b"x")), ("y", file(23, b"y"))] };
    Base::Dir { ino: 2, entries: vec![("file", file(10, b"content")), ("dir", dir)] }
}

fn working_files(bench: &Bench) -> usize {
    let Some(upper) = bench.upper_dir() else { return 0 };
    std::fs::read_dir(upper.join("files")).unwrap().count()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A file that was created, written, and unlinked while it is open.
fn nameless(bench: &Bench, view: &View) -> (Ino, Handle) {
    let (attr, handle) = view.create(&bench.request(), view.root(), b"temp", 0o600, RW).unwrap();
    view.write(handle, 0, b"kept").unwrap();
    view.unlink(&bench.request(), view.root(), b"temp").unwrap();
    (attr.ino, handle)
}

#[test]
fn what_a_dead_worker_had_open_is_open_for_its_successor() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let (ino, handle) = nameless(&bench, &view);
    let reader = view.open_file(&bench.request(), Ino(10), READ).unwrap();
    let stream = view.opendir(&bench.request(), Ino(20)).unwrap();
    let mut first = Vec::new();
    view.readdir(stream, 0, &mut |entry| {
        first.push((entry.name.to_vec(), entry.cookie));
        first.len() < 3
    })
    .unwrap();
    bench.kill(view);
    let open = [
        (handle, Opened::File(ino, RW)),
        (reader, Opened::File(Ino(10), READ)),
        (stream, Opened::Directory(Ino(20))),
    ];
    let view = bench.resume(&open);
    std::thread::sleep(UPKEEP);
    assert_eq!(working_files(&bench), 1);
    assert!(view.has_writers(ino) && !view.has_writers(Ino(10)));
    assert_eq!(view.read(handle, 0, 100).unwrap(), b"kept");
    view.write(handle, 4, b" on").unwrap();
    assert_eq!(view.read(handle, 0, 100).unwrap(), b"kept on");
    assert_eq!(view.read(reader, 0, 100).unwrap(), b"content");
    assert!(matches!(view.write(reader, 0, b"no"), Err(ViewError::BadHandle)));
    assert!(matches!(view.read(stream, 0, 1), Err(ViewError::IsDirectory)));
    // The stream goes on behind the last entry that was taken.
    let mut rest = Vec::new();
    view.readdir(stream, first[2].1, &mut |entry| {
        rest.push(entry.name.to_vec());
        true
    })
    .unwrap();
    assert_eq!(first.len() + rest.len(), 4);
    assert!(!rest.contains(&first[2].0));
    // A release may come twice, too.
    view.release(handle);
    view.release(handle);
    assert!(matches!(view.read(handle, 0, 1), Err(ViewError::BadHandle)));
    view.forget(ino);
    eventually("what nobody uses any more is removed", || working_files(&bench) == 0);
    view.releasedir(stream);
    view.close().unwrap();
}

#[test]
fn a_file_without_a_name_is_kept_as_long_as_the_kernel_may_know_it() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let (ino, handle) = nameless(&bench, &view);
    view.release(handle);
    bench.kill(view);
    // Known to a program by an O_PATH descriptor, perhaps: no handle tells.
    let view = bench.resume(&[]);
    std::thread::sleep(UPKEEP);
    assert_eq!(view.getattr(ino).unwrap().nlink, 0);
    assert_eq!(working_files(&bench), 1);
    view.close().unwrap();
    assert_eq!(working_files(&bench), 0);
}

#[test]
fn a_file_that_lost_its_name_says_so_to_whoever_goes_on_with_it() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let (attr, handle) = view.create(&bench.request(), view.root(), b"temp", 0o600, RW).unwrap();
    let directory = view.mkdir(&bench.request(), view.root(), b"gone", 0o700).unwrap();
    view.write(handle, 0, b"kept").unwrap();
    // Rows of the upper, which are left as they are.
    for ino in [attr.ino, directory.ino] {
        view.setattr(ino, &SetAttr { mode: Some(0o750), ..SetAttr::default() }).unwrap();
    }
    let before = view.getattr(attr.ino).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    view.unlink(&bench.request(), view.root(), b"temp").unwrap();
    view.rmdir(&bench.request(), view.root(), b"gone").unwrap();
    let after = view.getattr(attr.ino).unwrap();
    assert_eq!(after.nlink, 0);
    assert!(after.ctime > before.ctime, "{after:?} and {before:?}");
    let open = [(handle, Opened::File(attr.ino, RW))];
    bench.kill(view);
    let view = bench.resume(&open);
    assert_eq!(view.getattr(attr.ino).unwrap(), after);
    assert_eq!(view.getattr(directory.ino).unwrap().nlink, 0);
    assert!(matches!(view.lookup(directory.ino, b"x"), Err(ViewError::NotFound)));
    // Carried into the next upper, whose successor finds it there.
    view.snapshot(b"", &|_| {}).unwrap();
    assert_eq!(view.getattr(attr.ino).unwrap(), after);
    bench.kill(view);
    let view = bench.resume(&open);
    assert_eq!(view.getattr(attr.ino).unwrap(), after);
    assert_eq!(view.read(handle, 0, 10).unwrap(), b"kept");
    view.close().unwrap();
}

#[test]
fn where_a_dead_worker_found_a_file_its_successor_finds_it_without_a_search() {
    let file = |ino| Base::File { ino, nlink: 1, bytes: b"content".to_vec() };
    let below = Base::Dir { ino: 31, entries: vec![("file", file(32))] };
    let deep = Base::Dir { ino: 30, entries: vec![("below", below)] };
    let other = Base::Dir { ino: 40, entries: vec![("unrelated", file(41))] };
    let mut bench = Bench::new(&Base::Dir { ino: 2, entries: vec![("deep", deep), ("other", other)] });
    let memory = View::memory_of_places().unwrap();
    let view = bench.open();
    view.remember_in(memory.try_clone().unwrap()).unwrap();
    for (parent, name) in [(view.root(), &b"deep"[..]), (Ino(30), b"below"), (Ino(31), b"file")] {
        view.lookup(parent, name).unwrap();
    }
    bench.kill(view);
    // A search of everything comes upon this directory.
    let objects = rusqlite::Connection::open(bench.repo().path().join("objects.db")).unwrap();
    assert_eq!(objects.execute("DELETE FROM objects WHERE instr(bytes, 'unrelated')", []).unwrap(), 1);
    drop(objects);
    let view = bench.resume(&[]);
    assert!(view.getattr(Ino(32)).is_err(), "it was found without a search and without help");
    view.remember_in(memory).unwrap();
    assert_eq!(view.getattr(Ino(32)).unwrap().size, 7);
    assert_eq!(view.lookup(Ino(31), b"file").unwrap().ino, Ino(32));
    bench.kill(view);
}

#[test]
fn an_opening_that_is_sent_again_is_the_same_handle() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let request = bench.request();
    let handle = view.open_file(&request, Ino(10), RW).unwrap();
    bench.kill(view);
    for known in [&[(handle, Opened::File(Ino(10), RW))][..], &[]] {
        let view = bench.resume(known);
        let again = view.open_file(&Request { resent: true, ..request }, Ino(10), RW).unwrap();
        assert_eq!(again, handle);
        view.release(handle);
        assert!(!view.has_writers(Ino(10)), "it was counted twice");
        bench.kill(view);
    }
}

#[test]
fn handles_of_what_never_was_are_errors_and_nothing_else() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let root = view.root();
    bench.kill(view);
    let numbers = [0, 1, 2, root.0, 10, 20, 999, 1 << 62, u64::MAX - 1, u64::MAX].map(Ino);
    let mut open = Vec::new();
    for (at, ino) in (0..).zip(numbers) {
        open.push((Handle(3 * at), Opened::File(ino, RW)));
        open.push((Handle(3 * at + 1), Opened::Directory(ino)));
        open.push((Handle(u64::MAX - at), Opened::File(ino, READ)));
    }
    let view = bench.resume(&open);
    for (handle, opened) in &open {
        let is_file = matches!(opened, Opened::File(Ino(10), _));
        assert_eq!(view.read(*handle, 0, 100).is_ok(), is_file, "{opened:?}");
        let written = view.write(*handle, 0, b"content").is_ok();
        assert_eq!(written, *opened == Opened::File(Ino(10), RW), "{opened:?}");
        let listed = view.readdir(*handle, 0, &mut |_| true).is_ok();
        let is_directory = matches!(opened, Opened::Directory(ino) if [root, Ino(20)].contains(ino));
        assert!(listed || !is_directory, "{opened:?}");
        let _ = (view.fsync(*handle, false), view.fsyncdir(*handle));
    }
    for (handle, _) in &open {
        view.release(*handle);
        view.releasedir(*handle);
    }
    for ino in numbers {
        view.forget(ino);
    }
    assert_eq!(view.writers(), []);
    view.close().unwrap();
}
