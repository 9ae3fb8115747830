//! Mounting a FUSE file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::covering::{Covering, covering_mount};
use crate::unmount::{UnmountMode, unmount};
use crate::{MountIdentity, MountOptions, Mountpoint, SOURCE_PREFIX, helper, privilege, shown};

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
    #[error("not permitted to mount on {}: {reason}", shown(path))]
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
    #[error("{program} cannot mount on {}: {stderr}", shown(path))]
    HelperFailed {
        /// The program.
        program: PathBuf,
        /// The directory.
        path: PathBuf,
        /// What it said, made printable.
        stderr: String,
    },
    /// The directory opened is not the one that was mounted on.
    #[error("{} was replaced while it was being mounted on", shown(path))]
    Swapped {
        /// The directory.
        path: PathBuf,
    },
    /// A deadline passed.
    #[error("{what} on {} did not end in time", shown(path))]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// The directory.
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

impl MountError {
    /// What the user can do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoDevice => {
                "load the kernel's fuse module (modprobe fuse); in a container, pass the device in (--device /dev/fuse)"
            }
            Self::NoHelper => "install the fuse3 package (apt install fuse3), or mount as root",
            Self::NotPermitted { reason, .. } => helper::advice(reason),
            Self::HelperFailed { stderr, .. } => helper::advice(stderr),
            Self::Swapped { .. } => "mount on a directory that no other program changes",
            Self::TimedOut { .. } => {
                "try again; if it stays so, selvedge doctor says what mounting needs here"
            }
            Self::Io { .. } => "selvedge doctor says what mounting needs here and what is missing",
        }
    }
}

/// Mounts a FUSE file system of type `fuse.selvedge` on `point`: by system calls where the caller may, else with
/// the set-user-id helper, which must end before `deadline`.
///
/// `default_permissions` is always set. The mount is on exactly the directory that `point` holds, and that
/// directory still has the path it was opened by; otherwise nothing is left mounted.
pub fn mount_fuse(
    point: &Mountpoint,
    options: &MountOptions,
    deadline: Instant,
) -> Result<MountedFuse, MountError> {
    if privilege::may_mount() {
        direct(point, options, deadline)
    } else {
        helper::mount(point, options, deadline)
    }
}

/// Mounts by fsopen(2) and its kin. Unlike mount(2) they tell which mount was made, and attach it to a descriptor
/// instead of a path that somebody could swap.
fn direct(point: &Mountpoint, options: &MountOptions, deadline: Instant) -> Result<MountedFuse, MountError> {
    let device = open_device()?;
    let refused = |what| move |errno| refusal(point.path(), what, errno);
    let mount = detached(device.as_fd(), options).map_err(refused("make a mount for"))?;
    let covering = covering_mount(&mount).map_err(refused("identify the mount for"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&mount, c"", point, c"", flags).map_err(refused("mount on"))?;
    // The descriptor would keep the mount busy.
    drop(mount);
    let identity = identity(point.path(), covering);
    let found = identity.find().map_err(|error| io_error("find the mount at", point.path(), error));
    match found {
        Ok(Some(entry)) if entry.mount_point == point.path() => {
            Ok(MountedFuse { device, identity, via: Via::Direct })
        }
        other => {
            // Nobody can be using it: nothing has answered the kernel yet.
            let _ = unmount(&identity, UnmountMode::Force, deadline);
            Err(other.err().unwrap_or_else(|| MountError::Swapped { path: point.path().to_owned() }))
        }
    }
}

/// A mount that is attached nowhere, and gone when its descriptor is closed before it is attached.
fn detached(device: BorrowedFd<'_>, options: &MountOptions) -> Result<OwnedFd, Errno> {
    let context = fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    set("source", &source(options))?;
    set("subtype", "selvedge")?;
    set("fd", &device.as_raw_fd().to_string())?;
    // Only the type of file counts.
    set("rootmode", "40000")?;
    set("user_id", &rustix::process::getuid().as_raw().to_string())?;
    set("group_id", &rustix::process::getgid().as_raw().to_string())?;
    fsconfig_set_flag(&context, "default_permissions")?;
    if options.allow_other {
        fsconfig_set_flag(&context, "allow_other")?;
    }
    if options.read_only {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOSUID, !options.suid);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, !options.dev);
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, options.read_only);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn open_device() -> Result<OwnedFd, MountError> {
    const DEVICE: &str = "/dev/fuse";
    open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice,
        errno => refusal(Path::new(DEVICE), "open", errno),
    })
}

/// What stands in the mount table as the mount's source.
pub(crate) fn source(options: &MountOptions) -> String {
    format!("{SOURCE_PREFIX}{}", options.thread)
}

pub(crate) fn identity(path: &Path, covering: Covering) -> MountIdentity {
    let Covering { mount_id, unique_id, device } = covering;
    MountIdentity { mount_id, unique_id, device, path: path.to_owned() }
}

fn refusal(path: &Path, what: &'static str, errno: Errno) -> MountError {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            MountError::NotPermitted { path: path.to_owned(), reason: format!("cannot {what} it: {errno}") }
        }
        // The directory was removed after it had been opened.
        Errno::NOENT => MountError::Swapped { path: path.to_owned() },
        errno => io_error(what, path, errno.into()),
    }
}

pub(crate) fn io_error(what: &'static str, path: &Path, source: io::Error) -> MountError {
    MountError::Io { what, path: path.to_owned(), source }
}
