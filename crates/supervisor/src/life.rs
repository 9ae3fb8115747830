//! What the threads of one supervisor share: where its worker is in its life.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::{ExitReport, State, Step};

/// Where a worker is in its life, and who wants to know of its end.
#[derive(Debug)]
pub(crate) struct Life {
    alive: AtomicBool,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// The last step of ending it that was taken.
    step: Step,
    subscribers: Vec<mpsc::Sender<ExitReport>>,
}

impl Life {
    pub(crate) fn new() -> Self {
        let inner = Inner { state: State::Ready, step: Step::None, subscribers: Vec::new() };
        Self { alive: AtomicBool::new(true), inner: Mutex::new(inner), changed: Condvar::new() }
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
