//! Starts, watches, replaces and ends the worker of one mount.
//!
//! No file-system code runs here: a worker that panics, is killed or hangs reaches its supervisor only as an
//! exit status or a passed deadline. Four threads serve a worker: the *reaper*, the only one that waits for the
//! process; the *reader* of its events; the reader of its *standard error*; and the *control* loop, which alone
//! decides, over one closed set of events. They share nothing but [`life::Life`], the answer to "how is it".
//! The control loop outlives its workers: with [`OnCrash::Recover`] one that dies gets a successor, which is handed
//! the escrow, descriptors that nobody here looks into. A worker whose supervisor is gone can be adopted by another
//! ([`Supervisor::adopt`]), which then stands where the first one stood; so can one whose supervisor's process is about to
//! become another program ([`Supervisor::hold`]). A worker that serves can be replaced by one of another program
//! ([`Supervisor::renew`]).

mod cancel;
mod control;
pub mod crash;
mod ending;
mod examine;
mod exit;
mod heartbeat;
mod heir;
mod held;
mod inquest;
mod launch;
mod life;
mod orphan;
mod process;
mod reaper;
mod renewal;
mod spawn;
mod spec;
mod state;
mod stderr;
mod stop;
mod succession;
mod supervisor;
#[expect(unsafe_code, reason = "what a pidfd tells of a process has no safe interface; argued there")]
mod sys;

pub use cancel::Cancel;
pub use exit::{ExitReport, ExitStatus};
pub use held::{Held, HoldError};
pub use life::Restart;
pub use orphan::Orphan;
pub use renewal::RenewError;
pub use spec::{
    DEFAULT_HANG_LIMIT, DEFAULT_RESTART_BUDGET, DEFAULT_STOP_GRACE, Herald, OnCrash, SpawnError, SpawnSpec,
    Successor, WorkerProgram,
};
pub use state::State;
pub use stop::{Step, StopError, StopMode, StopReport};
pub use supervisor::{CallError, ExportReport, Supervisor};
