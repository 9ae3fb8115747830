//! The allocator that keeps request buffers in memory.

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
