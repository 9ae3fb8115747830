//! Unmounting one particular mount.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::connection::abort_connection;
use crate::covering::{covering_mount, open_mountpoint};
use crate::helper::{self, Finished, HelperError};
use crate::{MountIdentity, privilege, shown};

/// How often a busy mount is tried again before it counts as busy.
const BUSY_RETRIES: u32 = 3;
/// The pause before each such attempt.
const BUSY_PAUSE: Duration = Duration::from_millis(3);

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
    #[error("{} is busy", shown(path))]
    Busy {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The caller may not.
    #[error("not permitted to unmount {}: {reason}", shown(path))]
    NotPermitted {
        /// Where it is mounted.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another mount lies over it.
    #[error("{} is covered by another mount", shown(path))]
    Covered {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The caller may not unmount by itself, and there is no program that would do it.
    #[error(
        "neither fusermount3 nor fusermount is installed, which unmounting {} without root needs",
        shown(path)
    )]
    NoHelper {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// That program refused.
    #[error("{program} cannot unmount {}: {stderr}", shown(path))]
    HelperFailed {
        /// The program.
        program: PathBuf,
        /// Where it is mounted.
        path: PathBuf,
        /// What it said, made printable.
        stderr: String,
    },
    /// A deadline passed.
    #[error("unmounting {} did not end in time", shown(path))]
    TimedOut {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", shown(path))]
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
///
/// Returns once it is out of this process's mount table. Copies in other mount namespaces, and descriptors that
/// are still open after [`Lazy`](UnmountMode::Lazy), keep its connection alive beyond that.
pub fn unmount(
    mount: &MountIdentity,
    mode: UnmountMode,
    deadline: Instant,
) -> Result<Unmounted, UnmountError> {
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| UnmountError::Io { what, path, source }
    };
    let Some(entry) = mount.find().map_err(io("find the mount at", &mount.path))? else {
        return Ok(Unmounted::Before);
    };
    let path = &entry.mount_point;
    let Some(top) = uppermost(mount, path)? else { return Ok(Unmounted::Before) };
    if mode == UnmountMode::Force {
        // Where there is no control file system, MNT_FORCE or the worker's end has to do.
        let _ = abort_connection(mount.device);
    }
    if privilege::may_mount() {
        by_system_call(top, path, mode)?;
    } else {
        by_helper(top, path, mode, deadline)?;
    }
    match mount.find().map_err(io("find the mount at", path))? {
        None => Ok(Unmounted::Now),
        Some(_) => Err(UnmountError::Busy { path: path.clone() }),
    }
}

/// The mountpoint, opened, if this mount is on top there; `None` if the mount is gone.
fn uppermost(mount: &MountIdentity, path: &Path) -> Result<Option<OwnedFd>, UnmountError> {
    let io = |what, errno: Errno| UnmountError::Io { what, path: path.to_owned(), source: errno.into() };
    let top = match open_mountpoint(path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(io("open", errno)),
    };
    let covering = covering_mount(&top).map_err(|errno| io("identify the mount at", errno))?;
    if covering.mount_id != mount.mount_id || covering.device != mount.device {
        let still = mount.find().map_err(|source| UnmountError::Io {
            what: "find the mount at",
            path: path.to_owned(),
            source,
        })?;
        return match still {
            Some(_) => Err(UnmountError::Covered { path: path.to_owned() }),
            None => Ok(None),
        };
    }
    // Another mount has got the same number since.
    let reused =
        mount.unique_id.is_some() && covering.unique_id.is_some() && covering.unique_id != mount.unique_id;
    Ok((!reused).then_some(top))
}

fn by_system_call(top: OwnedFd, path: &Path, mode: UnmountMode) -> Result<(), UnmountError> {
    let magic = format!("/proc/self/fd/{}", top.as_raw_fd());
    let result = match mode {
        UnmountMode::Plain => {
            // The descriptor itself would make the mount busy.
            drop(top);
            plainly(path)
        }
        UnmountMode::Lazy => rustix::mount::unmount(magic, UnmountFlags::DETACH),
        UnmountMode::Force => {
            match rustix::mount::unmount(&*magic, UnmountFlags::DETACH | UnmountFlags::FORCE) {
                // Only the initial user namespace's root may force.
                Err(Errno::PERM) => rustix::mount::unmount(magic, UnmountFlags::DETACH),
                other => other,
            }
        }
    };
    match result {
        // EINVAL and ENOENT: somebody else was faster.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(UnmountError::Busy { path: path.to_owned() }),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) => {
            Err(UnmountError::NotPermitted { path: path.to_owned(), reason: errno.to_string() })
        }
        Err(errno) => Err(UnmountError::Io { what: "unmount", path: path.to_owned(), source: errno.into() }),
    }
}

/// A program that some thread is just starting has copies of this process's descriptors until it executes, and
/// one of them may have been the descriptor closed here: what is busy for that reason is free in a moment.
fn plainly(path: &Path) -> Result<(), Errno> {
    for _ in 0..BUSY_RETRIES {
        match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) => thread::sleep(BUSY_PAUSE),
            other => return other,
        }
    }
    rustix::mount::unmount(path, UnmountFlags::NOFOLLOW)
}

fn by_helper(top: OwnedFd, path: &Path, mode: UnmountMode, deadline: Instant) -> Result<(), UnmountError> {
    drop(top);
    let path = path.to_owned();
    if helper::is_powerless() {
        return Err(UnmountError::NotPermitted { path, reason: helper::POWERLESS.to_owned() });
    }
    let Some(program) = helper::find() else { return Err(UnmountError::NoHelper { path }) };
    let lazy = mode != UnmountMode::Plain;
    match helper::unmount_path(&program, path.as_os_str(), lazy, deadline) {
        Ok(Finished { status, .. }) if status.success() => Ok(()),
        Ok(Finished { said, .. }) if said.contains("busy") => Err(UnmountError::Busy { path }),
        Ok(Finished { said, .. }) if said.contains("not permitted") || said.contains("Permission denied") => {
            Err(UnmountError::NotPermitted { path, reason: said })
        }
        // It looks at the mount table too: somebody else was faster, or it is another user's.
        Ok(Finished { said, .. }) if said.contains("not found in") || said.contains("not mounted") => Ok(()),
        Ok(Finished { said, .. }) => Err(UnmountError::HelperFailed { program, path, stderr: said }),
        Err(HelperError::TimedOut) => Err(UnmountError::TimedOut { path }),
        Err(HelperError::Io(source)) => Err(UnmountError::Io { what: "run fusermount on", path, source }),
    }
}
