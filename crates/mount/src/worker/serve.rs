//! One loop over everything that can happen to a mounted worker, until its end.

mod ending;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::DupFlags;
use selvedge_mountpoint::Holder;
use selvedge_worker_proto::{
    Command, Device, Envelope, ErrorKind, Event, MountReady, PROTOCOL_VERSION, Passthrough, Received,
    Receiver, RecvError, Sender, StatusOk, WirePath, channel,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::adoption::{self, Adopted, Adopter, Search};
use super::browse::Askers;
use super::export::{self, Export};
use super::held_back::{Held, HeldBack};
use super::refusal::Refusal;
use super::setup::Mounted;
use super::snapshot::{self, Job, Wish};
use super::unmount::Attempt;
use super::{PEER_DEADLINE, trace};
use crate::sys;
use ending::{End, Phase, Urgency};

/// How long requests that were begun are waited for before a successor takes the mount over.
const LETTING_GO: Duration = Duration::from_millis(300);

/// Everything that can happen to a mounted worker.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The supervisor wants something.
    Asked(Received<Command>),
    /// The supervisor sent a frame that is none; the next one can be read.
    Garbled(RecvError),
    /// The supervisor is gone, or can no longer be understood.
    Orphaned(RecvError),
    /// Another supervisor has come.
    Adopted(Adopted),
    /// None has, or wants to: why.
    Abandoned(String),
    /// Somebody sent a signal.
    Signalled(i32),
    /// The connection has ended.
    SessionEnded(io::Result<()>),
    /// An attempt to unmount has ended.
    Unmounted(Attempt),
    /// Those who keep a detached mount alive are known.
    HoldersFound {
        /// The commands to answer.
        asked_by: Vec<u64>,
        /// Who they are.
        holders: Vec<Holder>,
    },
    /// The first request has been answered.
    Proved,
    /// A freeze or snapshot has ended.
    SnapshotEnded {
        /// The number of its command.
        id: u64,
        /// The answer to it.
        answer: Event,
    },
    /// Requests have been let go of.
    HandedOver {
        /// The number of the command.
        id: u64,
    },
    /// An export has ended.
    ExportEnded {
        /// The number of its command.
        id: u64,
        /// The answer to it.
        answer: Event,
    },
}

/// A mounted worker.
#[derive(Debug)]
pub(crate) struct Service {
    mounted: Mounted,
    sender: Sender<Event>,
    events: mpsc::Sender<Happening>,
    started: Instant,
    phase: Phase,
    exporting: bool,
    askers: Askers,
    snapshotting: bool,
    /// Who finds another supervisor.
    adopter: Option<Arc<dyn Adopter>>,
    /// What that one is to keep for a successor; empty if there can be none.
    escrow: Arc<Vec<OwnedFd>>,
    /// The highest number of a command that was heard.
    last_id: u64,
    supervision: Supervision,
}

/// Whether anybody answers for the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supervision {
    /// A supervisor does.
    There,
    /// It is gone, and another one is not looked for while the mount is being taken down.
    Gone,
    /// Another one is looked for.
    Sought,
}

impl Service {
    /// A worker that serves `mounted` and tells `sender`, and whoever `adopter` finds when that one is gone.
    pub(crate) fn new(
        mounted: Mounted,
        sender: Sender<Event>,
        events: mpsc::Sender<Happening>,
        started: Instant,
        adopter: Option<Arc<dyn Adopter>>,
    ) -> Self {
        Self {
            mounted,
            sender,
            events,
            started,
            phase: Phase::Serving,
            exporting: false,
            askers: Askers::default(),
            snapshotting: false,
            adopter,
            escrow: Arc::default(),
            last_id: 0,
            supervision: Supervision::There,
        }
    }

    /// Hears commands and signals from now on.
    pub(crate) fn listen(&mut self, receiver: Receiver<Command>) {
        self.hear(receiver);
        let events = self.events.clone();
        let hear = Signals::new([SIGTERM, SIGINT, SIGHUP]).and_then(|mut signals| {
            thread::Builder::new().name("signals".into()).spawn(move || {
                for signal in signals.forever() {
                    let _ = events.send(Happening::Signalled(signal));
                }
            })
        });
        if let Err(error) = hear {
            tracing::error!("signals are not heard: {error}");
        }
    }

    fn hear(&self, receiver: Receiver<Command>) {
        let events = self.events.clone();
        let commands = thread::Builder::new().name("commands".into());
        if let Err(error) = commands.spawn(move || hear_commands(receiver, &events)) {
            tracing::error!("commands are not heard: {error}");
        }
    }

    /// Says that the mount is ready, in answer to command `hello`, and serves until the end.
    pub(crate) fn run(mut self, hello: u64, happenings: &mpsc::Receiver<Happening>) -> ExitCode {
        self.say_ready(hello);
        loop {
            let next = match self.phase.until() {
                Some(until) => happenings.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => happenings.recv().map_err(RecvTimeoutError::from),
            };
            let end = match next {
                Ok(happening) => self.handle(happening),
                Err(RecvTimeoutError::Timeout) => self.too_late(),
                // Cannot be: this loop holds a sender itself.
                Err(RecvTimeoutError::Disconnected) => Some(End::CutOff),
            };
            if let Some(end) = end {
                return self.finish(end);
            }
            self.seek_supervisor();
        }
    }

    fn handle(&mut self, happening: Happening) -> Option<End> {
        match happening {
            Happening::Asked(received) => self.obey(received),
            Happening::Garbled(error) => {
                let id = garbled_id(&error);
                self.tell(id, Event::failed(ErrorKind::Usage, error.to_string()));
            }
            Happening::Orphaned(error) => {
                if !matches!(error, RecvError::Closed) {
                    tracing::error!("lost the supervisor: {error}");
                }
                // Nobody is left who would end this process so that a successor can go on.
                self.mounted.load.reopen();
                if self.adopter.is_some() {
                    self.supervision = Supervision::Gone;
                } else {
                    self.end(Urgency::Anyway, None);
                }
            }
            Happening::Adopted(adopted) => self.adopted(adopted),
            Happening::Abandoned(why) => {
                tracing::error!("no supervisor: {why}; unmounting");
                self.end(Urgency::Anyway, None);
            }
            Happening::Signalled(signal) => {
                tracing::info!("signal {signal}: unmounting");
                self.end(Urgency::IfFree, None);
            }
            Happening::SessionEnded(outcome) => return Some(End::Connection(outcome)),
            Happening::Unmounted(attempt) => return self.unmounted(attempt),
            Happening::HoldersFound { asked_by, holders } => self.refuse(
                &asked_by,
                "the mount is detached: another mount namespace or an open file keeps it alive",
                holders,
            ),
            Happening::Proved => {
                let status = Event::StatusOk(self.status());
                self.tell(0, status);
            }
            Happening::SnapshotEnded { id, answer } => {
                self.snapshotting = false;
                self.tell(id, answer);
            }
            Happening::HandedOver { id } => self.tell(id, Event::HandedOver {}),
            Happening::ExportEnded { id, answer } => {
                self.exporting = false;
                self.tell(id, answer);
            }
        }
        None
    }

    fn obey(&mut self, received: Received<Command>) {
        let Received { envelope: Envelope { id, msg, .. }, fds } = received;
        self.last_id = self.last_id.max(id);
        match msg {
            Command::Hello { .. } => {
                self.tell(id, Event::failed(ErrorKind::Usage, "the connection is already greeted"));
            }
            Command::Status {} => {
                let status = Event::StatusOk(self.status());
                self.tell(id, status);
            }
            Command::Stop { force } => {
                self.end(if force { Urgency::Anyway } else { Urgency::IfFree }, Some(id));
            }
            Command::Browse {} => {
                let answer = self
                    .browse(fds)
                    .map_or_else(|refusal| Event::Failed(refusal.into()), |()| Event::Browsing {});
                self.tell(id, answer);
            }
            Command::HandOver {} => self.hand_over(id),
            Command::Freeze {} => self.snapshot(id, Wish::Freeze),
            Command::Snapshot { message } => self.snapshot(id, Wish::Snapshot(message)),
            Command::Export { delete } => {
                if let Err(refusal) = self.export(id, delete, fds) {
                    self.tell(id, Event::Failed(refusal.into()));
                }
            }
        }
    }

    /// Lets go of requests, so that whoever kills this process next finds nothing half done. A request that hangs is not
    /// waited for: it is sent again.
    fn hand_over(&self, id: u64) {
        let (load, events) = (Arc::clone(&self.mounted.load), self.events.clone());
        let let_go = move || {
            load.close(LETTING_GO);
            // Nobody listens only when the process is ending.
            let _ = events.send(Happening::HandedOver { id });
        };
        if let Err(error) = thread::Builder::new().name("hand-over".into()).spawn(let_go) {
            tracing::warn!("requests are not let go of: {error}");
            self.tell(id, Event::HandedOver {});
        }
    }

    /// Looks for another supervisor, unless there is one or the mount is on its way out: who has asked for that is not to
    /// find it back.
    fn seek_supervisor(&mut self) {
        let (Supervision::Gone, Phase::Serving | Phase::Detached) = (self.supervision, &self.phase) else {
            return;
        };
        let Some(adopter) = self.adopter.clone() else { return };
        self.supervision = Supervision::Sought;
        let (ready, escrow) = (self.ready(), Arc::clone(&self.escrow));
        let search = Search { adopter, ready, last_id: self.last_id, escrow };
        if let Err(error) = adoption::start(search, self.events.clone()) {
            tracing::error!("no supervisor can be looked for: {error}");
            self.end(Urgency::Anyway, None);
        }
    }

    /// Listens to another supervisor from now on.
    fn adopted(&mut self, Adopted { socket, log }: Adopted) {
        let (sender, receiver) = channel(socket);
        self.sender = sender;
        self.supervision = Supervision::There;
        self.hear(receiver);
        // Where this fails, the log goes on to be dropped.
        let _ = sys::replace(io::stderr().as_fd(), log.as_fd(), DupFlags::empty());
        tracing::debug!("adopted by another supervisor");
    }

    fn browse(&self, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let Ok([socket]) = <[_; 1]>::try_from(fds) else {
            return Err(Refusal::new(
                ErrorKind::Usage,
                "Browse needs exactly one descriptor",
                "use a selvedge and a selvedge-fuse-worker that were installed together",
            ));
        };
        self.askers.admit(&self.mounted.view, self.held_back(), socket)
    }

    fn export(&mut self, id: u64, delete: bool, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        if self.exporting {
            return Err(Refusal::new(
                ErrorKind::Conflict,
                "an export of the thread is running",
                "wait until it has ended",
            ));
        }
        let Ok([dest]) = <[_; 1]>::try_from(fds) else {
            return Err(Refusal::new(
                ErrorKind::Usage,
                "Export needs exactly one descriptor",
                "use the selvedge that the worker was installed with",
            ));
        };
        export::check_destination(&dest, &self.mounted.identity)?;
        let (view, held) = (Arc::clone(&self.mounted.view), self.held_back());
        export::start(Export { view, held, dest, delete, id }, self.sender.clone(), self.events.clone())?;
        self.exporting = true;
        Ok(())
    }

    /// Says that the mount is ready, and hands over what a successor needs, unless the supervisor has handed it to us.
    fn say_ready(&mut self, hello: u64) {
        self.last_id = hello;
        let escrow = std::mem::take(&mut self.mounted.escrow);
        let fds: Vec<_> = escrow.iter().map(AsFd::as_fd).filter(|_| !self.mounted.resumed).collect();
        self.tell_with(hello, Event::MountReady(self.ready()), &fds);
        if self.adopter.is_some() {
            self.escrow = Arc::new(escrow);
        }
        if self.mounted.resumed {
            // A supervisor gives up on successors that never get that far.
            let events = self.events.clone();
            self.mounted.load.when_served(move || {
                trace::reached("answered");
                drop(events.send(Happening::Proved));
            });
        }
    }

    fn snapshot(&mut self, id: u64, wish: Wish) {
        let started = if self.snapshotting {
            Err(Refusal::new(
                ErrorKind::Conflict,
                "a snapshot or fork of the thread is being made",
                "try again when it is there",
            ))
        } else {
            let (view, held) = (Arc::clone(&self.mounted.view), self.held_back());
            snapshot::start(Job { view, held, wish, id }, self.sender.clone(), self.events.clone())
        };
        match started {
            Ok(()) => self.snapshotting = true,
            Err(refusal) => self.tell(id, Event::Failed(refusal.into())),
        }
    }

    fn held_back(&self) -> HeldBack {
        HeldBack::new(&self.mounted.pages, &self.mounted.load, &self.mounted.identity, self.mounted.held)
    }

    fn ready(&self) -> MountReady {
        let identity = &self.mounted.identity;
        MountReady {
            protocol: PROTOCOL_VERSION,
            pid: std::process::id(),
            mount_path: WirePath(identity.path.clone()),
            mount_id: identity.mount_id,
            unique_mount_id: identity.unique_id,
            device: Device { major: identity.device.major, minor: identity.device.minor },
            passthrough: self.passthrough(),
            writeback: self.mounted.held == Held::Writes,
        }
    }

    fn passthrough(&self) -> Passthrough {
        let reason = self.mounted.backings.reason();
        Passthrough { active: reason.is_none(), reason }
    }

    fn status(&self) -> StatusOk {
        let load = &self.mounted.load;
        let oldest = load.oldest();
        StatusOk {
            pid: std::process::id(),
            mount_path: WirePath(self.mounted.identity.path.clone()),
            requests: load.served(),
            operations: load.by_operation(),
            oldest_request_ms: oldest.map(milliseconds),
            stuck_ms: load.stuck().map(milliseconds),
            uptime_ms: milliseconds(self.started.elapsed()),
            read_only: self.mounted.read_only,
            fruitless: None,
            passed_opens: load.passed_opens(),
        }
    }

    fn tell(&self, id: u64, event: Event) {
        self.tell_with(id, event, &[]);
    }

    fn tell_with(&self, id: u64, event: Event, fds: &[BorrowedFd<'_>]) {
        let deadline = Some(Instant::now() + PEER_DEADLINE);
        if let Err(error) = self.sender.send(Envelope::new(id, event), fds, deadline) {
            // That the supervisor is gone is told by the reading side.
            tracing::debug!("the supervisor does not hear: {error}");
        }
    }
}

fn hear_commands(mut receiver: Receiver<Command>, events: &mpsc::Sender<Happening>) {
    loop {
        let (happening, over) = match receiver.recv(None) {
            Ok(received) => (Happening::Asked(received), false),
            Err(error) if error.is_recoverable() => (Happening::Garbled(error), false),
            Err(error) => (Happening::Orphaned(error), true),
        };
        if events.send(happening).is_err() || over {
            return;
        }
    }
}

fn garbled_id(error: &RecvError) -> u64 {
    match error {
        RecvError::Decode(error) => error.id().unwrap_or(0),
        RecvError::Fds { id, .. } => *id,
        _ => 0,
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
