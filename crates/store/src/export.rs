//! From a tree, a snapshot's or a live thread's, to a host directory.

mod content;
mod host_file;
mod meta;
mod remove;
mod snapshot;
mod source;
mod walk;

pub use host_file::HostFile;
pub use snapshot::{SnapshotSource, StoredFile};
pub use source::{FileReader, Node, Shape, Source, SourceError};

use selvedge_mountpoint::shown;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use walk::Walk;

/// How to export.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// Makes the destination equal to the tree, where it otherwise must be empty.
    pub delete: bool,
}

/// How far an export is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Names done so far.
    pub files: u64,
    /// Bytes of file content done, written or found equal.
    pub bytes: u64,
}

/// What an export came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Names below the root, directories included.
    pub files: u64,
    /// Bytes of their content, each hard-linked file counted once.
    pub bytes: u64,
    /// What was neither entered nor removed: the destination's own `.selvedge`, and mounts. What
    /// the tree has in their place is not written.
    pub skipped: Vec<PathBuf>,
    /// What got another owner than the tree says, because the caller may not give files away.
    pub owner_lost: Vec<PathBuf>,
    /// What lacks extended attributes that the destination or the caller's rights do not allow.
    pub xattrs_lost: Vec<PathBuf>,
}

/// Why an export ended early. Files under their final names are whole.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The destination holds something and `delete` was not asked for.
    #[error("the destination is not empty")]
    NotEmpty,
    /// Something in the destination cannot be read or written.
    #[error("{}: {what}", shown(path))]
    Destination {
        /// What, relative to the destination.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The tree cannot be read.
    #[error("{}: cannot read the tree", shown(path))]
    Source {
        /// What, relative to the tree's root.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: SourceError,
    },
}

/// Writes `source` into the directory `dest`, which gets the attributes of the tree's root.
///
/// Everything is reached by descriptor from `dest`; no symlink is followed and no other mount
/// entered. A file appears under its name only when it is whole. What goes from a live tree before
/// it is read is left out. `progress` is called several times a second, also while one file is
/// written, compared or removed.
pub fn export(
    source: &dyn Source,
    dest: OwnedFd,
    options: &ExportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<ExportReport, ExportError> {
    let walk = Walk::new(source, dest, progress)?;
    if !options.delete {
        walk.check_empty()?;
    }
    walk.run()
}
