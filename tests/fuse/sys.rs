//! The exempt corner of these tests: memory mappings and calls that no safe interface has.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd as _;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `file` so that stores reach it.
    pub(crate) fn shared(file: &File, length: usize) -> Self {
        Self::new(file, length, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps the first `length` bytes of `file` for reading.
    pub(crate) fn read_only(file: &File, length: usize) -> Self {
        Self::new(file, length, ProtFlags::READ)
    }

    fn new(file: &File, length: usize, protection: ProtFlags) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) };
        Self { start: start.unwrap().cast(), length }
    }

    /// Writes stores to the file, and waits for it.
    pub(crate) fn sync(&self) {
        // SAFETY: the range is exactly this mapping.
        unsafe { msync(self.start.cast(), self.length, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped while `self` lives, and every bit pattern is a byte. The tests change the
        // file only between two looks at it.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; only `shared` mappings are ever borrowed mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// Memory as direct I/O wants it: `length` bytes that begin on a page.
pub(crate) fn aligned(length: usize) -> Mapping {
    let flags = MapFlags::PRIVATE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let start = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)
    };
    Mapping { start: start.unwrap().cast(), length }
}

/// `posix_fallocate(3)` of the first `length` bytes.
pub(crate) fn posix_fallocate(file: &File, length: i64) -> io::Result<()> {
    // SAFETY: the descriptor is open, and no memory is passed.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The ioctl behind lsattr(1), as one that no file here knows.
pub(crate) fn attribute_flags(file: &File) -> io::Result<i64> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the request writes at most one `long`, and `flags` is one.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) } {
        0 => Ok(flags),
        _ => Err(io::Error::last_os_error()),
    }
}
