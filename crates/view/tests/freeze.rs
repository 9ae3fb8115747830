//! What freezing the upper of a view in use promises.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::{Ino, ThreadLock, ThreadRef};
use selvedge_view::{Attr, DirEntry, Handle, OpenFlags, SetAttr, View, ViewError};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{Base, Bench, exists, list, read};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const FILE: Ino = Ino(10);

fn base() -> Base {
    let file = |ino, bytes: &[u8]| Base::File { ino, nlink: 1, bytes: bytes.to_vec() };
    Base::Dir { ino: 2, entries: vec![("file", file(10, b"base")), ("other", file(11, b"other"))] }
}

fn open(bench: &Bench, view: &View, ino: Ino) -> Handle {
    view.open_file(&bench.request(), ino, RW).unwrap()
}

fn names(bench: &Bench, view: &View) -> Vec<Vec<u8>> {
    list(bench, view, view.root()).into_iter().map(|(name, _)| name).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes growing numbers to a file of its own, as fast as it can.
struct Counter {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Counter {
    fn run(&self, bench: &Bench, view: &View, name: &[u8], stop: &AtomicBool) {
        let (_, handle) = view.create(&bench.request(), view.root(), name, 0o644, RW).unwrap();
        for count in 1.. {
            self.asked.store(count, Ordering::SeqCst);
            assert_eq!(view.write(handle, 0, &count.to_le_bytes()).unwrap(), 8);
            self.answered.store(count, Ordering::SeqCst);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        view.release(handle);
    }
}

#[test]
fn a_frozen_layer_has_what_was_answered_before_and_nothing_that_was_asked_after() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let counters = [const { Counter { asked: AtomicU64::new(0), answered: AtomicU64::new(0) } }; 4];
    let stop = AtomicBool::new(false);
    let name = |at: usize| format!("counter{at}").into_bytes();
    let seen = |thread: &ThreadRef, at: usize| {
        let frozen = bench.open_frozen(thread);
        match frozen.lookup(frozen.root(), &name(at)) {
            Ok(attr) => number(&read(&bench, &frozen, attr.ino)),
            Err(ViewError::NotFound) => 0,
            Err(error) => panic!("{error}"),
        }
    };
    let mut taken = Vec::new();
    std::thread::scope(|scope| {
        for (at, counter) in counters.iter().enumerate() {
            let (bench, view, stop) = (&bench, &view, &stop);
            scope.spawn(move || counter.run(bench, view, &name(at), stop));
        }
        for _ in 0..12 {
            let before = counters.each_ref().map(|counter| counter.answered.load(Ordering::SeqCst));
            let thread = view.freeze().unwrap();
            let after = counters.each_ref().map(|counter| counter.asked.load(Ordering::SeqCst));
            let values = [0, 1, 2, 3].map(|at| seen(&thread, at));
            for at in 0..4 {
                assert!((before[at]..=after[at]).contains(&values[at]), "{before:?} {values:?} {after:?}");
            }
            taken.push((thread, values));
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (thread, values) in &taken {
        assert_eq!([0, 1, 2, 3].map(|at| seen(thread, at)), *values, "a frozen layer changed");
    }
    view.close().unwrap();
}

#[test]
fn open_files_go_on_after_a_freeze_and_leave_the_frozen_layer_alone() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let handle = open(&bench, &view, FILE);
    view.write(handle, 0, b"one ").unwrap();
    let thread = view.freeze().unwrap();
    assert_eq!(view.read(handle, 0, 10).unwrap(), b"one ");
    view.write(handle, 0, b"two").unwrap();
    view.fsync(handle, false).unwrap();
    let frozen = bench.open_frozen(&thread);
    assert_eq!(read(&bench, &frozen, FILE), b"one ");
    assert_eq!(read(&bench, &view, FILE), b"two ");
    view.release(handle);
    view.close().unwrap();
    assert_eq!(read(&bench, &bench.open(), FILE), b"two ");
}

#[test]
fn a_file_without_a_name_goes_on_after_a_freeze_and_is_in_no_frozen_layer() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (attr, handle) = view.create(&bench.request(), view.root(), b"temp", 0o600, RW).unwrap();
    view.write(handle, 0, b"before").unwrap();
    view.unlink(&bench.request(), view.root(), b"temp").unwrap();
    let thread = view.freeze().unwrap();
    assert_eq!(view.read(handle, 0, 10).unwrap(), b"before");
    view.write(handle, 6, b" and after").unwrap();
    assert_eq!(view.read(handle, 0, 99).unwrap(), b"before and after");
    let now = view.getattr(attr.ino).unwrap();
    assert_eq!((now.nlink, now.size), (0, 16));
    assert_eq!(names(&bench, &bench.open_frozen(&thread)), [&b"file"[..], b"other"]);
    view.release(handle);
    view.forget(attr.ino);
    view.close().unwrap();
    let upper = bench.upper_dir();
    assert!(
        upper.is_none_or(|dir| !exists(&dir.join(format!("files/{:x}", attr.ino.0)))),
        "its bytes are freed"
    );
}

#[test]
fn a_thread_that_says_nothing_new_is_not_frozen_again() {
    let bench = Bench::new(&base());
    let view = bench.open();
    assert_eq!(view.freeze().unwrap().layers, []);
    view.unlink(&bench.request(), view.root(), b"other").unwrap();
    let first = view.freeze().unwrap();
    assert_eq!(first.layers.len(), 1);
    assert_eq!(view.freeze().unwrap(), first);
}

#[test]
fn threads_that_share_a_frozen_layer_do_not_see_each_others_changes() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let handle = open(&bench, &view, FILE);
    view.write(handle, 0, b"both").unwrap();
    let fork = bench.fork(&view.freeze().unwrap(), "fork");
    let other = bench.open_thread(&fork.name, false);
    let before = (view.getattr(FILE).unwrap(), other.getattr(FILE).unwrap());
    assert_eq!(before.0, before.1, "number and times are those of the original");
    view.write(handle, 0, b"main").unwrap();
    let theirs = open(&bench, &other, FILE);
    other.write(theirs, 0, b"fork").unwrap();
    assert_eq!((read(&bench, &view, FILE), read(&bench, &other, FILE)), (b"main".to_vec(), b"fork".to_vec()));
    other.release(theirs);
    view.release(handle);
    view.close().unwrap();
    other.close().unwrap();
}

#[test]
fn what_was_synced_after_a_freeze_survives_a_power_cut_with_all_beneath_it() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let handle = open(&bench, &view, FILE);
    view.write(handle, 0, b"frozen").unwrap();
    view.freeze().unwrap();
    let other = open(&bench, &view, Ino(11));
    view.write(other, 0, b"synced").unwrap();
    view.fsync(other, false).unwrap();
    bench.kill(view);
    bench.boot_id = "boot-2".to_owned();
    let view = bench.open();
    assert_eq!(read(&bench, &view, FILE), b"frozen");
    assert_eq!(read(&bench, &view, Ino(11)), b"synced");
}

#[test]
fn after_a_power_cut_an_upper_over_a_layer_that_was_not_durable_does_not_count() {
    // On a slow machine the layer may be made durable before the power goes: then it is tried again.
    for _ in 0..100 {
        let mut bench = Bench::new(&base());
        let view = bench.open();
        let (attr, handle) = view.create(&bench.request(), view.root(), b"frozen", 0o600, RW).unwrap();
        let thread = view.freeze().unwrap();
        view.unlink(&bench.request(), view.root(), b"other").unwrap();
        view.release(handle);
        bench.kill(view);
        bench.boot_id = "boot-2".to_owned();
        let layer = thread.layers.last().unwrap().to_string();
        if exists(&bench.path().join("layers").join(layer).join("sealed")) {
            continue;
        }
        let view = bench.open();
        let found = view.lookup(view.root(), b"frozen").unwrap();
        assert_eq!(found.ino, attr.ino, "the frozen layer is what reached the disk");
        view.lookup(view.root(), b"other").unwrap();
        return;
    }
    panic!("every layer was durable before the power went");
}

#[test]
fn the_layers_of_a_long_chain_of_forks_become_one() {
    let mut bench = Bench::new(&base());
    let mut name = support::main();
    for link in 0..20u8 {
        let view = bench.open_thread(&name, false);
        let (_, handle) = view.create(&bench.request(), view.root(), &[b'a' + link], 0o600, RW).unwrap();
        view.write(handle, 0, &[link; 3000]).unwrap();
        view.release(handle);
        match link {
            3 => view.unlink(&bench.request(), view.root(), b"other").unwrap(),
            7 => view.unlink(&bench.request(), view.root(), b"b").unwrap(),
            _ => {}
        }
        name = bench.fork(&view.freeze().unwrap(), &format!("fork{link}")).name;
        view.close().unwrap();
    }
    let layers = |bench: &Bench| bench.repo().refs().thread(&name).unwrap().layers.len();
    assert_eq!(layers(&bench), 20);
    bench.deepest = 4;
    let view = bench.open_thread(&name, false);
    let seen = names(&bench, &view);
    let handle = open(&bench, &view, view.lookup(view.root(), b"k").unwrap().ino);
    view.write(handle, 0, b"upper").unwrap();
    view.unlink(&bench.request(), view.root(), b"c").unwrap();
    view.tidy().unwrap();
    assert_eq!(layers(&bench), 1);
    view.write(handle, 5, b" and on").unwrap();
    view.release(handle);
    view.close().unwrap();
    let view = bench.open_thread(&name, false);
    let mut expected = seen.clone();
    expected.retain(|name| name != b"c");
    assert_eq!(names(&bench, &view), expected);
    for link in (0..20u8).filter(|link| ![1, 2, 10].contains(link)) {
        let attr = view.lookup(view.root(), &[b'a' + link]).unwrap();
        assert_eq!(read(&bench, &view, attr.ino), [link; 3000], "{link}");
    }
    let changed = view.lookup(view.root(), b"k").unwrap();
    assert!(read(&bench, &view, changed.ino).starts_with(b"upper and on\x0a\x0a"));
    let other = bench.open_thread(&"fork9".parse().unwrap(), false);
    let layers = bench.repo().refs().thread(&"fork9".parse().unwrap()).unwrap().layers;
    assert_eq!(layers.len(), 11, "other threads keep theirs");
    assert_eq!(names(&bench, &other).len(), 1 + 10);
}

#[test]
fn layers_become_one_beneath_a_layer_that_speaks_of_their_files() {
    let mut bench = Bench::new(&base());
    bench.deepest = 1;
    for round in 0..20u8 {
        let view = bench.open();
        let handle = open(&bench, &view, FILE);
        for step in [[0, round], [1, round]] {
            view.write(handle, 0, &step).unwrap();
            view.freeze().unwrap();
        }
        // What is frozen while the layers are being made one lies above the one they become.
        let mode = 0o600 + u32::from(round);
        let chmod = SetAttr { mode: Some(mode), ..SetAttr::default() };
        std::thread::scope(|scope| {
            let tidying = scope.spawn(|| view.tidy());
            std::thread::sleep(Duration::from_millis(u64::from(round % 5) * 3));
            view.setattr(FILE, &chmod).unwrap();
            view.freeze().unwrap();
            tidying.join().unwrap().unwrap();
        });
        view.release(handle);
        view.close().unwrap();
        let view = bench.open();
        let found = (read(&bench, &view, FILE), view.getattr(FILE).unwrap().mode);
        assert_eq!(found, (vec![1, round, b's', b'e'], mode));
        view.close().unwrap();
    }
}

#[test]
fn a_file_without_a_name_here_keeps_its_bytes_to_itself_when_another_thread_knows_it_by_name() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let handle = open(&bench, &view, FILE);
    view.write(handle, 0, b"ours").unwrap();
    let fork = bench.fork(&view.freeze().unwrap(), "fork").name;
    view.unlink(&bench.request(), view.root(), b"file").unwrap();
    view.freeze().unwrap();
    // The fork's layer leaves this thread, and the file that is open still is in no snapshot.
    view.snapshot(b"", &|_| {}).unwrap();
    assert_eq!(bench.repo().refs().thread(&support::main()).unwrap().layers, []);
    assert_eq!(view.read(handle, 0, 9).unwrap(), b"ours");
    view.write(handle, 0, b"mine").unwrap();
    assert_eq!(view.read(handle, 0, 9).unwrap(), b"mine");
    assert_eq!(view.getattr(FILE).unwrap().size, 4);
    let other = bench.open_thread(&fork, false);
    assert_eq!(read(&bench, &other, FILE), b"ours");
}

#[test]
fn a_name_is_there_at_every_moment_while_layers_go_into_the_base() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let root = view.root();
    let (latest, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let name = |number: u64| format!("name{number}").into_bytes();
    let look = || {
        while !stop.load(Ordering::Relaxed) {
            let wanted = name(latest.load(Ordering::SeqCst));
            let found = view.lookup(root, &wanted);
            let mut listed = false;
            let mut see = |entry: &DirEntry<'_>, _: &Attr| {
                listed |= entry.name == wanted;
                true
            };
            let all = view.readdir_plus(root, 0, &mut see);
            // Here a layer that was left is let go of at once, and not when all that was asked before is answered: whoever
            // is about to look at a file in it may find it gone.
            let is_gone = |error: &ViewError| matches!(error, ViewError::Damaged { .. });
            assert!(found.as_ref().map_or_else(is_gone, |_| true), "{found:?}");
            assert!(all.as_ref().map_or_else(is_gone, |()| listed), "{all:?}, listed: {listed}");
        }
    };
    let make = |number| {
        let (_, handle) = view.create(&bench.request(), root, &name(number), 0o600, RW)?;
        view.release(handle);
        latest.store(number, Ordering::SeqCst);
        // It goes into a layer, and from there into the base.
        view.snapshot(b"", &|_| {})
    };
    make(0).unwrap();
    let made = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(look);
        }
        let made = (1..=30).try_for_each(|number| make(number).map(drop));
        stop.store(true, Ordering::Relaxed);
        made
    });
    made.unwrap();
    view.close().unwrap();
}

#[test]
fn a_thread_that_was_closed_in_order_is_frozen_without_opening_it() {
    let mut bench = Bench::new(&base());
    let freeze = |bench: &Bench| {
        let repo = bench.repo();
        let thread = repo.refs().thread(&support::main()).unwrap();
        let lock = ThreadLock::try_acquire(&repo, &thread.id).unwrap();
        View::freeze_closed(&repo, &lock, &thread).unwrap()
    };
    assert_eq!(freeze(&bench).unwrap().layers, [], "there is nothing to freeze");
    let view = bench.open();
    let handle = open(&bench, &view, FILE);
    view.write(handle, 0, b"kept").unwrap();
    bench.kill(view);
    assert_eq!(freeze(&bench), None, "a worker that died leaves more to do");
    bench.open().close().unwrap();
    let view = bench.open();
    let ino = view.lookup(view.root(), b"file").unwrap().ino;
    view.close().unwrap();
    // What a freeze that failed leaves is not taken for the file.
    let upper = bench.upper_dir().unwrap();
    let working = format!("files/{:x}", ino.0);
    assert!(upper.join(&working).exists());
    fs::create_dir_all(upper.join("copies")).unwrap();
    fs::write(upper.join(working.replace("files", "copies")), b"not of it").unwrap();
    let thread = freeze(&bench).unwrap();
    assert_eq!((thread.layers.len(), thread.upper), (1, None));
    assert_eq!(read(&bench, &bench.open_frozen(&thread), FILE), b"kept");
    let view = bench.open();
    assert_eq!(read(&bench, &view, FILE), b"kept");
    view.unlink(&bench.request(), view.root(), b"file").unwrap();
    view.close().unwrap();
    assert_eq!(read(&bench, &bench.open_frozen(&thread), FILE), b"kept");
}
