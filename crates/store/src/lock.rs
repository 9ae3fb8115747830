//! One process at a time works on a thread.

use crate::{Repository, ThreadId};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// An exclusive `flock` on the thread's lock file. A duplicate of the descriptor, in whatever
/// process, keeps the lock; it is freed when the last one is closed.
#[derive(Debug)]
pub struct ThreadLock {
    file: File,
}

/// Why a thread could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("the thread is in use{}", pid.map_or(String::new(), |pid| format!(" by process {pid}")))]
    Held {
        /// Who took it, as the lock file says.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("{}: cannot lock", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl ThreadLock {
    /// Takes the lock of a thread, or says at once who has it.
    pub fn try_acquire(repository: &Repository, thread: &ThreadId) -> Result<Self, LockError> {
        todo!()
    }
}

impl AsFd for ThreadLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<ThreadLock> for OwnedFd {
    fn from(lock: ThreadLock) -> Self {
        lock.file.into()
    }
}
