//! Getting rid of a mount whose server is dead.

use std::time::Instant;

use crate::{MountIdentity, UnmountError};

/// What it took to get rid of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenDown {
    /// Nothing: it was not in the mount table.
    WasGone,
    /// An ordinary unmount.
    Unmounted,
    /// Its users were cut off; they keep dead descriptors.
    Detached,
}

/// Why a mount without a server is still there.
#[derive(Debug, thiserror::Error)]
#[error("the mount without a server at {path:?} cannot be removed: {source}")]
pub struct TakeDownError {
    /// Where it is mounted.
    pub path: std::path::PathBuf,
    /// The last attempt's failure.
    pub source: UnmountError,
}

/// Removes a mount whose server is dead and reaped: callers are freed, then it is unmounted, if need be
/// detached, with growing pauses between attempts until `deadline`. When this returns `Ok`, it is not in the
/// mount table.
pub fn take_down(mount: &MountIdentity, deadline: Instant) -> Result<TakenDown, TakeDownError> {
    let _ = (mount, deadline);
    todo!()
}
