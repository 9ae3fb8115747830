//! Attributes, kinds and times between the view and fuser.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use selvedge_store::{FileKind, Timestamp};
use selvedge_view::{Attr, SetTime};

/// Preferred size of I/O that `stat` shows: a page, as ext4 has it.
const BLOCK_SIZE: u32 = 4096;

/// Attributes as fuser wants them.
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The protocol has 32 bits, which hold every device number the kernel can form.
        rdev: u32::try_from(attr.rdev).unwrap_or(0),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The reply that lets the kernel remember that a name does not exist: an entry without a node.
pub(crate) fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A kind as fuser names it.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that the type bits of a `mknod` mode name; without any it is a regular file, as in mknod(2).
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::Regular),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// A time to set.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let seconds = Duration::from_secs(time.sec.unsigned_abs());
    let whole = if time.sec < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

/// Reads a time that fuser has taken from a request.
///
/// fuser forms a time before 1970 by subtracting the nanoseconds too, where the kernel means seconds rounded
/// down plus nanoseconds; taking the same two numbers apart again gives back what the kernel sent.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => {
            Timestamp { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() }
        }
        Err(before) => {
            let before = before.duration();
            let sec = 0_i64.checked_sub_unsigned(before.as_secs()).unwrap_or(i64::MIN);
            Timestamp { sec, nsec: before.subsec_nanos() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        // 1.2 s before 1970 is -2 s plus 800 ms; fuser reads the pair as -2.8 s.
        let from_fuser = UNIX_EPOCH - Duration::new(2, 800_000_000);
        let time = timestamp(from_fuser);
        assert_eq!(time, Timestamp { sec: -2, nsec: 800_000_000 });
        assert_eq!(system_time(time), UNIX_EPOCH - Duration::new(1, 200_000_000));
    }

    #[test]
    fn the_first_and_last_second_that_can_be_said_pass_unchanged() {
        for time in [Timestamp { sec: i64::MAX, nsec: 999_999_999 }, Timestamp { sec: 0, nsec: 1 }] {
            assert_eq!(timestamp(system_time(time)), time);
        }
        let first = Timestamp { sec: i64::MIN, nsec: 0 };
        assert_eq!(timestamp(system_time(first)), first);
    }

    #[test]
    fn kinds_come_from_the_type_bits() {
        assert_eq!(kind_of_mode(0o644), Some(FileKind::Regular));
        assert_eq!(kind_of_mode(libc::S_IFSOCK | 0o600), Some(FileKind::Socket));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
    }
}
