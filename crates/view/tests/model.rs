//! Random operations on a view and on a reference model, with the view closed, killed, frozen, snapshot or forked between steps.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

#[path = "support/model.rs"]
mod reference;
mod support;

use proptest::prelude::*;
use reference::{Body, Id, Model, ROOT, Refusal};
use selvedge_store::{FileKind, Ino, ObjectId, ThreadName, Timestamp};
use selvedge_view::{Attr, Handle, OpenFlags, RenameMode, SetAttr, SetTime, View, ViewError, XattrMode};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use support::{Base, Bench, list, read};

const NAMES: &[&[u8]] = &[b"a", b"b", b"c", b"d", b"\xff\xfe", b"sub"];

#[derive(Debug, Clone)]
enum Op {
    Create {
        dir: usize,
        name: usize,
        mode: u32,
        exclusive: bool,
    },
    Mkdir {
        dir: usize,
        name: usize,
        mode: u32,
    },
    Symlink {
        dir: usize,
        name: usize,
    },
    Link {
        node: usize,
        dir: usize,
        name: usize,
    },
    Unlink {
        dir: usize,
        name: usize,
    },
    Rmdir {
        dir: usize,
        name: usize,
    },
    Rename {
        from: usize,
        name: usize,
        to: usize,
        new_name: usize,
        mode: u8,
    },
    Write {
        node: usize,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        node: usize,
        size: usize,
    },
    Chmod {
        node: usize,
        mode: u32,
    },
    Chown {
        node: usize,
        uid: u32,
        gid: u32,
    },
    Utimens {
        node: usize,
        sec: i64,
        nsec: u32,
    },
    SetXattr {
        node: usize,
        name: usize,
        value: Vec<u8>,
        mode: u8,
    },
    RemoveXattr {
        node: usize,
        name: usize,
    },
    Fsync {
        node: usize,
    },
    /// Holds a file open over later operations, or lets one go.
    Hold {
        node: usize,
    },
    Release,
    WriteHeld {
        offset: usize,
        data: Vec<u8>,
    },
    Close,
    CloseAndFreeze,
    Kill,
    Freeze,
    /// Makes one of many frozen layers, among other things.
    Tidy,
    Snapshot,
    /// Goes on in a fork.
    Fork,
}

fn op() -> impl Strategy<Value = Op> {
    let (dir, name, node) = (0..6usize, 0..NAMES.len(), 0..12usize);
    prop_oneof![
        4 => (dir.clone(), name.clone(), 0..0o10000u32, any::<bool>())
            .prop_map(|(dir, name, mode, exclusive)| Op::Create { dir, name, mode, exclusive }),
        3 => (dir.clone(), name.clone(), 0..0o10000u32)
            .prop_map(|(dir, name, mode)| Op::Mkdir { dir, name, mode }),
        1 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Symlink { dir, name }),
        2 => (node.clone(), dir.clone(), name.clone()).prop_map(|(node, dir, name)| Op::Link { node, dir, name }),
        3 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Unlink { dir, name }),
        2 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Op::Rmdir { dir, name }),
        5 => (dir.clone(), name.clone(), dir, name.clone(), 0..4u8)
            .prop_map(|(from, name, to, new_name, mode)| Op::Rename { from, name, to, new_name, mode }),
        5 => (node.clone(), 0..20_000usize, prop::collection::vec(any::<u8>(), 1..400))
            .prop_map(|(node, offset, data)| Op::Write { node, offset, data }),
        2 => (node.clone(), 0..20_000usize).prop_map(|(node, size)| Op::Truncate { node, size }),
        2 => (node.clone(), 0..0o10000u32).prop_map(|(node, mode)| Op::Chmod { node, mode }),
        1 => (node.clone(), 0..3u32, 0..3u32).prop_map(|(node, uid, gid)| Op::Chown { node, uid, gid }),
        1 => (node.clone(), -5..1_900_000_000i64, 0..1_000_000_000u32)
            .prop_map(|(node, sec, nsec)| Op::Utimens { node, sec, nsec }),
        2 => (node.clone(), name.clone(), prop::collection::vec(any::<u8>(), 0..40), 0..3u8)
            .prop_map(|(node, name, value, mode)| Op::SetXattr { node, name, value, mode }),
        1 => (node.clone(), name).prop_map(|(node, name)| Op::RemoveXattr { node, name }),
        1 => node.clone().prop_map(|node| Op::Fsync { node }),
        1 => node.prop_map(|node| Op::Hold { node }),
        1 => Just(Op::Release),
        2 => (0..20_000usize, prop::collection::vec(any::<u8>(), 1..400))
            .prop_map(|(offset, data)| Op::WriteHeld { offset, data }),
        1 => Just(Op::Close),
        1 => Just(Op::CloseAndFreeze),
        1 => Just(Op::Kill),
        3 => Just(Op::Freeze),
        3 => Just(Op::Tidy),
        3 => Just(Op::Snapshot),
        1 => Just(Op::Fork),
    ]
}

fn base() -> Base {
    let file = |ino, nlink, bytes: &[u8]| Base::File { ino, nlink, bytes: bytes.to_vec() };
    Base::Dir {
        ino: 2,
        entries: vec![
            ("a", file(10, 2, b"alpha")),
            (
                "b",
                Base::Dir {
                    ino: 20,
                    entries: vec![
                        ("a", file(21, 1, &[7; 9000])),
                        ("b", file(10, 2, b"alpha")),
                        ("sub", Base::Dir { ino: 22, entries: vec![("c", file(23, 1, b""))] }),
                    ],
                },
            ),
            ("c", Base::Link { ino: 30, target: "b/a" }),
            ("sub", Base::Dir { ino: 40, entries: vec![] }),
        ],
    }
}

struct World {
    bench: Bench,
    view: Option<View>,
    model: Model,
    /// The number each node of the model must keep for ever.
    numbers: HashMap<Id, Ino>,
    held: Vec<(Handle, Id)>,
    thread: ThreadName,
    /// Threads that were left for a fork, as they were then.
    left: Vec<(ThreadName, Model)>,
    snapshots: Vec<(ObjectId, Model)>,
}

fn refusal(error: &ViewError) -> Refusal {
    match error {
        ViewError::NotFound => "NotFound",
        ViewError::Exists => "Exists",
        ViewError::NotDirectory => "NotDirectory",
        ViewError::IsDirectory => "IsDirectory",
        ViewError::NotEmpty => "NotEmpty",
        ViewError::NotPermitted(_) => "NotPermitted",
        ViewError::Loop => "Loop",
        ViewError::NoXattr => "NoXattr",
        other => panic!("unexpected failure: {other}"),
    }
}

fn agree<T: std::fmt::Debug>(op: &Op, view: Result<T, ViewError>, model: Result<(), Refusal>) -> Option<T> {
    match (view, model) {
        (Ok(value), Ok(())) => Some(value),
        (Err(error), Err(expected)) => {
            assert_eq!(refusal(&error), expected, "{op:?}");
            None
        }
        (view, model) => panic!("{op:?}: the view answers {view:?}, the model {model:?}"),
    }
}

impl World {
    fn new(answered_after: Duration) -> Self {
        let base = base();
        let mut bench = Bench::new(&base);
        bench.answered_after = answered_after;
        // Any frozen layer is made another that says the same.
        bench.deepest = 0;
        let view = bench.open();
        let model = Model::new(&base);
        let mut world = Self {
            bench,
            view: Some(view),
            model,
            numbers: HashMap::new(),
            held: Vec::new(),
            thread: support::main(),
            left: Vec::new(),
            snapshots: Vec::new(),
        };
        world.numbers.insert(ROOT, world.view().root());
        world.check();
        world
    }

    fn view(&self) -> &View {
        self.view.as_ref().unwrap()
    }

    fn dir(&self, at: usize) -> Id {
        let dirs = self.model.dirs();
        dirs[at % dirs.len()]
    }

    fn node(&self, at: usize) -> Option<Id> {
        let all = self.model.walk();
        (!all.is_empty()).then(|| all[at % all.len()].2)
    }

    fn file(&self, at: usize) -> Option<Id> {
        let files: Vec<_> = self.model.walk().into_iter().filter(|(_, _, id)| self.is_file(*id)).collect();
        (!files.is_empty()).then(|| files[at % files.len()].2)
    }

    fn is_file(&self, id: Id) -> bool {
        matches!(self.model.nodes[id].body, Body::File(_))
    }

    fn ino(&self, id: Id) -> Ino {
        self.numbers[&id]
    }

    fn open(&self, id: Id) -> Handle {
        let flags = OpenFlags { read: true, write: true, exclusive: false };
        self.view().open_file(&self.bench.request(), self.ino(id), flags).unwrap()
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    fn apply(&mut self, op: &Op) {
        let request = self.bench.request();
        match op {
            Op::Create { dir, name, mode, exclusive } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let existing = self.model.dir(dir).get(name).copied();
                let flags = OpenFlags { read: true, write: true, exclusive: *exclusive };
                let answer = self.view().create(&request, self.ino(dir), name, *mode, flags);
                let expected = match existing {
                    Some(id) if !exclusive && self.model.is_dir(id) => Err("IsDirectory"),
                    Some(id) if !exclusive && self.is_file(id) => Ok(id),
                    _ => self.model.make(dir, name, Body::File(Vec::new()), *mode),
                };
                if let Some((attr, handle)) = agree(op, answer, expected.map(drop)) {
                    self.view().release(handle);
                    self.numbers.entry(expected.unwrap()).or_insert(attr.ino);
                }
            }
            Op::Mkdir { dir, name, mode } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().mkdir(&request, self.ino(dir), name, *mode);
                let expected = self.model.make(dir, name, Body::Dir(BTreeMap::new()), *mode);
                self.number(op, answer, expected);
            }
            Op::Symlink { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().symlink(&request, self.ino(dir), name, b"to/nowhere");
                let expected = self.model.make(dir, name, Body::Link(b"to/nowhere".to_vec()), 0o777);
                self.number(op, answer, expected);
            }
            Op::Link { node, dir, name } => {
                let Some(id) = self.node(*node) else { return };
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().link(&request, self.ino(id), self.ino(dir), name);
                agree(op, answer, self.model.link(id, dir, name));
            }
            Op::Unlink { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let gone = self.model.dir(dir).get(name).copied();
                let answer = self.view().unlink(&request, self.ino(dir), name);
                if agree(op, answer, self.model.unlink(dir, name)).is_some() {
                    self.view().forget(self.ino(gone.unwrap()));
                }
            }
            Op::Rmdir { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().rmdir(&request, self.ino(dir), name);
                agree(op, answer, self.model.rmdir(dir, name));
            }
            Op::Rename { from, name, to, new_name, mode } => {
                let (from, to) = (self.dir(*from), self.dir(*to));
                let (name, new_name) = (NAMES[*name], NAMES[*new_name]);
                let flag = match mode {
                    1 => RenameMode::NoReplace,
                    2 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let answer = self.view().rename(&request, self.ino(from), name, self.ino(to), new_name, flag);
                agree(op, answer, self.model.rename((from, name), (to, new_name), *mode));
            }
            Op::Write { node, offset, data } => {
                let Some(id) = self.file(*node) else { return };
                let handle = self.open(id);
                assert_eq!(self.view().write(handle, *offset as u64, data).unwrap() as usize, data.len());
                self.view().release(handle);
                self.model.write(id, *offset, data);
            }
            Op::Truncate { node, size } => {
                let Some(id) = self.file(*node) else { return };
                let set = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
                let attr = self.view().setattr(self.ino(id), &set).unwrap();
                assert_eq!(attr.size, *size as u64);
                self.model.truncate(id, *size);
            }
            Op::Chmod { node, mode } => {
                let Some(id) = self.node(*node) else { return };
                self.set(id, &SetAttr { mode: Some(*mode), ..SetAttr::default() });
                self.model.nodes[id].mode = *mode;
            }
            Op::Chown { node, uid, gid } => {
                let Some(id) = self.node(*node) else { return };
                self.set(id, &SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() });
                (self.model.nodes[id].uid, self.model.nodes[id].gid) = (*uid, *gid);
            }
            Op::Utimens { node, sec, nsec } => {
                let Some(id) = self.node(*node) else { return };
                let time = Timestamp { sec: *sec, nsec: *nsec };
                let set = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                assert_eq!(self.set(id, &set).mtime, time, "{op:?}");
            }
            Op::SetXattr { node, name, value, mode } => {
                let Some(id) = self.node(*node) else { return };
                let name = [b"user.", NAMES[*name]].concat();
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(*mode)];
                let answer = self.view().setxattr(&request, self.ino(id), &name, value, mode);
                let xattrs = &mut self.model.nodes[id].xattrs;
                let expected = match (mode, xattrs.contains_key(&name)) {
                    (XattrMode::Create, true) => Err("Exists"),
                    (XattrMode::Replace, false) => Err("NoXattr"),
                    _ => {
                        xattrs.insert(name, value.clone());
                        Ok(())
                    }
                };
                agree(op, answer, expected);
            }
            Op::RemoveXattr { node, name } => {
                let Some(id) = self.node(*node) else { return };
                let name = [b"user.", NAMES[*name]].concat();
                let answer = self.view().removexattr(&request, self.ino(id), &name);
                let expected = self.model.nodes[id].xattrs.remove(&name).map(drop).ok_or("NoXattr");
                agree(op, answer, expected);
            }
            Op::Fsync { node } => {
                let Some(id) = self.file(*node) else { return };
                let handle = self.open(id);
                self.view().fsync(handle, false).unwrap();
                self.view().release(handle);
            }
            Op::Hold { node } => {
                let Some(id) = self.file(*node) else { return };
                self.held.push((self.open(id), id));
            }
            Op::Release => {
                if let Some((handle, id)) = self.held.pop() {
                    self.check_held(handle, id);
                    self.view().release(handle);
                }
            }
            Op::Close => self.reopen(|_, view| view.close().unwrap()),
            Op::Kill => self.kill(),
            Op::WriteHeld { offset, data } => {
                let Some(&(handle, id)) = self.held.last() else { return };
                assert_eq!(self.view().write(handle, *offset as u64, data).unwrap() as usize, data.len());
                self.model.write(id, *offset, data);
            }
            Op::CloseAndFreeze => self.reopen(|bench, view| {
                view.close().unwrap();
                bench.freeze();
            }),
            Op::Freeze => {
                let before = self.attrs();
                self.view().freeze().unwrap();
                assert_eq!(before, self.attrs());
                self.check_all_held();
            }
            Op::Tidy => {
                let before = self.attrs();
                self.view().tidy().unwrap();
                assert_eq!(before, self.attrs());
                self.check_all_held();
            }
            Op::Snapshot => {
                let before = self.attrs();
                let report = self.view().snapshot(b"", &|_| {}).unwrap();
                assert_eq!(before, self.attrs());
                self.check_all_held();
                self.check_as(&self.bench.open_snapshot(&report.snapshot), &self.model);
                self.snapshots.push((report.snapshot, self.model.clone()));
            }
            Op::Fork => {
                let before = self.attrs();
                let name = format!("fork{}", self.left.len());
                let fork = self.bench.fork(&self.view().freeze().unwrap(), &name).name;
                let original = std::mem::replace(&mut self.thread, fork);
                self.left.push((original, self.model.clone()));
                self.end(|_, view| view.close().unwrap());
                assert_eq!(before, self.attrs(), "the fork is as the original was");
            }
        }
    }

    fn number(&mut self, op: &Op, answer: Result<Attr, ViewError>, expected: Result<Id, Refusal>) {
        if let Some(attr) = agree(op, answer, expected.map(drop)) {
            self.numbers.insert(expected.unwrap(), attr.ino);
        }
    }

    fn set(&self, id: Id, set: &SetAttr) -> Attr {
        self.view().setattr(self.ino(id), set).unwrap()
    }

    /// Ends the view in some way and opens it again: every attribute must be what it was.
    fn reopen(&mut self, end: impl FnOnce(&mut Bench, View)) {
        let before = self.attrs();
        self.end(end);
        assert_eq!(before, self.attrs());
        self.check();
    }

    /// As `reopen`, for the end that copies the disk's content: working files then get a new ctime.
    fn kill(&mut self) {
        let files_without_ctime = |attrs: Vec<Attr>| -> Vec<Attr> {
            let blank = Timestamp { sec: 0, nsec: 0 };
            let is_file = |attr: &Attr| attr.kind == FileKind::Regular;
            attrs
                .into_iter()
                .map(|attr| if is_file(&attr) { Attr { ctime: blank, ..attr } } else { attr })
                .collect()
        };
        let before = files_without_ctime(self.attrs());
        self.end(Bench::kill);
        assert_eq!(before, files_without_ctime(self.attrs()));
        self.check();
    }

    fn end(&mut self, end: impl FnOnce(&mut Bench, View)) {
        for (handle, id) in std::mem::take(&mut self.held) {
            self.check_held(handle, id);
        }
        end(&mut self.bench, self.view.take().unwrap());
        self.view = Some(self.bench.open_thread(&self.thread, false));
    }

    fn check_all_held(&self) {
        for (handle, id) in &self.held {
            self.check_held(*handle, *id);
        }
    }

    /// All snapshots, and all threads that were left for a fork, are what they were.
    fn check_the_rest(&mut self) {
        self.view.take().unwrap().close().unwrap();
        for (snapshot, model) in &self.snapshots {
            self.check_as(&self.bench.open_snapshot(snapshot), model);
        }
        for (thread, model) in &self.left {
            self.check_as(&self.bench.open_thread(thread, false), model);
        }
    }

    fn check_held(&self, handle: Handle, id: Id) {
        let Body::File(expected) = &self.model.nodes[id].body else { return };
        assert_eq!(&self.view().read(handle, 0, 1 << 20).unwrap(), expected, "a file held open");
    }

    fn attrs(&self) -> Vec<Attr> {
        let all = self.model.walk();
        let ids = std::iter::once(ROOT).chain(all.iter().map(|(_, _, id)| *id));
        // A snapshot has no access times.
        let attr = |id| self.view().getattr(self.ino(id)).unwrap();
        ids.map(attr).map(|attr| Attr { blocks: 0, atime: attr.mtime, ..attr }).collect()
    }

    /// Compares the whole tree.
    fn check(&mut self) {
        for (id, ino) in self.compare(self.view(), &self.model) {
            self.numbers.insert(id, ino);
        }
    }

    fn check_as(&self, view: &View, model: &Model) {
        let new = self.compare(view, model);
        assert_eq!(new, [], "numbers that were never seen before");
    }

    /// Fails unless the view shows what the model has; tells the numbers of nodes that had none yet.
    fn compare(&self, view: &View, model: &Model) -> Vec<(Id, Ino)> {
        let mut new = Vec::new();
        let mut queue = vec![(ROOT, view.root())];
        while let Some((dir, dir_ino)) = queue.pop() {
            self.compare_node(view, model, dir, dir_ino);
            let listed = list(&self.bench, view, dir_ino);
            let expected: Vec<_> = model.dir(dir).clone().into_iter().collect();
            let names: Vec<_> = listed.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(names, expected.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
            for ((name, ino), (_, id)) in listed.into_iter().zip(expected) {
                let attr = view.lookup(dir_ino, &name).unwrap();
                assert_eq!(attr.ino, ino, "listing and lookup disagree on {name:?}");
                match self.numbers.get(&id) {
                    Some(known) => assert_eq!(*known, ino, "{name:?} changed its number"),
                    None => new.push((id, ino)),
                }
                if model.is_dir(id) {
                    queue.push((id, ino));
                } else {
                    self.compare_node(view, model, id, ino);
                }
            }
        }
        new
    }

    fn compare_node(&self, view: &View, model: &Model, id: Id, ino: Ino) {
        let node = &model.nodes[id];
        let attr = view.getattr(ino).unwrap();
        let expected = (node.mode, node.uid, node.gid, node.nlink);
        assert_eq!((attr.mode, attr.uid, attr.gid, attr.nlink), expected, "attributes of {id}");
        match &node.body {
            Body::File(bytes) => {
                assert_eq!(attr.size, bytes.len() as u64);
                assert!(&read(&self.bench, view, ino) == bytes, "content of {id}");
            }
            Body::Link(target) => assert_eq!(&view.readlink(ino).unwrap(), target),
            Body::Dir(_) => {}
        }
        let names = view.listxattr(ino).unwrap();
        let names: Vec<&[u8]> = names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
        assert_eq!(names, node.xattrs.keys().map(Vec::as_slice).collect::<Vec<_>>());
        for (name, value) in &node.xattrs {
            assert_eq!(&view.getxattr(ino, name).unwrap(), value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_view_equals_its_model_through_close_kill_freeze_snapshot_and_fork(
        ops in prop::collection::vec(op(), 1..60),
        // Layers that a snapshot has go at once, beside later changes, or with the end.
        answered_after in prop_oneof![Just(0), Just(3), Just(3_600_000)],
    ) {
        let mut world = World::new(Duration::from_millis(answered_after));
        for op in &ops {
            world.apply(op);
            world.check();
        }
        world.kill();
        world.reopen(|_, view| view.close().unwrap());
        world.check_the_rest();
    }
}
