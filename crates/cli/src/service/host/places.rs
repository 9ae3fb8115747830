//! Which threads and directories are taken, and by which request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Service;
use crate::control::{MountDocument, MountState};
use crate::error::{CliError, Result};
use crate::plan::Plan;
use crate::record::MountId;
use crate::starting::Starting;
use crate::ui::show;

/// How long a request that was sent again waits for the one before it.
pub(super) const SAME: Duration = Duration::from_mins(1);

/// A thread and a directory that are taken.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) plan: Plan,
    pub(super) attempt: Arc<Attempt>,
    /// How many processes it is lent to, if it was made for that.
    pub(super) borrowers: usize,
    /// Whether it is being taken down because nobody has it any more.
    pub(super) leaving: bool,
    /// Whether somebody has had it: before, it is being made for its first borrower.
    pub(super) was_lent: bool,
    /// Whether processes still have it that its last borrower left.
    pub(super) kept: bool,
}

/// What is done for a request.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) starting: Arc<Starting>,
    /// Why it came to nothing, for those who sent the same request.
    pub(super) failure: Mutex<Option<CliError>>,
}

impl Attempt {
    pub(super) fn failure(&self) -> MutexGuard<'_, Option<CliError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a request for a mount.
pub(super) enum Admission {
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
    /// Takes the thread and the directory, if they are free.
    pub(super) fn admit(&self, plan: &Plan) -> Result<Admission> {
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
    pub(super) fn known(&self, attempt: &Attempt) -> Result<Option<MountDocument>> {
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

    /// Nothing is left of a mount.
    pub(super) fn free(&self, id: &MountId) {
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
}
