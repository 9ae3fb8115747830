//! Mounting a FUSE file system.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use crate::{MountIdentity, MountOptions, Mountpoint};

/// A FUSE mount and the descriptor through which it is served.
///
/// Dropping it neither unmounts nor waits: the mount lives until it is unmounted, and answers ENOTCONN once no
/// descriptor is left.
#[derive(Debug)]
pub struct MountedFuse {
    /// The `/dev/fuse` descriptor, close-on-exec, on which no request has been read yet.
    pub device: OwnedFd,
    /// Which mount it is.
    pub identity: MountIdentity,
    /// How it was mounted.
    pub via: Via,
}

/// How a mount was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// By `mount(2)`.
    Direct,
    /// By the set-user-id program of the FUSE package.
    Helper,
}

/// Why there is no mount. What had been mounted before the failure has been unmounted again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel has no FUSE, or the device file is missing.
    #[error("there is no /dev/fuse: is the kernel's fuse module loaded?")]
    NoDevice,
    /// The caller may not mount there.
    #[error("not permitted to mount on {path:?}: {reason}")]
    NotPermitted {
        /// The directory.
        path: PathBuf,
        /// Why, and what would help.
        reason: String,
    },
    /// The caller may not mount by itself, and there is no program that would do it.
    #[error("neither fusermount3 nor fusermount is installed, which mounting without root needs")]
    NoHelper,
    /// That program refused.
    #[error("{program} cannot mount on {path:?}: {stderr}")]
    HelperFailed {
        /// The program.
        program: PathBuf,
        /// The directory.
        path: PathBuf,
        /// What it said, made printable.
        stderr: String,
    },
    /// The directory opened is not the one that was mounted on.
    #[error("{path:?} was replaced while it was being mounted on")]
    Swapped {
        /// The directory.
        path: PathBuf,
    },
    /// A deadline passed.
    #[error("{what} on {path:?} did not end in time")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Mounts a FUSE file system of type `fuse.selvedge` on `point`: with `mount(2)` where the caller may, else with
/// the set-user-id helper, which must end before `deadline`.
pub fn mount_fuse(
    point: &Mountpoint,
    options: &MountOptions,
    deadline: Instant,
) -> Result<MountedFuse, MountError> {
    let _ = (point, options, deadline);
    todo!()
}
