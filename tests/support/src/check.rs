//! What a test looks at from outside: the mount table and the process table.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use selvedge_mountpoint::{MountEntry, MountIdentity, covering_mount, mountinfo};

use crate::wait_until;

/// The uppermost mount on exactly `path`.
pub fn mount_of(path: &Path) -> Option<MountEntry> {
    mountinfo::at(path).unwrap().pop()
}

/// What tells the uppermost mount on `path` apart from all others, those included that get its numbers later:
/// beside other tests that is a matter of milliseconds.
pub fn identity_of(path: &Path) -> Option<MountIdentity> {
    let identity = mount_of(path)?.identity();
    let there = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let covering = covering_mount(&there).unwrap();
    (covering.mount_id == identity.mount_id)
        .then_some(MountIdentity { unique_id: covering.unique_id, ..identity })
}

/// Fails unless whoever goes to `path` arrives in a Selvedge mount: without this, a test of a mount may well be
/// a test of the directory beneath.
#[track_caller]
pub fn assert_inside(path: &Path) {
    let entry = mount_of(path).unwrap_or_else(|| panic!("{} is no mountpoint", path.display()));
    assert!(entry.is_selvedge(), "{} is a mount of type {}", path.display(), entry.fs_type.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let there = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    let covering = covering_mount(&there).unwrap();
    assert_eq!(covering.mount_id, entry.mount_id);
    assert_eq!(covering.device, entry.device);
}

/// Fails if anything is mounted on `path`.
#[track_caller]
pub fn assert_no_mount(path: &Path) {
    let left = mountinfo::at(path).unwrap();
    assert!(left.is_empty(), "left in the mount table: {left:?}");
}

/// Fails unless the process is gone, reaped and all, within a few seconds.
#[track_caller]
pub fn assert_gone(pid: u32) {
    let status = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    wait_until(&format!("process {pid} to go: {:?}", status()), Duration::from_secs(10), || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
}
