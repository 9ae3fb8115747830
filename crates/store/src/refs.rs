//! The threads' references and the inode numbers handed out: `refs.db`.

use crate::{LayerId, ObjectId, ThreadId, ThreadName};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A thread as `refs.db` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadRef {
    /// Its name, which a rename changes.
    pub name: ThreadName,
    /// Its identity, which nothing changes.
    pub id: ThreadId,
    /// The snapshot beneath its layers.
    pub snapshot: ObjectId,
    /// Its frozen layers, bottom first.
    pub layers: Vec<LayerId>,
    /// The layer it writes, once it has written anything.
    pub upper: Option<LayerId>,
    /// Counts the changes of this reference: what compare-and-set compares.
    pub revision: u64,
}

/// What a thread's reference is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewState {
    /// The snapshot beneath its layers.
    pub snapshot: ObjectId,
    /// Its frozen layers, bottom first.
    pub layers: Vec<LayerId>,
    /// The layer it writes.
    pub upper: Option<LayerId>,
}

/// Why a reference could not be read or moved.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    /// No such thread.
    #[error("no thread is named {name}")]
    NotFound {
        /// What was looked for.
        name: String,
    },
    /// The name is taken.
    #[error("a thread named {name} exists already")]
    Exists {
        /// The name.
        name: ThreadName,
    },
    /// The reference changed since it was read.
    #[error("thread {name} was changed by another command meanwhile")]
    Moved {
        /// The thread.
        name: ThreadName,
    },
    /// A row that makes no sense.
    #[error("{}: thread {name} is damaged: {reason}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The thread.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No inode numbers are left.
    #[error("{}: no inode numbers are left", path.display())]
    NumbersExhausted {
        /// The database file.
        path: PathBuf,
    },
    /// The database failed.
    #[error("{}: {what}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A random identity could not be made.
    #[error("no random numbers")]
    Random(#[source] std::io::Error),
}

/// The threads' references. Every change is one small transaction that is durable when the call
/// returns.
#[derive(Debug)]
pub struct Refs {
    path: PathBuf,
}

impl Refs {
    /// Opens `path`, which [`Self::create`] made.
    pub fn open(path: &Path) -> Result<Self, RefsError> {
        todo!()
    }

    /// The thread of that name.
    pub fn thread(&self, name: &ThreadName) -> Result<ThreadRef, RefsError> {
        todo!()
    }

    /// All threads, in the order of their names.
    pub fn threads(&self) -> Result<Vec<ThreadRef>, RefsError> {
        todo!()
    }

    /// Makes a thread without an upper.
    pub fn create_thread(
        &self,
        name: &ThreadName,
        snapshot: &ObjectId,
        layers: &[LayerId],
    ) -> Result<ThreadRef, RefsError> {
        todo!()
    }

    /// Moves a thread from the state that was read to a new one, or fails with
    /// [`RefsError::Moved`] if it is no longer in the former.
    pub fn update_thread(&self, expected: &ThreadRef, new: &NewState) -> Result<ThreadRef, RefsError> {
        todo!()
    }

    /// Gives a thread another name.
    pub fn rename_thread(&self, expected: &ThreadRef, name: &ThreadName) -> Result<ThreadRef, RefsError> {
        todo!()
    }

    /// Removes a thread. Its layers and objects stay until nothing reaches them.
    pub fn delete_thread(&self, expected: &ThreadRef) -> Result<(), RefsError> {
        todo!()
    }

    /// `count` inode numbers that were never handed out before and never will be again.
    pub fn reserve_numbers(&self, count: u64) -> Result<Range<u64>, RefsError> {
        todo!()
    }
}
