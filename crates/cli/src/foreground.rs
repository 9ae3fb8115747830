//! A mount held by this very process, in the terminal it was started from.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use selvedge_supervisor::{ExitReport, ExitStatus, Restart, SpawnSpec, StopError, StopMode};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::{Host, MountState, Server};
use crate::error::{CliError, Result};
use crate::hosted::{Hosted, Mounts};
use crate::hygiene;
use crate::making::{Leftovers, make};
use crate::record::Record;
use crate::runtime::RuntimeDir;
use crate::service::log::span_of;
use crate::sorting::busy;
use crate::starting::Starting;
use crate::ui::{Ui, show};

/// How long commands that are being answered when the mount ends may take to get their answer.
const DRAIN: Duration = Duration::from_secs(2);

/// What can happen to a mount.
#[derive(Debug)]
enum Event {
    /// Somebody wants this process to end.
    Signal(i32),
    /// A stop was refused, and the mount goes on; or it cannot be ended at all.
    NotStopped(StopError),
    /// A successor has taken over from a worker that died.
    Replaced(Restart),
    /// The worker has ended and its mount has been taken down.
    Exited(ExitReport),
}

/// Makes the mount that `record` describes, and holds it until it ends. It can be called off from the first
/// moment on: by a signal, or by an unmount from elsewhere.
pub fn hold(ui: Ui, runtime: &Arc<RuntimeDir>, record: &Record, spec: SpawnSpec) -> Result<()> {
    let _about = span_of(record).entered();
    let mut leftovers = Leftovers::of(runtime, record.clone());
    // The directory this process was started in is none of its business, and may be on a mount that it would
    // keep busy.
    std::env::set_current_dir("/").map_err(|error| CliError::io("cannot enter /", &error))?;
    let starting = Arc::new(Starting::new(record.id.clone())?);
    let (sender, events) = channel();
    watch_signals(&sender, &starting)?;
    // The record first, so that whatever else is left behind can be found.
    record.write(runtime)?;
    let listener = UnixListener::bind(runtime.socket_path(&record.id.socket_name())).map_err(|error| {
        CliError::io(format!("cannot make a control socket in {}", show(runtime.path())), &error)
    })?;
    let mounts = Arc::new(Mounts::default());
    mounts.add_starting(Arc::clone(&starting));
    let server = Server::start(listener, Arc::clone(&mounts) as Arc<dyn Host>)
        .map_err(|error| CliError::io("cannot serve the control socket", &error))?;

    let spec = SpawnSpec { cancel: Some(starting.cancel().clone()), ..spec };
    let held = make(runtime, record, &spec, &mut leftovers).map(|hosted| {
        mounts.add(Arc::clone(&hosted));
        let ended = until_ended(ui, runtime, &hosted, &starting, &sender, &events);
        if ended.is_err() {
            // Nobody watches it any more.
            let _ = hosted.stop(StopMode::Force);
        }
        (hosted, ended)
    });
    leftovers.remove();
    if let Ok((hosted, _)) = &held {
        hosted.set_cleaned();
    }
    starting.set_ended();
    server.drain(Instant::now() + DRAIN);
    let (hosted, ended) = held?;
    report(ui, &hosted, &ended?)
}

/// Serves a mount that is ready until its worker has ended.
fn until_ended(
    ui: Ui,
    runtime: &RuntimeDir,
    hosted: &Arc<Hosted>,
    starting: &Starting,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ExitReport> {
    watch_exit(hosted, sender)?;
    announce(ui, hosted)?;
    if starting.was_called_off() {
        stop(hosted, StopMode::Orderly, sender)?;
    }
    wait(ui, runtime, hosted, sender, events)
}

fn announce(ui: Ui, hosted: &Hosted) -> Result<()> {
    let document = hosted.document(MountState::Ready);
    ui.result(&document, || {
        let place = show(document.mountpoint.as_path());
        let worker = document.worker_pid.map_or(String::new(), |pid| format!(" (worker {pid})"));
        format!("thread {} is mounted on {place}{worker}; Ctrl-C unmounts\n", document.thread)
    })
}

/// The one loop: everything that happens to the mount passes here. Returns when the worker has ended.
fn wait(
    ui: Ui,
    runtime: &RuntimeDir,
    hosted: &Arc<Hosted>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ExitReport> {
    let mut interrupted = false;
    loop {
        match events.recv() {
            // The first Ctrl-C is a request. Whoever repeats it means it; whoever sends SIGTERM or hangs up does
            // not wait for an answer.
            Ok(Event::Signal(SIGINT)) if !interrupted => {
                interrupted = true;
                stop(hosted, StopMode::Orderly, sender)?;
            }
            Ok(Event::Signal(_)) => stop(hosted, StopMode::Force, sender)?,
            Ok(Event::NotStopped(StopError::Busy(refused))) => {
                ui.warn(format!("not unmounted: {}", busy(&refused)));
                ui.note("press Ctrl-C again to unmount nevertheless: what uses the mount is cut off");
            }
            Ok(Event::NotStopped(error @ StopError::Unkillable { .. })) => return Err(error.into()),
            Ok(Event::NotStopped(error)) => ui.warn(format!("not unmounted: {error}")),
            Ok(Event::Replaced(restart)) => replaced(ui, runtime, hosted, &restart),
            Ok(Event::Exited(report)) => return Ok(report),
            Err(_) => {
                return Err(CliError::failed("nobody watches the worker any more")
                    .hint("mount the thread again: every change made is kept"));
            }
        }
    }
}

/// Says that a worker has a successor, and writes down which, for whoever cleans up after this process.
fn replaced(ui: Ui, runtime: &RuntimeDir, hosted: &Hosted, restart: &Restart) {
    let record = hosted.record();
    let what = format!(
        "the worker of thread {} died ({}) and was replaced by {}",
        record.thread, restart.cause, restart.pid
    );
    tracing::info!("{what}");
    ui.note(what);
    // A successor that is gone already is followed by another, or by the end of the mount.
    if let Some(record) = record.with_worker(restart.pid, restart.restarts, Some(restart.cause.clone()))
        && let Err(error) = record.write(runtime)
    {
        tracing::warn!("{error}");
    }
}

/// Stops in a thread of its own, so that the next signal is heard meanwhile.
fn stop(hosted: &Arc<Hosted>, mode: StopMode, sender: &Sender<Event>) -> Result<()> {
    let hosted = Arc::clone(hosted);
    let sender = sender.clone();
    let stopping = move || {
        if let Err(error) = hosted.stop(mode) {
            // The loop has ended only if the worker has, and then there is nothing to tell.
            let _ = sender.send(Event::NotStopped(error));
        }
    };
    start_thread("stop", stopping)
}

/// Says how the mount ended: by somebody's wish, by an unmount from outside, or by a worker that died.
fn report(ui: Ui, hosted: &Hosted, report: &ExitReport) -> Result<()> {
    let record = hosted.record();
    let place = show(record.mountpoint.as_path());
    if let Some(why) = &report.mount_stuck {
        return Err(CliError::failed(format!(
            "the worker of thread {} has ended ({}), but its mount on {place} is still there: {why}",
            record.thread, report.status
        ))
        .hint(format!("umount -l {place}")));
    }
    if hosted.stop_was_asked() {
        ui.note(format!("unmounted {place}"));
        return Ok(());
    }
    if report.is_clean() {
        ui.note(format!("{place} was unmounted by another program"));
        return Ok(());
    }
    let why = report.gave_up.as_ref().map_or(String::new(), |why| format!("; no successor took over: {why}"));
    let said = report.stderr_tail.trim();
    let said = if said.is_empty() { String::new() } else { format!("; it said: {said}") };
    let how = match report.status {
        ExitStatus::Exited(0) => "exited without being asked".to_owned(),
        status => format!("died ({status})"),
    };
    Err(CliError::failed(format!(
        "the worker of thread {} (pid {}) {how}, and {place} was unmounted{why}{said}",
        record.thread, report.pid
    ))
    .hint("every change that was made is kept: mount the thread again"))
}

/// Tells the loop of every signal. One that comes while the mount is still being made calls it off.
fn watch_signals(sender: &Sender<Event>, starting: &Arc<Starting>) -> Result<()> {
    let mut watched = vec![SIGINT, SIGTERM];
    // Started with nohup, this process is meant to survive the terminal.
    if hygiene::was_ignored(SIGHUP) {
        hygiene::ignore(SIGHUP);
    } else {
        watched.push(SIGHUP);
    }
    let mut signals =
        Signals::new(watched).map_err(|error| CliError::io("cannot watch for signals", &error))?;
    let (sender, starting) = (sender.clone(), Arc::clone(starting));
    start_thread("signals", move || {
        for signal in signals.forever() {
            starting.cancel().cancel();
            if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })
}

/// Tells the loop of every restart, and of the end.
fn watch_exit(hosted: &Arc<Hosted>, sender: &Sender<Event>) -> Result<()> {
    let (exit, restarts) = (hosted.supervisor().exit_events(), hosted.supervisor().restart_events());
    let restarted = sender.clone();
    start_thread("restarts", move || {
        for restart in restarts {
            if restarted.send(Event::Replaced(restart)).is_err() {
                return;
            }
        }
    })?;
    let sender = sender.clone();
    start_thread("exit", move || {
        if let Ok(report) = exit.recv() {
            let _ = sender.send(Event::Exited(report));
        }
    })
}

fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(|_| ())
        .map_err(|error| CliError::io("cannot start a thread", &error))
}
