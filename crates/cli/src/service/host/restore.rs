//! Making again what is wanted and lost.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use selvedge_store::{OpenOptions, Repository};

use super::{Occasion, Service};
use crate::context::refuse_selvedge_mount;
use crate::error::{CliError, Result};
use crate::plan::Plan;
use crate::ui::show;
use crate::wanted;

/// How many lost mounts are made again at once.
const AT_ONCE: usize = 8;

impl Service {
    /// Makes again what is wanted and lost, several at once. Says what could not be.
    pub(in crate::service) fn restore(&self) -> Vec<CliError> {
        let plans = match wanted::all(&self.runtime) {
            Ok(plans) => plans,
            Err(error) => return vec![error],
        };
        let lost: Vec<Plan> = {
            let state = self.state();
            // One that is just being made again is waited for.
            let is_there = |plan: &Plan| {
                state.places.iter().any(|place| {
                    place.plan.request == plan.request
                        && self.mounts.find(place.attempt.starting.id()).is_ok()
                })
            };
            plans.into_iter().filter(|plan| !is_there(plan)).collect()
        };
        let next = Mutex::new(lost.into_iter());
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let work = || {
                    while let Some(plan) = next.lock().unwrap_or_else(PoisonError::into_inner).next() {
                        if let Err(error) = self.mount_again(plan) {
                            failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                        }
                    }
                };
                // Without threads there is nobody to do it, and it stays lost.
                let _ = std::thread::Builder::new().name("restore".to_owned()).spawn_scoped(scope, work);
            }
        });
        failures.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount_again(&self, plan: Plan) -> Result<()> {
        let again = as_it_is_now(plan)?;
        match self.mount(&again, Occasion::Lost) {
            // Unmounted meanwhile.
            Err(_) if !wanted::is_written(&self.runtime, &again.request)? => Ok(()),
            mounted => mounted.map(drop),
        }
    }
}

/// A plan of former times as it has to be carried out now: the thread may have been renamed.
fn as_it_is_now(mut plan: Plan) -> Result<Plan> {
    let tried = format!("cannot mount thread {} again on {}", plan.thread, show(plan.mountpoint.as_path()));
    let now = || -> Result<String> {
        refuse_selvedge_mount(plan.repo.as_path())?;
        let parent = plan.mountpoint.as_path().parent().unwrap_or(Path::new("/"));
        refuse_selvedge_mount(parent)?;
        let vouched = [plan.repo.as_path().to_owned()];
        let safe = if plan.options.trust_repository { &vouched[..] } else { &[] };
        let repository =
            Repository::open(plan.repo.as_path(), &OpenOptions { safe, ..OpenOptions::default() })?;
        let threads = repository.refs().threads()?;
        let thread = threads.into_iter().find(|thread| thread.id.to_string() == plan.thread_id);
        let thread = thread.ok_or_else(|| {
            CliError::not_found(format!("there is no such thread in {} any more", show(plan.repo.as_path())))
                .hint(format!("selvedge unmount {} forgets it", show(plan.mountpoint.as_path())))
        })?;
        Ok(thread.name.to_string())
    };
    plan.thread = now().map_err(|error| error.context(tried))?;
    Ok(plan)
}
