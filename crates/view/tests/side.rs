//! A view as one side of a comparison: it finds what its own tree, looked at whole, would show, and reads only what
//! has changed.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::compare::{Body, ChangeKind, Item, Options, Side, SnapshotSide, compare};
use selvedge_store::export::{FileReader, SourceError};
use selvedge_store::{Ino, Repository};
use selvedge_view::{OpenFlags, RenameMode, SetAttr, View, ViewSide};
use std::cell::RefCell;
use std::collections::HashSet;
use support::{Base, Bench};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const ROOT: Ino = Ino(2);

/// `d0/s0/f0` to `d9/s9/f9`.
fn base() -> Base {
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let mut ino = 100;
    let mut next = || {
        ino += 1;
        ino
    };
    let mut top = Vec::new();
    for name in names {
        let mut subs = Vec::new();
        for sub in names {
            let files = names
                .iter()
                .map(|file| {
                    (
                        *file,
                        Base::File {
                            ino: next(),
                            nlink: 1,
                            bytes: format!("{name}{sub}{file}").into_bytes(),
                        },
                    )
                })
                .collect();
            subs.push((sub, Base::Dir { ino: next(), entries: files }));
        }
        top.push((name, Base::Dir { ino: next(), entries: subs }));
    }
    Base::Dir { ino: ROOT.0, entries: top }
}

fn walk(view: &View, path: &[&str]) -> Ino {
    path.iter().fold(ROOT, |at, name| view.lookup(at, name.as_bytes()).unwrap().ino)
}

/// Counts which directories are listed.
struct Counting<S> {
    side: S,
    listed: RefCell<Vec<Ino>>,
}

impl<S: Side> Side for Counting<S> {
    fn root(&self) -> Result<Item, SourceError> {
        self.side.root()
    }

    fn children(&self, directory: &Item) -> Result<Vec<(Vec<u8>, Item)>, SourceError> {
        self.listed.borrow_mut().push(directory.ino);
        self.side.children(directory)
    }

    fn open(&self, file: &Item) -> Result<Option<Box<dyn FileReader>>, SourceError> {
        self.side.open(file)
    }
}

/// How a path differs, where it is, and where it was.
type Found = (ChangeKind, String, Option<String>);

fn changes(repo: &Repository, view: View) -> (Vec<Found>, HashSet<Ino>, View) {
    let snapshot = repo.refs().threads().unwrap()[0].snapshot;
    let old = SnapshotSide::new(repo.store().clone(), &snapshot).unwrap();
    let new = Counting { side: ViewSide::new(view).unwrap(), listed: RefCell::default() };
    let options = Options { same_numbers: true, ..Options::default() };
    let text = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    let found = compare(&old, &new, &options).unwrap();
    let found =
        found.iter().map(|change| (change.kind, text(&change.path), change.from.as_deref().map(text)));
    (found.collect(), new.listed.into_inner().into_iter().collect(), new.side.into_view())
}

fn write(bench: &Bench, view: &View, ino: Ino, bytes: &[u8]) {
    let handle = view.open_file(&bench.request(), ino, RW).unwrap();
    view.write(handle, 0, bytes).unwrap();
    view.release(handle);
}

#[test]
fn a_comparison_finds_what_changed_and_lists_nothing_else() {
    let bench = Bench::new(&base());
    let view = bench.open();
    let (found, listed, view) = changes(&bench.repo(), view);
    assert_eq!((found.as_slice(), listed.len()), (&[][..], 0), "nothing has changed");
    let (d3, d4) = (walk(&view, &["3", "4"]), walk(&view, &["4", "4"]));
    write(&bench, &view, walk(&view, &["3", "4", "5"]), b"changed");
    // Written, and as it was; then touched.
    write(&bench, &view, walk(&view, &["4", "4", "5"]), b"445");
    view.unlink(&bench.request(), d3, b"6").unwrap();
    view.rename(&bench.request(), d3, b"7", ROOT, b"moved", RenameMode::Replace).unwrap();
    let chmod = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    view.setattr(walk(&view, &["3", "4", "8"]), &chmod).unwrap();
    // A directory that moves comes along whole, unread.
    view.rename(&bench.request(), walk(&view, &["5"]), b"5", d4, b"whole", RenameMode::Replace).unwrap();
    let plain = |kind, path: &str| (kind, path.to_owned(), None);
    let renamed = |from: &str, path: &str| (ChangeKind::Renamed, path.to_owned(), Some(from.to_owned()));
    let mut expected = vec![
        plain(ChangeKind::Modified, "3/4/5"),
        plain(ChangeKind::Deleted, "3/4/6"),
        plain(ChangeKind::Modified, "3/4/8"),
        renamed("5/5", "4/4/whole"),
    ];
    expected.extend((0..10).map(|file| renamed(&format!("5/5/{file}"), &format!("4/4/whole/{file}"))));
    expected.push(renamed("3/4/7", "moved"));
    let (found, listed, view) = changes(&bench.repo(), view);
    assert_eq!(found, expected);
    assert!(listed.len() < 10, "{} of 111 directories were listed", listed.len());
    view.close().unwrap();
    let (again, _, view) = changes(&bench.repo(), bench.open());
    assert_eq!(again, expected, "after opening again");
    view.close().unwrap();
    bench.freeze();
    let (frozen, _, view) = changes(&bench.repo(), bench.open());
    assert_eq!(frozen, expected, "in a frozen layer");
    write(&bench, &view, walk(&view, &["0", "0", "0"]), b"more");
    let (both, _, _) = changes(&bench.repo(), view);
    expected.insert(0, plain(ChangeKind::Modified, "0/0/0"));
    assert_eq!(both, expected, "in a frozen layer and an upper");
}

#[test]
fn what_goes_while_it_is_compared_is_gone_and_no_error() {
    let bench = Bench::new(&base());
    let view = bench.open();
    write(&bench, &view, walk(&view, &["0", "0", "0"]), b"000");
    let side = ViewSide::new(view).unwrap();
    let names = |item: &Item| side.children(item).unwrap();
    let find = |items: Vec<(Vec<u8>, Item)>| items.into_iter().find(|(name, _)| name == b"0").unwrap().1;
    let top = find(names(&side.root().unwrap()));
    let directory = find(names(&top));
    let file = find(names(&directory));
    assert!(matches!(file.body, Body::Regular { blob: None, .. }));
    let view = side.into_view();
    for name in view.child_items(directory.ino, &view.changed().unwrap()).unwrap() {
        view.unlink(&bench.request(), directory.ino, &name.0).unwrap();
    }
    view.rmdir(&bench.request(), top.ino, b"0").unwrap();
    let side = ViewSide::new(view).unwrap();
    assert_eq!(side.children(&directory).unwrap(), []);
    assert!(side.open(&file).unwrap().is_none());
}
