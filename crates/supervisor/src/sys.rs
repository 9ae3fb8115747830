//! The system call that has no safe form: how a process ended that others have reaped.

use std::os::fd::{AsRawFd, BorrowedFd};

/// The status, as `wait(2)` gives it, of the process behind `pidfd`, once somebody has reaped it; `None` before, and on
/// kernels that do not tell (before Linux 6.15).
pub(crate) fn status_of_reaped(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: the structure is made of integers alone, for which zeros are values.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the request's number has the size of the structure that is pointed to, so the kernel writes no more than
    // that, and the pointer is valid and this function's alone for the call. What is no pidfd refuses the request.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}
