//! Ending a worker.

use std::time::Duration;

use selvedge_worker_proto::{Failure, StopRefused};

use crate::ExitReport;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Leave a busy mount as it is. A worker that does not even answer is ended nevertheless.
    Orderly,
    /// End a busy mount too.
    Force,
}

/// The steps of ending a worker, each tried when the one before did not help within the grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It was not asked: it ended by itself.
    None,
    /// The command `Stop`.
    Ask,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

impl Step {
    /// What is tried next; after the last step, that one again.
    pub(crate) const fn next(self) -> Self {
        match self {
            // A worker that ends unasked, or cannot be asked, has nothing to gain from being asked.
            Self::None | Self::Ask => Self::Terminate,
            Self::Terminate | Self::Kill => Self::Kill,
        }
    }
}

/// A worker that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// How it ended.
    pub exit: ExitReport,
    /// The last step that was needed.
    pub step: Step,
}

/// Why a worker has not ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// Its mount is busy; the worker goes on.
    #[error("{}", .0.message)]
    Busy(StopRefused),
    /// It could not unmount, and goes on.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// Even SIGKILL did not end it: it waits for something in the kernel.
    #[error("worker {pid} is still there {} ms after SIGKILL", waited.as_millis())]
    Unkillable {
        /// Its process id.
        pid: u32,
        /// How long that was waited for.
        waited: Duration,
    },
}
