//! Where a view differs from its base, as found from its layers alone.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use foldhash::HashSet;
use selvedge_store::{Content, Ino};
use selvedge_view::{OpenFlags, RenameMode, SetAttr, View};
use std::time::Duration;
use support::{Base, Bench};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const ROOT: Ino = Ino(2);
const A: Ino = Ino(20);
const B: Ino = Ino(21);
const C: Ino = Ino(22);
const D: Ino = Ino(23);

/// `a/b/{file,one}`, `c/{d/{two},plain}`, where `one` and `two` are one file.
fn base() -> Base {
    let file = |ino, nlink| Base::File { ino, nlink, bytes: b"base".to_vec() };
    let dir = |ino: Ino, entries| Base::Dir { ino: ino.0, entries };
    dir(
        ROOT,
        vec![
            ("a", dir(A, vec![("b", dir(B, vec![("file", file(30, 1)), ("one", file(31, 2))]))])),
            ("c", dir(C, vec![("d", dir(D, vec![("two", file(31, 2))])), ("plain", file(32, 1))])),
            ("e", dir(Ino(24), vec![])),
        ],
    )
}

fn set(inos: &[Ino]) -> HashSet<Ino> {
    inos.iter().copied().collect()
}

fn chmod(view: &View, ino: Ino) {
    view.setattr(ino, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
}

/// The changed directories after `change`, which are the same for the view that made it and for one that opens what
/// it left, whether it left an upper or a frozen layer.
fn directories(change: impl FnOnce(&Bench, &View)) -> HashSet<Ino> {
    let bench = Bench::new(&base());
    let view = bench.open();
    // The kernel knows no number that it has not looked up.
    for (dir, name) in
        [(ROOT, "a"), (A, "b"), (B, "file"), (B, "one"), (ROOT, "c"), (C, "d"), (D, "two"), (C, "plain")]
    {
        view.lookup(dir, name.as_bytes()).unwrap();
    }
    change(&bench, &view);
    let found = view.changed().unwrap().directories;
    view.close().unwrap();
    let view = bench.open();
    assert_eq!(view.changed().unwrap().directories, found, "after opening again");
    view.close().unwrap();
    bench.freeze();
    assert_eq!(bench.open().changed().unwrap().directories, found, "in a frozen layer");
    found
}

#[test]
fn only_the_way_to_a_change_has_changed() {
    assert_eq!(directories(|_, _| {}), set(&[]));
    assert_eq!(directories(|_, view| chmod(view, Ino(30))), set(&[ROOT, A, B]));
    assert_eq!(directories(|_, view| chmod(view, D)), set(&[ROOT, C, D]));
    let created = |bench: &Bench, view: &View| {
        let (_, handle) = view.create(&bench.request(), B, b"new", 0o644, RW).unwrap();
        view.release(handle);
    };
    assert_eq!(directories(created), set(&[ROOT, A, B]));
    let written = |bench: &Bench, view: &View| {
        let handle = view.open_file(&bench.request(), Ino(32), RW).unwrap();
        view.write(handle, 0, b"x").unwrap();
        view.release(handle);
    };
    assert_eq!(directories(written), set(&[ROOT, C]));
    assert_eq!(
        directories(|bench, view| view.unlink(&bench.request(), C, b"plain").unwrap()),
        set(&[ROOT, C])
    );
}

#[test]
fn both_ends_of_a_move_have_changed_and_what_was_moved() {
    let moved = |bench: &Bench, view: &View| {
        view.rename(&bench.request(), C, b"d", A, b"d", RenameMode::Replace).unwrap();
    };
    assert_eq!(directories(moved), set(&[ROOT, A, C, D]));
    let there_and_on = |bench: &Bench, view: &View| {
        view.rename(&bench.request(), B, b"file", A, b"file", RenameMode::Replace).unwrap();
        view.rename(&bench.request(), A, b"file", C, b"file", RenameMode::Replace).unwrap();
        chmod(view, Ino(30));
    };
    assert_eq!(directories(there_and_on), set(&[ROOT, A, B, C]));
}

#[test]
fn a_linked_file_that_changed_has_changed_under_each_of_its_names() {
    assert_eq!(directories(|_, view| chmod(view, Ino(31))), set(&[ROOT, A, B, C, D]));
    let one_name_less = |bench: &Bench, view: &View| view.unlink(&bench.request(), B, b"one").unwrap();
    assert_eq!(directories(one_name_less), set(&[ROOT, A, B, C, D]));
    let moved = |bench: &Bench, view: &View| {
        view.rename(&bench.request(), B, b"one", ROOT, b"one", RenameMode::Replace).unwrap();
    };
    assert_eq!(directories(moved), set(&[ROOT, A, B, C, D]));
    let one_name_more = |bench: &Bench, view: &View| {
        view.link(&bench.request(), Ino(32), B, b"three").unwrap();
        view.rename(&bench.request(), B, b"three", A, b"three", RenameMode::Replace).unwrap();
    };
    assert_eq!(directories(one_name_more), set(&[ROOT, A, B, C]));
}

/// Takes away the listing of a directory of the base: whoever reads everything fails.
fn hide_listing(bench: &Bench, name: &str) {
    let repo = bench.repo();
    let snapshot = repo.refs().threads().unwrap()[0].snapshot;
    let Content::Directory { tree, .. } = repo.store().snapshot(&snapshot).unwrap().root.content else {
        panic!("no directory")
    };
    let hidden = repo.store().tree(&tree).unwrap().lookup(name.as_bytes()).unwrap();
    let Content::Directory { tree, .. } = hidden.content else { panic!("no directory") };
    let objects = rusqlite::Connection::open(bench.path().join("objects.db")).unwrap();
    objects.busy_timeout(Duration::from_secs(10)).unwrap();
    let removed = objects.execute("DELETE FROM objects WHERE id = ?1", [&tree.as_bytes()[..]]).unwrap();
    assert_eq!(removed, 1);
}

fn linked_base() -> Base {
    let file = |ino, nlink| Base::File { ino, nlink, bytes: b"base".to_vec() };
    let dir = |ino: Ino, entries| Base::Dir { ino: ino.0, entries };
    dir(
        ROOT,
        vec![
            ("a", dir(A, vec![("one", file(31, 2)), ("three", file(33, 2)), ("four", file(33, 2))])),
            ("c", dir(C, vec![("two", file(31, 2))])),
            ("far", dir(D, vec![("plain", file(32, 1))])),
        ],
    )
}

#[test]
fn names_of_a_linked_file_that_are_at_hand_are_not_searched_for() {
    let bench = Bench::new(&linked_base());
    hide_listing(&bench, "far");
    let view = bench.open();
    view.lookup(view.lookup(ROOT, b"a").unwrap().ino, b"three").unwrap();
    chmod(&view, Ino(33));
    assert_eq!(view.changed().unwrap().directories, set(&[ROOT, A]));
}

#[test]
fn names_of_linked_files_are_searched_for_once() {
    let bench = Bench::new(&linked_base());
    let view = bench.open();
    let one = |number: u8| {
        view.lookup(view.lookup(ROOT, b"a").unwrap().ino, b"one").unwrap();
        let handle = view.open_file(&bench.request(), Ino(31), RW).unwrap();
        view.write(handle, 0, &[number]).unwrap();
        view.release(handle);
    };
    one(1);
    assert_eq!(view.changed().unwrap().directories, set(&[ROOT, A, C]));
    hide_listing(&bench, "far");
    for number in 2..6 {
        one(number);
        assert_eq!(view.changed().unwrap().directories, set(&[ROOT, A, C]));
        let snapshot = view.snapshot(b"", &|_| ()).unwrap().snapshot;
        view.tidy().unwrap();
        let then = bench.open_snapshot(&snapshot);
        for (directory, name) in [(A, &b"one"[..]), (C, b"two")] {
            let directory = then.lookup(ROOT, if directory == A { b"a" } else { b"c" }).unwrap().ino;
            let ino = then.lookup(directory, name).unwrap().ino;
            assert_eq!(support::read(&bench, &then, ino)[0], number, "under every name");
        }
    }
}

/// A hint that is out of date tells of too few names, never of a wrong one.
#[test]
fn names_that_moved_or_came_since_they_were_searched_for_are_found() {
    let bench = Bench::new(&linked_base());
    let view = bench.open();
    for (directory, name) in [(ROOT, &b"a"[..]), (ROOT, b"c"), (ROOT, b"far"), (A, b"one"), (C, b"two")] {
        view.lookup(directory, name).unwrap();
    }
    let snapshot = || {
        view.snapshot(b"", &|_| ()).unwrap();
        view.tidy().unwrap();
    };
    chmod(&view, Ino(31));
    snapshot();
    view.link(&bench.request(), Ino(31), D, b"five").unwrap();
    snapshot();
    view.unlink(&bench.request(), C, b"two").unwrap();
    view.rmdir(&bench.request(), ROOT, b"c").unwrap();
    snapshot();
    view.setattr(Ino(31), &SetAttr { mode: Some(0o640), ..SetAttr::default() }).unwrap();
    assert_eq!(view.changed().unwrap().directories, set(&[ROOT, A, D]));
    snapshot();
    view.rename(&bench.request(), ROOT, b"far", A, b"near", RenameMode::Replace).unwrap();
    snapshot();
    chmod(&view, Ino(31));
    assert_eq!(view.changed().unwrap().directories, set(&[ROOT, A, D]));
}
