//! Unmounting one particular mount.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use crate::MountIdentity;

/// How much is done to get rid of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnmountMode {
    /// Only if nobody uses it.
    Plain,
    /// Taken out of the name space now, out of the kernel when the last user is gone.
    Lazy,
    /// Its connection is ended, which frees every caller, and then as [`Lazy`](Self::Lazy).
    Force,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// By this call.
    Now,
    /// It was not in the mount table (any more).
    Before,
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmountError {
    /// Somebody uses it.
    #[error("{path:?} is busy")]
    Busy {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The caller may not.
    #[error("not permitted to unmount {path:?}: {reason}")]
    NotPermitted {
        /// Where it is mounted.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another mount lies over it.
    #[error("{path:?} is covered by another mount")]
    Covered {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The caller may not unmount by itself, and there is no program that would do it.
    #[error("neither fusermount3 nor fusermount is installed, which unmounting {path:?} without root needs")]
    NoHelper {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// That program refused.
    #[error("{program} cannot unmount {path:?}: {stderr}")]
    HelperFailed {
        /// The program.
        program: PathBuf,
        /// Where it is mounted.
        path: PathBuf,
        /// What it said, made printable.
        stderr: String,
    },
    /// A deadline passed.
    #[error("unmounting {path:?} did not end in time")]
    TimedOut {
        /// Where it is mounted.
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

/// Unmounts exactly this mount, wherever it has been moved, and nothing else that stands at its place.
pub fn unmount(
    mount: &MountIdentity,
    mode: UnmountMode,
    deadline: Instant,
) -> Result<Unmounted, UnmountError> {
    let _ = (mount, mode, deadline);
    todo!()
}
