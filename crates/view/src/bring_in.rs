//! Bringing the journal of a view's upper into its catalog's file, beside those who commit.

use crate::catalog::Bringing;
use crate::error::{Result, ViewError};
use crate::state::State;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Effects that make it worth while: some two thousand mutations, so that each row and each page is written once for many
/// changes, while a successor still has little to decode.
pub(crate) const WORTH_WHILE: usize = 8192;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Tells the thread that there is something to bring in.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    asked: AtomicBool,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Backlog {
    /// Asks for everything to be brought in soon.
    pub(crate) fn wake(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            let _stopped = self.stopped();
            self.changed.notify_all();
        }
    }

    /// Waits until it is asked for; `false` means stop.
    fn wait(&self) -> bool {
        let waits = |stopped: &mut bool| !*stopped && !self.asked.swap(false, Ordering::AcqRel);
        let stopped = self.changed.wait_while(self.stopped(), waits);
        !*stopped.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a moment, or until it is told to stop.
    fn pause(&self) {
        let stopped = self.stopped();
        drop(self.changed.wait_timeout_while(stopped, RETRY, |stopped| !*stopped));
    }

    fn stop(&self) {
        *self.stopped() = true;
        self.changed.notify_all();
    }

    fn stopped(&self) -> MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that does it; ends when dropped. Upkeep is none of its work: that may wait for the disk for seconds.
#[derive(Debug)]
pub(crate) struct Bringer {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Bringer {
    pub(crate) fn start(state: &Arc<State>) -> Result<Self> {
        let own = Arc::clone(state);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                while own.backlog.wait() {
                    if let Err(error) = own.bring_in() {
                        tracing::warn!(%error, "the journal grows");
                        own.backlog.pause();
                    }
                }
            })
            .map_err(ViewError::host("start the journal's thread"))?;
        Ok(Self { state: Arc::clone(state), thread: Some(thread) })
    }
}

impl Drop for Bringer {
    fn drop(&mut self) {
        self.state.backlog.stop();
        if let Some(thread) = self.thread.take() {
            // It holds no lock across the join, and what it is at ends.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Brings what the journal has by now into the catalog's file. Nobody who commits waits for it.
    ///
    /// # Errors
    /// When the disk is full, and nothing is lost; when it fails, which latches the view.
    pub(crate) fn bring_in(&self) -> Result<()> {
        let _alone = self.alone_with_journal();
        let bringing = match self.tables().upper_mut() {
            Some(catalog) => catalog.bring_in(),
            None => return Ok(()),
        };
        let done = bringing.and_then(|bringing| bringing.map_or(Ok(()), Bringing::run));
        match done {
            Err(error) if error.is_disk_full() => Err(error),
            done => self.latch.guard("bring the journal into the catalog", done),
        }
    }

    /// Keeps everybody else from bringing a journal in, but for who holds the tables, which come after it.
    pub(crate) fn alone_with_journal(&self) -> MutexGuard<'_, ()> {
        self.bringing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
