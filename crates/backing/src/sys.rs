//! The exempt corner: what safe interfaces cannot say.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl, opcode};

/// `FUSE_DEV_IOC_MAGIC`.
const MAGIC: u8 = 229;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// `FUSE_DEV_IOC_BACKING_OPEN`, whose return value is the number.
struct Open(BackingMap);

// SAFETY: the request takes a pointer to a `fuse_backing_map`, which this is, and which the kernel only reads; what it
// returns is a number.
unsafe impl Ioctl for Open {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<BackingMap>(MAGIC, 1)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(number: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        Ok(number.cast_unsigned())
    }
}

/// Has the kernel know an open file of the host by a number, under which replies on this connection may pass it through.
pub(crate) fn open_backing(connection: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let open = Open(BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 });
    // SAFETY: as said above, and the kernel keeps no pointer.
    Ok(unsafe { ioctl(connection, open) }?)
}

/// Lets go of such a number (`FUSE_DEV_IOC_BACKING_CLOSE`). The kernel keeps the file for as long as it has it open.
pub(crate) fn close_backing(connection: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    const BACKING_CLOSE: Opcode = opcode::write::<u32>(MAGIC, 2);
    // SAFETY: the request takes a pointer to a 32-bit number, which the kernel only reads.
    let close = unsafe { Setter::<BACKING_CLOSE, u32>::new(id) };
    // SAFETY: as above.
    Ok(unsafe { ioctl(connection, close) }?)
}
