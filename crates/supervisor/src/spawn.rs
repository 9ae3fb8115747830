//! From a specification to a worker whose mount is ready.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ChildStderr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use selvedge_mountpoint::{MountEntry, MountIdentity, mountinfo, take_down};
use selvedge_worker_proto::{
    Command, Envelope, Event, MountReady, PROTOCOL_VERSION, Received, Receiver, RecvError, SendError, Sender,
    channel,
};

use crate::control::{HELLO, Input};
use crate::launch::{Generation, Launch};
use crate::life::Life;
use crate::process::Process;
use crate::stderr::Stderr;
use crate::{Cancel, ExitReport, ExitStatus, SpawnError, SpawnSpec, reaper};

/// How long a killed process may take to be reaped before it is given up.
pub(crate) const DEATH: Duration = Duration::from_secs(5);
/// How long taking a dead worker's mount down may take.
pub(crate) const TAKE_DOWN: Duration = Duration::from_secs(10);

/// Threads of a supervisor touch little stack; most of this is never made resident.
const STACK: usize = 512 * 1024;

pub(crate) fn thread_named(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // What it logs is about what its starter is about.
    let about = tracing::Span::current();
    let builder = thread::Builder::new().name(format!("worker-{name}")).stack_size(STACK);
    builder.spawn(move || about.in_scope(body))
}

/// A worker's process, and what ties it to its supervisor.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) commands: Sender<Command>,
    pub(crate) reaper: JoinHandle<()>,
    pub(crate) stderr: Option<Stderr>,
    /// The pipe that `stderr` reads, for whoever goes on reading it.
    pub(crate) log: Option<OwnedFd>,
}

/// A mount's first worker before it is ready.
struct Started {
    worker: Worker,
    events: Receiver<Event>,
    inputs: mpsc::Receiver<Input>,
}

/// A worker whose mount is ready.
pub(crate) struct Mounted {
    pub(crate) worker: Worker,
    pub(crate) events: Receiver<Event>,
    pub(crate) launch: Launch,
    pub(crate) life: Arc<Life>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) input: mpsc::Sender<Input>,
    pub(crate) said: MountReady,
    pub(crate) identity: MountIdentity,
    /// What came with it, for a successor.
    pub(crate) escrow: Vec<OwnedFd>,
    /// The number of the last command that the worker has heard.
    pub(crate) last_id: u64,
}

/// Starts a mount's first worker and waits until the mount is ready; `tell` learns its process id before it is greeted.
pub(crate) fn spawn(spec: &SpawnSpec, tell: &mut dyn FnMut(u32)) -> Result<Mounted, SpawnError> {
    let begun = Instant::now();
    let before = mountinfo::at(&spec.mount_point)
        .map_err(|source| SpawnError::Io { what: "read the mount table", source })?;
    let launch = Launch::new(spec)?;
    let life = Arc::new(Life::new());
    let (input, inputs) = mpsc::channel();
    let (worker, events) = Worker::start(&launch, Generation::First, &life, &input)?;
    let mut started = Started { worker, events, inputs };
    tell(started.worker.process.pid());
    match handshake(&mut started, spec, begun + spec.handshake_deadline) {
        Ok((ready, said, identity)) => {
            let Started { worker, events, inputs } = started;
            let (escrow, last_id) = (ready.fds, HELLO);
            Ok(Mounted { worker, events, launch, life, inputs, input, said, identity, escrow, last_id })
        }
        Err(failure) => {
            let patience = if failure.is_last_word() { spec.stop_grace } else { Duration::ZERO };
            let waited = begun.elapsed();
            let (exit, killed) = started.end(patience, &spec.mount_point, &before);
            Err(failure.into_error(exit, killed, waited))
        }
    }
}

impl Worker {
    /// Starts a process and its reaper. What it says is still to be read.
    pub(crate) fn start(
        launch: &Launch,
        generation: Generation,
        life: &Arc<Life>,
        input: &mpsc::Sender<Input>,
    ) -> Result<(Self, Receiver<Event>), SpawnError> {
        let io = |what| move |source| SpawnError::Io { what, source };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| io("make a socket pair")(errno.into()))?;
        let (process, pipe) = Process::start(launch, generation, theirs)?;
        Self::watch(process.clone(), pipe, ours, life, input).map_err(|error| {
            // Without its reaper the process could only become a zombie, which ends with this process.
            process.signal(Signal::KILL);
            io("start a thread")(error)
        })
    }

    /// Watches a process with which `socket` is the conversation, and whose standard error is `pipe`.
    pub(crate) fn watch(
        process: Process,
        pipe: Option<ChildStderr>,
        socket: OwnedFd,
        life: &Arc<Life>,
        input: &mpsc::Sender<Input>,
    ) -> io::Result<(Self, Receiver<Event>)> {
        let (commands, events) = channel(socket);
        life.set_alive(process.pid());
        let reaper = reaper::start(process.clone(), Arc::clone(life), commands.clone(), input.clone())
            .inspect_err(|_| life.set_dead())?;
        let log = pipe.as_ref().and_then(|pipe| pipe.as_fd().try_clone_to_owned().ok());
        // A worker whose standard error cannot be read still serves.
        let stderr = pipe.and_then(|pipe| Stderr::start(pipe, process.clone(), input.clone()).ok());
        Ok((Self { process, commands, reaper, stderr, log }, events))
    }
}

impl Started {
    /// Ends a worker that has not become ready, and cleans up after it. Says whether it had to be killed.
    fn end(self, patience: Duration, mount_point: &Path, before: &[MountEntry]) -> (ExitReport, bool) {
        let reaped = |patience| {
            self.inputs.recv_timeout(patience).ok().and_then(|input| match input {
                Input::Reaped(status) => Some(status),
                _ => None,
            })
        };
        let by_itself = reaped(patience);
        let status = by_itself.or_else(|| {
            self.worker.process.signal(Signal::KILL);
            reaped(DEATH)
        });
        let mut report = ExitReport {
            pid: self.worker.process.pid(),
            status: status.unwrap_or(ExitStatus::Unknown),
            mount_left: false,
            mount_stuck: None,
            stderr_tail: String::new(),
            restarts: 0,
            gave_up: None,
        };
        if status.is_some() {
            let _ = self.worker.reaper.join();
            report.stderr_tail = self.worker.stderr.map(Stderr::finish).unwrap_or_default();
        }
        for left in left_behind(mount_point, before) {
            report.mount_left = true;
            let gone = take_down(&left.identity().with_unique_id(), Instant::now() + TAKE_DOWN);
            report.mount_stuck = gone.err().map(|error| error.to_string());
        }
        (report, by_itself.is_none())
    }
}

/// Selvedge mounts that have come to `mount_point` since `before` was read.
fn left_behind(mount_point: &Path, before: &[MountEntry]) -> Vec<MountEntry> {
    let mut now = mountinfo::at(mount_point).unwrap_or_default();
    now.retain(|entry| entry.is_selvedge() && !before.iter().any(|old| entry.identity() == old.identity()));
    // The uppermost first, or it would hide the others.
    now.reverse();
    now
}

/// Why a worker did not become ready.
enum Failure {
    Refused(selvedge_worker_proto::Failure),
    Died,
    TimedOut,
    Cancelled,
    Nonsense(String),
    Protocol(u32),
}

impl Failure {
    /// Whether the worker is about to end by itself.
    const fn is_last_word(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Died)
    }

    fn into_error(self, exit: ExitReport, killed: bool, waited: Duration) -> SpawnError {
        match self {
            Self::Refused(failure) => SpawnError::Mount { failure, exit: Box::new(exit) },
            Self::Died if killed => {
                SpawnError::Nonsense { message: "it closed the connection and went on".to_owned(), exit }
            }
            Self::Died => SpawnError::Died { exit },
            Self::TimedOut => SpawnError::TimedOut { waited, exit },
            Self::Cancelled => SpawnError::Cancelled { exit },
            Self::Nonsense(message) => SpawnError::Nonsense { message, exit },
            Self::Protocol(worker) => SpawnError::Protocol { worker, ours: PROTOCOL_VERSION },
        }
    }
}

type Ready = (Received<Event>, MountReady, MountIdentity);

fn handshake(started: &mut Started, spec: &SpawnSpec, deadline: Instant) -> Result<Ready, Failure> {
    let hello = Envelope::new(HELLO, Command::Hello { protocol: PROTOCOL_VERSION });
    match started.worker.commands.send(hello, &[], Some(deadline)) {
        // What it said before it closed the socket is still to be read.
        Ok(()) | Err(SendError::Closed) => {}
        Err(SendError::TimedOut) => return Err(Failure::TimedOut),
        Err(error) => return Err(Failure::Nonsense(error.to_string())),
    }
    if let Some(cancel) = &spec.cancel {
        wait_unless(cancel, &started.events, deadline)?;
    }
    let received = started.events.recv(Some(deadline)).map_err(|error| match error {
        RecvError::Closed => Failure::Died,
        RecvError::TimedOut => Failure::TimedOut,
        other => Failure::Nonsense(other.to_string()),
    })?;
    match &received.envelope.msg {
        Event::MountReady(said) if said.protocol != PROTOCOL_VERSION => Err(Failure::Protocol(said.protocol)),
        Event::MountReady(said) => {
            let said = said.clone();
            let identity = prove(&said, &spec.mount_point, started.worker.process.pid())?;
            Ok((received, said, identity))
        }
        Event::MountError(failure) => Err(Failure::Refused(failure.clone())),
        other => Err(Failure::Nonsense(format!("it answered Hello with {other:?}"))),
    }
}

/// Waits until the worker says something, unless the start is called off first. A frame is far smaller than the
/// socket's buffer, so all of it is there when its first byte is.
fn wait_unless(cancel: &Cancel, events: &Receiver<Event>, deadline: Instant) -> Result<(), Failure> {
    loop {
        let mut watched = [PollFd::new(cancel, PollFlags::IN), PollFd::new(events, PollFlags::IN)];
        let left = deadline.saturating_duration_since(Instant::now());
        // A time-out too large for the kernel's type is no time-out.
        match poll(&mut watched, Timespec::try_from(left).ok().as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::Nonsense(format!("cannot wait for it: {errno}"))),
            Ok(0) => return Err(Failure::TimedOut),
            Ok(_) if !watched[0].revents().is_empty() => return Err(Failure::Cancelled),
            Ok(_) => return Ok(()),
        }
    }
}

/// Which mount the worker speaks of.
pub(crate) fn identity_of(said: &MountReady) -> MountIdentity {
    MountIdentity {
        mount_id: said.mount_id,
        unique_id: said.unique_mount_id,
        device: selvedge_mountpoint::Device { major: said.device.major, minor: said.device.minor },
        path: said.mount_path.0.clone(),
    }
}

/// Checks what the worker says against the mount table: readiness is never assumed.
fn prove(said: &MountReady, mount_point: &Path, pid: u32) -> Result<MountIdentity, Failure> {
    let identity = identity_of(said);
    if said.pid != pid {
        return Err(Failure::Nonsense(format!("it says that it is process {}", said.pid)));
    }
    match identity.find() {
        Ok(Some(entry)) if entry.is_selvedge() && entry.mount_point == mount_point => Ok(identity),
        Ok(_) => Err(Failure::Nonsense("the mount it speaks of is not in the mount table".to_owned())),
        Err(error) => Err(Failure::Nonsense(format!("cannot read the mount table: {error}"))),
    }
}
