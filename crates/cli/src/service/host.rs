//! What the service answers: it makes mounts, keeps book of what is wanted, and takes mounts down.

mod adopt;
mod ending;
mod lend;
mod places;
mod renew;
mod restore;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::take_down;
use selvedge_supervisor::{
    ExitReport, Restart, SpawnSpec, State as SupervisorState, StopMode, WorkerProgram,
};
use tracing::Span;

use crate::control::{Answer, Host, MountDocument, MountState, Reply, Request};
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::hosted::{Hosted, Mounts};
use crate::making::{Leftovers, make};
use crate::plan::Plan;
use crate::record::{Holder, MountId, Record};
use crate::runtime::RuntimeDir;
use crate::service::log::span_of;
use crate::service::upgrade::{UpgradeAsked, check_program};
use crate::settings::ServiceSettings;
use crate::starting::Starting;
use crate::ui::show;
use crate::{wanted, worker_program};
pub(super) use ending::Ending;
use ending::{END, stop_anyway};
use places::{Admission, Attempt, Place};

/// The pause between two looks whether something that is about to go is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// How long requests wait until what a former service left has been removed.
const CLEAN: Duration = Duration::from_secs(15);

/// How many failures are told to whoever wants lost mounts back: as many as fit a frame.
const TOLD: usize = 8;

/// Threads that wait for a worker's end touch little stack; most of this is never made resident.
const STACK: usize = 256 * 1024;

/// Somebody wants the service to end, and to be told how that went.
pub(super) type EndAsked = Sender<Result<()>>;

/// What only the service's main loop can do.
#[derive(Debug)]
pub(super) enum Asked {
    /// End.
    End(EndAsked),
    /// Become another program.
    Upgrade(UpgradeAsked),
}

/// The service's mounts.
#[derive(Debug)]
pub(super) struct Service {
    me: Weak<Self>,
    runtime: Arc<RuntimeDir>,
    /// The worker's program, opened once: still the same one after the file is replaced.
    worker: Result<OwnedFd>,
    mounts: Mounts,
    /// What holds for mounts from now on.
    settings: Mutex<ServiceSettings>,
    state: Mutex<State>,
    changed: Condvar,
    /// The processes that mounts are lent to, and which.
    borrowers: Mutex<Vec<(MountId, Arc<OwnedFd>)>>,
    asks: Sender<Asked>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether everything that a former service left has been removed: nothing is mounted before.
    cleaned: bool,
    /// Whether workers of a former service that have not asked to be adopted are given up.
    cleaning: bool,
    ending: Option<Ending>,
    /// Every mount from its admission until nothing is left of it.
    places: Vec<Place>,
    /// When the last place became free.
    empty_since: Option<Instant>,
    /// What workers have just unmounted in order without having been asked, and when.
    just_gone: Vec<(Instant, Plan)>,
}

/// Why a mount is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Somebody asks for it.
    Asked,
    /// It is written down and was lost.
    Lost,
}

impl Service {
    /// A service without mounts; `asks` hears of what the main loop has to do.
    pub(super) fn new(
        runtime: Arc<RuntimeDir>,
        environment: &Environment,
        settings: ServiceSettings,
        asks: Sender<Asked>,
    ) -> Arc<Self> {
        let worker = worker_program::find(environment).and_then(|program| {
            rustix::fs::open(&program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                CliError::io(format!("cannot open the worker program {}", show(&program)), &errno.into())
                    .hint("install selvedge-fuse-worker beside selvedge, then selvedge service stop")
            })
        });
        let state = Mutex::new(State { empty_since: Some(Instant::now()), ..State::default() });
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            runtime,
            worker,
            mounts: Mounts::default(),
            settings: Mutex::new(settings),
            state,
            changed: Condvar::new(),
            borrowers: Mutex::default(),
            asks,
        })
    }

    /// What holds for mounts from now on; those that are there keep theirs.
    pub(super) fn set(&self, settings: ServiceSettings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    fn settings(&self) -> ServiceSettings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing of a former service is in the way any more.
    pub(super) fn set_cleaned(&self) {
        self.state().cleaned = true;
        self.changed.notify_all();
    }

    /// Waits until it is known which mounts of a former service go on.
    pub(super) fn wait_cleaned(&self) {
        let deadline = Instant::now() + CLEAN;
        let mut state = self.state();
        while !state.cleaned {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount_when_cleaned(&self, plan: &Plan) -> Result<Option<MountDocument>> {
        self.wait_cleaned();
        self.mount(plan, Occasion::Asked)
    }

    /// Carries out a plan, once. `None` if the service is ending.
    fn mount(&self, plan: &Plan, occasion: Occasion) -> Result<Option<MountDocument>> {
        let tried = || format!("cannot mount thread {} on {}", plan.thread, show(plan.mountpoint.as_path()));
        let gone = Instant::now() + CLEAN;
        loop {
            match self.admit(plan).map_err(|error| error.context(tried()))? {
                Admission::Ending => return Ok(None),
                Admission::Going if Instant::now() >= gone => {
                    return Err(CliError::timed_out(format!(
                        "{}: a run that ended has not let go of it",
                        tried()
                    ))
                    .hint("selvedge list shows how it stands"));
                }
                Admission::Going => std::thread::sleep(PAUSE),
                Admission::New(attempt) => return self.attempt(plan, occasion, &attempt),
                Admission::Known(attempt) => match self.known(&attempt)? {
                    Some(mount) => return Ok(Some(mount)),
                    // It went with its last borrower, and is made anew.
                    None if plan.lent => {}
                    None => {
                        return Err(CliError::failed(format!("{}: it has been unmounted since", tried()))
                            .hint("mount it again when you want it"));
                    }
                },
            }
        }
    }

    fn attempt(&self, plan: &Plan, occasion: Occasion, attempt: &Attempt) -> Result<Option<MountDocument>> {
        self.make(plan, occasion, &attempt.starting)
            .map(|hosted| Some(hosted.document(MountState::Ready)))
            .or_else(|error| {
                *attempt.failure() = Some(error.clone());
                self.free(attempt.starting.id());
                if self.state().ending.is_some() {
                    return Ok(None);
                }
                tracing::warn!("{error}");
                Err(error)
            })
    }

    /// Makes the mount, writes down that it is wanted, and watches over its end.
    fn make(&self, plan: &Plan, occasion: Occasion, starting: &Arc<Starting>) -> Result<Arc<Hosted>> {
        // It may have come to be since it was looked for.
        let made_directory = plan.make_directory && is_missing(plan.mountpoint.as_path());
        let record = Record { id: starting.id().clone(), made_directory, ..plan.record(Holder::Service)? };
        // The supervisor's threads and those that watch it inherit it.
        let _about = span_of(&record).entered();
        let mut leftovers = Leftovers::of(&self.runtime, record.clone());
        record.write(&self.runtime)?;
        // After the record: whoever unmounts it strikes it out, and then looks for a record.
        if occasion == Occasion::Lost && !wanted::is_written(&self.runtime, &plan.request)? {
            return Err(CliError::failed(format!(
                "thread {} has been unmounted since it was lost",
                plan.thread
            ))
            .hint("mount it again when you want it"));
        }
        let spec = SpawnSpec { cancel: Some(starting.cancel().clone()), ..self.spec(plan, starting.id())? };
        let hosted = make(&self.runtime, &record, &spec, &mut leftovers)?;
        // Before anybody can unmount it, and before the answer: what is not written down would be gone for good when
        // the service is killed.
        if !plan.lent
            && let Err(error) = self.want(plan)
        {
            let _ = hosted.stop(StopMode::Force);
            return Err(error);
        }
        self.add(&hosted);
        self.watch(&hosted, leftovers)?;
        tracing::info!("mounted thread {} on {}", plan.thread, show(plan.mountpoint.as_path()));
        if starting.was_called_off() {
            stop_anyway(&hosted);
            // Whoever called it off is told when nothing is left.
            hosted.wait_cleaned(Instant::now() + CLEAN);
            return Err(CliError::failed(format!(
                "thread {} was unmounted as soon as it was mounted",
                plan.thread
            ))
            .hint("mount it again when you want it"));
        }
        Ok(hosted)
    }

    fn worker(&self, plan: &Plan) -> Result<WorkerProgram> {
        match (&plan.worker, &self.worker) {
            (Some(chosen), _) => Ok(WorkerProgram::Path(chosen.as_path().to_owned())),
            (None, Ok(own)) => own
                .try_clone()
                .map(WorkerProgram::Fd)
                .map_err(|error| CliError::io("cannot duplicate a descriptor", &error)),
            (None, Err(error)) => Err(error.clone()),
        }
    }

    /// Writes down that the mount is wanted. What was lost of the same thread or at the same place is not, any more.
    fn want(&self, plan: &Plan) -> Result<()> {
        wanted::write(&self.runtime, plan)?;
        for other in wanted::all(&self.runtime)? {
            let same = other.is_of_thread(plan.repo.as_path(), &plan.thread_id)
                || other.mountpoint == plan.mountpoint;
            if same && other.request != plan.request {
                wanted::remove(&self.runtime, &other.request)?;
            }
        }
        Ok(())
    }

    /// Waits, in a thread of its own, for the mount's end, and removes what is left.
    fn watch(&self, hosted: &Arc<Hosted>, leftovers: Leftovers) -> Result<()> {
        let (restarts, exit) = (hosted.supervisor().restart_events(), hosted.supervisor().exit_events());
        let (me, watched) = (Weak::clone(&self.me), Arc::clone(hosted));
        let about = Span::current();
        let watching = move || {
            let _about = about.entered();
            // They end before the mount does, so no record is written that has been removed.
            for restart in restarts {
                if let Some(me) = me.upgrade() {
                    me.replaced(&watched, &restart);
                }
            }
            if let (Ok(report), Some(me)) = (exit.recv(), me.upgrade()) {
                me.ended(&watched, leftovers, &report);
            }
        };
        let started = std::thread::Builder::new().name("exit".to_owned()).stack_size(STACK).spawn(watching);
        started.map(drop).map_err(|error| {
            let _ = hosted.stop(StopMode::Force);
            CliError::io("cannot start a thread", &error)
        })
    }

    /// Adds a mount that is there. A worker that has followed its first one meanwhile is written down.
    fn add(&self, hosted: &Arc<Hosted>) {
        self.mounts.add(Arc::clone(hosted));
        if hosted.was_replaced() {
            self.write_down(hosted);
        }
    }

    /// Says which worker serves now. That it was to is written down; that nobody serves beside it, is now.
    fn replaced(&self, hosted: &Hosted, restart: &Restart) {
        let Restart { pid, restarts, cause } = restart;
        tracing::warn!(
            "the worker of thread {} ended ({cause}) and was replaced by {pid}; restarts: {restarts}",
            hosted.record().thread
        );
        self.write_down(hosted);
    }

    fn ended(&self, hosted: &Hosted, mut leftovers: Leftovers, report: &ExitReport) {
        let record = hosted.record();
        let place = show(record.mountpoint.as_path());
        if let Some(why) = &report.mount_stuck {
            // It stays in the list, as failed, for whoever can do something about it.
            tracing::error!(
                "the worker of thread {} has ended, its mount on {place} has not: {why}",
                record.thread
            );
            return;
        }
        leftovers.remove();
        let asked = hosted.stop_was_asked();
        if asked {
            tracing::info!("unmounted {place}");
        } else if report.is_clean() {
            tracing::info!("{place} was unmounted by another program");
        } else {
            let why = report
                .gave_up
                .as_ref()
                .map_or(String::new(), |why| format!("; no successor took over: {why}"));
            tracing::error!(
                "the worker of thread {} (pid {}) ended ({}), and {place} was unmounted{why}; it said: {}",
                record.thread,
                report.pid,
                report.status,
                report.stderr_tail.trim()
            );
        }
        if let (Some(why), Some(request)) = (&report.gave_up, &record.request)
            && let Err(error) = wanted::fail(&self.runtime, request, why)
        {
            tracing::warn!("{error}");
        }
        // A worker that died, or was told to end as all processes are, has not made anybody want its mount less.
        let is_unwanted = (asked || report.is_clean()) && self.state().ending != Some(Ending::Terminated);
        if !asked
            && is_unwanted
            && let Some(plan) = &record.plan
        {
            self.has_just_gone((**plan).clone());
        }
        if is_unwanted
            && let Some(request) = &record.request
            && let Err(error) = wanted::remove(&self.runtime, request)
        {
            tracing::warn!("{error}");
        }
        // In this order: whoever waits for the end may mount the thread again at once.
        self.free(&record.id);
        hosted.set_cleaned();
    }

    /// Tries once more to take down a mount that its worker's end left behind.
    fn take_down_stuck(&self, id: &MountId) -> Result<()> {
        let Ok(hosted) = self.mounts.find(id) else { return Ok(()) };
        let SupervisorState::Exited(report) = hosted.supervisor().state() else { return Ok(()) };
        let (Some(_), Some(identity)) = (&report.mount_stuck, hosted.record().identity()) else {
            return Ok(());
        };
        take_down(&identity, Instant::now() + CLEAN).map_err(|error| {
            CliError::failed(error.to_string()).hint(format!("umount -l {}", show(&identity.path)))
        })?;
        let report = ExitReport { mount_stuck: None, ..report };
        self.ended(&hosted, Leftovers::of(&self.runtime, hosted.record().clone()), &report);
        Ok(())
    }

    /// Writes every mount down again, in a runtime directory that was made anew.
    pub(super) fn write_down_again(&self) {
        let plans: Vec<Plan> = {
            let state = self.state();
            state.places.iter().filter(|place| !place.plan.lent).map(|place| place.plan.clone()).collect()
        };
        let records = self.mounts.all().into_iter().map(|hosted| hosted.write_down(&self.runtime));
        let wanted = plans.iter().map(|plan| wanted::write(&self.runtime, plan));
        for error in records.chain(wanted).filter_map(Result::err) {
            tracing::error!("{error}");
        }
    }

    /// Has the process become the program that comes along. Comes back only if it does not.
    fn ask_for_an_upgrade(&self, mut fds: Vec<OwnedFd>, answer: &Answer) -> Result<()> {
        let (Some(program), true) = (fds.pop(), fds.is_empty()) else {
            return Err(CliError::usage("an upgrade needs exactly one descriptor, the new program's")
                .hint("use the version of selvedge that is to run"));
        };
        check_program(&program)?;
        self.check_workers()?;
        let (failed, outcome) = mpsc::channel();
        let ending = || CliError::failed("the service is ending").hint("start it with the new version");
        let asked = UpgradeAsked { program, answer: answer.clone(), failed };
        self.asks.send(Asked::Upgrade(asked)).map_err(|_| ending())?;
        Err(outcome.recv_timeout(END).unwrap_or_else(|_| ending()))
    }
}

/// Whether nothing is there; a mount that may be is not asked.
fn is_missing(path: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    matches!(rustix::fs::open(path, flags, Mode::empty()), Err(Errno::NOENT))
}

impl Host for Service {
    fn answer(&self, request: Request, fds: Vec<OwnedFd>, answer: &Answer) {
        let result = match request {
            Request::Mount { plan } => self.mount_when_cleaned(&plan).map(|made| {
                let Some(mount) = made else {
                    answer.send(Reply::Ending {});
                    return;
                };
                let id = mount.id.clone();
                // Whoever asked has been interrupted, and does not want it any more.
                if !answer.send(Reply::Mounted { mount: Box::new(mount) })
                    && let Ok(hosted) = self.mounts.find(&id)
                {
                    let _ = hosted.stop(StopMode::Orderly);
                }
            }),
            Request::Lend { plan } => self.lend(&plan, fds).map(|lent| match lent {
                None => {
                    answer.send(Reply::Ending {});
                }
                Some((mount, copy)) => {
                    let copy: Vec<_> = copy.iter().map(AsFd::as_fd).collect();
                    answer.send_with(Reply::Mounted { mount: Box::new(mount) }, &copy);
                }
            }),
            Request::List {} => {
                answer.send_mounts(self.list());
                Ok(())
            }
            Request::Restore {} if self.state().ending.is_some() => {
                answer.send(Reply::Ending {});
                Ok(())
            }
            Request::Restore {} => {
                self.wait_cleaned();
                let mut failed = self.restore();
                failed.truncate(TOLD);
                if answer.send(Reply::Restored { failed }) {
                    answer.send_mounts(self.list());
                }
                Ok(())
            }
            Request::Adopt { adoption } => self.adopt(*adoption, fds, answer.peer()).map(|adopted| {
                answer.send(if adopted { Reply::Adopted {} } else { Reply::Ending {} });
            }),
            Request::Upgrade {} => self.ask_for_an_upgrade(fds, answer),
            Request::End {} => self.ask_for_the_end().map(|()| {
                answer.send(Reply::Ended {});
            }),
            other => {
                if let Request::Unmount { mount, .. } = &other {
                    self.unmount_copies(mount);
                    if let Err(error) = self.take_down_stuck(mount) {
                        return answer.fail(error);
                    }
                }
                return self.mounts.answer(other, fds, answer);
            }
        };
        if let Err(error) = result {
            answer.fail(error);
        }
    }
}
