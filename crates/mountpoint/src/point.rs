//! The directory to mount on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory that something is to be mounted on: opened once, so that nobody can put another in its place.
#[derive(Debug)]
pub struct Mountpoint {
    fd: OwnedFd,
    path: PathBuf,
    parent_mount: u64,
}

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountpointError {
    /// There is nothing at the path.
    #[error("{path:?} does not exist")]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The last component is a symbolic link.
    #[error("{path:?} is a symbolic link; give the directory itself")]
    IsSymlink {
        /// The path.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path:?} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Mounting would hide what is in it.
    #[error("{path:?} is not empty")]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// It is, or lies on, a Selvedge mount.
    #[error("{path:?} is on the Selvedge mount at {mount:?} ({what})")]
    OnFuse {
        /// The path.
        path: PathBuf,
        /// Where that mount is.
        mount: PathBuf,
        /// Its source, made printable.
        what: String,
    },
    /// The system refused.
    #[error("cannot {what} {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Mountpoint {
    /// Opens `path` for mounting on it. It must be an empty directory and not on a Selvedge mount, which is never
    /// asked anything. An unmounted path may be relative.
    pub fn open(path: &Path) -> Result<Self, MountpointError> {
        let _ = path;
        todo!()
    }

    /// The directory, absolute and without symbolic links, at the time it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the mount that the directory is on.
    pub const fn parent_mount(&self) -> u64 {
        self.parent_mount
    }
}

impl AsFd for Mountpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
