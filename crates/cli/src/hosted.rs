//! The mounts that this process holds, and what it answers about them.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use selvedge_supervisor::{CallError, State, StopMode, Supervisor};
use selvedge_worker_proto::{ExportDone, StatusOk, WirePath};

use crate::control::{Answer, Host, MountDocument, MountState, Reply, Request};
use crate::error::{CliError, Result};
use crate::process::{self, ProcessId};
use crate::record::{MountId, MountRecord, Record};
use crate::runtime::RuntimeDir;
use crate::starting::Starting;

/// How long a worker may take to say how it is, before its mount counts as stuck.
const STATUS: Duration = Duration::from_millis(300);

/// How long the kernel may take to say how much memory a worker has, when it has been asked how it is.
const MEMORY: Duration = Duration::from_millis(200);

/// How long until a worker is asked again that was just being replaced.
const RECOVERING: Duration = Duration::from_millis(10);

/// How long a worker may take to begin with answers about its tree.
const BROWSE: Duration = Duration::from_secs(5);

/// How long an export may show no progress.
const EXPORT_IDLE: Duration = Duration::from_secs(30);

/// How long a snapshot may show no progress: writing what it made to the disk shows none.
const SNAPSHOT_IDLE: Duration = Duration::from_mins(2);

/// How long a worker may take to freeze its thread: the kernel writes what programs stored through mappings first.
const FREEZE: Duration = Duration::from_secs(30);

/// How long cleaning up after a worker that has ended may take.
const CLEAN: Duration = Duration::from_secs(15);

/// A mount with its supervisor.
#[derive(Debug)]
pub struct Hosted {
    record: Record,
    mount: MountRecord,
    supervisor: Supervisor,
    life: Mutex<Life>,
    changed: Condvar,
    /// The worker that is to follow the present one. Held while the record is written, so that no older one takes a younger
    /// one's place.
    heir: Mutex<Option<ProcessId>>,
}

/// What is known of a mount's end.
#[derive(Debug, Default, Clone, Copy)]
struct Life {
    /// Somebody wanted it to end.
    stop_asked: bool,
    /// Everything of it has been removed.
    cleaned: bool,
}

impl Hosted {
    /// A mount that is ready.
    pub fn new(record: Record, mount: MountRecord, supervisor: Supervisor) -> Self {
        Self {
            record,
            mount,
            supervisor,
            life: Mutex::default(),
            changed: Condvar::new(),
            heir: Mutex::default(),
        }
    }

    /// Its supervisor.
    pub const fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Its record.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Ends the mount; returns when the worker has ended. [`Self::set_cleaned`] is still to come.
    pub fn stop(&self, mode: StopMode) -> Result<(), selvedge_supervisor::StopError> {
        self.life().stop_asked = true;
        self.supervisor.stop(mode).map(|_| ()).inspect_err(|_| self.life().stop_asked = false)
    }

    /// Whether the end of the worker was somebody's wish.
    pub fn stop_was_asked(&self) -> bool {
        self.life().stop_asked
    }

    /// Tells those who wait that everything of the mount has been removed.
    pub fn set_cleaned(&self) {
        self.life().cleaned = true;
        self.changed.notify_all();
    }

    /// Waits until everything of the mount has been removed; `false` if `deadline` comes first.
    pub fn wait_cleaned(&self, deadline: Instant) -> bool {
        let mut life = self.life();
        while !life.cleaned {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            life = self.changed.wait_timeout(life, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker `pid` is to follow the present one.
    pub fn set_heir(&self, pid: u32) {
        *self.heir() = ProcessId::of(pid);
    }

    /// Writes its record as it has to be now: with the worker that serves, and the one that is to follow it.
    pub fn write_down(&self, runtime: &RuntimeDir) -> Result<()> {
        let mut heir = self.heir();
        let record = self.record_now();
        *heir = heir.filter(|heir| heir.runs() && Some(*heir) != record.worker);
        Record { worker: heir.or(record.worker), ..record }.write(runtime)
    }

    fn heir(&self) -> MutexGuard<'_, Option<ProcessId>> {
        self.heir.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another worker serves it by now than when it was made or adopted.
    pub fn was_replaced(&self) -> bool {
        self.supervisor.pid() != self.mount.worker.pid
    }

    /// Its record as it has to be written now: with the worker that serves at present.
    pub fn record_now(&self) -> Record {
        let worker = self.supervisor.worker_pid();
        worker
            .and_then(|pid| {
                self.record.with_worker(pid, self.supervisor.restarts(), self.supervisor.last_cause())
            })
            .unwrap_or_else(|| self.record.clone())
    }

    /// The mount as `mount` and `list` show it, in the given state.
    pub fn document(&self, state: MountState) -> MountDocument {
        MountDocument {
            id: self.record.id.clone(),
            thread: self.record.thread.clone(),
            mountpoint: self.record.mountpoint.clone(),
            worker_pid: self.supervisor.worker_pid(),
            supervisor_pid: Some(self.record.supervisor.pid),
            passthrough: self.mount.passthrough.clone(),
            writeback: self.mount.writeback,
            repo: self.record.repo.clone(),
            state,
            restarts: self.supervisor.restarts(),
            last_crash: self.supervisor.last_cause(),
            uptime_s: self.mount.uptime().as_secs(),
            requests_per_s: None,
            memory: None,
            opens: None,
            passed_opens: None,
        }
    }

    /// The mount as it is now; asks the worker, for [`STATUS`] at most.
    fn look(&self) -> MountDocument {
        let memory = self.supervisor.worker_pid().map(memory_of);
        let status = match self.supervisor.state() {
            State::Ready => self.supervisor.status(STATUS),
            _ => Err(CallError::Recovering),
        };
        let answered = status.as_ref().ok();
        let requests_per_s = answered.map(|status| self.supervisor.requests_per_second(status));
        let memory = memory.and_then(|memory| memory.recv_timeout(MEMORY).ok().flatten());
        let opens = answered.map(|status| {
            ["open", "create"].iter().filter_map(|operation| status.operations.get(*operation)).sum()
        });
        let passed_opens = answered.map(|status| status.passed_opens);
        let document = self.document(self.state(&status));
        MountDocument { requests_per_s, memory, opens, passed_opens, ..document }
    }

    /// How it is, if its worker answered `status` when it was asked.
    fn state(&self, status: &Result<StatusOk, CallError>) -> MountState {
        match self.supervisor.state() {
            State::Ready => match status {
                Ok(_) if self.record.is_mounted() => MountState::Ready,
                // Its worker serves it, but not at its directory: another mount namespace or an open file keeps
                // it alive.
                Ok(_) => MountState::Detached,
                Err(CallError::Recovering) => MountState::Recovering,
                Err(error) => {
                    tracing::debug!("thread {}: {error}", self.record.thread);
                    MountState::Stuck
                }
            },
            State::Recovering => MountState::Recovering,
            State::Exited(report) if report.mount_stuck.is_some() => MountState::Failed,
            // After the worker's end, what is left of the mount is being removed.
            State::Stopping | State::TakingDown | State::Exited(_) => MountState::Stopping,
        }
    }
}

/// Looks for a worker's memory in a thread of its own: the kernel keeps who asks waiting while the worker changes
/// what it has mapped, and a worker that hangs there would hang whoever lists it.
fn memory_of(pid: u32) -> Receiver<Option<u64>> {
    let (found, answer) = mpsc::channel();
    let look = move || {
        // Whoever asked may have given up.
        let _ = found.send(process::private_memory(pid));
    };
    // Without a thread nothing comes.
    drop(std::thread::Builder::new().name("memory".to_owned()).spawn(look));
    answer
}

fn cleaning_takes_long() -> CliError {
    CliError::timed_out("the worker has ended, but cleaning up after it takes too long")
        .hint("selvedge list shows what is left")
}

/// All mounts of this process.
#[derive(Debug, Default)]
pub struct Mounts {
    starting: Mutex<Vec<Arc<Starting>>>,
    hosted: Mutex<Vec<Arc<Hosted>>>,
}

impl Mounts {
    /// Adds a mount that is being made. It can be unmounted, which calls it off, and is not listed yet.
    pub fn add_starting(&self, starting: Arc<Starting>) {
        self.starting().push(starting);
    }

    fn starting(&self) -> MutexGuard<'_, Vec<Arc<Starting>>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a mount, which is thereby no longer one that is being made.
    pub fn add(&self, hosted: Arc<Hosted>) {
        let id = hosted.record.id.clone();
        // In this order, so that it is found in one of the two lists at any time.
        self.hosted().push(hosted);
        self.starting().retain(|starting| *starting.id() != id);
    }

    /// Takes out a mount of which nothing is left, whether it ever came to be or not.
    pub fn remove(&self, id: &MountId) {
        self.starting().retain(|starting| starting.id() != id);
        self.hosted().retain(|hosted| hosted.record.id != *id);
    }

    /// The mounts that are there.
    pub fn all(&self) -> Vec<Arc<Hosted>> {
        self.hosted().clone()
    }

    /// Calls off every mount that is being made, and gives back those that are there.
    pub fn call_off_all(&self) -> Vec<Arc<Hosted>> {
        let starting = self.starting();
        starting.iter().for_each(|starting| starting.call_off());
        self.hosted().clone()
    }

    fn hosted(&self) -> MutexGuard<'_, Vec<Arc<Hosted>>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mount that is ready and called so.
    pub fn find(&self, id: &MountId) -> Result<Arc<Hosted>> {
        self.hosted().iter().find(|hosted| hosted.record.id == *id).cloned().ok_or_else(|| {
            CliError::not_found(format!("there is no mount {id} (any more)"))
                .hint("selvedge list shows what is mounted")
        })
    }

    /// Every mount as it is now. Workers are asked all at once: one that is stopped delays the others not.
    pub fn list(&self) -> Vec<MountDocument> {
        let hosted = self.hosted().clone();
        std::thread::scope(|scope| {
            let look = |hosted| std::thread::Builder::new().spawn_scoped(scope, move || Hosted::look(hosted));
            let asked: Vec<_> = hosted.iter().map(|hosted| (hosted, look(hosted))).collect();
            asked
                .into_iter()
                .map(|(hosted, thread)| {
                    let looked = thread.ok().and_then(|thread| thread.join().ok());
                    looked.unwrap_or_else(|| hosted.document(MountState::Stuck))
                })
                .collect()
        })
    }

    /// Calls off a mount that is being made. Under the lock, so that whoever makes it sees so when it has ceased
    /// to be one.
    fn call_off(&self, id: &MountId) -> Option<Arc<Starting>> {
        let starting = self.starting();
        let called_off = starting.iter().find(|starting| starting.id() == id).cloned();
        called_off.inspect(|starting| starting.call_off())
    }

    fn unmount(&self, id: &MountId, force: bool) -> Result<()> {
        if let Some(starting) = self.call_off(id) {
            return if starting.wait_ended(Instant::now() + CLEAN) {
                Ok(())
            } else {
                Err(cleaning_takes_long())
            };
        }
        let hosted = self.find(id)?;
        hosted.stop(if force { StopMode::Force } else { StopMode::Orderly })?;
        if hosted.wait_cleaned(Instant::now() + CLEAN) { Ok(()) } else { Err(cleaning_takes_long()) }
    }

    fn browse(&self, id: &MountId, mut fds: Vec<OwnedFd>) -> Result<()> {
        let hosted = self.find(id)?;
        let (Some(socket), true) = (fds.pop(), fds.is_empty()) else {
            return Err(CliError::usage("looking at a tree needs exactly one descriptor, a socket's")
                .hint("use the version of selvedge that made the mount"));
        };
        let deadline = Instant::now() + BROWSE;
        loop {
            let again =
                socket.try_clone().map_err(|error| CliError::io("cannot duplicate a descriptor", &error))?;
            match hosted.supervisor.browse(again, deadline.saturating_duration_since(Instant::now())) {
                // The death of a worker is a pause, to those who look at its tree as well.
                Err(CallError::Recovering) if Instant::now() < deadline => std::thread::sleep(RECOVERING),
                answer => return Ok(answer?),
            }
        }
    }

    fn snapshot(&self, id: &MountId, message: WirePath, answer: &Answer) -> Result<()> {
        let hosted = self.find(id)?;
        let done = hosted.supervisor.snapshot(message, SNAPSHOT_IDLE, &mut |progress| {
            answer.send(Reply::SnapshotProgress(progress));
        })?;
        answer.send(Reply::SnapshotDone(done));
        Ok(())
    }

    fn export(&self, id: &MountId, delete: bool, mut fds: Vec<OwnedFd>, answer: &Answer) -> Result<()> {
        let hosted = self.find(id)?;
        let (Some(destination), true) = (fds.pop(), fds.is_empty()) else {
            return Err(CliError::usage("an export needs exactly one descriptor, the destination's")
                .hint("use the version of selvedge that made the mount"));
        };
        let report = hosted.supervisor.export(destination, delete, EXPORT_IDLE, &mut |progress| {
            answer.send(Reply::ExportProgress(progress));
        })?;
        for noted in report.noted {
            answer.send(Reply::ExportNoted(noted));
        }
        answer.send(Reply::ExportDone(ExportDone { files: report.files, bytes: report.bytes }));
        Ok(())
    }
}

impl Host for Mounts {
    fn answer(&self, request: Request, fds: Vec<OwnedFd>, answer: &Answer) {
        let result = match request {
            // The server has answered greetings itself.
            Request::Hello { .. } => Ok(()),
            Request::List {} => {
                answer.send_mounts(self.list());
                Ok(())
            }
            Request::Unmount { mount, force } => self.unmount(&mount, force).map(|()| {
                answer.send(Reply::Unmounted {});
            }),
            Request::Browse { mount } => self.browse(&mount, fds).map(|()| {
                answer.send(Reply::Browsing {});
            }),
            Request::Freeze { mount } => {
                let frozen = self.find(&mount).and_then(|hosted| Ok(hosted.supervisor.freeze(FREEZE)?));
                frozen.map(|()| {
                    answer.send(Reply::Frozen {});
                })
            }
            Request::Snapshot { mount, message } => self.snapshot(&mount, message, answer),
            Request::Export { mount, delete } => self.export(&mount, delete, fds, answer),
            Request::Mount { .. }
            | Request::Lend { .. }
            | Request::Adopt { .. }
            | Request::Restore {}
            | Request::Upgrade {}
            | Request::End {} => Err(CliError::usage("this process holds one mount and makes no others")
                .hint("ask the background service")),
        };
        if let Err(error) = result {
            answer.fail(error);
        }
    }
}
