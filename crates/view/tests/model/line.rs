//! One thread: its view, its model, and what is done to both.

use super::NAMES;
use super::known::Known;
use super::op::Op;
use super::reference::{Body, Id, Model, ROOT, Refusal};
use super::support::{Base, Bench};
use selvedge_store::{FileKind, Ino, ObjectId, ThreadName, Timestamp};
use selvedge_view::{
    Allocate, Attr, Handle, OpenFlags, RenameMode, SetAttr, SetTime, View, ViewError, XattrMode,
};
use std::collections::{BTreeMap, HashMap};

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

/// One thread.
pub struct Line {
    pub name: ThreadName,
    view: Option<View>,
    known: Known,
    held: Vec<(Handle, Id)>,
    /// The snapshots from which it comes.
    pub history: Vec<ObjectId>,
}

impl Line {
    /// The thread `name`, which has the tree `base`.
    pub fn open(bench: &Bench, base: &Base, name: ThreadName) -> Self {
        let view = bench.open_thread(&name, false);
        let numbers = HashMap::from([(ROOT, view.root())]);
        let known = Known { model: Model::new(base), numbers };
        let history = vec![bench.repo().refs().thread(&name).unwrap().snapshot];
        let mut line = Self { name, view: Some(view), known, held: Vec::new(), history };
        line.check(bench);
        line
    }

    /// A new thread with all that this one has.
    pub fn fork(&mut self, bench: &Bench, name: ThreadName) -> Self {
        self.unseen(|view| drop(view.freeze().unwrap()));
        let repo = bench.repo();
        let thread = repo.refs().thread(&self.name).unwrap();
        repo.refs().fork_thread(&name, &thread).unwrap();
        let view = Some(bench.open_thread(&name, false));
        let (known, history) = (self.known.clone(), self.history.clone());
        let mut fork = Self { name, view, known, held: Vec::new(), history };
        assert_eq!(self.attrs(), fork.attrs(), "the fork is as the original is");
        fork.check(bench);
        fork
    }

    /// What the thread has at this moment.
    pub fn known(&self) -> &Known {
        &self.known
    }

    fn view(&self) -> &View {
        self.view.as_ref().unwrap()
    }

    fn dir(&self, at: usize) -> Id {
        let dirs = self.known.model.dirs();
        dirs[at % dirs.len()]
    }

    fn node(&self, at: usize) -> Option<Id> {
        let all = self.known.model.walk();
        (!all.is_empty()).then(|| all[at % all.len()].2)
    }

    fn file(&self, at: usize) -> Option<Id> {
        let files: Vec<_> =
            self.known.model.walk().into_iter().filter(|(_, _, id)| self.is_file(*id)).collect();
        (!files.is_empty()).then(|| files[at % files.len()].2)
    }

    fn is_file(&self, id: Id) -> bool {
        matches!(self.known.model.nodes[id].body, Body::File(_))
    }

    fn ino(&self, id: Id) -> Ino {
        self.known.numbers[&id]
    }

    fn open_file(&self, bench: &Bench, id: Id) -> Handle {
        let flags = OpenFlags { read: true, write: true, exclusive: false };
        self.view().open_file(&bench.request(), self.ino(id), flags).unwrap()
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each operation")]
    /// Does the same to the view and to the model. The snapshot, if one was to be made.
    pub fn apply(&mut self, bench: &Bench, op: &Op) -> Option<ObjectId> {
        let request = bench.request();
        match op {
            Op::Create { dir, name, mode, exclusive } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let existing = self.known.model.dir(dir).get(name).copied();
                let flags = OpenFlags { read: true, write: true, exclusive: *exclusive };
                let answer = self.view().create(&request, self.ino(dir), name, *mode, flags);
                let expected = match existing {
                    Some(id) if !exclusive && self.known.model.is_dir(id) => Err("IsDirectory"),
                    Some(id) if !exclusive && self.is_file(id) => Ok(id),
                    _ => self.known.model.make(dir, name, Body::File(Vec::new()), *mode),
                };
                if let Some((attr, handle)) = agree(op, answer, expected.map(drop)) {
                    self.view().release(handle);
                    self.known.numbers.entry(expected.unwrap()).or_insert(attr.ino);
                }
            }
            Op::Mkdir { dir, name, mode } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().mkdir(&request, self.ino(dir), name, *mode);
                let expected = self.known.model.make(dir, name, Body::Dir(BTreeMap::new()), *mode);
                self.number(op, answer, expected);
            }
            Op::Symlink { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().symlink(&request, self.ino(dir), name, b"to/nowhere");
                let expected = self.known.model.make(dir, name, Body::Link(b"to/nowhere".to_vec()), 0o777);
                self.number(op, answer, expected);
            }
            Op::Link { node, dir, name } => {
                let id = self.node(*node)?;
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().link(&request, self.ino(id), self.ino(dir), name);
                agree(op, answer, self.known.model.link(id, dir, name));
            }
            Op::Unlink { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let gone = self.known.model.dir(dir).get(name).copied();
                let answer = self.view().unlink(&request, self.ino(dir), name);
                if agree(op, answer, self.known.model.unlink(dir, name)).is_some() {
                    self.view().forget(self.ino(gone.unwrap()));
                }
            }
            Op::Rmdir { dir, name } => {
                let (dir, name) = (self.dir(*dir), NAMES[*name]);
                let answer = self.view().rmdir(&request, self.ino(dir), name);
                agree(op, answer, self.known.model.rmdir(dir, name));
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
                agree(op, answer, self.known.model.rename((from, name), (to, new_name), *mode));
            }
            Op::Write { node, offset, data } => {
                let id = self.file(*node)?;
                let handle = self.open_file(bench, id);
                assert_eq!(self.view().write(handle, *offset as u64, data).unwrap() as usize, data.len());
                self.view().release(handle);
                self.known.model.write(id, *offset, data);
            }
            Op::Truncate { node, size } => {
                let id = self.file(*node)?;
                let set = SetAttr { size: Some(*size as u64), ..SetAttr::default() };
                let attr = self.view().setattr(self.ino(id), &set).unwrap();
                assert_eq!(attr.size, *size as u64);
                self.known.model.truncate(id, *size);
            }
            Op::PunchHole { node, offset, len } => {
                let id = self.file(*node)?;
                let handle = self.open_file(bench, id);
                self.view().allocate(handle, Allocate::PunchHole, *offset as u64, *len as u64).unwrap();
                self.view().release(handle);
                self.known.model.punch_hole(id, *offset, *len);
            }
            Op::Chmod { node, mode } => {
                let id = self.node(*node)?;
                self.set(id, &SetAttr { mode: Some(*mode), ..SetAttr::default() });
                self.known.model.nodes[id].mode = *mode;
            }
            Op::Chown { node, uid, gid } => {
                let id = self.node(*node)?;
                self.set(id, &SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() });
                (self.known.model.nodes[id].uid, self.known.model.nodes[id].gid) = (*uid, *gid);
            }
            Op::Utimens { node, sec, nsec } => {
                let id = self.node(*node)?;
                let time = Timestamp { sec: *sec, nsec: *nsec };
                let set = SetAttr { mtime: Some(SetTime::At(time)), ..SetAttr::default() };
                assert_eq!(self.set(id, &set).mtime, time, "{op:?}");
            }
            Op::SetXattr { node, name, value, mode } => {
                let id = self.node(*node)?;
                let name = [b"user.", NAMES[*name]].concat();
                let mode = [XattrMode::Set, XattrMode::Create, XattrMode::Replace][usize::from(*mode)];
                let answer = self.view().setxattr(&request, self.ino(id), &name, value, mode);
                let xattrs = &mut self.known.model.nodes[id].xattrs;
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
                let id = self.node(*node)?;
                let name = [b"user.", NAMES[*name]].concat();
                let answer = self.view().removexattr(&request, self.ino(id), &name);
                let expected = self.known.model.nodes[id].xattrs.remove(&name).map(drop).ok_or("NoXattr");
                agree(op, answer, expected);
            }
            Op::Fsync { node } => {
                let id = self.file(*node)?;
                let handle = self.open_file(bench, id);
                self.view().fsync(handle, false).unwrap();
                self.view().release(handle);
            }
            Op::Hold { node } => {
                let id = self.file(*node)?;
                self.held.push((self.open_file(bench, id), id));
            }
            Op::Release => {
                if let Some((handle, id)) = self.held.pop() {
                    self.check_held(handle, id);
                    self.view().release(handle);
                }
            }
            Op::WriteHeld { offset, data } => {
                let &(handle, id) = self.held.last()?;
                assert_eq!(self.view().write(handle, *offset as u64, data).unwrap() as usize, data.len());
                self.known.model.write(id, *offset, data);
            }
            Op::Close => self.close_and_open(bench, |_| ()),
            Op::CloseAndFreeze => self.close_and_open(bench, |name| bench.freeze_thread(name)),
            Op::Freeze => drop(self.unseen(|view| view.freeze().unwrap())),
            Op::Tidy => self.unseen(|view| view.tidy().unwrap()),
            Op::Snapshot => {
                let report = self.unseen(|view| view.snapshot(b"", &|_| {}).unwrap());
                if !self.history.contains(&report.snapshot) {
                    self.history.push(report.snapshot);
                }
                return Some(report.snapshot);
            }
        }
        None
    }

    fn number(&mut self, op: &Op, answer: Result<Attr, ViewError>, expected: Result<Id, Refusal>) {
        if let Some(attr) = agree(op, answer, expected.map(drop)) {
            self.known.numbers.insert(expected.unwrap(), attr.ino);
        }
    }

    fn set(&self, id: Id, set: &SetAttr) -> Attr {
        self.view().setattr(self.ino(id), set).unwrap()
    }

    /// Does what nobody may see anything of.
    fn unseen<T>(&self, work: impl FnOnce(&View) -> T) -> T {
        let before = self.attrs();
        let done = work(self.view());
        assert_eq!(before, self.attrs());
        for (handle, id) in &self.held {
            self.check_held(*handle, *id);
        }
        done
    }

    /// Closes the view in order and opens it again, after `meanwhile`: every attribute is what it was.
    pub fn close_and_open(&mut self, bench: &Bench, meanwhile: impl FnOnce(&ThreadName)) {
        let before = self.attrs();
        self.let_go().close().unwrap();
        meanwhile(&self.name);
        self.reopen(bench);
        assert_eq!(before, self.attrs());
        self.check(bench);
    }

    /// Leaves the view to end in some way.
    pub fn let_go(&mut self) -> View {
        for (handle, id) in std::mem::take(&mut self.held) {
            self.check_held(handle, id);
        }
        self.view.take().unwrap()
    }

    /// Opens the view again.
    pub fn reopen(&mut self, bench: &Bench) {
        self.view = Some(bench.open_thread(&self.name, false));
    }

    fn check_held(&self, handle: Handle, id: Id) {
        let Body::File(expected) = &self.known.model.nodes[id].body else { return };
        assert_eq!(&self.view().read(handle, 0, 1 << 20).unwrap(), expected, "a file held open");
    }

    fn attrs(&self) -> Vec<Attr> {
        let all = self.known.model.walk();
        let ids = std::iter::once(ROOT).chain(all.iter().map(|(_, _, id)| *id));
        // A snapshot has no access times.
        let attr = |id| self.view().getattr(self.ino(id)).unwrap();
        ids.map(attr).map(|attr| Attr { blocks: 0, atime: attr.mtime, ..attr }).collect()
    }

    /// What stat shows, but for what changes when the disk's content is copied: working files then get a new ctime.
    pub fn attrs_that_a_copy_keeps(&self) -> Vec<Attr> {
        let blank = Timestamp { sec: 0, nsec: 0 };
        let kept = |attr: Attr| match attr.kind {
            FileKind::Regular => Attr { ctime: blank, ..attr },
            _ => attr,
        };
        self.attrs().into_iter().map(kept).collect()
    }

    /// Compares the whole tree, and learns the numbers of nodes that had none yet.
    pub fn check(&mut self, bench: &Bench) {
        let new = self.known.compare(bench, self.view());
        self.known.numbers.extend(new);
    }
}
