//! What the threads of one supervisor share: where its mount is in its life.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use selvedge_worker_proto::StatusOk;

use crate::{ExitReport, State, Step};

/// A worker that has been replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// The successor's process id.
    pub pid: u32,
    /// How many successors have been started, this one included.
    pub restarts: u32,
    /// How the last one ended, for people.
    pub cause: String,
}

/// Where a mount is in its life, and who wants to know of changes.
#[derive(Debug)]
pub(crate) struct Life {
    /// Whether the process of the last worker is there.
    alive: AtomicBool,
    /// The last worker.
    pid: AtomicU32,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// The last step of ending it that was taken.
    step: Step,
    restarts: u32,
    /// How the worker before the present one ended.
    last_cause: Option<String>,
    subscribers: Vec<mpsc::Sender<ExitReport>>,
    restart_subscribers: Vec<mpsc::Sender<Restart>>,
    /// When workers had answered how many requests: the last two times they were asked, the older first.
    counted: [Option<Counted>; 2],
}

/// Over less time no rate is told.
const LATELY: Duration = Duration::from_secs(1);

/// How many requests a worker had answered at one time.
#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Instant,
    pid: u32,
    requests: u64,
}

impl Life {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            state: State::Ready,
            step: Step::None,
            restarts: 0,
            last_cause: None,
            subscribers: Vec::new(),
            restart_subscribers: Vec::new(),
            counted: [None; 2],
        };
        Self {
            alive: AtomicBool::new(false),
            pid: AtomicU32::new(0),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
        }
    }

    /// A mount that goes on with a worker that others have started, and `restarts` before, of which the last ended by
    /// `last_cause`.
    pub(crate) fn adopted(restarts: u32, last_cause: Option<String>) -> Self {
        let life = Self::new();
        {
            let mut inner = life.lock();
            (inner.restarts, inner.last_cause) = (restarts, last_cause);
        }
        life
    }

    /// A worker has been started.
    pub(crate) fn set_alive(&self, pid: u32) {
        self.pid.store(pid, Ordering::Release);
        self.alive.store(true, Ordering::Release);
    }

    /// The last worker that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.lock().restarts
    }

    /// A worker has said how it is.
    pub(crate) fn count(&self, status: &StatusOk) {
        let counted = Counted { at: Instant::now(), pid: status.pid, requests: status.requests };
        let mut inner = self.lock();
        inner.counted = [inner.counted[1], Some(counted)];
    }

    /// How many requests the worker that says `status` answers in a second: of late, or since it was started if it
    /// has not been asked for long enough.
    pub(crate) fn requests_per_second(&self, status: &StatusOk) -> u64 {
        let before = self.lock().counted.into_iter().flatten().find(|before| before.pid == status.pid);
        let (requests, time) = match before.map(|before| (before, before.at.elapsed())) {
            Some((before, time)) if time >= LATELY => (status.requests.saturating_sub(before.requests), time),
            _ => (status.requests, Duration::from_millis(status.uptime_ms)),
        };
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        (requests.saturating_mul(1000) + millis / 2) / millis
    }

    pub(crate) fn last_cause(&self) -> Option<String> {
        self.lock().last_cause.clone()
    }

    /// A successor has been started for a worker that ended like this.
    pub(crate) fn replaced(&self, cause: &str) {
        let mut inner = self.lock();
        inner.restarts += 1;
        inner.last_cause = Some(cause.to_owned());
    }

    /// A successor serves.
    pub(crate) fn restarted(&self) {
        {
            let mut inner = self.lock();
            inner.state = State::Ready;
            let cause = inner.last_cause.clone().unwrap_or_default();
            let restart = Restart { pid: self.pid(), restarts: inner.restarts, cause };
            inner.restart_subscribers.retain(|subscriber| subscriber.send(restart.clone()).is_ok());
        }
        self.changed.notify_all();
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    pub(crate) fn set_dead(&self) {
        self.alive.store(false, Ordering::Release);
    }

    pub(crate) fn state(&self) -> State {
        self.lock().state.clone()
    }

    pub(crate) fn set_state(&self, state: State) {
        self.lock().state = state;
        self.changed.notify_all();
    }

    pub(crate) fn set_step(&self, step: Step) {
        self.lock().step = step;
    }

    /// The report of the end, with the last step that was needed; `None` before the end.
    pub(crate) fn exited(&self) -> Option<(ExitReport, Step)> {
        let inner = self.lock();
        match &inner.state {
            State::Exited(report) => Some((report.clone(), inner.step)),
            _ => None,
        }
    }

    /// The last change of all: tells everybody who waits or has subscribed.
    pub(crate) fn finish(&self, report: &ExitReport) {
        let subscribers = {
            let mut inner = self.lock();
            inner.state = State::Exited(report.clone());
            inner.restart_subscribers.clear();
            std::mem::take(&mut inner.subscribers)
        };
        self.changed.notify_all();
        for subscriber in subscribers {
            // Whoever does not listen any more has nothing to lose.
            let _ = subscriber.send(report.clone());
        }
    }

    pub(crate) fn subscribe(&self) -> mpsc::Receiver<ExitReport> {
        let (sender, receiver) = mpsc::channel();
        let mut inner = self.lock();
        match &inner.state {
            State::Exited(report) => {
                let _ = sender.send(report.clone());
            }
            _ => inner.subscribers.push(sender),
        }
        receiver
    }

    /// Restarts from now on; the channel ends with the mount.
    pub(crate) fn subscribe_restarts(&self) -> mpsc::Receiver<Restart> {
        let (sender, receiver) = mpsc::channel();
        let mut inner = self.lock();
        if !matches!(inner.state, State::Exited(_)) {
            inner.restart_subscribers.push(sender);
        }
        receiver
    }

    pub(crate) fn wait(&self, deadline: Option<Instant>) -> Option<ExitReport> {
        let mut inner = self.lock();
        loop {
            if let State::Exited(report) = &inner.state {
                return Some(report.clone());
            }
            inner = match deadline {
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
