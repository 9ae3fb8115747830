//! Locks in the runtime directory: files locked with `flock(2)`, which belong to an open file and thus can be
//! handed to a child with its descriptor, without a moment in which nobody holds them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use crate::error::{CliError, Result};
use crate::runtime::RuntimeDir;
use crate::ui::show;

/// The pause between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// A lock that this process holds, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum TryLockError {
    /// Another process holds it; which one, as the file says.
    Held(Option<u32>),
    /// The file cannot be made or locked.
    Failed(CliError),
}

impl Lock {
    /// Takes the lock `name`, or says at once who has it.
    pub fn try_take(runtime: &RuntimeDir, name: &str) -> Result<Self, TryLockError> {
        let failed = |errno: Errno| {
            let path = runtime.path().join(name);
            let error = CliError::io(format!("cannot lock {}", show(&path)), &errno.into());
            TryLockError::Failed(error.hint("check that you may write there and that the disk is not full"))
        };
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = openat(runtime.instance(), name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            let file = File::from(fd);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(TryLockError::Held(read_pid(&file))),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            // A file that was removed meanwhile excludes nobody.
            if is_linked(runtime, name, &file) {
                return Ok(Self { file });
            }
            // Nothing makes a directory come back in which files cannot be kept.
            if fstat(runtime.instance()).map_err(failed)?.st_nlink == 0 {
                return Err(failed(Errno::NOENT));
            }
        }
    }

    /// Takes the lock `name`, waiting until `deadline` for whoever has it; `None` if they keep it.
    pub fn take(runtime: &RuntimeDir, name: &str, deadline: Instant) -> Result<Option<Self>> {
        loop {
            match Self::try_take(runtime, name) {
                Ok(lock) => return Ok(Some(lock)),
                Err(TryLockError::Failed(error)) => return Err(error),
                Err(TryLockError::Held(_)) if Instant::now() >= deadline => return Ok(None),
                Err(TryLockError::Held(_)) => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Takes over the lock `name` from whoever started this process with it as the descriptor `fd`. `None` if that
    /// is something else.
    pub fn adopt(runtime: &RuntimeDir, name: &str, fd: OwnedFd) -> Option<Self> {
        let file = File::from(fd);
        // The lock is this very open file's, so locking it again succeeds; another's would be refused.
        let held = is_linked(runtime, name, &file)
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        held.then_some(Self { file })
    }

    /// Whether whoever opens `path` comes to this lock: neither it nor a directory above has been removed or moved.
    pub fn is_at(&self, path: &Path) -> bool {
        match (rustix::fs::lstat(path), fstat(self.file.as_fd())) {
            (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
            _ => false,
        }
    }

    /// Writes this process's number into the file, for messages.
    pub fn sign(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
    }

    /// The locked file, for a program that takes this process over.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The locked file, for a child that the lock is handed to.
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }
}

/// The process that holds the lock `name`, as the file says; `None` if nobody does.
pub fn holder(runtime: &RuntimeDir, name: &str) -> Option<u32> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(openat(runtime.instance(), name, flags, Mode::empty()).ok()?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => read_pid(&file),
        _ => None,
    }
}

fn is_linked(runtime: &RuntimeDir, name: &str, file: &File) -> bool {
    let named = statat(runtime.instance(), name, AtFlags::SYMLINK_NOFOLLOW);
    match (named, fstat(file.as_fd())) {
        (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
        _ => false,
    }
}

/// For messages only: the lock may have passed on since.
fn read_pid(file: &File) -> Option<u32> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
}
