//! A request that was carried out and is sent again, to a successor of the worker that died, changes nothing and
//! gets the answer it would have got.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::{FileKind, Ino};
use selvedge_view::{OpenFlags, RenameMode, Request, Result, View, XattrMode};
use support::{Base, Bench, list, read};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: true };

fn base() -> Base {
    let file = |ino, nlink, bytes: &[u8]| Base::File { ino, nlink, bytes: bytes.to_vec() };
    Base::Dir {
        ino: 2,
        entries: vec![
            ("file", file(10, 1, b"one")),
            ("other", file(11, 1, b"two")),
            ("dir", Base::Dir { ino: 20, entries: vec![] }),
            ("full", Base::Dir { ino: 21, entries: vec![("x", file(22, 1, b"x"))] }),
        ],
    }
}

/// Everything a program can see, as text.
fn tree(bench: &Bench, view: &View) -> Vec<String> {
    let mut lines = Vec::new();
    let mut queue = vec![(String::new(), view.root())];
    while let Some((path, ino)) = queue.pop() {
        let attr = view.getattr(ino).unwrap();
        let xattrs = view.listxattr(ino).unwrap();
        let content = match attr.kind {
            FileKind::Regular => read(bench, view, ino),
            _ => Vec::new(),
        };
        let ino = attr.ino.0;
        lines.push(format!(
            "{path} {ino} {:?} {:o} {} {xattrs:?} {content:?}",
            attr.kind, attr.mode, attr.nlink
        ));
        if attr.kind == FileKind::Directory {
            for (name, child) in list(bench, view, attr.ino) {
                queue.push((format!("{path}/{}", String::from_utf8_lossy(&name)), child));
            }
        }
    }
    lines.sort();
    lines
}

/// Carries `op` out, lets the worker die, sends it again twice with another death in between.
fn resend<T: PartialEq + std::fmt::Debug>(what: &str, op: impl Fn(&View, &Request) -> Result<T>) {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    let request = bench.request();
    let first = op(&view, &request).unwrap_or_else(|error| panic!("{what}: {error}"));
    let before = tree(&bench, &view);
    bench.kill(view);
    for _ in 0..2 {
        let view = bench.open();
        let again = op(&view, &Request { resent: true, ..request });
        assert_eq!(again.unwrap_or_else(|error| panic!("{what}, sent again: {error}")), first, "{what}");
        assert_eq!(tree(&bench, &view), before, "{what} was done twice");
        bench.kill(view);
    }
}

fn child(view: &View, name: &[u8]) -> Ino {
    view.lookup(view.root(), name).unwrap().ino
}

#[test]
fn resent_mutations_are_done_once() {
    resend("create", |view, request| {
        let (attr, handle) = view.create(request, view.root(), b"new", 0o640, RW)?;
        view.release(handle);
        Ok((attr.ino, attr.mode, attr.nlink))
    });
    resend("mkdir", |view, request| Ok(view.mkdir(request, view.root(), b"new", 0o750)?.ino));
    resend("mknod", |view, request| {
        Ok(view.mknod(request, view.root(), b"new", FileKind::Fifo, 0o600, 0)?.ino)
    });
    resend("symlink", |view, request| Ok(view.symlink(request, view.root(), b"new", b"x")?.ino));
    resend("link", |view, request| {
        let attr = view.link(request, Ino(10), view.root(), b"new")?;
        Ok((attr.ino, attr.nlink))
    });
    resend("unlink", |view, request| view.unlink(request, view.root(), b"file"));
    resend("rmdir", |view, request| view.rmdir(request, view.root(), b"dir"));
    for (name, to, mode) in [
        (&b"file"[..], &b"new"[..], RenameMode::Replace),
        (b"file", b"other", RenameMode::Replace),
        (b"file", b"new", RenameMode::NoReplace),
        (b"full", b"dir", RenameMode::Replace),
        (b"file", b"full", RenameMode::Exchange),
        (b"file", b"other", RenameMode::Whiteout),
    ] {
        resend("rename", |view, request| view.rename(request, view.root(), name, view.root(), to, mode));
    }
    resend("rename into a directory", |view, request| {
        view.rename(request, view.root(), b"file", child(view, b"full"), b"x", RenameMode::Replace)
    });
    resend("setxattr", |view, request| view.setxattr(request, Ino(10), b"user.a", b"1", XattrMode::Create));
}

#[test]
fn resent_replacing_and_removing_of_attributes_is_done_once() {
    let mut bench = Bench::new(&base());
    let view = bench.open();
    view.setxattr(&bench.request(), Ino(10), b"user.a", b"1", XattrMode::Create).unwrap();
    let request = bench.request();
    view.removexattr(&request, Ino(10), b"user.a").unwrap();
    bench.kill(view);
    let view = bench.open();
    view.removexattr(&Request { resent: true, ..request }, Ino(10), b"user.a").unwrap();
    assert!(view.removexattr(&bench.request(), Ino(10), b"user.a").is_err());
}

#[test]
fn a_new_request_with_an_old_number_is_no_resend() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let request = bench.request();
    view.unlink(&request, view.root(), b"file").unwrap();
    assert!(view.unlink(&request, view.root(), b"file").is_err());
    let mut other = Request { resent: true, ..request };
    other.key.epoch += 1;
    assert!(view.unlink(&other, view.root(), b"file").is_err());
}
