//! From one program to the next: what the service leaves, and what it goes on with.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use selvedge_supervisor::{RenewError, State as SupervisorState, Supervisor, WorkerProgram};

use super::{Service, TOLD};
use crate::control::{Answer, Reply};
use crate::error::{CliError, Result};
use crate::hosted::Hosted;
use crate::making::Leftovers;
use crate::service::handover::{Going, Mount};
use crate::service::log::span_of;
use crate::service::upgrade::check_worker;
use crate::ui::show;

/// How long a supervisor may take to hold still.
const HOLD: Duration = Duration::from_secs(1);

/// How long a worker may take to be replaced: successors in a row that fail, with their pauses.
const RENEW: Duration = Duration::from_secs(30);

/// How many workers are replaced at once.
const AT_ONCE: usize = 4;

/// What becomes of a worker at an upgrade.
enum Outcome {
    Replaced,
    Kept,
    Failed(CliError),
}

impl Service {
    /// Refuses an upgrade if a mount has a worker's program of its own that has become another one.
    pub(in crate::service) fn check_workers(&self) -> Result<()> {
        let mut chosen: Vec<_> =
            self.state().places.iter().filter_map(|place| place.plan.worker.clone()).collect();
        chosen.sort();
        chosen.dedup();
        chosen.iter().try_for_each(|program| check_worker(program.as_path()))
    }

    /// Whether nothing is being mounted, unmounted or cleaned up.
    pub(in crate::service) fn is_calm(&self) -> bool {
        let ids: Vec<_> = {
            let state = self.state();
            if !state.cleaned || state.ending.is_some() || state.places.iter().any(|place| place.leaving) {
                return false;
            }
            state.places.iter().map(|place| place.attempt.starting.id().clone()).collect()
        };
        let is_ready = |id| {
            self.mounts
                .find(id)
                .is_ok_and(|hosted| matches!(hosted.supervisor().state(), SupervisorState::Ready))
        };
        ids.len() == self.mounts.all().len() && ids.iter().all(is_ready)
    }

    /// Has every supervisor hold still, until what comes back is dropped.
    pub(in crate::service) fn hold_all(&self) -> Result<Vec<Going>> {
        let plans: Vec<_> = {
            let state = self.state();
            state
                .places
                .iter()
                .map(|place| (place.attempt.starting.id().clone(), place.plan.clone()))
                .collect()
        };
        let mut all = Vec::new();
        for (id, plan) in plans {
            let hosted = self.mounts.find(&id)?;
            let held = hosted.supervisor().hold(HOLD).map_err(|error| {
                CliError::conflict(format!("thread {}: {error}", plan.thread)).hint("try again in a moment")
            })?;
            all.push(Going { record: hosted.record_now(), plan, held, borrowers: self.borrowers_of(&id)? });
        }
        Ok(all)
    }

    /// Goes on with the mounts that the program before has left. What cannot be gone on with is told in the log; its
    /// worker asks to be adopted.
    pub(in crate::service) fn go_on_with(&self, mounts: Vec<Mount>) {
        for mount in mounts {
            let (id, thread) = (mount.record.id.clone(), mount.plan.thread.clone());
            if let Err(error) = self.go_on(mount) {
                tracing::error!("cannot go on with the mount of thread {thread}: {error}");
                self.free(&id);
            }
        }
    }

    fn go_on(&self, mount: Mount) -> Result<()> {
        let Mount { record, plan, orphan, program, borrowers } = mount;
        let id = record.id.clone();
        let _about = span_of(&record).entered();
        self.admit_orphan(&id, &plan)?;
        let mut spec = self.spec(&plan, &id)?;
        if let Some(program) = program {
            spec.worker = WorkerProgram::Fd(program);
        }
        let Some(mount) = record.mount.clone() else {
            return Err(CliError::failed("its record is not complete").hint("mount it again"));
        };
        let supervisor = Supervisor::adopt(&spec, orphan)?;
        let hosted = Arc::new(Hosted::new(record.clone(), mount, supervisor));
        self.add(&hosted);
        self.watch(&hosted, Leftovers::of(&self.runtime, record))?;
        if plan.lent {
            self.go_on_lending(&id, borrowers);
        }
        Ok(())
    }

    /// Replaces every worker by one of this installation, and tells `asker` how that went.
    pub(in crate::service) fn renew_all(&self, asker: &Answer) {
        let next = Mutex::new(self.mounts.all().into_iter());
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let work = || {
                while let Some(hosted) = next.lock().unwrap_or_else(PoisonError::into_inner).next() {
                    let outcome = self.renew(&hosted);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            };
            for _ in 1..AT_ONCE {
                let _ = std::thread::Builder::new().name("renewal".to_owned()).spawn_scoped(scope, work);
            }
            work();
        });
        let (mut replaced, mut kept, mut failed) = (0, 0, Vec::new());
        for outcome in outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match outcome {
                Outcome::Replaced => replaced += 1,
                Outcome::Kept => kept += 1,
                Outcome::Failed(error) => failed.push(error),
            }
        }
        tracing::info!(
            "upgraded: {replaced} workers replaced, {kept} left as they are, {} failed",
            failed.len()
        );
        failed.truncate(TOLD);
        asker.send(Reply::Upgraded { replaced, kept, failed });
    }

    fn renew(&self, hosted: &Hosted) -> Outcome {
        let record = hosted.record();
        let plan = {
            let state = self.state();
            let place = state.places.iter().find(|place| *place.attempt.starting.id() == record.id);
            place.map(|place| place.plan.clone())
        };
        // It has been unmounted since.
        let Some(plan) = plan else { return Outcome::Kept };
        let failed = |error: CliError| {
            let place = show(record.mountpoint.as_path());
            let error =
                error.context(format!("the worker of thread {} on {place} was not replaced", plan.thread));
            tracing::error!("{error}");
            Outcome::Failed(error)
        };
        let program = match self.worker(&plan) {
            Ok(program) => program,
            Err(error) => return failed(error),
        };
        match hosted.supervisor().renew(program, RENEW) {
            Ok(()) => Outcome::Replaced,
            Err(RenewError::NotReplaceable | RenewError::Ended) => Outcome::Kept,
            Err(error) => {
                failed(CliError::failed(error.to_string()).hint("selvedge list shows how it stands"))
            }
        }
    }

    /// The processes that a mount is lent to.
    fn borrowers_of(&self, id: &crate::record::MountId) -> Result<Vec<OwnedFd>> {
        let borrowers = self.borrowers();
        let own = borrowers.iter().filter(|(lent, _)| lent == id);
        own.map(|(_, process)| process.try_clone())
            .collect::<std::io::Result<_>>()
            .map_err(|error| CliError::io("cannot duplicate a descriptor", &error))
    }
}
