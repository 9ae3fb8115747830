//! What a directory holds: as a writer knows it, and as it is found on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The attribute that writers set.
pub(crate) const XATTR: &str = "user.acknowledged";

/// A file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) xattr: Option<Vec<u8>>,
    pub(crate) body: Body,
}

/// What it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Body {
    File(Vec<u8>),
    Directory,
    Link(Vec<u8>),
    Fifo,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(content) => write!(f, "File of {} bytes", content.len()),
            Self::Directory => f.write_str("Directory"),
            Self::Link(target) => write!(f, "Link({})", target.escape_ascii()),
            Self::Fifo => f.write_str("Fifo"),
        }
    }
}

/// A directory with everything beneath it.
///
/// Names stand for numbers and numbers for nodes, so that hard links are what they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) names: BTreeMap<String, u64>,
    pub(crate) nodes: BTreeMap<u64, Node>,
}

impl Model {
    /// The node behind a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.names.get(name)?)
    }

    /// The node behind a name, to be changed.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.nodes.get_mut(self.names.get(name)?)
    }

    /// A new node under a new name.
    pub(crate) fn add(&mut self, name: &str, mode: u32, body: Body) {
        let number = self.nodes.keys().next_back().map_or(1, |last| last + 1);
        self.nodes.insert(number, Node { mode, xattr: None, body });
        self.names.insert(name.to_owned(), number);
    }

    /// Takes a name away, and its node with the last one.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(number) = self.names.remove(name)
            && !self.names.values().any(|other| *other == number)
        {
            self.nodes.remove(&number);
        }
    }

    /// The names of a kind of node.
    pub(crate) fn names_of(&self, kind: impl Fn(&Body) -> bool) -> Vec<&str> {
        let names = self.names.keys().map(String::as_str);
        names.filter(|name| self.get(name).is_some_and(|node| kind(&node.body))).collect()
    }

    /// What is found beneath `directory`.
    pub(crate) fn scan(directory: &Path) -> Self {
        let mut model = Self::default();
        model.scan_into(directory, "");
        model
    }

    fn scan_into(&mut self, directory: &Path, prefix: &str) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let body = if meta.is_dir() {
                Body::Directory
            } else if meta.is_symlink() {
                Body::Link(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
            } else if meta.is_file() {
                Body::File(fs::read(&path).unwrap())
            } else {
                Body::Fifo
            };
            if body == Body::Directory {
                self.scan_into(&path, &format!("{name}/"));
            }
            let xattr = matches!(body, Body::File(_)).then(|| xattr_of(&path)).flatten();
            self.nodes.insert(meta.ino(), Node { mode: meta.mode() & 0o7777, xattr, body });
            self.names.insert(name, meta.ino());
        }
    }

    /// The same with numbers that depend on the names alone, so that two models can be compared.
    pub(crate) fn canonical(&self) -> Self {
        let mut numbers = BTreeMap::new();
        let mut canonical = Self::default();
        for (name, old) in &self.names {
            let next = numbers.len() as u64 + 1;
            let new = *numbers.entry(*old).or_insert(next);
            canonical.names.insert(name.clone(), new);
            canonical.nodes.insert(new, self.nodes[old].clone());
        }
        canonical
    }
}

fn xattr_of(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    match rustix::fs::lgetxattr(path, XATTR, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Some(value)
        }
        Err(rustix::io::Errno::NODATA) => None,
        Err(errno) => panic!("{}: {errno}", path.display()),
    }
}
