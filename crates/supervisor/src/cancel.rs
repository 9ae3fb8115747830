//! Calling off a start that somebody else waits for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

/// Calls off the start of a worker, from any thread and at any time: before, while, and, without effect, after it
/// is waited for. Copies are one and the same.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// Nothing is called off yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Calls the start off, for good.
    pub fn cancel(&self) {
        // Refused only when the counter is full, and then it is far from zero.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Cancel {
    /// Readable once the start was called off; nobody reads, so it stays so.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
