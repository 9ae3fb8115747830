//! One mount and its worker, supervised.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{MountIdentity, take_down};
use selvedge_worker_proto::{
    Command, ErrorKind, Event, ExportNoted, ExportProgress, MountReady, PROTOCOL_VERSION, SendError,
    SnapshotDone, SnapshotProgress, StatusOk, WirePath,
};

use crate::control::{self, Control, ExportUpdate, Gate, Input};
use crate::launch::Launch;
use crate::life::{Life, Restart};
use crate::process::Process;
use crate::spawn::{self, DEATH, Mounted, TAKE_DOWN, Worker, identity_of, thread_named};
use crate::{
    ExitReport, Held, HoldError, OnCrash, Orphan, RenewError, SpawnError, SpawnSpec, State, StopError,
    StopMode, StopReport, WorkerProgram,
};

/// A mount with a running worker. All methods may be called from several threads at once. Dropping it ends the worker, by
/// force if need be, within a bounded time.
#[derive(Debug)]
pub struct Supervisor {
    ready: MountReady,
    identity: MountIdentity,
    life: Arc<Life>,
    input: mpsc::Sender<Input>,
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
    /// It died, and the next one does not serve yet; ask again.
    #[error("the worker is being replaced")]
    Recovering,
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
        let mounted = spawn::spawn(spec, tell)?;
        let (process, identity) = (mounted.worker.process.clone(), mounted.identity.clone());
        Self::begin(mounted, spec).map_err(|source| {
            // The reaper still reaps it.
            process.signal(Signal::KILL);
            let _ = take_down(&identity, Instant::now() + TAKE_DOWN);
            SpawnError::Io { what: "start a thread", source }
        })
    }

    /// Goes on with a worker whose supervisor is gone; its successors are started from `spec`. When this fails, the worker
    /// is as it was.
    pub fn adopt(spec: &SpawnSpec, orphan: Orphan) -> Result<Self, SpawnError> {
        let Orphan { pid, pidfd, socket, log, escrow, ready: said, last_id, restarts, last_cause } = orphan;
        if said.protocol != PROTOCOL_VERSION {
            return Err(SpawnError::Protocol { worker: said.protocol, ours: PROTOCOL_VERSION });
        }
        let failed = |source| SpawnError::Io { what: "start a thread", source };
        let launch = Launch::new(spec)?;
        let life = Arc::new(Life::adopted(restarts, last_cause));
        let (input, inputs) = mpsc::channel();
        let process = Process::adopted(pid, pidfd);
        let (worker, events) =
            Worker::watch(process, log.map(Into::into), socket, &life, &input).map_err(failed)?;
        let identity = identity_of(&said);
        let mounted =
            Mounted { worker, events, launch, life, inputs, input, said, identity, escrow, last_id };
        Self::begin(mounted, spec).map_err(failed)
    }

    fn begin(mounted: Mounted, spec: &SpawnSpec) -> io::Result<Self> {
        let Mounted { worker, events, launch, life, inputs, input, said, identity, escrow, last_id } =
            mounted;
        let gate = Gate::default();
        let reader = control::start_reader(events, input.clone(), Arc::clone(&gate))?;
        // Without a successor it must not be kept: a device that somebody has open keeps callers waiting.
        let escrow = if spec.on_crash == OnCrash::Recover { escrow } else { Vec::new() };
        let control = Control {
            worker,
            reader: Some(reader),
            life: Arc::clone(&life),
            inputs,
            input: input.clone(),
            gate,
            ready: said.clone(),
            identity: identity.clone(),
            launch,
            escrow,
            hang_limit: spec.hang_limit,
            restart_budget: spec.restart_budget,
            herald: spec.herald.clone(),
            handshake_deadline: spec.handshake_deadline,
            stop_grace: spec.stop_grace,
            flush_deadline: spec.flush_deadline,
            last_id,
        };
        let control = thread_named("control", move || control.run())?;
        let mut stop_bound = 3 * spec.stop_grace + spec.flush_deadline + 3 * DEATH + 2 * TAKE_DOWN;
        if spec.on_crash == OnCrash::Recover {
            // It may have to wait for a successor that can be asked.
            stop_bound += spec.handshake_deadline + DEATH;
        }
        Ok(Self { ready: said, identity, life, input, stop_bound, control: Some(control) })
    }

    /// What the first worker said when the mount was ready.
    pub const fn ready(&self) -> &MountReady {
        &self.ready
    }

    /// Which mount the worker serves.
    pub const fn mount(&self) -> &MountIdentity {
        &self.identity
    }

    /// The present worker's process id, or the last one's; after its end it may belong to another process.
    pub fn pid(&self) -> u32 {
        self.life.pid()
    }

    /// The process id of the worker, while there is one.
    pub fn worker_pid(&self) -> Option<u32> {
        self.is_alive().then(|| self.pid())
    }

    /// How many workers have been replaced, by successors that served or did not get that far.
    pub fn restarts(&self) -> u32 {
        self.life.restarts()
    }

    /// How the worker before the present one ended, for people; `None` if there was none.
    pub fn last_cause(&self) -> Option<String> {
        self.life.last_cause()
    }

    /// How many requests the worker, which says `status` now, answers in a second: of late, or since it was started if
    /// that was just now or it is not watched for hanging.
    pub fn requests_per_second(&self, status: &StatusOk) -> u64 {
        self.life.requests_per_second(status)
    }

    /// A channel that gets every restart from now on, and ends with the mount.
    pub fn restart_events(&self) -> mpsc::Receiver<Restart> {
        self.life.subscribe_restarts()
    }

    /// Whether the process is there. Turns false before anything else learns of the end.
    pub fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    /// Where the mount is in its life.
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
    /// has the specification's `flush_deadline`. While a worker is being replaced, an orderly stop waits for the
    /// successor, and a forced one for nothing.
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

    /// Waits for the mount's end, however it comes; `None` if `deadline` passes first.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<ExitReport> {
        self.life.wait(deadline)
    }

    /// A channel that gets the report of the mount's end, once, at once if it has ended already.
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

    /// Lets the worker freeze its thread, so that another can share what it says.
    pub fn freeze(&self, within: Duration) -> Result<(), CallError> {
        match self.ask(Command::Freeze {}, within, &mut |_| false)? {
            Event::Frozen {} => Ok(()),
            other => Err(CallError::Nonsense(format!("a freeze was answered with {other:?}"))),
        }
    }

    /// Lets the worker make a snapshot of its thread, which says `message` of itself. Fails if nothing is heard of it
    /// for `idle`; then it may still be made.
    pub fn snapshot(
        &self,
        message: WirePath,
        idle: Duration,
        progress: &mut dyn FnMut(SnapshotProgress),
    ) -> Result<SnapshotDone, CallError> {
        let mut pass_on = |event: &Event| match event {
            Event::SnapshotProgress(now) => {
                progress(*now);
                true
            }
            _ => false,
        };
        match self.ask(Command::Snapshot { message }, idle, &mut pass_on)? {
            Event::SnapshotDone(done) => Ok(done),
            other => Err(CallError::Nonsense(format!("a snapshot was answered with {other:?}"))),
        }
    }

    /// Holds everything still, and gives back what another supervisor goes on from; waits `timeout` at most for an instant
    /// at which it can. Everything goes on when that is dropped. Never delays the mount itself.
    pub fn hold(&self, timeout: Duration) -> Result<Held, HoldError> {
        let (reply, answer) = mpsc::channel();
        self.input.send(Input::Hold { reply }).map_err(|_| HoldError::Ended)?;
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => HoldError::Changing,
            RecvTimeoutError::Disconnected => HoldError::Ended,
        })?
    }

    /// Replaces the worker by one of `program`, which all later ones are of too; returns when that serves, or `timeout`
    /// has passed. If it fails before it has served anything, the program before serves again.
    pub fn renew(&self, program: WorkerProgram, timeout: Duration) -> Result<(), RenewError> {
        let (reply, answer) = mpsc::channel();
        self.input.send(Input::Renew { program, reply }).map_err(|_| RenewError::Ended)?;
        answer.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => RenewError::TimedOut { waited: timeout },
            RecvTimeoutError::Disconnected => RenewError::Ended,
        })?
    }

    /// Asks the worker, and waits for the first answer that `passing` does not take.
    fn ask(
        &self,
        command: Command,
        idle: Duration,
        passing: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<Event, CallError> {
        let (reply, answers) = mpsc::channel();
        self.input.send(Input::Ask { command, reply }).map_err(|_| CallError::Ended)?;
        loop {
            let event = answers.recv_timeout(idle).map_err(|error| no_answer(error, idle))??;
            if !passing(&event) {
                return Ok(event);
            }
        }
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
