//! What differs between two trees, snapshots' or live threads'.

mod bytes;
mod item;
mod paths;
mod renames;
mod snapshot;
mod walk;

pub use item::{Body, Item, StoredTree, fingerprint};
pub use paths::{PathFilter, path_order};
pub use snapshot::SnapshotSide;

use crate::export::{FileReader, SourceError};
use std::ops::ControlFlow;

/// A tree that can be compared with another.
pub trait Side {
    /// The root directory.
    fn root(&self) -> Result<Item, SourceError>;

    /// What is in a directory, in the order of names (bytes): nothing, if it is gone by now.
    fn children(&self, directory: &Item) -> Result<Vec<(Vec<u8>, Item)>, SourceError>;

    /// Opens a regular file for reading; `None` if it is gone by now, as happens in a live tree.
    fn open(&self, file: &Item) -> Result<Option<Box<dyn FileReader>>, SourceError>;
}

/// What is to be compared, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Files with one inode number are one file on both sides: so in snapshots of which one came from the other, or both
    /// from a third, and in threads on them.
    pub same_numbers: bool,
    /// The paths that count.
    pub paths: PathFilter,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the new tree has it.
    Added,
    /// Both have it; content, mode, owner, attributes or target differ. Times alone make no difference.
    Modified,
    /// Only the old tree has it.
    Deleted,
    /// Both have it, as files of different kinds.
    TypeChanged,
    /// The old tree has it elsewhere.
    Renamed,
}

impl ChangeKind {
    /// The letter that stands for it.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Added => "A",
            Self::Modified => "M",
            Self::Deleted => "D",
            Self::TypeChanged => "T",
            Self::Renamed => "R",
        }
    }
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// How.
    pub kind: ChangeKind,
    /// Where, relative to the root, which itself is the empty path.
    pub path: Vec<u8>,
    /// Where the old tree has it, if it was renamed.
    pub from: Option<Vec<u8>>,
    /// What the old tree has.
    pub old: Option<Item>,
    /// What the new tree has.
    pub new: Option<Item>,
    /// Whether a file's bytes or a link's target differ, where both trees have it as a file of one kind.
    pub content: bool,
}

/// Which of the two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The first.
    Old,
    /// The second.
    New,
}

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {:?} of the {} tree", String::from_utf8_lossy(path), match side { Which::Old => "old", Which::New => "new" })]
pub struct CompareError {
    /// Which tree.
    pub side: Which,
    /// What, relative to the root.
    pub path: Vec<u8>,
    /// What went wrong.
    #[source]
    pub source: SourceError,
}

/// All paths that differ, in the order of [`path_order`]. Subtrees that are known to be equal are not entered; files are
/// read only where neither size nor content id decide.
pub fn compare(old: &dyn Side, new: &dyn Side, options: &Options) -> Result<Vec<Change>, CompareError> {
    let sides = walk::Sides { old, new };
    let mut changes = Vec::new();
    let _all = walk::walk(&sides, options, |change| {
        changes.push(change);
        ControlFlow::Continue(())
    })?;
    renames::pair(&sides, options.same_numbers, &mut changes)?;
    changes.sort_by(|a, b| path_order(&a.path, &b.path));
    Ok(changes)
}

/// Whether anything differs: as [`compare`], but looks no further than to the first path that does.
pub fn differ(old: &dyn Side, new: &dyn Side, options: &Options) -> Result<bool, CompareError> {
    let found = walk::walk(&walk::Sides { old, new }, options, |_| ControlFlow::Break(()))?;
    Ok(found.is_break())
}
