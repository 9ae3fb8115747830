//! Which mount a descriptor is on.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::Device;

/// `STATX_MNT_ID_UNIQUE` (Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The mount that a descriptor is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covering {
    /// Its number in the mount table.
    pub mount_id: u64,
    /// Its number that is never used again, where the kernel has one.
    pub unique_id: Option<u64>,
    /// The device number of its files.
    pub device: Device,
}

/// Which mount `fd` is on. Asks the kernel alone, so it answers for a hung or dead FUSE mount as well, given a
/// descriptor opened with `O_PATH`.
pub fn covering_mount<Fd: AsFd>(fd: Fd) -> Result<Covering, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let ask = |mask| statx(&fd, c"", flags, mask);
    let plain = ask(StatxFlags::MNT_ID)?;
    if plain.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return Err(Errno::NOSYS);
    }
    let unique = ask(MNT_ID_UNIQUE)?;
    let unique_id = (unique.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(unique.stx_mnt_id);
    let device = Device { major: plain.stx_dev_major, minor: plain.stx_dev_minor };
    Ok(Covering { mount_id: plain.stx_mnt_id, unique_id, device })
}
