//! A reference for what a tree does: maps in memory, nothing shared with the view.

use crate::support::{Base, GID, UID};
use std::collections::BTreeMap;

pub type Id = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Id>),
    Link(Vec<u8>),
}

#[derive(Debug, Clone)]
pub struct Node {
    pub body: Body,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct Model {
    pub nodes: Vec<Node>,
}

/// What an operation is refused with.
pub type Refusal = &'static str;

pub const ROOT: Id = 0;

impl Model {
    pub fn new(base: &Base) -> Self {
        let mut model = Self { nodes: Vec::new() };
        let mut known = BTreeMap::new();
        model.add_base(base, &mut known);
        model
    }

    fn add_base(&mut self, base: &Base, known: &mut BTreeMap<u64, Id>) -> Id {
        let (ino, body, mode, nlink) = match base {
            Base::File { ino, nlink, bytes } => (*ino, Body::File(bytes.clone()), 0o644, *nlink),
            Base::Link { ino, target } => (*ino, Body::Link(target.as_bytes().to_vec()), 0o777, 1),
            Base::Dir { ino, .. } => (*ino, Body::Dir(BTreeMap::new()), 0o755, 2),
        };
        if let Some(id) = known.get(&ino) {
            return *id;
        }
        let id = self.nodes.len();
        known.insert(ino, id);
        self.nodes.push(Node { body, mode, uid: UID, gid: GID, nlink, xattrs: BTreeMap::new() });
        if let Base::Dir { entries, .. } = base {
            for (name, child) in entries {
                let child_id = self.add_base(child, known);
                if matches!(child, Base::Dir { .. }) {
                    self.nodes[id].nlink += 1;
                }
                self.dir_mut(id).insert(name.as_bytes().to_vec(), child_id);
            }
        }
        id
    }

    pub fn dir(&self, id: Id) -> &BTreeMap<Vec<u8>, Id> {
        match &self.nodes[id].body {
            Body::Dir(names) => names,
            _ => panic!("not a directory"),
        }
    }

    fn dir_mut(&mut self, id: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.nodes[id].body {
            Body::Dir(names) => names,
            _ => panic!("not a directory"),
        }
    }

    pub fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes[id].body, Body::Dir(_))
    }

    /// Every (directory, name, node), in order.
    pub fn walk(&self) -> Vec<(Id, Vec<u8>, Id)> {
        let mut found = Vec::new();
        let mut queue = vec![ROOT];
        while let Some(dir) = queue.pop() {
            for (name, &id) in self.dir(dir) {
                found.push((dir, name.clone(), id));
                if self.is_dir(id) {
                    queue.push(id);
                }
            }
        }
        found
    }

    pub fn dirs(&self) -> Vec<Id> {
        let below = self.walk().into_iter().map(|(_, _, id)| id).filter(|&id| self.is_dir(id));
        std::iter::once(ROOT).chain(below).collect()
    }

    pub fn make(&mut self, dir: Id, name: &[u8], body: Body, mode: u32) -> Result<Id, Refusal> {
        if self.dir(dir).contains_key(name) {
            return Err("Exists");
        }
        let id = self.nodes.len();
        let is_dir = matches!(body, Body::Dir(_));
        // A set-group-id directory hands down its group, and the bit to directories.
        let set_group = self.nodes[dir].mode & 0o2000 != 0;
        let mode = if is_dir && set_group { mode | 0o2000 } else { mode };
        let gid = if set_group { self.nodes[dir].gid } else { GID };
        let nlink = if is_dir { 2 } else { 1 };
        self.nodes.push(Node { body, mode, uid: UID, gid, nlink, xattrs: BTreeMap::new() });
        self.dir_mut(dir).insert(name.to_vec(), id);
        self.nodes[dir].nlink += u32::from(is_dir);
        Ok(id)
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        if self.is_dir(id) {
            return Err("NotPermitted");
        }
        if self.dir(dir).contains_key(name) {
            return Err("Exists");
        }
        self.dir_mut(dir).insert(name.to_vec(), id);
        self.nodes[id].nlink += 1;
        Ok(())
    }

    pub fn unlink(&mut self, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        let id = *self.dir(dir).get(name).ok_or("NotFound")?;
        if self.is_dir(id) {
            return Err("IsDirectory");
        }
        self.dir_mut(dir).remove(name);
        self.nodes[id].nlink -= 1;
        Ok(())
    }

    pub fn rmdir(&mut self, dir: Id, name: &[u8]) -> Result<(), Refusal> {
        let id = *self.dir(dir).get(name).ok_or("NotFound")?;
        if !self.is_dir(id) {
            return Err("NotDirectory");
        }
        if !self.dir(id).is_empty() {
            return Err("NotEmpty");
        }
        self.dir_mut(dir).remove(name);
        self.nodes[dir].nlink -= 1;
        self.nodes[id].nlink = 0;
        Ok(())
    }

    fn is_beneath(&self, dir: Id, above: Id) -> bool {
        dir == above || self.dir(above).values().any(|&id| self.is_dir(id) && self.is_beneath(dir, id))
    }

    pub fn rename(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), mode: u8) -> Result<(), Refusal> {
        let source = *self.dir(from.0).get(from.1).ok_or("NotFound")?;
        let target = self.dir(to.0).get(to.1).copied();
        if target == Some(source) {
            return Ok(());
        }
        let loops = |model: &Self, id: Id, into: Id| model.is_dir(id) && model.is_beneath(into, id);
        if loops(self, source, to.0) || target.is_some_and(|target| loops(self, target, from.0)) {
            return Err("Loop");
        }
        match (mode, target) {
            (1, Some(_)) => return Err("Exists"),
            (2, None) => return Err("NotFound"),
            (2, Some(target)) => {
                self.dir_mut(from.0).insert(from.1.to_vec(), target);
                self.dir_mut(to.0).insert(to.1.to_vec(), source);
                self.nodes[from.0].nlink -= u32::from(self.is_dir(source));
                self.nodes[to.0].nlink += u32::from(self.is_dir(source));
                self.nodes[to.0].nlink -= u32::from(self.is_dir(target));
                self.nodes[from.0].nlink += u32::from(self.is_dir(target));
                return Ok(());
            }
            _ => {}
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err("NotDirectory"),
                (false, true) => return Err("IsDirectory"),
                (true, true) if !self.dir(target).is_empty() => return Err("NotEmpty"),
                _ => {}
            }
            if self.is_dir(target) {
                self.rmdir(to.0, to.1)?;
            } else {
                self.unlink(to.0, to.1)?;
            }
        }
        self.dir_mut(from.0).remove(from.1);
        self.dir_mut(to.0).insert(to.1.to_vec(), source);
        if self.is_dir(source) {
            self.nodes[from.0].nlink -= 1;
            self.nodes[to.0].nlink += 1;
        }
        Ok(())
    }

    pub fn write(&mut self, id: Id, offset: usize, data: &[u8]) {
        if let Body::File(bytes) = &mut self.nodes[id].body {
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            bytes[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    pub fn punch_hole(&mut self, id: Id, offset: usize, len: usize) {
        if let Body::File(bytes) = &mut self.nodes[id].body {
            let end = bytes.len().min(offset + len);
            if offset < end {
                bytes[offset..end].fill(0);
            }
        }
    }

    pub fn truncate(&mut self, id: Id, size: usize) {
        if let Body::File(bytes) = &mut self.nodes[id].body {
            bytes.resize(size, 0);
        }
    }
}
