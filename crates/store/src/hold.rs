//! Who relies on objects, and who removes them.
//!
//! An object that no thread reaches may be relied on all the same: by an import that has written it and has not moved
//! its thread yet, by one that found it there and did not write it again, by an export of a snapshot that was named
//! by its id. All of them hold this lock, shared, from before they first look at an object until a thread reaches
//! it or they have read it. Whoever removes objects has it alone.

use crate::Repository;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long objects may be removed by another process before whoever needs some gives up.
const REMOVAL: Duration = Duration::from_mins(2);

/// How often the lock is tried.
const RETRY: Duration = Duration::from_millis(5);

/// While this is kept, no process removes an object. It ends with the process, however that ends.
#[derive(Debug)]
#[must_use = "objects may be removed as soon as it is dropped"]
pub struct ObjectHold {
    _file: File,
}

/// Why objects could not be held, or not alone.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody else is at it for too long.
    #[error("{}", if *removing { "another process is still removing objects" } else { "another process is reading or writing objects" })]
    Busy {
        /// Whether it is removing them, or relies on them.
        removing: bool,
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

impl Repository {
    /// Keeps every object where it is. Waits, for a bounded time, while another process removes some.
    pub fn hold_objects(&self) -> Result<ObjectHold, HoldError> {
        self.lock_objects(FlockOperation::NonBlockingLockShared, REMOVAL)
    }

    /// Waits until no process relies on objects that no thread reaches, and lets none begin to.
    pub(crate) fn hold_objects_alone(&self, patience: Duration) -> Result<ObjectHold, HoldError> {
        self.lock_objects(FlockOperation::NonBlockingLockExclusive, patience)
    }

    fn lock_objects(&self, operation: FlockOperation, patience: Duration) -> Result<ObjectHold, HoldError> {
        let path = self.locks_dir().join("objects");
        let failed = |error: Errno| HoldError::Io { path: path.clone(), source: error.into() };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let deadline = Instant::now() + patience;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(ObjectHold { _file: file.into() }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Errno::WOULDBLOCK) => {
                    return Err(HoldError::Busy {
                        removing: operation == FlockOperation::NonBlockingLockShared,
                    });
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}
