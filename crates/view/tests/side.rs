//! A view as one side of a comparison: it finds what its own tree, looked at whole, would show, and reads only what
//! has changed.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::compare::{Body, ChangeKind, Item, Options, Side, SnapshotSide, compare};
use selvedge_store::export::{FileReader, Node, Shape, SnapshotSource, Source, SourceError};
use selvedge_store::{Ino, Repository};
use selvedge_view::{OpenFlags, RenameMode, SetAttr, View, ViewSide};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use support::{Base, Bench};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };
const ROOT: Ino = Ino(2);

/// Three levels of `width` names each, from `0/0/0` on.
fn base(width: usize) -> Base {
    let names = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"][..width];
    let mut ino = 100;
    let mut next = || {
        ino += 1;
        ino
    };
    let mut top = Vec::new();
    for &name in names {
        let mut subs = Vec::new();
        for &sub in names {
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
    let bench = Bench::new(&base(10));
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
    let bench = Bench::new(&base(10));
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

/// Everything a tree shows: by path, what counts in comparisons.
fn everything(source: &dyn Source) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut unread = vec![(String::new(), source.root().unwrap())];
    while let Some((path, node)) = unread.pop() {
        let body = match &node.shape {
            Shape::Regular { .. } => format!("{:?}", bytes(source, &node)),
            Shape::Symlink { target } => format!("-> {target:?}"),
            other => format!("{:?}", other.kind()),
        };
        all.insert(path.clone(), format!("{:o} {} {} {body}", node.meta.mode, node.meta.uid, node.meta.gid));
        if matches!(node.shape, Shape::Directory) {
            for (name, child) in source.children(&node).unwrap() {
                let name = String::from_utf8(name).unwrap();
                unread.push((if path.is_empty() { name } else { format!("{path}/{name}") }, child));
            }
        }
    }
    all
}

fn bytes(source: &dyn Source, node: &Node) -> Vec<u8> {
    let file = source.open(node).unwrap().unwrap();
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap()];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    bytes
}

/// A generator of numbers: the same ones in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

/// Something happens to the tree, if it can.
fn random_step(bench: &Bench, view: &View, random: &mut Random) {
    let mut directory = ROOT;
    for _ in 0..random.below(3) {
        let name = [b'0' + u8::try_from(random.below(10)).unwrap()];
        match view.lookup(directory, &name) {
            Ok(attr) if attr.kind == selvedge_store::FileKind::Directory => directory = attr.ino,
            _ => {}
        }
    }
    let name = [b'0' + u8::try_from(random.below(10)).unwrap()];
    let found = view.lookup(directory, &name).map(|attr| attr.ino);
    // What cannot be done in this place is not done.
    match (random.below(9), found) {
        (0, Ok(ino)) => {
            if let Ok(handle) = view.open_file(&bench.request(), ino, RW) {
                view.write(handle, random.below(4) as u64, &[b'a'; 3]).unwrap();
                view.release(handle);
            }
        }
        (1, _) => drop(view.unlink(&bench.request(), directory, &name)),
        (2, _) => drop(view.mkdir(&bench.request(), directory, &name, 0o755)),
        (3, _) => drop(view.rmdir(&bench.request(), directory, &name)),
        (4 | 5, _) => {
            let to = [b'0' + u8::try_from(random.below(10)).unwrap()];
            let _ = view.rename(&bench.request(), directory, &name, ROOT, &to, RenameMode::Exchange);
            let _ = view.rename(&bench.request(), directory, &name, ROOT, &to, RenameMode::Replace);
        }
        (6, Ok(ino)) => {
            let mode = if random.below(2) == 0 { 0o600 } else { 0o644 };
            view.setattr(ino, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
        }
        (7, _) => drop(view.symlink(&bench.request(), directory, &name, b"target")),
        (8, Ok(ino)) => drop(view.link(&bench.request(), ino, ROOT, &name)),
        _ => {
            if let Ok((_, handle)) = view.create(&bench.request(), directory, &name, 0o644, RW) {
                view.write(handle, 0, b"made").unwrap();
                view.release(handle);
            }
        }
    }
}

#[test]
fn a_comparison_of_what_changed_equals_one_of_everything() {
    for seed in 1..=12 {
        let mut random = Random(0x9e37_79b9 * seed);
        let bench = Bench::new(&base(4));
        let mut view = bench.open();
        for step in 0..60 {
            random_step(&bench, &view, &mut random);
            if step % 20 == 19 {
                match random.below(3) {
                    0 => drop(view.freeze().unwrap()),
                    1 => {
                        view.close().unwrap();
                        view = bench.open();
                    }
                    _ => {}
                }
            }
        }
        let snapshot = bench.repo().refs().threads().unwrap()[0].snapshot;
        let old = everything(&SnapshotSource::new(bench.repo().store().clone(), &snapshot).unwrap());
        let new = everything(&view);
        let mut expected = Vec::new();
        for path in old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>() {
            match (old.get(path), new.get(path)) {
                (Some(old), Some(new)) if old == new => {}
                (Some(_), Some(_)) => expected.push((path.clone(), "differs")),
                (Some(_), None) => expected.push((path.clone(), "gone")),
                (None, _) => expected.push((path.clone(), "new")),
            }
        }
        let (found, _, _) = changes(&bench.repo(), view);
        let mut told = Vec::new();
        for (kind, path, from) in found {
            told.extend(from.map(|from| (from, "gone")));
            told.push(match kind {
                ChangeKind::Added | ChangeKind::Renamed => (path, "new"),
                ChangeKind::Modified | ChangeKind::TypeChanged => (path, "differs"),
                ChangeKind::Deleted => (path, "gone"),
            });
        }
        told.sort();
        assert_eq!(told, expected, "seed {seed}");
    }
}
