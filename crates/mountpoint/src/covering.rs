//! Which mount a descriptor is on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;

use crate::Device;

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The mount that a descriptor is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covering {
    /// Its number in the mount table.
    pub mount_id: u64,
    /// Its number that is never used again, where the kernel has one and tells: not for another user's mount.
    pub unique_id: Option<u64>,
    /// The device number of its files.
    pub device: Device,
}

/// Which mount `fd` is on. Asks the kernel alone, so it answers for a hung or dead FUSE mount as well, given a
/// descriptor opened with `O_PATH`.
pub fn covering_mount<Fd: AsFd>(fd: Fd) -> Result<Covering, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let ask = |mask| statx(&fd, c"", flags, mask);
    // The number always comes; asking for anything by name is refused on another user's FUSE mount.
    let plain = ask(StatxFlags::empty())?;
    if plain.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS);
    }
    let unique_id = ask(MNT_ID_UNIQUE)
        .ok()
        .filter(|answer| answer.stx_mask & MNT_ID_UNIQUE.bits() != 0)
        .map(|answer| answer.stx_mnt_id);
    let device = Device { major: plain.stx_dev_major, minor: plain.stx_dev_minor };
    Ok(Covering { mount_id: plain.stx_mnt_id, unique_id, device })
}

/// The uppermost mount on `path`: opens the directory without looking into it.
pub(crate) fn covering_path(path: &Path) -> Result<Covering, Errno> {
    covering_mount(open_mountpoint(path)?)
}

/// Opens a mountpoint in the only way that does not ask its server.
pub(crate) fn open_mountpoint(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}
