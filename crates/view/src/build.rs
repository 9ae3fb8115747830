//! From a base and frozen layers to trees: only what the layers speak of is read and encoded.

use crate::changed::Changed;
use crate::error::{Result, ViewError};
use crate::inode::Body;
use crate::open_table::Content as Open;
use crate::state::State;
use crate::tables::Node;
use foldhash::{HashMap, HashSet};
use selvedge_store::export::Progress;
use selvedge_store::{
    Content, Entry, FileKind, Ino, LayerId, Meta, ObjectId, Store, StoreError, Tree, TreeBuilder, WrittenBlob,
};
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes read at once.
const BLOCK: usize = 256 * 1024;

/// The most threads that read files: more do not make a disk faster.
const MOST_THREADS: usize = 8;

/// What the layers came to.
#[derive(Debug)]
pub(crate) struct Built {
    /// The root directory.
    pub(crate) root: Entry,
    /// Names that came, went, or stand for something else than before: content, kind, mode, owner or extended
    /// attributes.
    pub(crate) changed: u64,
    /// The listing of each directory that the layers speak of.
    pub(crate) trees: HashMap<Ino, ObjectId>,
    /// The directories that the base does not have.
    made: HashSet<Ino>,
    /// The content of each file whose bytes were in a layer.
    pub(crate) files: HashMap<Ino, Content>,
    /// Where nodes are that the layers speak of.
    pub(crate) parents: Vec<(Ino, Ino)>,
    /// What the layers speak of.
    pub(crate) spoken_of: Changed,
}

/// A directory as it is going to be.
struct Directory {
    ino: Ino,
    node: Node,
    entries: Vec<(Vec<u8>, Child)>,
}

/// What a directory has under a name.
enum Child {
    /// What the base has.
    Base(Entry),
    /// A node with a row.
    Node(Node),
    /// A directory that the layers speak of: its position.
    Directory(usize),
}

impl Built {
    /// What is known when only files were read.
    pub(crate) fn of_files(state: &State, files: HashMap<Ino, Content>) -> Self {
        Self {
            root: state.base().root_entry().clone(),
            changed: 0,
            trees: HashMap::default(),
            made: HashSet::default(),
            files,
            parents: Vec::new(),
            spoken_of: Changed::default(),
        }
    }
}

/// Files whose bytes were read before, and the layers that those lay in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) layers: Vec<LayerId>,
    pub(crate) files: HashMap<Ino, Content>,
}

impl Known {
    /// What the node's bytes are, if its working file was read before: one in a frozen layer never changes.
    fn of(&self, node: &Node) -> Option<&Content> {
        let layer = node.inode.body.layer().filter(|layer| self.layers.contains(layer));
        layer.and_then(|_| self.files.get(&node.inode.ino))
    }
}

/// Who looks on while files are read.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// Hears how far it is.
    pub(crate) progress: &'a (dyn Fn(Progress) + Sync),
    /// Whether it is not wanted any more.
    pub(crate) is_over: &'a (dyn Fn() -> bool + Sync),
}

/// Encodes what `state`, a view of frozen layers alone, shows, and puts what is new into its store.
pub(crate) fn build(state: &State, known: &Known, watch: Watch<'_>) -> Result<Built> {
    let spoken_of = state.changed()?;
    let directories = plan(state, &spoken_of)?;
    let entries = directories.iter().flat_map(|directory| &directory.entries);
    let nodes = entries.filter_map(|(_, child)| match child {
        Child::Node(node) => Some(node),
        Child::Base(_) | Child::Directory(_) => None,
    });
    let files = put_files(state, nodes, known, watch)?;
    let store = state.repo.store();
    let mut built = Built { spoken_of, ..Built::of_files(state, files) };
    let mut finished: HashMap<usize, Entry> = HashMap::default();
    // Children come after their parents.
    for (at, directory) in directories.into_iter().enumerate().rev() {
        let mut tree = TreeBuilder::new();
        for (name, child) in directory.entries {
            let entry = match child {
                Child::Base(entry) => entry,
                Child::Node(node) => entry(state, &node, &built.files)?,
                Child::Directory(child) => finished.remove(&child).ok_or_else(|| ViewError::Damaged {
                    ino: directory.ino,
                    why: "a directory beneath it has several names".to_owned(),
                })?,
            };
            if built.spoken_of.nodes.contains(&entry.meta.ino) {
                built.parents.push((entry.meta.ino, directory.ino));
            }
            tree.push(&name, entry);
        }
        let tree = tree.finish().map_err(StoreError::Encode)?;
        store.put_tree(&tree)?;
        built.trees.insert(directory.ino, tree.id);
        if directory.node.inode.tree().is_none() {
            built.made.insert(directory.ino);
        }
        let content = Content::Directory { tree: tree.id, digest: tree.digest };
        finished.insert(at, Entry { meta: state.meta(&directory.node)?, content });
    }
    if let Some(root) = finished.remove(&0) {
        let old = state.base().root_entry().clone();
        built.changed = Count { store, built: &built }.between(Some(&old), Some(&root))?;
        built.root = root;
    }
    Ok(built)
}

/// The directories that the layers speak of, parents first; none if they speak of nothing.
fn plan(state: &State, spoken_of: &Changed) -> Result<Vec<Directory>> {
    let mut directories = Vec::new();
    if !spoken_of.directories.contains(&state.root) {
        return Ok(directories);
    }
    let directory = |ino: Ino| -> Result<Directory> {
        Ok(Directory { ino, node: state.node(ino)?, entries: Vec::new() })
    };
    directories.push(directory(state.root)?);
    let mut at = 0;
    while let Some(here) = directories.get(at) {
        let listed = list(state, here.ino, &here.node, spoken_of)?;
        let mut entries = Vec::with_capacity(listed.len());
        for (name, child) in listed {
            let child = match child {
                Listed::Is(child) => child,
                Listed::Directory(ino) => {
                    directories.push(directory(ino)?);
                    Child::Directory(directories.len() - 1)
                }
            };
            entries.push((name, child));
        }
        if let Some(here) = directories.get_mut(at) {
            here.entries = entries;
        }
        at += 1;
    }
    Ok(directories)
}

enum Listed {
    Is(Child),
    Directory(Ino),
}

fn list(state: &State, ino: Ino, node: &Node, spoken_of: &Changed) -> Result<Vec<(Vec<u8>, Listed)>> {
    use crate::catalog::NameRow;
    let names = state.tables().names(ino)?;
    let mut listed = Vec::new();
    let spoken = |ino: Ino, kind: FileKind| -> Result<Option<Listed>> {
        if kind == FileKind::Directory && spoken_of.directories.contains(&ino) {
            return Ok(Some(Listed::Directory(ino)));
        }
        let has_row = spoken_of.nodes.contains(&ino);
        has_row.then(|| state.node(ino).map(|node| Listed::Is(Child::Node(node)))).transpose()
    };
    if let Some(tree) = node.inode.tree() {
        let tree = state.base().tree(tree)?;
        for (position, (name, ino, kind)) in tree.iter_names().enumerate() {
            if names.contains_key(name) {
                continue;
            }
            let child = match spoken(ino, kind)? {
                Some(child) => child,
                None => Listed::Is(Child::Base(entry_at(&tree, position, ino)?)),
            };
            listed.push((name.to_vec(), child));
        }
    }
    for (name, row) in names {
        let NameRow::Node { ino, kind } = row else { continue };
        let child = match spoken(ino, kind)? {
            Some(child) => child,
            None => Listed::Is(Child::Node(state.node(ino)?)),
        };
        listed.push((name, child));
    }
    Ok(listed)
}

fn entry_at(tree: &Tree, position: usize, ino: Ino) -> Result<Entry> {
    let found = tree.get(position).map(|(_, entry)| entry);
    found.ok_or_else(|| ViewError::Damaged { ino, why: "its entry in the base is gone".to_owned() })
}

fn entry(state: &State, node: &Node, files: &HashMap<Ino, Content>) -> Result<Entry> {
    let inode = &node.inode;
    let odd = |why: &str| ViewError::Damaged { ino: inode.ino, why: why.to_owned() };
    let content = match (inode.kind, &inode.body) {
        (FileKind::Regular, Body::Blob { id, size, holes }) => {
            Content::Regular { blob: *id, size: *size, holes: *holes }
        }
        (FileKind::Regular, Body::File { .. } | Body::Patched(_)) => {
            files.get(&inode.ino).cloned().ok_or_else(|| odd("a file that was not read"))?
        }
        (FileKind::Symlink, Body::Target(target)) => Content::Symlink { target: target.clone() },
        (FileKind::Fifo, _) => Content::Fifo,
        (FileKind::Socket, _) => Content::Socket,
        (FileKind::CharDevice, _) => Content::CharDevice { rdev: inode.rdev },
        (FileKind::BlockDevice, _) => Content::BlockDevice { rdev: inode.rdev },
        (FileKind::Regular | FileKind::Directory | FileKind::Symlink, _) => {
            return Err(odd("its kind and its body do not agree"));
        }
    };
    Ok(Entry { meta: state.meta(node)?, content })
}

/// Reads, hashes and keeps the files among `nodes` whose bytes are in a layer, several at once.
pub(crate) fn put_files<'a>(
    state: &State,
    nodes: impl Iterator<Item = &'a Node>,
    known: &Known,
    watch: Watch<'_>,
) -> Result<HashMap<Ino, Content>> {
    let mut found: HashMap<Ino, Content> = HashMap::default();
    let mut unread: HashMap<Ino, &Node> = HashMap::default();
    for node in nodes.filter(|node| node.inode.body.layer().is_some()) {
        match known.of(node) {
            Some(content) => drop(found.insert(node.inode.ino, content.clone())),
            None => drop(unread.insert(node.inode.ino, node)),
        }
    }
    let nodes: Vec<&Node> = unread.into_values().collect();
    let (next, files, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let put: Mutex<Result<HashMap<Ino, Content>>> = Mutex::new(Ok(found));
    let work = || {
        let mut buffer = vec![0; BLOCK];
        while let Some(node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let written = put_file(state, node, watch, &mut buffer);
            let mut put = put.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *put, written) {
                (Ok(put), Ok(blob)) => {
                    let content = Content::Regular { blob: blob.id, size: blob.size, holes: blob.holes };
                    put.insert(node.inode.ino, content);
                    let files = files.fetch_add(1, Ordering::Relaxed) + 1;
                    let bytes = bytes.fetch_add(blob.size, Ordering::Relaxed) + blob.size;
                    (watch.progress)(Progress { files, bytes });
                }
                (Ok(_), Err(error)) => *put = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(MOST_THREADS).min(nodes.len()) {
            // Where no thread can be had, this one does it all.
            let _ = std::thread::Builder::new().name("snapshot".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    put.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn put_file(state: &State, node: &Node, watch: Watch<'_>, buffer: &mut [u8]) -> Result<WrittenBlob> {
    let content = state.content_of(node)?;
    let size = state.attr(node)?.size;
    let mut writer = state.repo.store().blob_writer();
    let mut at = 0;
    for extent in state.data_of(node, &content, size)? {
        writer.hole(extent.offset - at)?;
        at = extent.offset;
        while at < extent.end() {
            if (watch.is_over)() {
                return Err(ViewError::Host { what: "read", source: io::ErrorKind::Interrupted.into() });
            }
            let want = usize::try_from(extent.end() - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = read_at(&content, &mut buffer[..want], at)?;
            if read == 0 {
                let why = "its bytes end before the length it has".to_owned();
                return Err(ViewError::Damaged { ino: node.inode.ino, why });
            }
            writer.write(&buffer[..read])?;
            at += read as u64;
        }
    }
    writer.hole(size - at)?;
    Ok(writer.finish()?)
}

fn read_at(content: &Open, buffer: &mut [u8], at: u64) -> Result<usize> {
    loop {
        match content.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(ViewError::host("read a working file")),
        }
    }
}

/// Counts names that differ between two trees.
struct Count<'a> {
    store: &'a Store,
    built: &'a Built,
}

impl Count<'_> {
    /// The names that differ beneath a directory. What was moved as a whole counts where it was and where it is, not
    /// with all beneath it.
    fn between(&self, old: Option<&Entry>, new: Option<&Entry>) -> Result<u64> {
        let (before, after) = (self.listing(old)?, self.listing(new)?);
        let mut count = 0;
        for (name, entry) in after.iter().flat_map(|tree| tree.iter()) {
            let earlier = before.as_ref().and_then(|tree| tree.lookup(name));
            count += self.at(earlier.as_ref(), Some(&entry))?;
        }
        for (name, entry) in before.iter().flat_map(|tree| tree.iter()) {
            if after.as_ref().is_none_or(|tree| tree.lookup(name).is_none()) {
                count += self.at(Some(&entry), None)?;
            }
        }
        Ok(count)
    }

    fn at(&self, old: Option<&Entry>, new: Option<&Entry>) -> Result<u64> {
        let directory =
            |entry: Option<&Entry>| entry.is_some_and(|entry| entry.kind() == FileKind::Directory);
        match (old, new) {
            (Some(old), Some(new)) if directory(Some(old)) && directory(Some(new)) => {
                let itself = u64::from(!same_attributes(&old.meta, &new.meta));
                let same = digest(old) == digest(new);
                Ok(itself + if same { 0 } else { self.between(Some(old), Some(new))? })
            }
            (Some(old), Some(new)) if !directory(Some(old)) && !directory(Some(new)) => {
                Ok(u64::from(!same_attributes(&old.meta, &new.meta) || digest(old) != digest(new)))
            }
            (old, new) => {
                let gone = old.filter(|old| !self.built.trees.contains_key(&old.meta.ino));
                let came = new.filter(|new| self.built.made.contains(&new.meta.ino));
                Ok(1 + self.between(gone, None)? + self.between(None, came)?)
            }
        }
    }

    fn listing(&self, entry: Option<&Entry>) -> Result<Option<std::sync::Arc<Tree>>> {
        match entry.map(|entry| &entry.content) {
            Some(Content::Directory { tree, .. }) => Ok(Some(self.store.tree(tree)?)),
            _ => Ok(None),
        }
    }
}

fn same_attributes(a: &Meta, b: &Meta) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

/// What is compared of a content: for a directory, what is beneath it without numbers and times.
fn digest(entry: &Entry) -> (FileKind, Option<ObjectId>, Option<&[u8]>, u64) {
    match &entry.content {
        Content::Regular { blob, .. } => (entry.kind(), Some(*blob), None, 0),
        Content::Directory { digest, .. } => (entry.kind(), Some(*digest), None, 0),
        Content::Symlink { target } => (entry.kind(), None, Some(target), 0),
        Content::CharDevice { rdev } | Content::BlockDevice { rdev } => (entry.kind(), None, None, *rdev),
        Content::Fifo | Content::Socket => (entry.kind(), None, None, 0),
    }
}
