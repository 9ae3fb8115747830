//! How the service ends: everything is unmounted, and what becomes of the mounts that are wanted.

use std::sync::{PoisonError, mpsc};
use std::time::{Duration, Instant};

use selvedge_supervisor::{StopError, StopMode};

use super::{Asked, STACK, Service};
use crate::error::{CliError, Result};
use crate::hosted::Hosted;
use crate::plan::Plan;
use crate::ui::show;
use crate::wanted;

/// How long unmounting everything may take: every step of ending workers that do not obey, and cleaning up.
pub(super) const END: Duration = Duration::from_secs(200);

/// What ends within so short a time has been told to end at the same moment.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Why the service ends, and with it what becomes of the mounts that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::service) enum Ending {
    /// Somebody stopped it: nothing is wanted any more.
    Stopped,
    /// It was told to end, as everything is at log-out and shutdown: what was wanted stays so.
    Terminated,
}

impl Service {
    /// Whether there has been no mount since `idle` ago; if so, none is taken any more.
    pub(in crate::service) fn ends_idle(&self, idle: Duration) -> bool {
        let mut state = self.state();
        let is_idle = state.empty_since.is_some_and(|since| since.elapsed() >= idle);
        if state.cleaned && state.places.is_empty() && is_idle {
            state.ending.get_or_insert(Ending::Terminated);
            return true;
        }
        false
    }

    /// Unmounts everything; from now on no mount is taken.
    pub(in crate::service) fn end(&self, ending: Ending) -> Result<()> {
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

    /// A worker has unmounted in order what nobody asked it to.
    pub(super) fn has_just_gone(&self, plan: Plan) {
        let mut state = self.state();
        state.just_gone.retain(|(since, _)| since.elapsed() < AT_ONCE);
        state.just_gone.push((Instant::now(), plan));
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
    pub(super) fn ask_for_the_end(&self) -> Result<()> {
        let (done, outcome) = mpsc::channel();
        let ending = || CliError::failed("the service is ending already").hint("wait until it has ended");
        self.asks.send(Asked::End(done)).map_err(|_| ending())?;
        outcome.recv_timeout(END + Duration::from_secs(5)).map_err(|_| ending())?
    }
}

/// Ends a mount in order, and one that is in use all the same.
pub(super) fn stop_anyway(hosted: &Hosted) {
    let stopped = hosted.stop(StopMode::Orderly).or_else(|error| match error {
        StopError::Unkillable { .. } => Err(error),
        _ => hosted.stop(StopMode::Force),
    });
    if let Err(error) = stopped {
        tracing::error!("thread {}: {error}", hosted.record().thread);
    }
}
