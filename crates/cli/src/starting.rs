//! A mount that is still being made, which may be called off.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use selvedge_supervisor::Cancel;

use crate::error::{CliError, Result};
use crate::record::MountId;

/// A mount from its record to its end, as far as those are concerned who do not want it after all.
#[derive(Debug)]
pub struct Starting {
    id: MountId,
    cancel: Cancel,
    called_off: AtomicBool,
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Starting {
    /// A mount that is about to be made.
    pub fn new(id: MountId) -> Result<Self> {
        let cancel = Cancel::new().map_err(|error| CliError::io("cannot make an eventfd", &error))?;
        let called_off = AtomicBool::new(false);
        Ok(Self { id, cancel, called_off, ended: Mutex::new(false), changed: Condvar::new() })
    }

    /// Which mount.
    pub const fn id(&self) -> &MountId {
        &self.id
    }

    /// What ends the wait for its worker.
    pub const fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Calls it off. If its worker has become ready meanwhile, whoever makes the mount takes it down again.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Release);
        self.cancel.cancel();
    }

    /// Whether it was called off.
    pub fn was_called_off(&self) -> bool {
        self.called_off.load(Ordering::Acquire)
    }

    /// Tells those who wait that nothing is left of it.
    pub fn set_ended(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until nothing is left of it; `false` if `deadline` comes first.
    pub fn wait_ended(&self, deadline: Instant) -> bool {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            ended = self.changed.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
