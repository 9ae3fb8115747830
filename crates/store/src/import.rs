//! From a host directory to a snapshot.

use crate::{ObjectId, RefsError, Repository, StoreError};
use globset::GlobSet;
use std::io;
use std::path::{Path, PathBuf};

/// What to import, and how.
#[derive(Debug)]
pub struct ImportOptions<'a> {
    /// The directory.
    pub source: &'a Path,
    /// What to leave out: matched against paths relative to `source`.
    pub exclude: &'a GlobSet,
    /// The snapshot's message.
    pub message: &'a [u8],
    /// The snapshot this import follows: its parent, whose unchanged files are not read again and
    /// whose inode numbers stay.
    pub previous: Option<ObjectId>,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Names seen so far.
    pub found: u64,
    /// Names that are done.
    pub files: u64,
    /// Bytes of file content done, read or known unchanged.
    pub bytes: u64,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// The snapshot. No thread points at it yet.
    pub snapshot: ObjectId,
    /// Names captured below the root, directories included.
    pub files: u64,
    /// Bytes of their content, each hard-linked file counted once.
    pub bytes: u64,
    /// Bytes of content the store did not have before.
    pub new_bytes: u64,
    /// Mounts inside the source, captured as empty directories: relative to it, in order.
    pub skipped_mounts: Vec<PathBuf>,
    /// Files that kept changing while they were read; what was read last is kept.
    pub changed: Vec<PathBuf>,
    /// Names that were gone before they could be read, and are left out.
    pub vanished: Vec<PathBuf>,
}

/// Why a directory could not be imported. Nothing refers to what was stored until then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The source is not there, or is no directory.
    #[error("{}: cannot import", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The source was removed while it was read.
    #[error("{}: the directory vanished while it was imported", path.display())]
    Vanished {
        /// The source.
        path: PathBuf,
    },
    /// Something in the source cannot be read.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// What, below the source.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The source holds something no snapshot can.
    #[error("{}: {reason}", path.display())]
    Unsupported {
        /// What, below the source.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// New inode numbers could not be had.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

/// Captures `options.source` as a snapshot. Only objects are written, and they are durable when
/// this returns; moving a thread to the snapshot is the caller's.
///
/// `progress` is called from several threads, at most some ten times a second each.
pub fn import(
    repository: &Repository,
    options: &ImportOptions<'_>,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<ImportReport, ImportError> {
    todo!()
}
