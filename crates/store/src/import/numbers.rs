//! Which inode number each file gets.

use super::capture::Captured;
use super::scan::tree_of;
use crate::{Entry, FIRST_NEW_INO, FileKind, Ino, ObjectId, Refs, RefsError, Store, StoreError, Timestamp};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

/// How many numbers are reserved at once: each reservation is a durable transaction.
const BLOCK: u64 = 1024;

/// Hands out numbers: the previous snapshot's for the same file, else the source's, where no other
/// file has or had it, else a new one.
pub(super) struct Numbers<'a> {
    refs: &'a Refs,
    /// Every number that a file of the lineage had, with the last one that had it.
    lineage: HashMap<Ino, Trait>,
    taken: HashSet<Ino>,
    /// Files with several names, which share a number.
    linked: HashMap<(u64, u64), Ino>,
    fresh: Range<u64>,
}

/// What tells a file that moved from another that got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trait {
    kind: FileKind,
    size: u64,
    mtime: Timestamp,
}

impl Trait {
    fn of(entry: &Entry) -> Self {
        Self { kind: entry.kind(), size: entry.size(), mtime: entry.meta.mtime }
    }
}

impl<'a> Numbers<'a> {
    /// Numbers for a tree that follows the snapshot `previous`.
    pub(super) fn new(
        refs: &'a Refs,
        store: &Store,
        previous: Option<&ObjectId>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            refs,
            lineage: previous.map(|id| lineage(store, id)).transpose()?.unwrap_or_default(),
            taken: HashSet::new(),
            linked: HashMap::new(),
            fresh: 0..0,
        })
    }

    /// The number of a file. Names of one file get one number.
    pub(super) fn of(&mut self, file: &Captured) -> Result<Ino, RefsError> {
        let attributes = &file.attributes;
        let shared = attributes.links > 1 && attributes.kind != FileKind::Directory;
        if let Some(number) = shared.then(|| self.linked.get(&attributes.file)).flatten() {
            return Ok(*number);
        }
        let wanted = file.kept.or_else(|| self.sources_own(file));
        let number = match wanted.filter(|number| !self.taken.contains(number)) {
            Some(number) => number,
            None => self.fresh()?,
        };
        self.taken.insert(number);
        if shared {
            self.linked.insert(attributes.file, number);
        }
        Ok(number)
    }

    fn sources_own(&self, file: &Captured) -> Option<Ino> {
        let number = Ino(file.attributes.file.1);
        if number.0 <= 1 || number.0 >= FIRST_NEW_INO {
            return None;
        }
        let found = Trait {
            kind: file.attributes.kind,
            size: if file.attributes.kind == FileKind::Directory { 0 } else { file.attributes.size },
            mtime: file.attributes.mtime,
        };
        let other = self.lineage.get(&number).is_some_and(|before| *before != found);
        (!other).then_some(number)
    }

    fn fresh(&mut self) -> Result<Ino, RefsError> {
        if self.fresh.is_empty() {
            self.fresh = self.refs.reserve_numbers(BLOCK)?;
        }
        let number = Ino(self.fresh.start);
        self.fresh.start += 1;
        Ok(number)
    }
}

/// All numbers of a snapshot and of what it comes from, each with the last file that had it. Trees that several
/// snapshots share are read once, so a long history costs what changed in it.
fn lineage(store: &Store, newest: &ObjectId) -> Result<HashMap<Ino, Trait>, StoreError> {
    let mut all = HashMap::new();
    let (mut seen, mut trees_seen) = (HashSet::from([*newest]), HashSet::new());
    let mut snapshots = VecDeque::from([*newest]);
    while let Some(id) = snapshots.pop_front() {
        let snapshot = match store.snapshot(&id) {
            Ok(snapshot) => snapshot,
            // What is left of a history that lacks its beginning still counts.
            Err(StoreError::Missing { .. }) if id != *newest => continue,
            Err(error) => return Err(error),
        };
        all.entry(snapshot.root.meta.ino).or_insert_with(|| Trait::of(&snapshot.root));
        let mut trees: Vec<_> =
            tree_of(&snapshot.root).into_iter().filter(|id| trees_seen.insert(*id)).collect();
        while let Some(id) = trees.pop() {
            for (_, entry) in store.tree(&id)?.iter() {
                all.entry(entry.meta.ino).or_insert_with(|| Trait::of(&entry));
                trees.extend(tree_of(&entry).filter(|id| trees_seen.insert(*id)));
            }
        }
        snapshots.extend(snapshot.parents.into_iter().filter(|id| seen.insert(*id)));
    }
    Ok(all)
}
