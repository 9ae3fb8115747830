//! What to start.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use selvedge_mountpoint::shown;
use selvedge_worker_proto::Failure;

use crate::{Cancel, ExitReport};

/// The grace between two steps of stopping, unless the specification says otherwise.
pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(2);

/// The worker's program.
#[derive(Debug)]
pub enum WorkerProgram {
    /// A file.
    Path(PathBuf),
    /// A file opened before: still the same program after the file is replaced or deleted.
    Fd(OwnedFd),
}

/// What becomes of a mount whose worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// A successor takes the connection over: whoever uses the mount waits a moment, and notices nothing.
    Recover,
    /// The mount is taken down, and its users are cut off.
    Unmount,
}

/// How many successors in a row may die before they have served anything, unless the specification says otherwise.
pub const DEFAULT_RESTART_BUDGET: u32 = 5;

/// How long a worker may hang before it is replaced, unless the specification says otherwise.
pub const DEFAULT_HANG_LIMIT: Duration = Duration::from_secs(30);

/// A worker that was started and has not been greeted yet: it does nothing before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Successor {
    /// Its process id.
    pub pid: u32,
    /// Whether the worker before it is still there, to be killed once this one has been greeted.
    pub follows: bool,
}

/// Who is told of each successor before it is greeted, so that whoever writes its number down knows of every worker that
/// may serve the mount. It is called by the thread that decides, which waits for it: it must not ask the supervisor to do
/// anything.
#[derive(Clone)]
pub struct Herald(Arc<dyn Fn(Successor) + Send + Sync>);

impl Herald {
    /// One that calls `tell`.
    pub fn new(tell: impl Fn(Successor) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(crate) fn tell(&self, successor: Successor) {
        (self.0)(successor);
    }
}

impl fmt::Debug for Herald {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Herald")
    }
}

/// A worker to start.
#[derive(Debug)]
pub struct SpawnSpec {
    /// The program.
    pub worker: WorkerProgram,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables set on top of this process's own.
    pub env: Vec<(OsString, OsString)>,
    /// The directory it shall mount on, absolute and without symbolic links: where to look for what a worker
    /// leaves behind that dies before it could say what it mounted.
    pub mount_point: PathBuf,
    /// How long it may take from start to `MountReady`.
    pub handshake_deadline: Duration,
    /// How long it may take from each step of stopping to the next.
    pub stop_grace: Duration,
    /// How long a worker that is at work on an orderly stop may take to write everything out before it is ended.
    pub flush_deadline: Duration,
    /// What calls the start off before the handshake has ended, if anything does.
    pub cancel: Option<Cancel>,
    /// What becomes of the mount if a worker dies.
    pub on_crash: OnCrash,
    /// How long a worker that may be replaced may answer nothing, or have a request that neither runs nor waits for the
    /// disk; then it is killed. `None`: for ever.
    pub hang_limit: Option<Duration>,
    /// How many successors in a row may die before they have served anything; then the mount is taken down.
    pub restart_budget: u32,
    /// Who is told of each successor, if anybody is.
    pub herald: Option<Herald>,
}

impl SpawnSpec {
    /// A specification with the default deadlines: 10 s for the handshake, [`DEFAULT_STOP_GRACE`], 30 s for
    /// flushing. A worker that dies has no successor.
    pub fn new(worker: WorkerProgram, mount_point: PathBuf) -> Self {
        Self {
            worker,
            args: Vec::new(),
            env: Vec::new(),
            mount_point,
            handshake_deadline: Duration::from_secs(10),
            stop_grace: DEFAULT_STOP_GRACE,
            flush_deadline: Duration::from_secs(30),
            cancel: None,
            on_crash: OnCrash::Unmount,
            hang_limit: Some(DEFAULT_HANG_LIMIT),
            restart_budget: DEFAULT_RESTART_BUDGET,
            herald: None,
        }
    }
}

/// Why there is no worker. Whatever had been started has been ended, reaped and cleaned up after.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// There is no such program.
    #[error("the worker program {} does not exist", shown(program))]
    Missing {
        /// The program.
        program: PathBuf,
    },
    /// The program cannot be executed.
    #[error("the worker program {} cannot be executed: {source}", shown(program))]
    NotExecutable {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The worker answered that it cannot mount.
    #[error("{}", failure.message)]
    Mount {
        /// What it said.
        failure: Failure,
        /// How it ended.
        exit: Box<ExitReport>,
    },
    /// The worker ended before its mount was ready.
    #[error("the worker ended before its mount was ready ({}){}", exit.status, exit.said())]
    Died {
        /// How it ended.
        exit: ExitReport,
    },
    /// The worker did not answer in time and was killed.
    #[error("the worker's mount was not ready after {} ms{}", waited.as_millis(), exit.said())]
    TimedOut {
        /// How long it had.
        waited: Duration,
        /// How it ended.
        exit: ExitReport,
    },
    /// Somebody called the start off, and the worker was killed.
    #[error("it was called off before the mount was ready")]
    Cancelled {
        /// How the worker ended.
        exit: ExitReport,
    },
    /// The worker answered something that makes no sense and was killed.
    #[error("the worker talks nonsense: {message}{}", exit.said())]
    Nonsense {
        /// What was wrong with it.
        message: String,
        /// How it ended.
        exit: ExitReport,
    },
    /// The worker speaks another version and was ended.
    #[error("the worker speaks protocol {worker}, this program {ours}: are they of the same installation?")]
    Protocol {
        /// The worker's version.
        worker: u32,
        /// Ours.
        ours: u32,
    },
    /// The system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}
