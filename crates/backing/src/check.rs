//! What the helper registers: the whole of what stands between its caller and its capability.
//!
//! The kernel opens a registered file again for whoever opens a file of the mount, with the access that they want, and
//! asks nobody for permission. So the caller must have had all of that access: a descriptor for reading and writing,
//! which may write anywhere, of a file that is the caller's own.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, FsWord, OFlags, fcntl_getfl, fstat, fstatfs, major, minor};
use rustix::process::Uid;

use crate::error::Refusal;

/// `/dev/fuse` (`FUSE_MINOR` of the miscellaneous devices), wherever its node lies.
const DEVICE: (u32, u32) = (10, 229);

/// Kinds of file systems that hold files of users and take a write for what it is, whatever capabilities come with it. Kernel
/// interfaces that look like files do not; nor does FUSE belong here.
const FILE_SYSTEMS: [FsWord; 7] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // ZFS
];

/// Refuses what is no FUSE connection.
pub(crate) fn connection(fd: BorrowedFd<'_>) -> Result<(), Refusal> {
    let stat = fstat(fd).map_err(|_| Refusal::NotTheDevice)?;
    let device = (major(stat.st_rdev), minor(stat.st_rdev));
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && device == DEVICE;
    if is_device { Ok(()) } else { Err(Refusal::NotTheDevice) }
}

/// Refuses what `user` has not open for reading and writing, or does not own, or what is no file of a disk.
pub(crate) fn file(fd: BorrowedFd<'_>, user: Uid) -> Result<(), Refusal> {
    let flags = fcntl_getfl(fd).map_err(|_| Refusal::NotWritable)?;
    let unlimited = !flags.intersects(OFlags::PATH | OFlags::APPEND);
    let stat = fstat(fd).map_err(|_| Refusal::NotRegular)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::NotRegular);
    }
    if !unlimited || flags & OFlags::ACCMODE != OFlags::RDWR {
        return Err(Refusal::NotWritable);
    }
    if stat.st_uid != user.as_raw() {
        return Err(Refusal::NotOwn);
    }
    let kind = fstatfs(fd).map_err(|_| Refusal::FileSystem)?.f_type;
    if FILE_SYSTEMS.contains(&kind) { Ok(()) } else { Err(Refusal::FileSystem) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::process::getuid;

    use super::*;

    fn judge(open: &OpenOptions, path: &str) -> Result<(), Refusal> {
        file(open.open(path).unwrap().as_fd(), getuid())
    }

    fn both() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options
    }

    #[test]
    fn a_file_is_registered_only_for_its_owner_who_may_write_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(judge(&both(), path), Ok(()));
        assert_eq!(judge(OpenOptions::new().read(true), path), Err(Refusal::NotWritable));
        assert_eq!(judge(OpenOptions::new().write(true), path), Err(Refusal::NotWritable));
        assert_eq!(judge(both().append(true), path), Err(Refusal::NotWritable));
        let by_path = OFlags::PATH.bits().cast_signed();
        assert_eq!(
            judge(OpenOptions::new().read(true).custom_flags(by_path), path),
            Err(Refusal::NotWritable)
        );
        let other = Uid::from_raw(getuid().as_raw() + 1);
        assert_eq!(file(both().open(path).unwrap().as_fd(), other), Err(Refusal::NotOwn));
    }

    #[test]
    fn what_is_no_file_of_a_disk_is_not_registered() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_str().unwrap();
        assert_eq!(judge(OpenOptions::new().read(true), directory), Err(Refusal::NotRegular));
        assert_eq!(judge(&both(), "/dev/null"), Err(Refusal::NotRegular));
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(file(pipe.as_fd(), getuid()), Err(Refusal::NotRegular));
        assert_eq!(judge(&both(), "/proc/self/coredump_filter"), Err(Refusal::FileSystem));
    }

    #[test]
    fn another_device_is_no_connection() {
        let device = |path: &str| connection(File::open(path).unwrap().as_fd());
        assert_eq!(device("/dev/null"), Err(Refusal::NotTheDevice));
        assert_eq!(device("/"), Err(Refusal::NotTheDevice));
        assert_eq!(device("/dev/fuse"), Ok(()));
    }
}
