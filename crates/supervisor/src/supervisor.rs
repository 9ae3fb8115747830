//! One worker, supervised.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{MountIdentity, take_down};
use selvedge_worker_proto::{ErrorKind, ExportNoted, ExportProgress, MountReady, SendError, StatusOk};

use crate::control::{self, Control, ExportUpdate, Input};
use crate::life::Life;
use crate::process::Process;
use crate::spawn::{self, DEATH, Mounted, Started, TAKE_DOWN, thread_named};
use crate::{ExitReport, SpawnError, SpawnSpec, State, StopError, StopMode, StopReport};

/// A running worker. All methods may be called from several threads at once. Dropping it ends the worker, by
/// force if need be, within a bounded time.
#[derive(Debug)]
pub struct Supervisor {
    ready: MountReady,
    identity: MountIdentity,
    process: Process,
    life: Arc<Life>,
    input: mpsc::Sender<Input>,
    /// What came with `MountReady`, kept for whoever takes over, and not looked into.
    escrow: Vec<OwnedFd>,
    /// The longest that a stop may take, all steps together.
    stop_bound: Duration,
    /// Taken when dropped.
    control: Option<JoinHandle<()>>,
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
        /// What they can do about it; may be empty.
        hint: String,
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
    /// What of it is otherwise than the user may expect.
    pub noted: Vec<ExportNoted>,
}

impl Supervisor {
    /// Starts a worker and waits until its mount is ready.
    pub fn spawn(spec: &SpawnSpec) -> Result<Self, SpawnError> {
        Self::spawn_telling(spec, &mut |_| {})
    }

    /// As [`Self::spawn`]; `tell` gets the worker's process id before the worker is greeted. One that is not greeted
    /// does nothing, so whoever writes the number down knows of every worker that may have made a mount.
    pub fn spawn_telling(spec: &SpawnSpec, tell: &mut dyn FnMut(u32)) -> Result<Self, SpawnError> {
        let Mounted { started, ready, said, identity } = spawn::spawn(spec, tell)?;
        let Started { process, life, commands, events, inputs, input, reaper, stderr } = started;
        let failed = |source| {
            // The reaper still reaps it.
            process.signal(Signal::KILL);
            let _ = take_down(&identity, Instant::now() + TAKE_DOWN);
            SpawnError::Io { what: "start a thread", source }
        };
        let reader = control::start_reader(events, input.clone()).map_err(failed)?;
        let control = Control {
            process: process.clone(),
            life: Arc::clone(&life),
            commands,
            inputs,
            identity: identity.clone(),
            stop_grace: spec.stop_grace,
            flush_deadline: spec.flush_deadline,
            stderr,
            reaper,
            reader,
        };
        let control = thread_named("control", move || control.run()).map_err(failed)?;
        let stop_bound = 3 * spec.stop_grace + spec.flush_deadline + 3 * DEATH + 2 * TAKE_DOWN;
        Ok(Self {
            ready: said,
            identity,
            process,
            life,
            input,
            escrow: ready.fds,
            stop_bound,
            control: Some(control),
        })
    }

    /// What the worker said when its mount was ready.
    pub const fn ready(&self) -> &MountReady {
        &self.ready
    }

    /// Which mount the worker serves.
    pub const fn mount(&self) -> &MountIdentity {
        &self.identity
    }

    /// The descriptors that the worker sent with `MountReady`, opaque here.
    pub fn escrow(&self) -> &[OwnedFd] {
        &self.escrow
    }

    /// The worker's process id; after its end it may belong to another process.
    pub const fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether the process is there. Turns false before anything else learns of the end.
    pub fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    /// Where the worker is in its life.
    pub fn state(&self) -> State {
        self.life.state()
    }

    /// Asks the worker how it is. Never delays [`stop`](Self::stop).
    pub fn status(&self, timeout: Duration) -> Result<StatusOk, CallError> {
        let (reply, answer) = mpsc::channel();
        let until = Instant::now() + timeout;
        self.input.send(Input::Status { reply, until }).map_err(|_| CallError::Ended)?;
        answer.recv_timeout(timeout).map_err(|error| no_answer(error, timeout))?
    }

    /// Ends the worker: asks, then SIGTERM, then SIGKILL, then takes the mount down. Any number of calls, also
    /// after the end, get the same report.
    ///
    /// In [`StopMode::Orderly`] a worker whose mount is busy refuses, and everything goes on as before. One that
    /// answers nothing within the grace is ended all the same; one that still answers questions is at work, and
    /// has the specification's `flush_deadline`.
    pub fn stop(&self, mode: StopMode) -> Result<StopReport, StopError> {
        let (reply, answer) = mpsc::channel();
        let asked = self.input.send(Input::Stop { mode, reply }).is_ok();
        if asked && let Ok(result) = answer.recv_timeout(self.stop_bound) {
            return result;
        }
        // The loop has ended before it could answer, or is held up beyond all its deadlines.
        match self.life.exited() {
            Some((exit, step)) => Ok(StopReport { exit, step }),
            None => Err(StopError::Unkillable { pid: self.pid(), waited: self.stop_bound }),
        }
    }

    /// Waits for the worker's end, however it comes; `None` if `deadline` passes first.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<ExitReport> {
        self.life.wait(deadline)
    }

    /// A channel that gets the report of the worker's end, once, at once if it has ended already.
    pub fn exit_events(&self) -> mpsc::Receiver<ExitReport> {
        self.life.subscribe()
    }

    /// Lets the worker answer questions about its thread's tree on `socket`, until whoever has the other end closes it.
    pub fn browse(&self, socket: OwnedFd, timeout: Duration) -> Result<(), CallError> {
        let (reply, answer) = mpsc::channel();
        let until = Instant::now() + timeout;
        self.input.send(Input::Browse { socket, reply, until }).map_err(|_| CallError::Ended)?;
        answer.recv_timeout(timeout).map_err(|error| no_answer(error, timeout))?
    }

    /// Lets the worker write its thread's tree into the directory `dest`, removing what else is there if
    /// `delete`. Fails if nothing is heard of it for `idle`; then the worker may still be writing.
    pub fn export(
        &self,
        dest: OwnedFd,
        delete: bool,
        idle: Duration,
        progress: &mut dyn FnMut(ExportProgress),
    ) -> Result<ExportReport, CallError> {
        let (reply, updates) = mpsc::channel();
        self.input.send(Input::Export { dest, delete, reply }).map_err(|_| CallError::Ended)?;
        let mut noted = Vec::new();
        loop {
            match updates.recv_timeout(idle).map_err(|error| no_answer(error, idle))? {
                ExportUpdate::Progress(now) => progress(now),
                ExportUpdate::Noted(note) => noted.push(note),
                ExportUpdate::Done(done) => {
                    return Ok(ExportReport { files: done.files, bytes: done.bytes, noted });
                }
                ExportUpdate::Failed(error) => return Err(error),
            }
        }
    }
}

const fn no_answer(error: RecvTimeoutError, waited: Duration) -> CallError {
    match error {
        RecvTimeoutError::Timeout => CallError::TimedOut { waited },
        RecvTimeoutError::Disconnected => CallError::Ended,
    }
}

impl Drop for Supervisor {
    /// Ends the worker by force. What cannot be ended within all deadlines is left to the threads that watch it.
    fn drop(&mut self) {
        match self.stop(StopMode::Force) {
            // The thread has nothing left to wait for.
            Ok(_) => drop(self.control.take().map(JoinHandle::join)),
            Err(error) => tracing::error!(pid = self.pid(), %error, "a worker is left behind"),
        }
    }
}
