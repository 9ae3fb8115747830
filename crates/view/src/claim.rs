//! Who may write a layer's catalog.

use crate::error::{Result, ViewError};
use crate::layers::open_directory;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another process may take to bring a layer in order.
const CLAIM_DEADLINE: Duration = Duration::from_secs(10);
const CLAIM_RETRY: Duration = Duration::from_millis(2);

/// A layer's directory, locked. A layer that is written has one process that has it open, alone; a frozen one may be
/// read by any number, which keeps others from removing it. A frozen layer may be shared by threads, whose locks say
/// nothing of each other.
#[derive(Debug)]
pub(crate) struct Claim {
    _directory: OwnedFd,
}

impl Claim {
    /// Waits until nobody else has the layer: a process that brings its log into its catalog, which takes
    /// milliseconds.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        Self::lock(directory, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until nobody has the layer alone.
    pub(crate) fn share(directory: &Path) -> Result<Self> {
        Self::lock(directory, FlockOperation::NonBlockingLockShared)
    }

    /// The layer alone, if nobody has it.
    pub(crate) fn if_free(directory: &Path) -> Option<Self> {
        let fd = open_directory(directory).ok()?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Self { _directory: fd })
    }

    fn lock(directory: &Path, operation: FlockOperation) -> Result<Self> {
        let fd = open_directory(directory)?;
        let deadline = Instant::now() + CLAIM_DEADLINE;
        loop {
            match rustix::fs::flock(&fd, operation) {
                Ok(()) => return Ok(Self { _directory: fd }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(CLAIM_RETRY),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(ViewError::host("wait for a process that has the layer open")(error));
                }
            }
        }
    }
}
