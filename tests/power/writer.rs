//! A program that writes to a mount and keeps account of what it did.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where a writer is: all of its steps up to `durable` are on the disk, and none after `begun` has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) durable: u64,
    pub(crate) begun: u64,
}

/// A ledger that one thread keeps and another looks at.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    durable: AtomicU64,
    begun: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    /// Where the writer is now.
    pub(crate) fn look(&self) -> Ledger {
        Ledger { durable: self.durable.load(Ordering::SeqCst), begun: self.begun.load(Ordering::SeqCst) }
    }

    /// Asks the writer to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Begins a step, before its first system call.
    pub(crate) fn begin(&self, step: u64) {
        self.begun.store(step, Ordering::SeqCst);
    }

    /// All steps up to this one are on the disk: the call that says so has returned.
    pub(crate) fn durable(&self, step: u64) {
        self.durable.store(step, Ordering::SeqCst);
    }
}

/// A program with a directory of its own.
pub(crate) trait Writer: Send {
    /// Makes what it starts from, in the tree that is imported.
    fn furnish(&self, root: &Path);

    /// Works until it is told to end.
    fn write(&self, root: &Path, ledger: &Shared);

    /// What is wrong with its directory after a cut between these two moments.
    fn faults(&self, root: &Path, least: &Ledger, most: &Ledger) -> Vec<String>;
}
