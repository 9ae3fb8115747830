//! The loop that decides: one thread, one closed set of events.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use selvedge_mountpoint::MountIdentity;
use selvedge_worker_proto::{
    Command, Envelope, Event, ExportDone, ExportNoted, ExportProgress, MountReady, Received, Receiver,
    RecvError, StatusOk,
};

use crate::ending::Ending;
use crate::heartbeat::Heartbeat;
use crate::heir::Heir;
use crate::launch::Launch;
use crate::life::Life;
use crate::renewal::Renewal;
use crate::spawn::{Worker, thread_named};
use crate::succession::Succession;
use crate::{
    CallError, ExitStatus, Held, Herald, HoldError, RenewError, Step, StopError, StopMode, StopReport,
    WorkerProgram,
};

/// The envelope number of `Hello`; commands count on from here.
pub(crate) const HELLO: u64 = 1;

/// Everything that can happen to a supervisor.
#[derive(Debug)]
pub(crate) enum Input {
    /// The worker's process is gone.
    Reaped(ExitStatus),
    /// The worker says something.
    Event(Box<Received<Event>>),
    /// The worker says something that makes no sense; the conversation goes on.
    Garbled(RecvError),
    /// A worker that hangs has said what its threads are at.
    Examined { pid: u32 },
    /// Nothing more will be heard of the worker.
    Silent(RecvError),
    /// Somebody wants to know how it is, until some time.
    Status { reply: mpsc::Sender<Result<StatusOk, CallError>>, until: Instant },
    /// Somebody wants the tree written out.
    Export { dest: OwnedFd, delete: bool, reply: mpsc::Sender<ExportUpdate> },
    /// Somebody wants to look at the tree, through a socket that goes to the worker.
    Browse { socket: OwnedFd, reply: mpsc::Sender<Result<(), CallError>>, until: Instant },
    /// Somebody has a command whose answers are passed on as they come.
    Ask { command: Command, reply: mpsc::Sender<Result<Event, CallError>> },
    /// Somebody wants everything to hold still.
    Hold { reply: mpsc::Sender<Result<Held, HoldError>> },
    /// Somebody wants the worker to be of another program.
    Renew { program: WorkerProgram, reply: mpsc::Sender<Result<(), RenewError>> },
    /// Somebody wants it to end.
    Stop { mode: StopMode, reply: mpsc::Sender<Result<StopReport, StopError>> },
}

/// What becomes of an export.
#[derive(Debug)]
pub(crate) enum ExportUpdate {
    Progress(ExportProgress),
    Noted(ExportNoted),
    Done(ExportDone),
    Failed(CallError),
}

/// An answer that is waited for.
#[derive(Debug)]
pub(crate) enum Pending {
    Status {
        reply: mpsc::Sender<Result<StatusOk, CallError>>,
        until: Instant,
    },
    Export {
        reply: mpsc::Sender<ExportUpdate>,
    },
    Browse {
        reply: mpsc::Sender<Result<(), CallError>>,
        until: Instant,
    },
    Ask {
        reply: mpsc::Sender<Result<Event, CallError>>,
    },
    Stop,
    /// Whether a worker that does not answer `Stop` yet is at work on it.
    Probe,
    /// Whether a worker that is left alone gets on.
    Heartbeat,
    /// Whether a worker has let go of its requests.
    HandOver,
}

/// Held by whoever reads what the worker says, from its first byte until it is in the queue.
pub(crate) type Gate = Arc<Mutex<()>>;

/// What the loop owns.
pub(crate) struct Control {
    pub(crate) worker: Worker,
    /// The threads that read what the worker says; `None` once it has said its last.
    pub(crate) reader: Option<JoinHandle<()>>,
    pub(crate) life: Arc<Life>,
    pub(crate) inputs: mpsc::Receiver<Input>,
    /// Where a successor's threads report.
    pub(crate) input: mpsc::Sender<Input>,
    pub(crate) gate: Gate,
    /// What the first worker said when the mount was ready.
    pub(crate) ready: MountReady,
    pub(crate) identity: MountIdentity,
    pub(crate) launch: Launch,
    /// What the worker sent with `MountReady`, for its successor, and not looked into. Empty: there will be none.
    pub(crate) escrow: Vec<OwnedFd>,
    pub(crate) hang_limit: Option<Duration>,
    pub(crate) restart_budget: u32,
    pub(crate) herald: Option<Herald>,
    pub(crate) handshake_deadline: Duration,
    pub(crate) stop_grace: Duration,
    pub(crate) flush_deadline: Duration,
    /// The number of the last command that the worker has heard.
    pub(crate) last_id: u64,
}

/// Starts the thread that turns the worker's frames into inputs.
pub(crate) fn start_reader(
    mut events: Receiver<Event>,
    input: mpsc::Sender<Input>,
    gate: Gate,
) -> io::Result<JoinHandle<()>> {
    thread_named("reader", move || {
        loop {
            while poll(&mut [PollFd::new(&events, PollFlags::IN)], None) == Err(Errno::INTR) {}
            let _reading = gate.lock().unwrap_or_else(PoisonError::into_inner);
            let next = match events.recv(None) {
                Ok(received) => Input::Event(Box::new(received)),
                Err(error) if error.is_recoverable() => Input::Garbled(error),
                Err(error) => {
                    let _ = input.send(Input::Silent(error));
                    return;
                }
            };
            if input.send(next).is_err() {
                return;
            }
        }
    })
}

impl Control {
    /// Runs until the mount has ended and is cleaned up after.
    pub(crate) fn run(self) {
        let succession = Succession::new(self.restart_budget);
        let heartbeat = Heartbeat::new(self.hang_limit);
        Running {
            last_id: self.last_id,
            control: self,
            pending: HashMap::new(),
            ending: None,
            succession,
            heartbeat,
            renewal: None,
            heir: None,
        }
        .run();
    }
}

pub(crate) struct Running {
    pub(crate) control: Control,
    pub(crate) pending: HashMap<u64, Pending>,
    pub(crate) last_id: u64,
    pub(crate) ending: Option<Ending>,
    pub(crate) succession: Succession,
    pub(crate) heartbeat: Heartbeat,
    /// The change to another program that is on its way.
    pub(crate) renewal: Option<Renewal>,
    /// The worker that follows the present one when that has been killed.
    pub(crate) heir: Option<Heir>,
}

impl Running {
    fn run(mut self) {
        let mut status = self.until_reaped();
        let gave_up = loop {
            self.hear_last_words();
            if let Err(why) = self.prepare_successor(status) {
                break why;
            }
            match self.start_successor() {
                Ok(()) => status = self.until_reaped(),
                Err(error) => self.succession.refused(error.to_string()),
            }
        };
        self.finish(status, gave_up);
    }

    fn until_reaped(&mut self) -> ExitStatus {
        loop {
            self.go_on_renewing();
            let ending = self.ending.as_ref().and_then(|ending| ending.due);
            let succession = self.succession.due();
            let heartbeat = self.is_watched().then(|| self.heartbeat.due()).flatten();
            let renewal = self.renewal.as_ref().and_then(Renewal::due);
            let due = [ending, succession, heartbeat, renewal].into_iter().flatten().min();
            let passed = |due: Option<Instant>| due.is_some_and(|due| due <= Instant::now());
            match self.next(due) {
                Some(Input::Reaped(status)) => return status,
                Some(input) => self.handle(input),
                None if passed(ending) => self.escalate(),
                None if passed(succession) => self.successor_is_late(),
                None if passed(renewal) => self.end_handing_over(),
                None => self.check_on(),
            }
        }
    }

    /// Whether the worker's hanging is our business: it can be replaced, and nobody is ending it.
    fn is_watched(&self) -> bool {
        self.may_have_successor() && !self.succession.is_open() && self.ending.is_none()
    }

    /// Asks the worker how it gets on.
    fn check_on(&mut self) {
        match self.heartbeat.tick() {
            // One that reads nothing is waited for like one that answers nothing.
            Ok(true) => {
                if let Ok(id) = self.send(Command::Status {}, None) {
                    self.pending.insert(id, Pending::Heartbeat);
                }
            }
            Ok(false) => {}
            Err(why) => self.end_hanging(why),
        }
    }

    /// Hears what a dead worker said before, and forgets what it was asked.
    fn hear_last_words(&mut self) {
        self.succession.died();
        if let Some(reader) = self.control.reader.take() {
            // The reaper has ended the conversation, so this ends it.
            let _ = reader.join();
        }
        while let Ok(input) = self.control.inputs.try_recv() {
            match input {
                Input::Silent(_) | Input::Reaped(_) => {}
                input => self.handle(input),
            }
        }
        // Their askers see the reply's end.
        self.pending.clear();
    }

    /// The next input; `None` when `due` comes first.
    pub(crate) fn next(&self, due: Option<Instant>) -> Option<Input> {
        let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
        match self.control.inputs.recv_timeout(left) {
            Ok(input) => Some(input),
            Err(RecvTimeoutError::Timeout) => None,
            // Not before the reaper has reported; if it ever were, the process is gone.
            Err(RecvTimeoutError::Disconnected) => Some(Input::Reaped(ExitStatus::Unknown)),
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        match input {
            // Only `until_reaped` sees the end.
            Input::Reaped(_) => {}
            Input::Event(received) => self.hear(*received),
            Input::Garbled(error) => self.garbled(&error),
            Input::Examined { pid } => self.examined(pid),
            Input::Silent(error) => self.silenced(&error),
            Input::Status { reply, until } => self.ask_status(reply, until),
            Input::Export { dest, delete, reply } => self.ask_export(&dest, delete, reply),
            Input::Browse { socket, reply, until } => self.ask_browse(&socket, reply, until),
            Input::Ask { command, reply } => self.ask(command, reply),
            Input::Hold { reply } => self.hold(&reply),
            Input::Renew { program, reply } => self.renew(&program, reply),
            Input::Stop { mode, reply } => self.stop(mode, reply),
        }
    }

    /// Sends a command without waiting: a worker that reads nothing must not hold this loop up. A command is far
    /// smaller than the socket's buffer, so it goes whole or not at all.
    pub(crate) fn send(&mut self, command: Command, dest: Option<&OwnedFd>) -> Result<u64, CallError> {
        self.last_id += 1;
        let fds: Vec<_> = dest.into_iter().map(AsFd::as_fd).collect();
        self.control.worker.commands.send(
            Envelope::new(self.last_id, command),
            &fds,
            Some(Instant::now()),
        )?;
        Ok(self.last_id)
    }

    fn ask_status(&mut self, reply: mpsc::Sender<Result<StatusOk, CallError>>, until: Instant) {
        if self.succession.is_open() {
            return drop(reply.send(Err(CallError::Recovering)));
        }
        self.forget_late();
        match self.send(Command::Status {}, None) {
            Ok(id) => {
                self.pending.insert(id, Pending::Status { reply, until });
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn ask_export(&mut self, dest: &OwnedFd, delete: bool, reply: mpsc::Sender<ExportUpdate>) {
        if self.succession.is_open() {
            return drop(reply.send(ExportUpdate::Failed(CallError::Recovering)));
        }
        match self.send(Command::Export { delete }, Some(dest)) {
            Ok(id) => {
                self.pending.insert(id, Pending::Export { reply });
            }
            Err(error) => {
                let _ = reply.send(ExportUpdate::Failed(error));
            }
        }
    }

    fn ask(&mut self, command: Command, reply: mpsc::Sender<Result<Event, CallError>>) {
        if self.succession.is_open() {
            return drop(reply.send(Err(CallError::Recovering)));
        }
        match self.send(command, None) {
            Ok(id) => {
                self.pending.insert(id, Pending::Ask { reply });
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Passes an answer on; the last one settles the question.
    fn answered(&mut self, id: u64, event: Event, last: bool) {
        if let Some(Pending::Ask { reply }) = self.pending.get(&id)
            && (reply.send(Ok(event)).is_err() || last)
        {
            self.pending.remove(&id);
        }
    }

    fn ask_browse(&mut self, socket: &OwnedFd, reply: mpsc::Sender<Result<(), CallError>>, until: Instant) {
        if self.succession.is_open() {
            return drop(reply.send(Err(CallError::Recovering)));
        }
        self.forget_late();
        match self.send(Command::Browse {}, Some(socket)) {
            Ok(id) => {
                self.pending.insert(id, Pending::Browse { reply, until });
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    /// A worker that answers nothing would let the forgotten questions pile up.
    fn forget_late(&mut self) {
        let now = Instant::now();
        self.pending.retain(|_, pending| {
            !matches!(pending, Pending::Status { until, .. } | Pending::Browse { until, .. } if *until < now)
        });
    }

    /// The worker says something. Answers to questions that nobody asks any more are dropped.
    fn hear(&mut self, received: Received<Event>) {
        let id = received.envelope.id;
        match received.envelope.msg {
            Event::Stopping {} => self.stopping(),
            Event::StopRefused(refused) => self.refused(&StopError::Busy(refused)),
            // News: it has answered its first request, or knows of workers that had and could not say so.
            Event::StatusOk(status) if id == 0 => match status.fruitless {
                Some(fruitless) => self.succession.correct(fruitless),
                None => self.succession.proved(),
            },
            Event::StatusOk(status) => match self.pending.remove(&id) {
                Some(Pending::Status { reply, .. }) => drop(reply.send(Ok(status))),
                Some(Pending::Probe) => self.at_work(),
                Some(Pending::Heartbeat) => {
                    self.control.life.count(&status);
                    if let Err(why) = self.heartbeat.answered(&status)
                        && self.is_watched()
                    {
                        self.end_hanging(why);
                    }
                }
                _ => {}
            },
            Event::ExportProgress(progress) => self.export_goes_on(id, ExportUpdate::Progress(progress)),
            Event::ExportNoted(noted) => self.export_goes_on(id, ExportUpdate::Noted(noted)),
            Event::ExportDone(done) => {
                self.export_goes_on(id, ExportUpdate::Done(done));
                self.pending.remove(&id);
            }
            Event::Browsing {} => {
                if let Some(Pending::Browse { reply, .. }) = self.pending.remove(&id) {
                    let _ = reply.send(Ok(()));
                }
            }
            Event::HandedOver {} => {
                if let Some(Pending::HandOver) = self.pending.remove(&id) {
                    self.end_handing_over();
                }
            }
            event @ Event::SnapshotProgress(_) => self.answered(id, event, false),
            event @ (Event::SnapshotDone(_) | Event::Frozen {}) => self.answered(id, event, true),
            Event::Failed(failure) => self.failed(id, failure),
            Event::MountReady(ready) if self.succession.is_awaited() => self.take_over(&ready),
            Event::MountError(failure) if self.succession.is_awaited() => {
                self.succession.refused(failure.message);
            }
            Event::MountReady(_) | Event::MountError(_) => {
                tracing::warn!(pid = self.control.worker.process.pid(), "the worker says Hello twice");
            }
        }
    }

    fn export_goes_on(&mut self, id: u64, update: ExportUpdate) {
        if let Some(Pending::Export { reply }) = self.pending.get(&id)
            && reply.send(update).is_err()
        {
            self.pending.remove(&id);
        }
    }

    fn failed(&mut self, id: u64, failure: selvedge_worker_proto::Failure) {
        let error = |failure: selvedge_worker_proto::Failure| CallError::Failed {
            kind: failure.kind,
            message: failure.message,
            hint: failure.hint,
        };
        match self.pending.remove(&id) {
            Some(Pending::Status { reply, .. }) => {
                let _ = reply.send(Err(error(failure)));
            }
            Some(Pending::Browse { reply, .. }) => {
                let _ = reply.send(Err(error(failure)));
            }
            Some(Pending::Export { reply }) => {
                let _ = reply.send(ExportUpdate::Failed(error(failure)));
            }
            Some(Pending::Ask { reply }) => {
                let _ = reply.send(Err(error(failure)));
            }
            Some(Pending::Stop) => self.refused(&StopError::Failed(failure)),
            Some(Pending::Probe) => self.at_work(),
            Some(Pending::Heartbeat) => {}
            Some(Pending::HandOver) => self.end_handing_over(),
            None => tracing::warn!(
                pid = self.control.worker.process.pid(),
                message = failure.message,
                "the worker failed"
            ),
        }
    }

    fn garbled(&mut self, error: &RecvError) {
        tracing::warn!(pid = self.control.worker.process.pid(), %error, "the worker talks nonsense");
        if let RecvError::Decode(source) = error
            && let Some(pending) = source.id().and_then(|id| self.pending.remove(&id))
        {
            let nonsense = CallError::Nonsense(error.to_string());
            match pending {
                Pending::Status { reply, .. } => drop(reply.send(Err(nonsense))),
                Pending::Browse { reply, .. } => drop(reply.send(Err(nonsense))),
                Pending::Export { reply } => drop(reply.send(ExportUpdate::Failed(nonsense))),
                Pending::Ask { reply } => drop(reply.send(Err(nonsense))),
                Pending::Stop | Pending::Probe | Pending::Heartbeat | Pending::HandOver => {}
            }
        }
    }

    /// The conversation has ended. A worker that closed it is about to end, and gets the grace for it; one that
    /// broke it does not know what it says, and is ended.
    fn silenced(&mut self, error: &RecvError) {
        self.pending.clear();
        let grace = if matches!(error, RecvError::Closed) { self.control.stop_grace } else { Duration::ZERO };
        let until = Instant::now() + grace;
        if self.may_have_successor() {
            // It is killed then: SIGTERM would be a request to unmount, which nobody has made.
            self.succession.silent(until);
        } else if self.ending.is_none() {
            self.ending = Some(Ending::new(StopMode::Force, Step::None, until));
        }
    }
}
