//! A `.selvedge/` directory as a whole.

mod check;
mod create;
mod discover;
mod sweep;

pub(crate) use check::network;

use crate::backend::{DEFAULT_LARGE_BLOB, LocalBackend};
use crate::{LayerId, Refs, RefsError, Store, StoreError};
pub use discover::Discovery;
use selvedge_mountpoint::shown;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the directory that is a repository.
pub const DIRECTORY_NAME: &str = ".selvedge";

/// The version of the on-disk format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// Whether [`Repository::init`] made the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was made now.
    New,
    /// It was there before, and is unchanged.
    Existing,
}

/// How to open a repository.
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions<'a> {
    /// Repositories of other owners, or writable by others, that the user trusts: the directories
    /// that hold `.selvedge`, as the user's own configuration lists them.
    pub safe: &'a [PathBuf],
    /// The size in bytes from which on contents that are stored become plain files, and do not go into the database.
    /// What is there already is read from either place.
    pub large_blob: u64,
}

impl Default for OpenOptions<'_> {
    fn default() -> Self {
        Self { safe: &[], large_blob: DEFAULT_LARGE_BLOB }
    }
}

/// Why a repository cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// There is none.
    #[error("{}: no Selvedge repository (there is no .selvedge directory in it)", shown(path))]
    NotFound {
        /// The directory looked into.
        path: PathBuf,
    },
    /// `.selvedge` is there, but is no repository.
    #[error("{}: not a Selvedge repository: {reason}", shown(path))]
    Invalid {
        /// The `.selvedge` directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Made by another version of the program.
    #[error("{}: the repository has format version {found}, this program knows version {known}", shown(path))]
    Format {
        /// The `.selvedge` directory.
        path: PathBuf,
        /// What the repository says.
        found: String,
        /// What this program reads.
        known: u32,
    },
    /// It belongs to another user and is not listed as safe.
    #[error("{}: the repository belongs to uid {owner}, not to you (uid {user})", shown(path))]
    ForeignOwner {
        /// The `.selvedge` directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The caller.
        user: u32,
    },
    /// Others may write it and it is not listed as safe.
    #[error("{}: the repository is writable by others (mode {mode:o})", shown(path))]
    WritableByOthers {
        /// The `.selvedge` directory, or what in it others may write.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It lies on a FUSE mount of ours.
    #[error("{}: the repository lies on a Selvedge mount", shown(path))]
    OnSelvedgeMount {
        /// The directory.
        path: PathBuf,
    },
    /// It lies on a file system where locks and shared memory between processes do not work.
    #[error("{}: the repository lies on a network file system ({file_system})", shown(path))]
    OnNetwork {
        /// The directory.
        path: PathBuf,
        /// What kind.
        file_system: String,
    },
    /// The caller may not write it, or the disk is read-only.
    #[error("{}: the repository cannot be written", shown(path))]
    Unwritable {
        /// The `.selvedge` directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{}: {what}", shown(path))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The objects cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The references cannot be opened.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

/// An open repository.
pub struct Repository {
    parent: PathBuf,
    path: PathBuf,
    store: Store,
    refs: Refs,
}

impl Repository {
    /// Makes `dir/.selvedge`, or opens it if it is there. Whole or not at all, also beside other
    /// processes that do the same.
    pub fn init(dir: &Path) -> Result<(Self, Created), RepositoryError> {
        let created = create::create(dir)?;
        Self::open(dir, &OpenOptions::default()).map(|repository| (repository, created))
    }

    /// Opens `dir/.selvedge`.
    pub fn open(dir: &Path, options: &OpenOptions<'_>) -> Result<Self, RepositoryError> {
        let place = check::check(dir, options)?;
        let store = Store::new(Arc::new(LocalBackend::open_with(&place.path, options.large_blob)?));
        let refs = Refs::open(&place.path.join("refs.db"))?;
        sweep::sweep_files(&place.path.join("tmp"));
        Ok(Self { parent: place.parent, path: place.path, store, refs })
    }

    /// The nearest directory at or above `start` that holds a `.selvedge`. The search ends at a
    /// directory of another owner, and passes over directories on FUSE mounts, which it asks
    /// nothing.
    pub fn discover(start: &Path) -> Discovery {
        discover::discover(start)
    }

    /// The directory that holds `.selvedge`, absolute.
    pub fn dir(&self) -> &Path {
        &self.parent
    }

    /// The `.selvedge` directory itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its threads.
    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    /// Where layers lie: `.selvedge/layers`.
    pub fn layers_dir(&self) -> PathBuf {
        self.path.join("layers")
    }

    /// Where the layer `id` lies, whether or not it exists.
    pub fn layer_dir(&self, id: &LayerId) -> PathBuf {
        self.layers_dir().join(id.to_string())
    }

    /// Where the threads' lock files lie: `.selvedge/locks`.
    pub fn locks_dir(&self) -> PathBuf {
        self.path.join("locks")
    }

    /// Where files are made before they are renamed into place: `.selvedge/tmp`.
    pub fn tmp_dir(&self) -> PathBuf {
        self.path.join("tmp")
    }

    /// The optional settings: `.selvedge/config.toml`.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }
}
