//! The service's process, from its lock to its end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use libc::{SIGHUP, SIGINT};

use super::crash;
use super::handover::{self, Inherited};
use super::home::Home;
use super::host::{Asked, EndAsked, Ending, Service};
use super::lock::{Lock, TryLockError};
use super::log::Log;
use super::remains;
use super::signals::{self, Signals};
use super::upgrade::{UpgradeAsked, upgrade};
use super::{LOG, SERVICE_LOCK};
use crate::context::Context;
use crate::control::Answer;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::runtime::RuntimeDir;
use crate::settings::{ServiceSettings, Settings};
use crate::standing;
use crate::ui::show;

/// How long commands that are being answered at the end may take to get their answer.
const DRAIN: Duration = Duration::from_secs(2);

/// The pause between two looks whether the runtime directory is still there.
const LOOK: Duration = Duration::from_secs(2);

/// What can happen to the service.
#[derive(Debug)]
enum Event {
    /// A signal came.
    Signal(i32),
    /// A command wants something that only this loop can do.
    Asked(Asked),
}

/// Is the service, until its end.
pub fn run(context: &Context) -> Result<()> {
    // Before there is a second thread.
    signals::hold_back()?;
    crash::arm()?;
    let runtime = Arc::new(context.runtime()?);
    // Before anything is opened that could take the place of standard input.
    let (lock, in_background, inherited) = take_lock(&runtime)?;
    std::env::set_current_dir("/").map_err(|error| CliError::io("cannot enter /", &error))?;
    // It was started through /proc/self/exe, whose name says nothing.
    let _ = rustix::thread::set_name(c"selvedge");
    if in_background && inherited.is_none() {
        detach()?;
    }
    let log = Log::start()?;
    let settings = first_settings(context)?;
    log.set(&settings);
    let signed = lock.sign();
    signed.map_err(|error| CliError::io(format!("cannot write in {}", show(runtime.path())), &error))?;

    let (events, happening) = mpsc::channel();
    let signals = Signals::watch(events.clone(), Event::Signal)?;
    let service = Service::new(Arc::clone(&runtime), &context.environment, settings.clone(), hear(&events)?);
    let (mut home, asker) = match inherited {
        None => (Home::open(&runtime, lock, &service)?, None),
        Some(Inherited { listener, asker: (socket, id), mounts, .. }) => {
            if in_background {
                redirect(&log, &runtime)?;
            }
            service.go_on_with(mounts);
            crash::point("upgrade.resumed");
            let home = Home::inherit(&runtime, lock, listener, &service);
            (home.unwrap_or_else(|error| abandon(&error)), Some(Answer::of_predecessor(socket, id)))
        }
    };
    tracing::info!("the service is ready (process {})", std::process::id());
    if in_background {
        // Letting go of the pipe tells whoever started this process that it is ready.
        redirect(&log, &runtime).unwrap_or_else(|error| abandon(&error));
        home.log = Some(log.clone());
    }
    if let Some(asker) = asker {
        let service = Arc::clone(&service);
        start_thread("upgrade", move || service.renew_all(&asker)).unwrap_or_else(|error| abandon(&error));
    }
    let restoring = Arc::clone(&service);
    start_thread("restore", move || bring_back(&restoring, &runtime)).unwrap_or_else(|error| abandon(&error));

    let mut main = Loop { context, service: &service, log: &log, signals, settings };
    let (ending, asked) = main.run(&mut home, &happening);
    // Workers that are just being adopted end with everything else, instead of bringing back a service.
    service.wait_cleaned();
    // From here on commands find no service; those that want one wait for the lock.
    home.close();
    let ended = service.end(ending);
    tracing::info!("the service ends");
    for asked in asked {
        // Whoever does not wait any more need not know.
        let _ = asked.send(ended.clone());
    }
    answer_late(&happening, &ended);
    home.drain(Instant::now() + DRAIN);
    ended
}

/// Ends the process at once: nothing that it holds is let go of in order, which would unmount. Its workers bring back
/// another one.
fn abandon(error: &CliError) -> ! {
    tracing::error!("the service cannot go on: {error}");
    std::process::exit(i32::from(error.exit_code()))
}

/// Logs, and says what else there is to say, to the log file from now on.
pub(super) fn redirect(log: &Log, runtime: &Arc<RuntimeDir>) -> Result<()> {
    let file = log.to_background(runtime);
    let file = file.map_err(|error| CliError::io(format!("cannot open the log {LOG}"), &error))?;
    rustix::stdio::dup2_stderr(file)
        .map_err(|errno| CliError::io("cannot redirect standard error", &errno.into()))
}

/// The lock: left by the program that this process was before, with everything else; handed over as standard input by the
/// command that starts the service in the background; else taken.
fn take_lock(runtime: &RuntimeDir) -> Result<(Lock, bool, Option<Inherited>)> {
    if let Some(inherited) = handover::take()? {
        let lock = inherited.lock.try_clone().ok().and_then(|fd| Lock::adopt(runtime, SERVICE_LOCK, fd));
        let lock = lock.ok_or_else(|| {
            CliError::conflict("the lock that the service before has left is not the service's")
                .hint("its workers start another one")
        })?;
        return Ok((lock, inherited.in_background, Some(inherited)));
    }
    let handed_over = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok();
    if let Some(lock) = handed_over.and_then(|fd| Lock::adopt(runtime, SERVICE_LOCK, fd)) {
        return Ok((lock, true, None));
    }
    match Lock::try_take(runtime, SERVICE_LOCK) {
        Ok(lock) => Ok((lock, false, None)),
        Err(TryLockError::Failed(error)) => Err(error),
        Err(TryLockError::Held(pid)) => {
            let pid = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
            Err(CliError::conflict(format!("the service is running already{pid}"))
                .hint("selvedge service stop ends it"))
        }
    }
}

/// Leaves the session and the terminal of whoever started this process.
fn detach() -> Result<()> {
    let tried = "cannot leave the caller's session";
    rustix::process::setsid().map_err(|errno| CliError::io(tried, &errno.into()))?;
    let null = File::open("/dev/null").map_err(|error| CliError::io("cannot open /dev/null", &error))?;
    rustix::stdio::dup2_stdin(OwnedFd::from(null)).map_err(|errno| CliError::io(tried, &errno.into()))
}

/// Waits for workers that are still there, cleans up after processes that are gone, and makes again what was lost with
/// them.
fn bring_back(service: &Service, runtime: &RuntimeDir) {
    service.await_orphans();
    match standing::clean_all(runtime, &|record| service.holds(&record.id)) {
        Ok(done) => done.iter().for_each(|done| tracing::info!("{done}")),
        Err(error) => tracing::warn!("{error}"),
    }
    service.set_cleaned();
    for error in service.restore() {
        tracing::warn!("{error}");
    }
    for directory in remains::remove(runtime) {
        tracing::info!("removed {directory} from the runtime directory: nobody needs it any more");
    }
}

/// The settings of a service that starts. Those that cannot be read leave it without: workers that look for a service
/// need one, and every command says what is wrong.
fn first_settings(context: &Context) -> Result<ServiceSettings> {
    let read = Settings::load(&context.environment, &[]).or_else(|error| {
        tracing::warn!("{error}; the settings are as if there were none");
        Settings::load(&Environment::default(), &[])
    });
    read.map(|settings| settings.sections().service.clone())
}

/// The service while it runs.
struct Loop<'a> {
    context: &'a Context,
    service: &'a Arc<Service>,
    log: &'a Log,
    signals: Signals,
    settings: ServiceSettings,
}

impl Loop<'_> {
    /// Runs until something ends the service: why it does, and who wants to know how that went.
    fn run(&mut self, home: &mut Home, happening: &Receiver<Event>) -> (Ending, Vec<EndAsked>) {
        loop {
            let idle = Some(self.settings.idle).filter(|idle| !idle.is_zero());
            match happening.recv_timeout(idle.unwrap_or(LOOK).min(LOOK)) {
                Ok(Event::Asked(Asked::End(asked))) => return (Ending::Stopped, vec![asked]),
                Ok(Event::Asked(Asked::Upgrade(asked))) => {
                    become_another(self.service, home, &self.signals, &asked);
                }
                Ok(Event::Signal(SIGHUP)) => self.read_settings(),
                Ok(Event::Signal(SIGINT)) => return (Ending::Stopped, Vec::new()),
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return (Ending::Terminated, Vec::new());
                }
                Err(RecvTimeoutError::Timeout) => {
                    home.keep(self.context, self.service);
                    if idle.is_some_and(|idle| self.service.ends_idle(idle)) {
                        return (Ending::Terminated, Vec::new());
                    }
                }
            }
        }
    }

    /// Reads the settings again. Those that cannot be read change nothing; mounts that are there keep theirs.
    fn read_settings(&mut self) {
        match Settings::load(&self.context.environment, &[]) {
            Ok(settings) => {
                self.settings = settings.sections().service.clone();
                self.log.set(&self.settings);
                self.service.set(self.settings.clone());
                tracing::info!("read the settings again");
            }
            Err(error) => tracing::error!("the settings stay as they were: {error}"),
        }
    }
}

/// Becomes another program, or tells why not.
fn become_another(service: &Arc<Service>, home: &mut Home, signals: &Signals, asked: &UpgradeAsked) {
    let error = upgrade(service, home, signals, asked);
    tracing::error!("the service was not upgraded: {error}");
    // Whoever does not wait any more need not know.
    let _ = asked.failed.send(error);
}

/// Those who asked for the end when it was already on its way.
fn answer_late(happening: &Receiver<Event>, ended: &Result<()>) {
    for event in happening.try_iter() {
        if let Event::Asked(Asked::End(asked)) = event {
            let _ = asked.send(ended.clone());
        }
    }
}

/// The way by which commands that want something of the loop reach it.
fn hear(events: &Sender<Event>) -> Result<Sender<Asked>> {
    let (sender, receiver) = mpsc::channel();
    let events = events.clone();
    start_thread("asks", move || {
        for asked in receiver {
            if events.send(Event::Asked(asked)).is_err() {
                return;
            }
        }
    })?;
    Ok(sender)
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| CliError::io("cannot start a thread", &error))
}
