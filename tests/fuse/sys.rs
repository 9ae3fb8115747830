//! The exempt corner of these tests: memory mappings and calls that no safe interface has.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd as _;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// Locks `file` for this open description of it alone, or says at once that another one has it.
#[allow(dead_code, reason = "the tests of recovery, which share this file, use it")]
pub(crate) fn lock_description(file: &File) -> io::Result<()> {
    let number = |constant| libc::c_short::try_from(constant).map_err(io::Error::other);
    let whole = libc::flock {
        l_type: number(libc::F_WRLCK)?,
        l_whence: number(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and the call only reads the structure.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A file in memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps the first `length` bytes of `file` so that stores reach it.
    pub(crate) fn shared(file: &File, length: usize) -> Self {
        Self::new(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    /// Maps the first `length` bytes of `file` so that stores stay here.
    pub(crate) fn private(file: &File, length: usize) -> Self {
        Self::new(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }

    /// Maps the first `length` bytes of `file` for reading.
    pub(crate) fn read_only(file: &File, length: usize) -> Self {
        Self::new(file, length, ProtFlags::READ, MapFlags::SHARED)
    }

    fn new(file: &File, length: usize, protection: ProtFlags, flags: MapFlags) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, 0) };
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
        // SAFETY: as above; only `shared` and `private` mappings are ever borrowed mutably here.
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

/// A handle of the file at `path`, opened again through `mount`: `name_to_handle_at(2)`, `open_by_handle_at(2)`.
pub(crate) fn reopen_by_handle(mount: &File, path: &std::path::Path) -> io::Result<File> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    use std::os::unix::ffi::OsStrExt as _;

    const MOST: u32 = 128;
    #[repr(C)]
    struct FileHandle {
        bytes: u32,
        kind: i32,
        handle: [u8; MOST as usize],
    }
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut handle = FileHandle { bytes: MOST, kind: 0, handle: [0; MOST as usize] };
    let mut mount_id: libc::c_int = 0;
    let pointer: *mut FileHandle = &raw mut handle;
    // SAFETY: the path ends in NUL; `handle` has the layout of `struct file_handle` and room for as many bytes as
    // it says; the call writes no more than that and one integer.
    let named = unsafe {
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), pointer.cast(), &raw mut mount_id, 0)
    };
    if named != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is the one that the kernel has just made, and the call only reads it.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), pointer.cast(), libc::O_RDONLY) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}
