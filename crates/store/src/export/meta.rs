//! Owner, mode, extended attributes and times of what was written.

use crate::attributes::{self, Attributes};
use crate::{FileKind, Meta};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The set-id bits, which make a program run as the file's owner or group.
const SET_ID: u32 = 0o6000;

/// What could not be had, because the caller or the file system does not allow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) owner: bool,
    pub(super) xattrs: bool,
}

/// Gives the file that `fd` is open on (`O_PATH` suffices, so that symlinks and devices are
/// reached too) the attributes that the tree has for it. What is right already is left alone, so
/// that a file without any difference keeps its time of change as well.
pub(super) fn apply(fd: BorrowedFd<'_>, meta: &Meta) -> Result<Lost, (&'static str, Errno)> {
    let look = || attributes::of_fd(fd).map_err(|error| ("cannot look at what was written", error));
    let found = look()?;
    let owner_kept = give_owner(fd, &found, meta).map_err(|error| ("cannot set the owner", error))?;
    let xattrs_kept = give_xattrs(fd, meta).map_err(|error| ("cannot set extended attributes", error))?;
    // Another's program must not become one that runs as the caller.
    let mode = if owner_kept { meta.mode } else { meta.mode & !SET_ID };
    // A new owner clears the set-id bits, an access list sets the group's.
    let found = look()?;
    if found.kind != FileKind::Symlink && found.mode != mode {
        rustix::fs::chmod(link(fd), Mode::from_bits_retain(mode))
            .map_err(|error| ("cannot set the mode", error))?;
    }
    if found.mtime != meta.mtime {
        give_times(fd, meta).map_err(|error| ("cannot set the times", error))?;
    }
    Ok(Lost { owner: !owner_kept, xattrs: !xattrs_kept })
}

/// Opens `name` in `directory` for [`apply`].
pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn give_owner(fd: BorrowedFd<'_>, found: &Attributes, meta: &Meta) -> Result<bool, Errno> {
    if (found.uid, found.gid) == (meta.uid, meta.gid) {
        return Ok(true);
    }
    let change = |uid, gid| rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH);
    let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
    match change(uid.filter(|_| found.uid != meta.uid), gid) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) => {
            // The group may be one of the caller's own.
            let _ = change(None, gid);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes the extended attributes equal; tells whether all could be had.
fn give_xattrs(fd: BorrowedFd<'_>, meta: &Meta) -> Result<bool, Errno> {
    let path = link(fd);
    let found = attributes::xattrs_of_path(path.as_bytes())?;
    let mut all = true;
    for (name, _) in found.iter().filter(|(name, _)| meta.xattrs.get(name).is_none()) {
        // What the system puts on every file by itself it may not let go.
        match rustix::fs::removexattr(path.as_str(), name) {
            Ok(()) | Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    for (name, value) in meta.xattrs.iter().filter(|(name, value)| found.get(name) != Some(value)) {
        match rustix::fs::setxattr(path.as_str(), name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => all = false,
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn give_times(fd: BorrowedFd<'_>, meta: &Meta) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.mtime.sec, tv_nsec: meta.mtime.nsec.into() },
    };
    rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
}

/// A path that leads to the open file itself, for system calls that take no `O_PATH` descriptor.
fn link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
