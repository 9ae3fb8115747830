//! What holds for files that are read and written past the view.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::{Ino, Timestamp};
use selvedge_view::{Handle, OpenFlags, Opened, SetAttr, SetTime, View};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};
use support::{Base, Bench, read};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const READ: OpenFlags = OpenFlags { read: true, write: false, exclusive: false };

fn base() -> Base {
    Base::Dir { ino: 2, entries: vec![("file", Base::File { ino: 10, nlink: 1, bytes: b"base".to_vec() })] }
}

/// The host's file as the kernel has it: opened for itself, and so in the host's count of who has it open.
fn kernel(opened: &selvedge_view::OpenedFile) -> File {
    let fd = opened.passed.as_ref().unwrap().file().unwrap().as_raw_fd();
    File::options().read(true).write(true).open(format!("/proc/self/fd/{fd}")).unwrap()
}

fn create(bench: &Bench, view: &View, name: &[u8]) -> (Ino, Handle, File) {
    let (attr, opened, ()) =
        view.create_past(&bench.request(), (view.root(), name), 0o644, RW, |_| ()).unwrap();
    let file = kernel(&opened);
    (attr.ino, opened.handle, file)
}

#[test]
fn a_frozen_layer_has_a_copy_of_a_file_that_is_written_past_the_view() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (ino, handle, file) = create(&bench, &view, b"new");
    file.write_all_at(b"before", 0).unwrap();
    file.write_all_at(b"far", 1 << 20).unwrap();
    let then = view.getattr(ino).unwrap();
    let thread = view.freeze().unwrap();
    assert_eq!(view.getattr(ino).unwrap(), then, "a freeze is no change");
    file.write_all_at(b"after!", 0).unwrap();
    let frozen = bench.open_frozen(&thread);
    let shown = frozen.getattr(ino).unwrap();
    assert_eq!((shown.size, shown.mtime, shown.ctime), (then.size, then.mtime, then.ctime));
    assert!(shown.blocks < 64, "holes stay");
    assert_eq!(read(&bench, &frozen, ino)[..6], *b"before");
    assert_eq!(read(&bench, &view, ino)[..6], *b"after!");
    // Once more, and made durable meanwhile.
    view.sync().unwrap();
    let now = view.getattr(ino).unwrap();
    let again = view.freeze().unwrap();
    view.tidy().unwrap();
    assert_eq!(view.getattr(ino).unwrap(), now);
    file.write_all_at(b"later.", 0).unwrap();
    assert_eq!(read(&bench, &bench.open_frozen(&again), ino)[..6], *b"after!");
    assert_eq!(read(&bench, &frozen, ino)[..6], *b"before");
    drop(frozen);
    drop(file);
    let last = view.release(handle);
    assert!(last.is_some() && view.let_go(ino, last));
    view.close().unwrap();
    let view = bench.open();
    assert_eq!(read(&bench, &view, ino)[..6], *b"later.");
}

/// The instants differ from round to round, so that the file is released at every step of a freeze.
#[test]
fn what_the_host_takes_for_a_change_of_a_working_file_is_none() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let (ino, _, file) = create(&bench, &view, b"new");
    file.write_all_at(b"bytes", 0).unwrap();
    // As when a death meets a freeze that has given the file its next layer's name, or taken this one's away.
    let link = |bench: &Bench| {
        let own = bench.upper_dir().unwrap().join(format!("files/{:x}", ino.0));
        let other = own.with_file_name("other");
        let host_ctime = || own.metadata().map(|meta| (meta.ctime(), meta.ctime_nsec())).unwrap();
        let before = host_ctime();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::hard_link(&own, &other).unwrap();
        std::fs::remove_file(&other).unwrap();
        assert_ne!(host_ctime(), before);
    };
    let written = view.getattr(ino).unwrap();
    link(&bench);
    assert_eq!(view.getattr(ino).unwrap(), written);
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let changed = view.setattr(ino, &set).unwrap();
    assert!(changed.ctime > written.ctime);
    link(&bench);
    assert_eq!(view.getattr(ino).unwrap(), changed);
    let long_ago = Timestamp { sec: 1, nsec: 2 };
    let set = SetAttr { mtime: Some(SetTime::At(long_ago)), ..SetAttr::default() };
    let dated = view.setattr(ino, &set).unwrap();
    assert!(dated.mtime == long_ago && dated.ctime > changed.ctime);
    link(&bench);
    assert_eq!(view.getattr(ino).unwrap(), dated);
    std::thread::sleep(Duration::from_millis(20));
    file.write_all_at(b"news!", 0).unwrap();
    let news = view.getattr(ino).unwrap();
    assert!(news.mtime > dated.ctime && news.ctime == news.mtime, "{news:?}");
    link(&bench);
    assert_eq!(view.getattr(ino).unwrap(), news);
    bench.kill(view);
    link(&bench);
    let view = bench.open();
    assert_eq!(view.getattr(ino).unwrap(), news);
    view.close().unwrap();
}

#[test]
fn a_file_that_is_released_while_a_layer_is_frozen_is_in_it_as_it_is() {
    for round in 0..150 {
        let bench = Bench::new(&base());
        let view = bench.open();
        let (ino, handle, file) = create(&bench, &view, b"new");
        file.write_all_at(b"bytes", 0).unwrap();
        // A copy that nobody brings up to date would have another time.
        std::thread::sleep(Duration::from_millis(5));
        let thread = std::thread::scope(|scope| {
            let freezing = scope.spawn(|| view.freeze().unwrap());
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(4 * round) {}
            drop(file);
            let last = view.release(handle);
            assert!(last.is_some(), "{round}");
            // Who freezes may have it open at this instant.
            view.let_go(ino, last);
            freezing.join().unwrap()
        });
        let (frozen, now) = (bench.open_frozen(&thread).getattr(ino).unwrap(), view.getattr(ino).unwrap());
        assert_eq!((frozen.size, frozen.mtime, frozen.ctime), (now.size, now.mtime, now.ctime), "{round}");
    }
}

#[test]
fn a_file_is_passed_through_for_as_long_as_the_host_knows_of_anybody_who_has_it() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (ino, handle, mapped) = create(&bench, &view, b"new");
    mapped.write_all_at(b"one", 0).unwrap();
    let last = view.release(handle);
    assert!(last.is_some() && view.release(handle).is_none(), "once");
    assert!(!view.let_go(ino, last) && !view.let_go(ino, None) && view.is_written_past(ino));
    let thread = view.freeze().unwrap();
    mapped.write_all_at(b"two", 0).unwrap();
    assert_eq!(read(&bench, &bench.open_frozen(&thread), ino), b"one");
    let opened = view.open_past(&bench.request(), ino, READ).unwrap();
    let mut bytes = [0; 3];
    kernel(&opened).read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"two");
    view.release(opened.handle);
    drop((opened, mapped));
    assert!(view.let_go(ino, None) && !view.is_passed(ino));
    // Nobody holds it now, so it is frozen as it is, and its next change makes another file.
    let thread = view.freeze().unwrap();
    let opened = view.open_past(&bench.request(), ino, RW).unwrap();
    assert!(opened.passed.is_none());
    view.write(opened.handle, 0, b"six").unwrap();
    assert_eq!(read(&bench, &bench.open_frozen(&thread), ino), b"two");
}

#[test]
fn the_first_to_open_a_file_decides_for_as_long_as_it_is_open() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let open = |flags| view.open_past(&bench.request(), Ino(10), flags).unwrap();
    let reader = open(READ);
    let writer = open(RW);
    assert!(reader.passed.is_none() && writer.passed.is_none(), "a file of the base");
    view.write(writer.handle, 0, b"BASE").unwrap();
    let later = open(RW);
    assert!(later.passed.is_none(), "changed, and open from before");
    for opened in [reader, writer, later] {
        assert!(view.release(opened.handle).is_none());
    }
    let unproved = open(READ);
    assert!(unproved.passed.is_none(), "a copy that is not known to be durable");
    view.sync().unwrap();
    let later = open(READ);
    assert!(later.passed.is_none(), "open from before");
    view.release(unproved.handle);
    view.release(later.handle);
    let passed = open(READ);
    assert!(passed.passed.is_some());
    view.serve_after_all(passed.handle);
    assert!(open(READ).passed.is_none());
}

#[test]
fn a_successor_keeps_the_way_in_which_a_file_was_opened() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (ino, handle, file) = create(&bench, &view, b"new");
    drop(view);
    let view = bench.resume(&[(handle, Opened::Passed(ino, RW))]);
    assert!(view.has_passed_handles(ino) && view.is_written_past(ino));
    file.write_all_at(b"one", 0).unwrap();
    let thread = view.freeze().unwrap();
    file.write_all_at(b"two", 0).unwrap();
    assert_eq!(read(&bench, &bench.open_frozen(&thread), ino), b"one");
    assert!(view.open_past(&bench.request(), ino, READ).unwrap().passed.is_some());
    assert_eq!(view.read(handle, 0, 3).unwrap(), b"two");
}
