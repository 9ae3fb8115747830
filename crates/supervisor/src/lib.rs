//! Starts, watches and ends one worker process.
//!
//! No file-system code runs here: a worker that panics, is killed or hangs reaches its supervisor only as an
//! exit status or a passed deadline.

mod exit;
mod spec;
mod state;
mod stop;
mod supervisor;

pub use exit::{ExitReport, ExitStatus};
pub use spec::{DEFAULT_STOP_GRACE, SpawnError, SpawnSpec, WorkerProgram};
pub use state::State;
pub use stop::{Step, StopError, StopMode, StopReport};
pub use supervisor::{CallError, ExportReport, Supervisor};
