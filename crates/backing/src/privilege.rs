//! The helper's capability: one, and only while it is used.

use std::io;

use rustix::process::{DumpableBehavior, getegid, geteuid, getgid, getuid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

/// What the process may do beyond what its caller may.
#[derive(Debug)]
pub(crate) struct Privilege(CapabilitySet);

impl Privilege {
    /// Gives everything away but the one capability, which stays out of force until it is wanted. Nothing that this process
    /// might execute gets anything, and nobody of the same user may look into it or steer it.
    ///
    /// # Errors
    /// When the process runs as somebody else than who started it: whose files those would be could be mistaken.
    pub(crate) fn keep_one() -> io::Result<Self> {
        if getuid() != geteuid() || getgid() != getegid() {
            return Err(io::Error::other("it is set-user-id, which it must not be"));
        }
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        set_no_new_privs(true)?;
        clear_ambient_capability_set()?;
        let kept = Self(capabilities(None)?.permitted & CapabilitySet::SYS_ADMIN);
        kept.put_in_force(CapabilitySet::empty())?;
        Ok(kept)
    }

    /// Does `work` with it.
    pub(crate) fn used<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        self.put_in_force(self.0)?;
        let done = work();
        self.put_in_force(CapabilitySet::empty())?;
        Ok(done)
    }

    fn put_in_force(&self, effective: CapabilitySet) -> io::Result<()> {
        let sets = CapabilitySets { effective, permitted: self.0, inheritable: CapabilitySet::empty() };
        Ok(set_capabilities(None, sets)?)
    }
}
