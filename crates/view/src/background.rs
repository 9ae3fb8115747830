//! Threads of a view that do what nobody waits for, when they are asked to.

use crate::error::{Result, ViewError};
use crate::state::State;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Asks such a thread to work, and tells it to stop.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    asked: AtomicBool,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// Asks for one more round soon.
    pub(crate) fn ring(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            let _stopped = self.stopped();
            self.changed.notify_all();
        }
    }

    /// Does nothing for so long; `false` means stop.
    pub(crate) fn rest(&self, duration: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.stopped(), duration, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until it is asked for a round; `false` means stop.
    fn wait(&self) -> bool {
        let waits = |stopped: &mut bool| !*stopped && !self.asked.swap(false, Ordering::AcqRel);
        let stopped = self.changed.wait_while(self.stopped(), waits);
        !*stopped.unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        *self.stopped() = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        // Whole at any point.
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Such a thread; ends when dropped.
pub(crate) struct Background {
    state: Arc<State>,
    bell: fn(&State) -> &Bell,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Does a round of `work` whenever the bell rings.
    pub(crate) fn start(
        state: &Arc<State>,
        name: &str,
        bell: fn(&State) -> &Bell,
        work: fn(&State),
    ) -> Result<Self> {
        let own = Arc::clone(state);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while bell(&own).wait() {
                    work(&own);
                }
            })
            .map_err(ViewError::host("start a thread of the view"))?;
        Ok(Self { state: Arc::clone(state), bell, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        (self.bell)(&self.state).stop();
        if let Some(thread) = self.thread.take() {
            // It holds no lock across the join, and what it is at ends.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").field("thread", &self.thread).finish_non_exhaustive()
    }
}
