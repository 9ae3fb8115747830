//! Times of open files that the kernel keeps, and tells.
//!
//! Where the kernel holds writes back, a file was changed when a program wrote, not when the bytes come. The kernel tells
//! those times as it writes the file back, and the working file gets them. It does not wait for all bytes to be there
//! first; those that come later give the working file a later time. So what was told is remembered for as long as the
//! file is open, and holds again before the file is frozen, exported or let go of. After a death it does not: the later
//! times stay then, which tell whoever compares times of a change too many rather than too few.

use crate::attributes::set_mtime;
use crate::error::{Result, ViewError};
use crate::state::State;
use crate::view::View;
use selvedge_store::{Ino, Timestamp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The times of a file as the kernel has told them.
#[derive(Debug, Clone, Copy)]
struct Told {
    mtime: Timestamp,
    ctime: Timestamp,
    /// The working file was changed since.
    overtaken: bool,
}

/// The times of open files as the kernel has told them.
#[derive(Debug, Default)]
pub(crate) struct ToldTimes {
    /// Whether it ever told any, for those who need not look when it does not.
    any: AtomicBool,
    inner: Mutex<HashMap<Ino, Told>>,
}

impl ToldTimes {
    /// The kernel says when the file was changed last. The caller holds the tables.
    pub(crate) fn tell(&self, ino: Ino, mtime: Timestamp, ctime: Timestamp) {
        self.any.store(true, Ordering::Release);
        self.inner().insert(ino, Told { mtime, ctime, overtaken: false });
    }

    /// The working file was changed.
    pub(crate) fn overtake(&self, ino: Ino) {
        if self.any.load(Ordering::Acquire)
            && let Some(told) = self.inner().get_mut(&ino)
        {
            told.overtaken = true;
        }
    }

    /// When the content was changed last, if the kernel has said so.
    pub(crate) fn mtime(&self, ino: Ino) -> Option<Timestamp> {
        self.inner().get(&ino).map(|told| told.mtime)
    }

    /// Nobody has the file open any more.
    fn forget(&self, ino: Ino) {
        self.inner().remove(&ino);
    }

    fn overtaken(&self, ino: Ino) -> Option<Told> {
        self.inner().get(&ino).copied().filter(|told| told.overtaken)
    }

    fn all_overtaken(&self) -> Vec<Ino> {
        self.inner().iter().filter(|(_, told)| told.overtaken).map(|(ino, _)| *ino).collect()
    }

    fn inner(&self) -> MutexGuard<'_, HashMap<Ino, Told>> {
        // Whole at any point.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// Gives open files the times that the kernel has told of them, where bytes came later.
    ///
    /// # Errors
    /// When the disk fails or is full, or the view takes no changes.
    pub fn settle_times(&self) -> Result<()> {
        self.state().settle_all_times()
    }
}

impl State {
    /// As [`View::settle_times`].
    pub(crate) fn settle_all_times(&self) -> Result<()> {
        self.told.all_overtaken().into_iter().try_for_each(|ino| self.settle_times(ino))
    }

    /// Nobody has the file open any more: what the kernel has told of it holds.
    pub(crate) fn let_times_be(&self, ino: Ino) {
        if !self.told.any.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.settle_times(ino) {
            tracing::debug!(ino = ino.0, "a file keeps the times at which its bytes came: {error}");
        }
        self.told.forget(ino);
    }

    fn settle_times(&self, ino: Ino) -> Result<()> {
        if self.told.overtaken(ino).is_none() {
            return Ok(());
        }
        self.change(|change| {
            let Some(told) = self.told.overtaken(ino) else { return Ok(()) };
            let node = match change.node(ino) {
                Err(ViewError::NotFound) => return Ok(()),
                node => node?,
            };
            self.told.tell(ino, told.mtime, told.ctime);
            let mut row = change.row_of(&node)?;
            set_mtime(change, &mut row, told.mtime)?;
            row.ctime = told.ctime;
            change.commit.put(row);
            Ok(())
        })
    }
}
