//! Looking for the repository that a directory belongs to.

use super::DIRECTORY_NAME;
use crate::FileKind;
use rustix::fs::{AtFlags, CWD, StatxFlags};
use selvedge_mountpoint::{MountEntry, mountinfo};
use std::path::{Path, PathBuf};

/// What looking for a repository came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// The directory that holds `.selvedge`.
    Found(PathBuf),
    /// There is none up to the root.
    Nowhere,
    /// There is none up to this directory, which belongs to another user: what is above it is not looked at.
    StoppedAt {
        /// The directory.
        directory: PathBuf,
        /// Its owner.
        owner: u32,
    },
}

pub(super) fn discover(start: &Path) -> Discovery {
    // Without the mount table nothing can be asked safely.
    let (Ok(start), Ok(mounts)) = (std::path::absolute(start), mountinfo::read()) else {
        return Discovery::Nowhere;
    };
    let user = rustix::process::geteuid().as_raw();
    for directory in start.ancestors() {
        // A FUSE server may be hung: even its root is left alone. The mountpoint's parent is not
        // its business any more.
        if is_fuse(&mounts, directory) {
            continue;
        }
        match stat(directory) {
            None => return Discovery::Nowhere,
            Some((_, owner)) if owner != user => {
                return Discovery::StoppedAt { directory: directory.to_owned(), owner };
            }
            Some(_) => {}
        }
        if let Some((FileKind::Directory, _)) = stat(&directory.join(DIRECTORY_NAME)) {
            return Discovery::Found(directory.to_owned());
        }
    }
    Discovery::Nowhere
}

/// Kind and owner, without asking a server that may have to be waited for.
fn stat(path: &Path) -> Option<(FileKind, u32)> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE | StatxFlags::UID).ok()?;
    Some((FileKind::from_mode(stat.stx_mode.into())?, stat.stx_uid))
}

/// Whether the mount that covers `path` is a FUSE mount, by the longest mountpoint above it, of
/// equals the last one made.
fn is_fuse(mounts: &[MountEntry], path: &Path) -> bool {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.mount_point));
    above.max_by_key(|mount| mount.mount_point.as_os_str().len()).is_some_and(MountEntry::is_fuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_decides_whether_a_directory_may_be_asked() {
        let table = b"1 0 8:0 / / rw - ext4 d rw\n\
            2 1 0:9 / /a rw - fuse.selvedge selvedge:x rw\n\
            3 2 8:1 / /a/b rw - ext4 d rw\n\
            4 1 0:8 / /c rw - ext4 d rw\n\
            5 4 0:7 / /c rw - fuseblk d rw\n";
        let mounts = mountinfo::parse_all(table);
        for (path, fuse) in
            [("/", false), ("/a", true), ("/a/x", true), ("/a/b/x", false), ("/ab", false), ("/c", true)]
        {
            assert_eq!(is_fuse(&mounts, Path::new(path)), fuse, "{path}");
        }
    }
}
