//! Which mount it is.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::covering::{covering_mount, covering_path, open_mountpoint};
use crate::mountinfo::{self, MountEntry};

/// A device number, taken apart as the mount table shows it. The minor number of a FUSE mount names its
/// connection under `/sys/fs/fuse/connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number; 0 for file systems without a block device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// Whether it is of a file system that lies on a disk of this machine: neither on a network nor of ours. The mount
    /// table, which is long where there are many mounts, need not be read to know that.
    pub const fn is_of_a_disk(self) -> bool {
        self.major != 0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What tells a mount apart from any other that stands, or stood, at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountIdentity {
    /// Its number in the mount table; the kernel uses numbers again.
    pub mount_id: u64,
    /// Its number that is never used again (`STATX_MNT_ID_UNIQUE`, Linux 6.8), where known.
    pub unique_id: Option<u64>,
    /// The device number of its files.
    pub device: Device,
    /// Where it was mounted, absolute and without symbolic links.
    pub path: PathBuf,
}

impl MountIdentity {
    /// Whether `entry` is this mount, as far as the mount table tells.
    pub fn matches(&self, entry: &MountEntry) -> bool {
        entry.mount_id == self.mount_id && entry.device == self.device && entry.is_fuse()
    }

    /// The same with the number that is never used again, if this mount is the uppermost at its place and the kernel
    /// tells. Resolves the path, so nothing above the place may be a mount that hangs.
    #[must_use]
    pub fn with_unique_id(self) -> Self {
        let covering = covering_path(&self.path).ok().filter(|there| there.mount_id == self.mount_id);
        Self { unique_id: self.unique_id.or(covering.and_then(|there| there.unique_id)), ..self }
    }

    /// This mount's entry, if it is still in the mount table of this process's namespace. It may have been moved
    /// since.
    pub fn find(&self) -> io::Result<Option<MountEntry>> {
        Ok(mountinfo::by_id(self.mount_id)?.filter(|entry| self.matches(entry) && !self.is_successor(entry)))
    }

    /// Whether `entry` has only got this mount's numbers since: mount and device numbers are used again at once, so
    /// where mounts come and go, both may well belong to somebody else by now.
    fn is_successor(&self, entry: &MountEntry) -> bool {
        let Some(unique_id) = self.unique_id else { return false };
        let there = open_mountpoint(&entry.mount_point).and_then(covering_mount).ok();
        match there.filter(|there| there.mount_id == entry.mount_id).and_then(|there| there.unique_id) {
            Some(other) => other != unique_id,
            // Covered by another mount, or another user's, who alone may ask for that number: then the place has to
            // tell.
            None => entry.mount_point != self.path,
        }
    }
}
