//! One worker, supervised.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use selvedge_worker_proto::{ErrorKind, ExportProgress, MountReady, SendError, StatusOk};

use crate::{ExitReport, SpawnError, SpawnSpec, State, StopError, StopMode, StopReport};

/// A running worker. All methods may be called from several threads at once. Dropping it ends the worker, by
/// force if need be, within a bounded time.
#[derive(Debug)]
pub struct Supervisor {
    ready: MountReady,
}

/// Why a worker did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// It did not answer in time.
    #[error("the worker did not answer within {} ms", waited.as_millis())]
    TimedOut {
        /// How long that was.
        waited: Duration,
    },
    /// It ended first, or had ended before.
    #[error("the worker has ended")]
    Ended,
    /// The command did not reach it.
    #[error("cannot reach the worker: {0}")]
    Send(#[from] SendError),
    /// It answered that it failed.
    #[error("{message}")]
    Failed {
        /// For programs.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// It answered something else.
    #[error("the worker talks nonsense: {0}")]
    Nonsense(String),
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportReport {
    /// Entries of the tree.
    pub files: u64,
    /// Bytes of file content in the tree.
    pub bytes: u64,
    /// What of the destination was neither entered nor removed, relative to it.
    pub skipped: Vec<PathBuf>,
}

impl Supervisor {
    /// Starts a worker and waits until its mount is ready.
    pub fn spawn(spec: SpawnSpec) -> Result<Self, SpawnError> {
        let _ = spec;
        todo!()
    }

    /// What the worker said when its mount was ready.
    pub const fn ready(&self) -> &MountReady {
        &self.ready
    }

    /// The worker's process id; after its end it may belong to another process.
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// Whether the process is there. Turns false before anything else learns of the end.
    pub fn is_alive(&self) -> bool {
        todo!()
    }

    /// Where the worker is in its life.
    pub fn state(&self) -> State {
        todo!()
    }

    /// Asks the worker how it is. Never delays [`stop`](Self::stop).
    pub fn status(&self, timeout: Duration) -> Result<StatusOk, CallError> {
        let _ = timeout;
        todo!()
    }

    /// Ends the worker: asks, then SIGTERM, then SIGKILL, then takes the mount down. Any number of calls, also
    /// after the end, get the same report.
    pub fn stop(&self, mode: StopMode) -> Result<StopReport, StopError> {
        let _ = mode;
        todo!()
    }

    /// Waits for the worker's end, however it comes; `None` if `deadline` passes first.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<ExitReport> {
        let _ = deadline;
        todo!()
    }

    /// A channel that gets the report of the worker's end, once, at once if it has ended already.
    pub fn exit_events(&self) -> mpsc::Receiver<ExitReport> {
        todo!()
    }

    /// Lets the worker write its thread's tree into the directory `dest`. Fails if nothing is heard of it for
    /// `idle`.
    pub fn export(
        &self,
        dest: OwnedFd,
        delete: bool,
        idle: Duration,
        progress: &mut dyn FnMut(ExportProgress),
    ) -> Result<ExportReport, CallError> {
        let _ = (dest, delete, idle, progress);
        todo!()
    }
}
