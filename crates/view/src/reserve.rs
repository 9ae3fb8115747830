//! Room kept back so that deleting works on a full disk.

use crate::error::{Result, ViewError};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Enough log for some two hundred deletions, after which their files' space is free.
const BYTES: u64 = 1 << 20;

/// A file of allocated, unused space beside the catalog. Deletions need room in the log before they can give any
/// back, and so does opening the catalog; without a reserve a full disk would stay full.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// `None` for a layer that is only read.
    file: Option<OwnedFd>,
    full: AtomicBool,
}

impl Reserve {
    /// The reserve of a layer in which nothing is changed: there is none.
    pub(crate) const fn none() -> Self {
        Self { file: None, full: AtomicBool::new(false) }
    }

    /// Opens the reserve of a layer, and fills it if there is room.
    pub(crate) fn open(layer_dir: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(layer_dir.join("reserve"), flags, Mode::from_raw_mode(0o600))
            .map_err(ViewError::host("open the layer's reserve"))?;
        let reserve = Self { file: Some(file), full: AtomicBool::new(false) };
        reserve.refill();
        Ok(reserve)
    }

    /// Does what must not fail for want of room: if the disk is full, once more with the reserve's.
    pub(crate) fn spend_on<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(error) if error.is_disk_full() && self.release() => attempt(),
            outcome => outcome,
        }
    }

    /// Gives the room to whoever needs it; tells whether there was any.
    pub(crate) fn release(&self) -> bool {
        let Some(file) = &self.file else { return false };
        self.full.swap(false, Ordering::AcqRel) && rustix::fs::ftruncate(file, 0).is_ok()
    }

    /// Takes the room back when there is some again. A disk that is still full, or one that cannot allocate
    /// ahead, leaves the thread without a reserve, as it would be without this file.
    pub(crate) fn refill(&self) {
        let Some(file) = &self.file else { return };
        if !self.full.load(Ordering::Acquire)
            && rustix::fs::fallocate(file, FallocateFlags::empty(), 0, BYTES).is_ok()
        {
            self.full.store(true, Ordering::Release);
        }
    }
}
