//! Bringing the journal of a view's upper into its catalog's file, beside those who commit.

use crate::background::Background;
use crate::catalog::Bringing;
use crate::error::Result;
use crate::state::State;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

/// Effects that make it worth while: some two thousand mutations, so that each row and each page is written once for many
/// changes, while a successor still has little to decode.
pub(crate) const WORTH_WHILE: usize = 8192;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// The thread that does it. Upkeep is none of its work: that may wait for the disk for seconds.
pub(crate) fn start(state: &Arc<State>) -> Result<Background> {
    Background::start(
        state,
        "journal",
        |state| &state.backlog,
        |state| {
            if let Err(error) = state.bring_in() {
                tracing::warn!(%error, "the journal grows");
                state.backlog.rest(RETRY);
            }
        },
    )
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
