//! One process at a time works on a thread.

use crate::{Repository, ThreadId};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::shown;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
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
    #[error("{}: cannot lock", shown(path))]
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
        let path = repository.locks_dir().join(thread.to_string());
        let failed = |source| LockError::Io { path: path.clone(), source };
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file =
                rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
            let file = File::from(file);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(LockError::Held { pid: read_pid(&file) }),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(failed(error.into())),
            }
            // Whoever deleted the thread meanwhile removed the name; a lock without one excludes
            // nobody.
            if rustix::fs::fstat(&file).map_err(|e| failed(e.into()))?.st_nlink > 0 {
                // For messages only, so a full disk does not keep anybody from the thread.
                let _ = write_pid(&file);
                return Ok(Self { file });
            }
        }
    }

    /// Goes on with a lock that another process has taken and handed over, which is dead by now. Its descriptor is the
    /// lock, so at no time was the thread free.
    pub fn inherit(repository: &Repository, thread: &ThreadId, lock: OwnedFd) -> Result<Self, LockError> {
        let path = repository.locks_dir().join(thread.to_string());
        let failed = |source: io::Error| LockError::Io { path: path.clone(), source };
        let ours = rustix::fs::fstat(&lock).map_err(|e| failed(e.into()))?;
        let named = rustix::fs::stat(&path).map_err(|e| failed(e.into()))?;
        if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino) {
            return Err(failed(io::Error::other("the lock that was handed over is another's")));
        }
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { pid: None }),
            Err(error) => return Err(failed(error.into())),
        }
        let file = File::from(lock);
        write_pid(&file).map_err(failed)?;
        Ok(Self { file })
    }

    /// Frees the lock and removes its file, once the thread itself is gone.
    pub fn remove(self, repository: &Repository, thread: &ThreadId) -> Result<(), LockError> {
        let path = repository.locks_dir().join(thread.to_string());
        match rustix::fs::unlink(&path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(LockError::Io { path, source: error.into() }),
        }
    }
}

/// For messages only: the lock may have passed on to another process since.
fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..len]).ok()?.trim().parse().ok()
}

fn write_pid(file: &File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    // Written over, because what is cut off first may find no room again.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
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
