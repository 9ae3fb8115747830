//! The allocator that keeps request buffers in memory.

use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of file content in one request at most: the kernel's own limit (`fs.fuse.max_pages_limit` pages).
pub(crate) const MAX_WRITE: u32 = 1 << 20;

/// Allocations from this size on are buffers for requests: fuser's are 16 MiB, whatever `MAX_WRITE` says.
pub(crate) const BUFFER: usize = 16 << 20;

/// The part of such a buffer that requests reach: content, headers before it, and alignment.
pub(crate) const USED: usize = MAX_WRITE as usize + 8192;

/// The system's allocator, except that the used part of request buffers is made resident at once.
///
/// A SIGKILL that meets the kernel copying a request through a page that is not there yet ends that request
/// with EIO, and nobody sends it again. Buffers fresh from `calloc` are nothing but such pages.
///
/// Replies need no such care: they are written by this process before it hands them over.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResidentBuffers;

/// Set while buffers are made that no request of the kernel comes to.
static SPARED: AtomicBool = AtomicBool::new(false);

/// Runs `body`, whose buffers the kernel never sees: making them resident would take callers' time for nothing. No other
/// thread may make request buffers meanwhile.
pub(crate) fn without<T>(body: impl FnOnce() -> T) -> T {
    SPARED.store(true, Ordering::Relaxed);
    let done = body();
    SPARED.store(false, Ordering::Relaxed);
    done
}

/// Whether buffers that are made now are to be resident.
pub(crate) fn is_wanted() -> bool {
    !SPARED.load(Ordering::Relaxed)
}
