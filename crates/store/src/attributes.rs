//! What the host says about a file.

use crate::{FileKind, Timestamp, Xattrs};
use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A file's attributes as statx(2) tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) kind: FileKind,
    /// Device and inode number: which file it is.
    pub(crate) file: (u64, u64),
    /// The mount it was reached through.
    pub(crate) mount: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) rdev: u64,
}

/// The attributes of an open file.
pub(crate) fn of_fd(fd: impl AsFd) -> Result<Attributes, Errno> {
    ask(fd.as_fd(), b"", AtFlags::EMPTY_PATH)
}

/// The attributes of `name` in `directory`, itself if it is a symlink, and without waiting for any
/// server: the mount that `name` perhaps is may be hung.
pub(crate) fn of_name(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Attributes, Errno> {
    ask(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT)
}

/// As [`of_name`], but true to the moment on network file systems. Only for what is known to be on
/// no other mount.
pub(crate) fn of_name_now(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Attributes, Errno> {
    ask(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

fn ask(directory: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Attributes, Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(directory, name, flags, mask)?;
    // Only a file system that invents kinds of its own gets here.
    let kind = FileKind::from_mode(stat.stx_mode.into()).ok_or(Errno::OPNOTSUPP)?;
    Ok(from_statx(kind, &stat))
}

fn from_statx(kind: FileKind, stat: &Statx) -> Attributes {
    Attributes {
        kind,
        file: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        mount: stat.stx_mnt_id,
        mode: u32::from(stat.stx_mode) & crate::MODE_BITS,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        links: stat.stx_nlink,
        size: stat.stx_size,
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
    }
}

const fn time(stamp: &StatxTimestamp) -> Timestamp {
    Timestamp { sec: stamp.tv_sec, nsec: stamp.tv_nsec }
}

/// The extended attributes of an open file; none where the file system has none.
pub(crate) fn xattrs_of_fd(fd: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    collect(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// The extended attributes of `name` in `directory`, itself if it is a symlink.
pub(crate) fn xattrs_of_name(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, Errno> {
    // No system call takes the directory's descriptor for this.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    collect(
        |buffer| rustix::fs::llistxattr(&path[..], buffer),
        |name, buffer| rustix::fs::lgetxattr(&path[..], name, buffer),
    )
}

/// The extended attributes of what `path` leads to.
pub(crate) fn xattrs_of_path(path: &[u8]) -> Result<Xattrs, Errno> {
    collect(
        |buffer| rustix::fs::listxattr(path, buffer),
        |name, buffer| rustix::fs::getxattr(path, name, buffer),
    )
}

fn collect(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    // Most files have none, or few; the rest fits into what the kernel allows (XATTR_LIST_MAX).
    let mut few = [0; 256];
    let mut many = Vec::new();
    let names = match list(&mut few) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        Ok(len) => &few[..len],
        Err(Errno::RANGE) => {
            many.resize(64 * 1024, 0);
            let len = list(&mut many)?;
            &many[..len]
        }
        Err(error) => return Err(error),
    };
    let mut value = vec![0; Xattrs::MAX_VALUE];
    let mut xattrs = Xattrs::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match get(name, &mut value) {
            Ok(len) => {
                xattrs.insert(name.to_vec(), value[..len].to_vec());
            }
            // Removed meanwhile, or of a namespace that is listed but not ours to read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(xattrs)
}
