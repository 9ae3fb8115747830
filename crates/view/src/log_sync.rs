//! Makes commits durable: one fdatasync of the catalog's journal for all who wait.

use crate::crash;
use crate::error::{Result, ViewError};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
struct State {
    durable: u64,
    leader: bool,
    /// A sync failed. The kernel tells of lost pages once, so a second try would succeed and mean nothing.
    failed: bool,
}

/// Counts commits and syncs the journal that holds them, or held them: what it holds no more, the catalog's file has,
/// durable.
#[derive(Debug)]
pub(crate) struct LogSync {
    journal: OwnedFd,
    /// Of the journal, whose name in it may be new.
    directory: OwnedFd,
    committed: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

impl LogSync {
    /// For the journal behind `journal`, all of whose present content may be volatile, as may its name in `directory`.
    pub(crate) fn new(journal: OwnedFd, directory: OwnedFd) -> Self {
        Self {
            journal,
            directory,
            committed: AtomicU64::new(1),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Takes note of a commit; called after it is in the journal and before anybody learns of it.
    pub(crate) fn committed(&self) {
        self.committed.fetch_add(1, Ordering::Release);
    }

    /// Returns when every commit made before the call is durable. One caller syncs for all that wait.
    pub(crate) fn sync(&self) -> Result<()> {
        let wanted = self.committed.load(Ordering::Acquire);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.durable < wanted {
            if state.failed {
                return Err(ViewError::Latched("an earlier sync of the catalog's journal failed".to_owned()));
            }
            if state.leader {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.leader = true;
            let is_first = state.durable == 0;
            drop(state);
            let covered = self.committed.load(Ordering::Acquire);
            crash::point("sync.before");
            let result = rustix::fs::fdatasync(&self.journal)
                .and_then(|()| if is_first { rustix::fs::fsync(&self.directory) } else { Ok(()) });
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.leader = false;
            match result {
                Ok(()) => state.durable = state.durable.max(covered),
                Err(_) => state.failed = true,
            }
            self.changed.notify_all();
            result.map_err(ViewError::host("fdatasync of the catalog's journal"))?;
        }
        Ok(())
    }
}
