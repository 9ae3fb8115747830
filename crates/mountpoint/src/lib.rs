//! The kernel's mount table, seen and changed without ever asking a FUSE mount anything.
//!
//! A FUSE server that has read a request and does not answer hangs `stat`, `statfs`, `access` and every lookup
//! beneath its mount, and the process that asked cannot even exit. What does answer is
//! `/proc/self/mountinfo`, `open(O_PATH)` of the mountpoint itself and `statx(AT_STATX_DONT_SYNC)`; nothing
//! else is used here. They prove which mount it is, never that it works.

mod connection;
mod covering;
mod escape;
mod helper;
mod holders;
mod identity;
mod mount;
pub mod mountinfo;
mod options;
mod point;
mod privilege;
mod take_down;
mod unmount;

pub use connection::{AbortError, abort_connection};
pub use covering::{Covering, covering_mount};
pub use escape::{escape_for_print, shown};
pub use holders::{Hold, Holder, holders};
pub use identity::{Device, MountIdentity};
pub use mount::{MountError, MountedFuse, Via, mount_fuse};
pub use mountinfo::MountEntry;
pub use options::MountOptions;
pub use point::{Mountpoint, MountpointError};
pub use take_down::{TakeDownError, TakenDown, take_down};
pub use unmount::{UnmountError, UnmountMode, Unmounted, unmount};

/// The type under which our mounts stand in the mount table.
pub const FS_TYPE: &str = "fuse.selvedge";
/// What stands before the thread's name in a mount's source.
pub const SOURCE_PREFIX: &str = "selvedge:";
