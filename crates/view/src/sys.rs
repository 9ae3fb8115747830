//! The unsafe calls of this crate.

use rusqlite::{Connection, ffi};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Names the signal that tells of somebody who opens a leased file (`F_SETSIG` of fcntl(2), which the C library's
/// bindings leave out).
const SET_SIGNAL: libc::c_int = 10;

/// Whether this descriptor, open for reading and writing, is the only one of its file, mappings counted: the host gives
/// a write lease to nobody else (fcntl(2)).
///
/// # Errors
/// When the host gives no leases on such files.
pub(crate) fn is_alone(file: &File) -> io::Result<bool> {
    // Should anybody open the file in this instant, the host says so by a signal; this one is ignored by default.
    fcntl(file, SET_SIGNAL, libc::SIGURG)?;
    match fcntl(file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => {
            fcntl(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(true)
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the file is borrowed, and the commands above take an integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
/// The error number with which the host last failed a call of this database (`sqlite3_system_errno`); 0 if none did.
pub(crate) fn system_errno(db: &Connection) -> i32 {
    // SAFETY: the connection is open for as long as it is borrowed, and the call only reads a number of it.
    unsafe { ffi::sqlite3_system_errno(db.handle()) }
}

/// Words of a memory file, shared with whoever maps it too: what is stored in them outlives the process, without a system
/// call.
#[derive(Debug)]
pub struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is the value's own until it is dropped, whichever thread has it, and consists of atomics.
unsafe impl Send for Words {}
// SAFETY: as above; all access is through shared references to atomics.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `count` words of `memory`, from the byte `offset` on, which begins a page. The file must have them all, and be
    /// sealed against getting shorter.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map(memory: &File, offset: u64, count: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let place =
            unsafe { mmap(std::ptr::null_mut(), count * size_of::<u64>(), access, flags, memory, offset) }?;
        let first = NonNull::new(place.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, count })
    }

    /// All of them.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins a page, is as long as that, readable and writable, and stays until the value is
        // dropped. Any bytes are words. Whoever else has the file may store into it at any time, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody borrows from it any more.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_else_has_a_file_open_is_seen() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        assert!(is_alone(&file).unwrap());
        for write in [false, true] {
            let other = File::options().read(true).write(write).open(&path).unwrap();
            assert!(!is_alone(&file).unwrap());
            drop(other);
            assert!(is_alone(&file).unwrap());
        }
    }
}
