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

/// The right to open a layer's catalog for writing, by one process at a time, for as long as it is kept. A frozen
/// layer may be shared by threads, whose locks say nothing of each other.
#[derive(Debug)]
pub(crate) struct Claim {
    _directory: OwnedFd,
}

impl Claim {
    /// Waits for whoever has it: a process that reads a log into its catalog, which takes milliseconds.
    pub(crate) fn take(directory: &Path) -> Result<Self> {
        let fd = open_directory(directory)?;
        let deadline = Instant::now() + CLAIM_DEADLINE;
        loop {
            match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
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
