//! Reading the base: the snapshot beneath a thread's layers, a directory at a time.
//!
//! A node of the base that no layer mentions is known by number only. Where it stands is a hint ([`crate::parents`]),
//! remembered when its directory is read, checked against the directory's tree when used, and found again by a walk
//! when missing.

use crate::error::{Result, ViewError};
use crate::inode::Inode;
use crate::links::Links;
use crate::parents::Parents;
use crate::recent::Recent;
use foldhash::{HashMap, HashSet};
use selvedge_store::{Entry, Ino, ObjectId, Store, Tree};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Encoded trees kept in memory, in bytes.
const CACHE_BYTES: usize = 16 << 20;

/// Nodes kept decoded: an open follows a lookup closely, and finding a number in a large tree takes a scan.
const RECENT_NODES: usize = 16_384;

/// How far up a directory's place is looked for: hints that lead in a circle lead nowhere. Paths that a system call takes
/// have no more names than that.
const DEEPEST: usize = 2048;

/// The snapshot beneath a thread's layers.
pub(crate) struct Base {
    store: Store,
    root: Entry,
    root_tree: ObjectId,
    known: Mutex<Known>,
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("root_tree", &self.root_tree).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    /// Node → directory whose tree holds it.
    parents: Parents,
    /// Directory → its tree.
    trees: HashMap<Ino, ObjectId>,
    cache: HashMap<ObjectId, Arc<Tree>>,
    /// Trees of the cache, oldest first.
    order: VecDeque<ObjectId>,
    cached_bytes: usize,
    recent: Recent<Arc<Inode>, RECENT_NODES>,
    links: Links,
    /// Everything has been walked: a number without a hint is in no directory.
    complete: bool,
}

impl Base {
    /// The snapshot `id` of `store`.
    pub(crate) fn open(store: Store, id: &ObjectId) -> Result<Self> {
        let snapshot = store.snapshot(id)?;
        let root = Inode::from_entry(&snapshot.root, None);
        let root_tree = root.tree().ok_or_else(|| ViewError::Damaged {
            ino: root.ino,
            why: "the snapshot's root is no directory".to_owned(),
        })?;
        let known = Known { trees: HashMap::from_iter([(root.ino, root_tree)]), ..Known::default() };
        Ok(Self { store, root: snapshot.root, root_tree, known: Mutex::new(known) })
    }

    /// The base that follows this one: `snapshot`, in which the directories of `spoken_of` are those of `trees` or
    /// gone, and `parents` tells where nodes are that moved. What was learnt of the rest is taken over, so this base
    /// has to learn it anew if it is asked again.
    pub(crate) fn followed_by(
        &self,
        snapshot: &ObjectId,
        spoken_of: &HashSet<Ino>,
        trees: &HashMap<Ino, ObjectId>,
        parents: &[(Ino, Ino)],
    ) -> Result<Self> {
        let next = Self::open(self.store.clone(), snapshot)?;
        let mut learnt = std::mem::take(&mut *self.known());
        learnt.recent.clear();
        learnt.trees.retain(|directory, _| !spoken_of.contains(directory));
        learnt.trees.extend(trees);
        learnt.parents.extend(parents.iter().copied());
        learnt.trees.insert(next.root(), next.root_tree);
        *next.known() = learnt;
        Ok(next)
    }

    /// Keeps in `memory` where nodes stand, and knows what is there of it. Whatever fails costs whoever serves this
    /// connection next a search.
    pub(crate) fn remember_in(&self, memory: std::fs::File) -> std::io::Result<()> {
        self.known().parents.keep_in(memory)
    }

    /// The root directory as the snapshot has it.
    pub(crate) fn root_entry(&self) -> &Entry {
        &self.root
    }

    /// The root directory's number.
    pub(crate) fn root(&self) -> Ino {
        self.root.meta.ino
    }

    /// The node that the base has under this number.
    pub(crate) fn inode(&self, ino: Ino) -> Result<Option<Arc<Inode>>> {
        if ino == self.root() {
            let root = Inode { parent: Some(ino), ..Inode::from_entry(&self.root, None) };
            return Ok(Some(Arc::new(root)));
        }
        if let Some(inode) = self.known().recent.get(ino) {
            return Ok(Some(Arc::clone(inode)));
        }
        loop {
            let parent = self.known().parents.get(ino);
            if let Some(parent) = parent
                && let Some(tree) = self.tree_of(parent)?
                && let Some((_, entry)) = tree.find_ino(ino)
            {
                return Ok(Some(self.remember(parent, &entry)));
            }
            if self.known().complete {
                return Ok(None);
            }
            self.walk()?;
        }
    }

    /// As [`inode`](Self::inode), if it is known where the node stands.
    pub(crate) fn inode_nearby(&self, ino: Ino) -> Result<Option<Arc<Inode>>> {
        let known = ino == self.root() || {
            let known = self.known();
            known.complete || known.parents.get(ino).is_some()
        };
        if known { self.inode(ino) } else { Ok(None) }
    }

    /// The node called `name` in the directory `parent`, whose base listing is `tree`.
    pub(crate) fn child(&self, parent: Ino, tree: ObjectId, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let tree = self.tree(tree)?;
        Ok(tree.lookup(name).map(|entry| self.remember(parent, &entry)))
    }

    /// A directory's base listing.
    pub(crate) fn tree(&self, id: ObjectId) -> Result<Arc<Tree>> {
        if let Some(tree) = self.known().cache.get(&id) {
            return Ok(Arc::clone(tree));
        }
        let tree = self.store.tree(&id)?;
        self.known().keep(id, &tree);
        Ok(tree)
    }

    /// Whether a listing is in memory.
    pub(crate) fn has_tree(&self, id: &ObjectId) -> bool {
        self.known().cache.contains_key(id)
    }

    /// What is remembered of hard links.
    pub(crate) fn links(&self) -> Links {
        self.known().links.clone()
    }

    /// Remembers what another base of the thread does, from now on together with it.
    pub(crate) fn share_links(&self, other: &Self) {
        let links = other.links();
        self.known().links = links;
    }

    /// Where a node stood when it was last looked at.
    pub(crate) fn parent_hint(&self, ino: Ino) -> Option<Ino> {
        self.known().parents.get(ino)
    }

    /// Takes note of where a directory stands.
    pub(crate) fn note_directory(&self, parent: Ino, directory: Ino, tree: ObjectId) {
        self.known().note(parent, directory, Some(tree));
    }

    /// The root directory's listing.
    pub(crate) const fn root_tree(&self) -> ObjectId {
        self.root_tree
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// The listing of a directory, if it is known where it stands, and all directories above it.
    fn tree_of(&self, directory: Ino) -> Result<Option<Arc<Tree>>> {
        let mut below = Vec::new();
        let mut at = directory;
        let known = loop {
            let known = self.known();
            if let Some(id) = known.trees.get(&at) {
                break *id;
            }
            let Some(parent) = known.parents.get(at).filter(|_| below.len() < DEEPEST) else {
                return Ok(None);
            };
            below.push(at);
            at = parent;
        };
        let mut tree = self.tree(known)?;
        while let Some(child) = below.pop() {
            let Some((_, entry)) = tree.find_ino(child) else { return Ok(None) };
            let Some(id) = self.remember(at, &entry).tree() else { return Ok(None) };
            (at, tree) = (child, self.tree(id)?);
        }
        Ok(Some(tree))
    }

    fn remember(&self, parent: Ino, entry: &Entry) -> Arc<Inode> {
        let inode = Arc::new(Inode::from_entry(entry, Some(parent)));
        let mut known = self.known();
        known.note(parent, inode.ino, inode.tree());
        known.recent.insert(inode.ino, Arc::clone(&inode));
        inode
    }

    /// Reads every directory, to find where each number stands.
    fn walk(&self) -> Result<()> {
        let mut directories = vec![(self.root(), self.root_tree)];
        while let Some((directory, id)) = directories.pop() {
            let tree = self.store.tree(&id)?;
            let mut known = self.known();
            for (_, entry) in tree.iter() {
                let inode = Inode::from_entry(&entry, Some(directory));
                known.note(directory, inode.ino, inode.tree());
                directories.extend(inode.tree().map(|id| (inode.ino, id)));
            }
        }
        self.known().complete = true;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every update leaves the maps whole: hints are checked when used, and the cache holds verified trees.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, parent: Ino, ino: Ino, tree: Option<ObjectId>) {
        self.parents.insert(ino, parent);
        if let Some(tree) = tree {
            self.trees.insert(ino, tree);
        }
    }

    fn keep(&mut self, id: ObjectId, tree: &Arc<Tree>) {
        if self.cache.insert(id, Arc::clone(tree)).is_some() {
            return;
        }
        self.order.push_back(id);
        self.cached_bytes += tree.memory();
        while self.cached_bytes > CACHE_BYTES && self.order.len() > 1 {
            if let Some(oldest) = self.order.pop_front()
                && let Some(tree) = self.cache.remove(&oldest)
            {
                self.cached_bytes -= tree.memory();
            }
        }
    }
}
