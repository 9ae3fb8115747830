//! The unsafe calls of this crate.

use rusqlite::{Connection, ffi};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

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
