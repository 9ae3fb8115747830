//! What the service answers: it makes mounts, keeps book of what is wanted, and takes mounts down.

mod adopt;
mod lend;
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
    ExitReport, Restart, SpawnSpec, State as SupervisorState, StopError, StopMode, WorkerProgram,
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

/// How long a request that was sent again waits for the one before it.
const SAME: Duration = Duration::from_mins(1);

/// The pause between two looks whether something that is about to go is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// How long requests wait until what a former service left has been removed.
const CLEAN: Duration = Duration::from_secs(15);

/// How long unmounting everything may take: every step of ending workers that do not obey, and cleaning up.
const END: Duration = Duration::from_secs(200);

/// What ends within so short a time has been told to end at the same moment.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How many failures are told to whoever wants lost mounts back: as many as fit a frame.
const TOLD: usize = 8;

/// Threads that wait for a worker's end touch little stack; most of this is never made resident.
const STACK: usize = 256 * 1024;

/// Why the service ends, and with it what becomes of the mounts that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Somebody stopped it: nothing is wanted any more.
    Stopped,
    /// It was told to end, as everything is at log-out and shutdown: what was wanted stays so.
    Terminated,
}

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

/// A thread and a directory that are taken.
#[derive(Debug)]
struct Place {
    plan: Plan,
    attempt: Arc<Attempt>,
    /// How many processes it is lent to, if it was made for that.
    borrowers: usize,
    /// Whether it is being taken down because nobody has it any more.
    leaving: bool,
    /// Whether somebody has had it: before, it is being made for its first borrower.
    was_lent: bool,
    /// Whether processes still have it that its last borrower left.
    kept: bool,
}

/// What is done for a request.
#[derive(Debug)]
struct Attempt {
    starting: Arc<Starting>,
    /// Why it came to nothing, for those who sent the same request.
    failure: Mutex<Option<CliError>>,
}

impl Attempt {
    fn failure(&self) -> MutexGuard<'_, Option<CliError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a mount is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Somebody asks for it.
    Asked,
    /// It is written down and was lost.
    Lost,
}

/// What becomes of a request for a mount.
enum Admission {
    /// It is carried out by this asker.
    New(Arc<Attempt>),
    /// It is being carried out, or has been, for an asker before.
    Known(Arc<Attempt>),
    /// The thread's last borrower has ended, and its mount is about to go.
    Going,
    /// The service is ending.
    Ending,
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

    /// Takes the thread and the directory, if they are free.
    fn admit(&self, plan: &Plan) -> Result<Admission> {
        let mut state = self.state();
        if state.ending.is_some() {
            return Ok(Admission::Ending);
        }
        for place in &state.places {
            let (other, at) = (&place.plan, show(place.plan.mountpoint.as_path()));
            if other.request == plan.request {
                return Ok(Admission::Known(Arc::clone(&place.attempt)));
            }
            if plan.lent && other.is_of_thread(plan.repo.as_path(), &plan.thread_id) {
                return Ok(Admission::Known(Arc::clone(&place.attempt)));
            }
            if other.is_of_thread(plan.repo.as_path(), &plan.thread_id) && self.is_going(place) {
                return Ok(Admission::Going);
            }
            if other.is_of_thread(plan.repo.as_path(), &plan.thread_id) {
                return Err(CliError::conflict(format!("it is mounted already, on {at}"))
                    .hint(format!("use it there, or unmount it first: selvedge unmount {at}")));
            }
            if other.mountpoint == plan.mountpoint {
                return Err(CliError::conflict(format!("thread {} is mounted there", other.thread))
                    .hint(format!("choose another directory, or unmount it first: selvedge unmount {at}")));
            }
        }
        let starting = Arc::new(Starting::new(MountId::random()?)?);
        self.mounts.add_starting(Arc::clone(&starting));
        let attempt = Arc::new(Attempt { starting, failure: Mutex::default() });
        let place = Place {
            plan: plan.clone(),
            attempt: Arc::clone(&attempt),
            borrowers: 0,
            leaving: false,
            was_lent: false,
            kept: false,
        };
        state.places.push(place);
        Ok(Admission::New(attempt))
    }

    /// What came of a request that somebody sent before; `None` if the mount has come and gone.
    fn known(&self, attempt: &Attempt) -> Result<Option<MountDocument>> {
        let deadline = Instant::now() + SAME;
        loop {
            if let Ok(hosted) = self.mounts.find(attempt.starting.id()) {
                return Ok(Some(hosted.document(MountState::Ready)));
            }
            if attempt.starting.wait_ended(Instant::now() + Duration::from_millis(50)) {
                return attempt.failure().clone().map_or(Ok(None), Err);
            }
            if Instant::now() >= deadline {
                return Err(
                    CliError::timed_out("it is still being tried for the same request").hint("try again")
                );
            }
        }
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
            let mut state = self.state();
            state.just_gone.retain(|(since, _)| since.elapsed() < AT_ONCE);
            state.just_gone.push((Instant::now(), (**plan).clone()));
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

    /// Nothing is left of a mount.
    fn free(&self, id: &MountId) {
        self.mounts.remove(id);
        let mut state = self.state();
        for place in state.places.extract_if(.., |place| place.attempt.starting.id() == id) {
            place.attempt.starting.set_ended();
        }
        if state.places.is_empty() {
            state.empty_since = Some(Instant::now());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether there has been no mount since `idle` ago; if so, none is taken any more.
    pub(super) fn ends_idle(&self, idle: Duration) -> bool {
        let mut state = self.state();
        let is_idle = state.empty_since.is_some_and(|since| since.elapsed() >= idle);
        if state.cleaned && state.places.is_empty() && is_idle {
            state.ending.get_or_insert(Ending::Terminated);
            return true;
        }
        false
    }

    /// Unmounts everything; from now on no mount is taken.
    pub(super) fn end(&self, ending: Ending) -> Result<()> {
        let just_gone = {
            let mut state = self.state();
            state.ending.get_or_insert(ending);
            std::mem::take(&mut state.just_gone)
        };
        if ending == Ending::Terminated {
            self.want_again(&just_gone);
        }
        let deadline = Instant::now() + END;
        let stopping: Vec<_> = self
            .mounts
            .call_off_all()
            .into_iter()
            .map(|hosted| std::thread::Builder::new().stack_size(STACK).spawn(move || stop_anyway(&hosted)))
            .collect();
        for thread in stopping {
            // It says in the log what went wrong.
            let _ = thread.map(std::thread::JoinHandle::join);
        }
        let mut state = self.state();
        while !state.places.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let left: Vec<String> =
                    state.places.iter().map(|place| show(place.plan.mountpoint.as_path())).collect();
                return Err(CliError::timed_out(format!("still mounted: {}", left.join(", "))).hint(
                    "selvedge list names their workers; what waits in the kernel ends with what it waits for",
                ));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
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

    /// Log-out tells workers and service at once to end. A worker that was faster has not made anybody want its mount less.
    fn want_again(&self, just_gone: &[(Instant, Plan)]) {
        for (since, plan) in just_gone {
            if since.elapsed() < AT_ONCE
                && !plan.lent
                && let Err(error) = wanted::write(&self.runtime, plan)
            {
                tracing::warn!("{error}");
            }
        }
    }

    /// Has the process end, and waits until nothing is mounted any more.
    fn ask_for_the_end(&self) -> Result<()> {
        let (done, outcome) = mpsc::channel();
        let ending = || CliError::failed("the service is ending already").hint("wait until it has ended");
        self.asks.send(Asked::End(done)).map_err(|_| ending())?;
        outcome.recv_timeout(END + Duration::from_secs(5)).map_err(|_| ending())?
    }
}

/// Ends a mount in order, and one that is in use all the same.
fn stop_anyway(hosted: &Hosted) {
    let stopped = hosted.stop(StopMode::Orderly).or_else(|error| match error {
        StopError::Unkillable { .. } => Err(error),
        _ => hosted.stop(StopMode::Force),
    });
    if let Err(error) = stopped {
        tracing::error!("thread {}: {error}", hosted.record().thread);
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
