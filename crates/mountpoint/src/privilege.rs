//! What this process may do by itself.

use rustix::thread::{CapabilitySet, capabilities};

/// Whether this process may mount and unmount by system calls (`CAP_SYS_ADMIN`). Where that cannot be found
/// out, the helper is the way that may work.
pub(crate) fn may_mount() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}
