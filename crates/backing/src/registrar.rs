//! Who tells the kernel.

use std::os::fd::BorrowedFd;

use crate::client::Helper;
use crate::error::BackingError;
use crate::sys;

/// Who tells the kernel which files it may pass through.
#[derive(Debug)]
pub enum Registrar {
    /// This process, which has the capability.
    Kernel,
    /// A program that has it.
    Helper(Helper),
}

impl Registrar {
    /// Has the kernel know an open file of the host by a number, under which replies on this connection may pass it through
    /// (`FUSE_DEV_IOC_BACKING_OPEN`).
    ///
    /// # Errors
    /// `EPERM` without the capability, `ELOOP` where the file's file system is stacked too deep.
    pub fn open(&self, connection: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32, BackingError> {
        match self {
            Self::Kernel => sys::open_backing(connection, file).map_err(BackingError::Kernel),
            Self::Helper(helper) => helper.open(connection, file),
        }
    }

    /// Lets go of such a number (`FUSE_DEV_IOC_BACKING_CLOSE`). The kernel keeps the file for as long as somebody has it
    /// open.
    ///
    /// # Errors
    /// `ENOENT` if nobody has given the number out, or it has been let go of.
    pub fn close(&self, connection: BorrowedFd<'_>, id: u32) -> Result<(), BackingError> {
        match self {
            Self::Kernel => sys::close_backing(connection, id).map_err(BackingError::Kernel),
            Self::Helper(helper) => helper.close(connection, id),
        }
    }

    /// Why no more files can be registered, if that has turned out since.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Helper(helper) if helper.is_given_up() => {
                Some(format!("the helper {} does not answer", helper.program().display()))
            }
            Self::Kernel | Self::Helper(_) => None,
        }
    }
}
