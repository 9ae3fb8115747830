//! What a view is as something to export.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]
#![allow(dead_code, reason = "not every test needs all of the shared support")]

mod support;

use selvedge_store::export::{ExportOptions, Node, Source, export};
use selvedge_view::{OpenFlags, View};
use support::{Base, Bench, exists};

fn base() -> Base {
    let file = |ino: u64| Base::File { ino, nlink: 1, bytes: b"base content".to_vec() };
    Base::Dir {
        ino: 2,
        entries: vec![("dir", Base::Dir { ino: 20, entries: vec![("x", file(21))] }), ("file", file(10))],
    }
}

fn child(children: &[(Vec<u8>, Node)], name: &str) -> Node {
    children.iter().find(|(found, _)| found == name.as_bytes()).unwrap().1.clone()
}

fn create(bench: &Bench, view: &View, name: &[u8]) {
    let flags = OpenFlags { read: true, write: true, exclusive: false };
    let (attr, handle) = view.create(&bench.request(), view.root(), name, 0o644, flags).unwrap();
    view.write(handle, 0, b"new").unwrap();
    view.release(handle);
    view.forget(attr.ino);
}

#[test]
fn what_is_deleted_after_it_was_listed_is_gone_and_no_error() {
    let bench = Bench::new(&base());
    let view = bench.open();
    create(&bench, &view, b"new");
    let made = view.mkdir(&bench.request(), view.root(), b"made", 0o755).unwrap().ino;
    view.forget(made);
    let children = view.children(&Source::root(&view).unwrap()).unwrap();
    for name in ["file", "new"] {
        assert!(Source::open(&view, &child(&children, name)).unwrap().is_some(), "{name}");
        view.unlink(&bench.request(), view.root(), name.as_bytes()).unwrap();
        assert!(Source::open(&view, &child(&children, name)).unwrap().is_none(), "{name}");
    }
    view.unlink(&bench.request(), child(&children, "dir").meta.ino, b"x").unwrap();
    for name in ["dir", "made"] {
        view.rmdir(&bench.request(), view.root(), name.as_bytes()).unwrap();
        assert_eq!(view.children(&child(&children, name)).unwrap(), [], "{name}");
    }
    let dest = tempfile::tempdir().unwrap();
    let opened = std::fs::File::open(dest.path()).unwrap().into();
    let report = export(&view, opened, &ExportOptions::default(), &mut |_| ()).unwrap();
    assert_eq!(report.files, 0);
    assert!(!exists(&dest.path().join("file")));
}
