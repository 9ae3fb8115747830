//! Ending a mount: asked in order, by force, or by a signal; step by step, each with its deadline.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{TakenDown, UnmountMode, take_down, unmount};
use selvedge_worker_proto::Command;

use crate::control::{Control, Input, Pending, Running};
use crate::spawn::{DEATH, TAKE_DOWN};
use crate::stderr::Stderr;
use crate::{ExitReport, ExitStatus, State, Step, StopError, StopMode, StopReport};

/// An attempt to end the worker.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) mode: StopMode,
    pub(crate) step: Step,
    /// When the next step is due; `None` when there is none left.
    pub(crate) due: Option<Instant>,
    /// Whether somebody wants the mount to end, and not only the worker.
    pub(crate) asked: bool,
    /// Whether the mount was taken from under a worker that SIGKILL did not end.
    mount_cut: bool,
    killed_at: Option<Instant>,
    /// Why there is no further step: nothing ends it.
    given_up: Option<StopError>,
    waiters: Vec<mpsc::Sender<Result<StopReport, StopError>>>,
}

impl Running {
    pub(crate) fn stop(&mut self, mode: StopMode, reply: mpsc::Sender<Result<StopReport, StopError>>) {
        // A worker that has let go of its requests cannot unmount any more; its successor is asked.
        self.end_handing_over();
        if self.succession.is_open() {
            return self.stop_between(mode, reply);
        }
        if let Some(ending) = &mut self.ending {
            if let Some(error) = &ending.given_up {
                let _ = reply.send(Err(error.clone()));
                return;
            }
            ending.asked = true;
            ending.waiters.push(reply);
            // A worker that has not been asked to end a busy mount is asked now; every other ending goes its way.
            if mode == StopMode::Orderly || ending.mode == StopMode::Force || ending.step > Step::Ask {
                return;
            }
        } else {
            let mut ending = Ending::new(mode, Step::Ask, Instant::now());
            ending.asked = true;
            ending.waiters.push(reply);
            self.ending = Some(ending);
        }
        self.ask_to_stop(mode);
    }

    /// While nobody serves: the next worker is asked when it is ready, or does not get that far.
    fn stop_between(&mut self, mode: StopMode, reply: mpsc::Sender<Result<StopReport, StopError>>) {
        let ending = self.ending.get_or_insert_with(|| Ending::waiting(mode));
        ending.asked = true;
        ending.waiters.push(reply);
        if mode == StopMode::Force {
            ending.mode = mode;
            ending.step = ending.step.max(Step::Terminate);
            ending.due = Some(Instant::now());
        }
    }

    pub(crate) fn ask_to_stop(&mut self, mode: StopMode) {
        let sent = self.send(Command::Stop { force: mode == StopMode::Force }, None);
        let Some(ending) = &mut self.ending else { return };
        ending.mode = mode;
        ending.step = Step::Ask;
        ending.due =
            Some(Instant::now() + if sent.is_ok() { self.control.stop_grace } else { Duration::ZERO });
        if let Ok(id) = sent {
            self.pending.insert(id, Pending::Stop);
        }
        if let Ok(id) = self.send(Command::Status {}, None) {
            self.pending.insert(id, Pending::Probe);
        }
        self.control.life.set_step(Step::Ask);
        self.control.life.set_state(State::Stopping);
    }

    /// The worker answers questions while it does not answer `Stop`: the kernel writes out, through it, what
    /// programs have changed in mapped files, and ending it now would lose that.
    pub(crate) fn at_work(&mut self) {
        if let Some(ending) = &mut self.ending
            && (ending.mode, ending.step) == (StopMode::Orderly, Step::Ask)
        {
            ending.due = ending.due.max(Some(Instant::now() + self.control.flush_deadline));
        }
    }

    /// The worker has unmounted and goes on to flush, because it was asked or because it got a signal.
    pub(crate) fn stopping(&mut self) {
        let now = Instant::now();
        self.succession.left();
        let ending = self.ending.get_or_insert_with(|| Ending::new(StopMode::Orderly, Step::None, now));
        let patience = match ending.mode {
            StopMode::Orderly => self.control.flush_deadline,
            StopMode::Force => self.control.stop_grace,
        };
        if ending.step <= Step::Ask {
            ending.due = Some(now + patience);
        }
        self.control.life.set_state(State::Stopping);
    }

    /// The worker stays. Unless it shall end at any price, so does everything else.
    pub(crate) fn refused(&mut self, error: &StopError) {
        self.pending.retain(|_, pending| !matches!(pending, Pending::Stop));
        match self.ending.take() {
            Some(mut ending) if ending.mode == StopMode::Force => {
                ending.due = Some(Instant::now());
                self.ending = Some(ending);
            }
            Some(ending) => {
                self.control.life.set_step(Step::None);
                self.control.life.set_state(State::Ready);
                for waiter in ending.waiters {
                    let _ = waiter.send(Err(error.clone()));
                }
            }
            None => {}
        }
    }

    /// The present step has had its time.
    pub(crate) fn escalate(&mut self) {
        let Some(ending) = &mut self.ending else { return };
        let now = Instant::now();
        ending.step = ending.step.next();
        match ending.step {
            Step::None | Step::Ask | Step::Terminate => {
                self.control.worker.process.signal(Signal::TERM);
                ending.due = Some(now + self.control.stop_grace);
            }
            Step::Kill if ending.killed_at.is_none() => {
                self.control.worker.process.signal(Signal::KILL);
                ending.killed_at = Some(now);
                ending.due = Some(now + DEATH);
            }
            // It may wait in the kernel for an answer to a request on a mount: its own gets answered now.
            Step::Kill if !ending.mount_cut => {
                ending.mount_cut = true;
                let _ = unmount(&self.control.identity, UnmountMode::Force, now + DEATH);
                ending.due = Some(Instant::now() + DEATH);
            }
            Step::Kill => {
                ending.due = None;
                let waited = ending.killed_at.map_or(Duration::ZERO, |at| now - at);
                let error = StopError::Unkillable { pid: self.control.worker.process.pid(), waited };
                for waiter in ending.waiters.drain(..) {
                    let _ = waiter.send(Err(error.clone()));
                }
                ending.given_up = Some(error);
            }
        }
        self.control.life.set_step(ending.step);
        self.control.life.set_state(State::Stopping);
    }

    /// The last worker is reaped: takes down what it left, tells everybody.
    pub(crate) fn finish(mut self, status: ExitStatus, gave_up: Option<String>) {
        self.control.life.set_state(State::TakingDown);
        // Where somebody holds the device, callers would go on waiting; where somebody holds the lock, the thread
        // could not be mounted again.
        self.control.escrow.clear();
        self.heir = None;
        let gone = take_down(&self.control.identity, Instant::now() + TAKE_DOWN);
        let report = ExitReport {
            pid: self.control.worker.process.pid(),
            status,
            mount_left: !matches!(gone, Ok(TakenDown::WasGone)),
            mount_stuck: gone.err().map(|error| error.to_string()),
            stderr_tail: self.control.worker.stderr.take().map(Stderr::finish).unwrap_or_default(),
            restarts: self.control.life.restarts(),
            gave_up,
        };
        let waiters = std::mem::take(self.waiters());
        let Control { worker, life, inputs, .. } = self.control;
        // It has said its last.
        let _ = worker.reaper.join();
        life.finish(&report);
        let step = life.exited().map_or(Step::None, |(_, step)| step);
        let late = inputs.try_iter().filter_map(|input| match input {
            Input::Stop { reply, .. } => Some(reply),
            _ => None,
        });
        for waiter in waiters.into_iter().chain(late) {
            let _ = waiter.send(Ok(StopReport { exit: report.clone(), step }));
        }
    }

    fn waiters(&mut self) -> &mut Vec<mpsc::Sender<Result<StopReport, StopError>>> {
        let now = Instant::now();
        &mut self.ending.get_or_insert_with(|| Ending::new(StopMode::Orderly, Step::None, now)).waiters
    }
}

impl Ending {
    pub(crate) const fn new(mode: StopMode, step: Step, due: Instant) -> Self {
        Self {
            mode,
            step,
            due: Some(due),
            asked: false,
            mount_cut: false,
            killed_at: None,
            given_up: None,
            waiters: Vec::new(),
        }
    }

    /// An ending that begins when there is a worker again.
    const fn waiting(mode: StopMode) -> Self {
        Self {
            mode,
            step: Step::None,
            due: None,
            asked: true,
            mount_cut: false,
            killed_at: None,
            given_up: None,
            waiters: Vec::new(),
        }
    }
}
