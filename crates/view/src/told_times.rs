//! Times of open files that the kernel keeps, and tells.
//!
//! Where the kernel holds writes back, a file was changed when a program wrote, not when the bytes come. The kernel tells
//! those times as it writes the file back, unless they are what it was told of the file, and the working file gets them. It
//! does not wait for all bytes to be there first; those that come later give the working file a later time. So what was
//! told, by it or to it, is remembered for as long as the file is open, and holds again before the file is frozen, exported
//! or let go of. After a death, or where the kernel is cut off, it does not: the later times stay then, which tell whoever
//! compares times of a change too many rather than too few.

use crate::attr::Attr;
use crate::attributes::set_mtime;
use crate::error::{Result, ViewError};
use crate::state::State;
use crate::view::View;
use foldhash::HashMap;
use selvedge_store::{Ino, Timestamp};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The times of a file as the kernel knows them.
#[derive(Debug, Clone, Copy)]
struct Told {
    mtime: Timestamp,
    ctime: Timestamp,
    /// The working file was changed since.
    overtaken: bool,
}

/// The times of open files as the kernel knows them.
#[derive(Debug)]
pub(crate) struct ToldTimes {
    /// Whether the kernel keeps times: else there are none here.
    kept: bool,
    inner: Mutex<HashMap<Ino, Told>>,
}

impl ToldTimes {
    /// None yet; there will be some if the kernel keeps times.
    pub(crate) fn new(kept: bool) -> Self {
        Self { kept, inner: Mutex::default() }
    }

    /// The kernel says when the file was changed last. The caller holds the tables.
    pub(crate) fn tell(&self, ino: Ino, mtime: Timestamp, ctime: Timestamp) {
        if self.kept {
            self.inner().insert(ino, Told { mtime, ctime, overtaken: false });
        }
    }

    /// The working file was changed.
    pub(crate) fn overtake(&self, ino: Ino) {
        if self.kept
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
    /// Gives open files the times that the kernel knows of them, where bytes came later. It has just told what it had to
    /// tell: else a file that was changed could seem older than the change.
    ///
    /// # Errors
    /// When the disk fails or is full, or the view takes no changes.
    pub fn settle_times(&self) -> Result<()> {
        let state = self.state();
        state.told.all_overtaken().into_iter().try_for_each(|ino| state.settle_times(ino))
    }
}

impl State {
    /// An open file is going to be changed by bytes that come later than the change: what its times are now is what the kernel
    /// knows, unless it has told others.
    pub(crate) fn keep_times(&self, ino: Ino) -> Result<()> {
        if !self.told.kept || self.told.inner().contains_key(&ino) {
            return Ok(());
        }
        let node = match self.node(ino) {
            Err(ViewError::NotFound) => return Ok(()),
            node => node?,
        };
        let Attr { mtime, ctime, .. } = self.attr(&node)?;
        self.told.inner().entry(ino).or_insert(Told { mtime, ctime, overtaken: false });
        Ok(())
    }

    /// Nobody has the file open any more: what the kernel knows of it holds.
    pub(crate) fn let_times_be(&self, ino: Ino) {
        if !self.told.kept {
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
            if (row.mtime, row.ctime) == (told.mtime, told.ctime) {
                return Ok(());
            }
            set_mtime(change, &mut row, told.mtime)?;
            row.ctime = told.ctime;
            change.commit.put(row);
            Ok(())
        })
    }
}
