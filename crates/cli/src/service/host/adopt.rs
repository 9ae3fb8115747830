//! Adopting workers whose service has died.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use selvedge_supervisor::{Herald, Orphan, SpawnSpec, Supervisor};

use super::places::{Attempt, Place};
use super::{STACK, Service};
use crate::adoption::SERVICE;
use crate::control::message::Adoption;
use crate::error::{CliError, Result};
use crate::hosted::Hosted;
use crate::making::Leftovers;
use crate::plan::{OnCrash, Plan};
use crate::process::ProcessId;
use crate::record::{Holder, MountId, MountRecord, Record};
use crate::service::crash;
use crate::service::log::span_of;
use crate::standing;
use crate::starting::Starting;
use crate::ui::show;

/// How long workers that live may take to ask. They do so within milliseconds; one that does not is stopped or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between two looks whether all have asked.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a mount that was lent is left alone: its borrower may just be about to enter it.
const LENT: Duration = Duration::from_secs(5);

/// Where workers find the descriptors' end in the list: the conversation and the log, before the escrow.
const OWN: usize = 2;

impl Service {
    /// What a worker of `plan`'s mount `id` is started from: one that may be adopted is told under which name, and where
    /// the services are.
    pub(super) fn spec(&self, plan: &Plan, id: &MountId) -> Result<SpawnSpec> {
        let mut spec = plan.spec(self.worker(plan)?, &self.settings());
        if plan.options.on_crash == OnCrash::Recover {
            spec.args.extend(["--adopt-as".into(), id.as_str().into()]);
            spec.env.push(("SELVEDGE_RUNTIME_DIR".into(), self.runtime.base_path().into()));
            if let Some(own) = ProcessId::own() {
                spec.env.push((SERVICE.into(), own.to_string().into()));
            }
            spec.herald = Some(self.herald(id));
        }
        Ok(spec)
    }

    /// Writes down each successor before it is greeted: it may be all that is left of the mount a moment later.
    fn herald(&self, id: &MountId) -> Herald {
        let (me, id) = (Weak::clone(&self.me), id.clone());
        Herald::new(move |successor| {
            // One that is being made is written down when it is ready.
            if let Some(me) = me.upgrade()
                && let Ok(hosted) = me.mounts.find(&id)
            {
                if successor.follows {
                    hosted.set_heir(successor.pid);
                }
                me.write_down(&hosted);
            }
        })
    }

    /// Writes down which worker serves the mount now, and which is to follow it.
    pub(super) fn write_down(&self, hosted: &Hosted) {
        if let Err(error) = hosted.write_down(&self.runtime) {
            tracing::warn!("{error}");
        }
    }

    /// Waits until every living worker of a former service has been adopted, or counts as hung: from then on none is.
    pub(in crate::service) fn await_orphans(&self) {
        standing::await_adoption(&self.runtime, Instant::now() + PATIENCE);
        self.state().cleaning = true;
        // Those who were admitted before are let finish.
        let deadline = Instant::now() + PATIENCE;
        while self.is_adopting() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
    }

    /// Whether this service answers for the mount by now.
    pub(in crate::service) fn holds(&self, id: &MountId) -> bool {
        self.mounts.find(id).is_ok()
    }

    fn is_adopting(&self) -> bool {
        let ids: Vec<_> =
            self.state().places.iter().map(|place| place.attempt.starting.id().clone()).collect();
        !ids.iter().all(|id| self.holds(id))
    }

    /// Adopts the worker that process `peer` is. `false` if the service is ending.
    pub(super) fn adopt(&self, adoption: Adoption, fds: Vec<OwnedFd>, peer: u32) -> Result<bool> {
        crash::point("adoption.asked");
        let id = adoption.mount.clone();
        let tried = |error: CliError| error.context(format!("cannot adopt the worker of mount {id}"));
        let (record, plan) = self.orphaned(&adoption).map_err(tried)?;
        let pidfd = identify(&record, adoption.worker, peer).map_err(tried)?;
        if !self.admit_orphan(&id, &plan).map_err(tried)? {
            return Ok(false);
        }
        crash::point("adoption.admitted");
        self.take_in(adoption, &record, &plan, pidfd, fds).map_err(tried).inspect_err(|error| {
            tracing::warn!("{error}");
            self.free(&id);
        })?;
        Ok(true)
    }

    /// What is written down about the mount of a worker that wants to be adopted.
    fn orphaned(&self, adoption: &Adoption) -> Result<(Record, Plan)> {
        let unknown =
            || CliError::not_found("nothing is known of its mount").hint("selvedge mount makes it again");
        let records = Record::all(&self.runtime)?;
        let record = records.into_iter().find(|record| record.id == adoption.mount).ok_or_else(unknown)?;
        let (Some(plan), Some(mount)) = (record.plan.clone(), &record.mount) else { return Err(unknown()) };
        let device = (adoption.ready.device.major, adoption.ready.device.minor);
        let is_same = (mount.mount_id, mount.device) == (adoption.ready.mount_id, device);
        if record.holder != Holder::Service || plan.options.on_crash != OnCrash::Recover || !is_same {
            return Err(unknown());
        }
        if record.supervisor.runs() && Some(record.supervisor) != ProcessId::own() {
            let pid = record.supervisor.pid;
            return Err(CliError::conflict(format!("process {pid} answers for its mount"))
                .hint(format!("selvedge list; or end process {pid}")));
        }
        Ok((record, *plan))
    }

    /// Takes thread and directory for it; `false` if the service is ending.
    pub(super) fn admit_orphan(&self, id: &MountId, plan: &Plan) -> Result<bool> {
        let starting = Arc::new(Starting::new(id.clone())?);
        let mut state = self.state();
        if state.ending.is_some() {
            return Ok(false);
        }
        let is_taken = state.places.iter().any(|place| {
            place.plan.mountpoint == plan.mountpoint
                || place.plan.is_of_thread(plan.repo.as_path(), &plan.thread_id)
        });
        if is_taken || state.cleaning {
            return Err(CliError::conflict("it comes too late: its mount has been given up")
                .hint("selvedge list shows how the mount stands"));
        }
        let attempt = Arc::new(Attempt { starting, failure: Mutex::default() });
        state.places.push(Place {
            plan: plan.clone(),
            attempt,
            borrowers: 0,
            leaving: false,
            was_lent: false,
            // By borrowers that the former service knew.
            kept: true,
        });
        Ok(true)
    }

    fn take_in(
        &self,
        adoption: Adoption,
        record: &Record,
        plan: &Plan,
        pidfd: OwnedFd,
        mut fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let escrow = fds.split_off(OWN.min(fds.len()));
        let (Ok([socket, log]), Some(supervisor), Some(mount)) =
            (<[_; OWN]>::try_from(fds), ProcessId::own(), record.mount.clone())
        else {
            return Err(CliError::usage("it did not send what belongs to it")
                .hint("use the version of selvedge that started the worker"));
        };
        let Adoption { mount: id, worker, ready, last_id } = adoption;
        let mount = MountRecord { worker, ..mount };
        let record =
            Record { supervisor, worker: Some(worker), mount: Some(mount.clone()), ..record.clone() };
        let _about = span_of(&record).entered();
        let spec = self.spec(plan, &id)?;
        let (restarts, log, last_cause) = (record.restarts, Some(log), record.last_cause.clone());
        let pid = worker.pid;
        let orphan = Orphan { pid, pidfd, socket, log, escrow, ready, last_id, restarts, last_cause };
        let supervisor = Supervisor::adopt(&spec, orphan)?;
        crash::point("adoption.taken");
        let hosted = Arc::new(Hosted::new(record.clone(), mount, supervisor));
        self.mounts.add(Arc::clone(&hosted));
        // Whatever fails from here on, the mount goes on.
        let written =
            hosted.write_down(&self.runtime).and_then(|()| if plan.lent { Ok(()) } else { self.want(plan) });
        if let Err(error) = written {
            tracing::warn!("{error}");
        }
        crash::point("adoption.written");
        self.watch(&hosted, Leftovers::of(&self.runtime, record))?;
        if plan.lent {
            self.watch_loan(&id);
        }
        let place = show(plan.mountpoint.as_path());
        tracing::info!("adopted worker {} of thread {} on {place}", worker.pid, plan.thread);
        Ok(())
    }

    /// Who had borrowed a mount is not known any more: it goes when no process has it.
    pub(super) fn watch_loan(&self, id: &MountId) {
        let (me, id) = (Weak::clone(&self.me), id.clone());
        let wait = move || {
            thread::sleep(LENT);
            if let Some(me) = me.upgrade() {
                me.give_back(&id, 0);
            }
        };
        let started = thread::Builder::new().name("loan".to_owned()).stack_size(STACK).spawn(wait);
        if let Err(error) = started {
            // It stays until somebody unmounts it.
            tracing::warn!("a mount that is lent is not watched: {error}");
        }
    }
}

/// The process that asks, if it is the worker of `record`'s mount.
fn identify(record: &Record, worker: ProcessId, peer: u32) -> Result<OwnedFd> {
    let other = || {
        CliError::conflict(format!("process {peer} is not the worker of the mount"))
            .hint("selvedge list names the worker")
    };
    let pid = i32::try_from(peer).ok().and_then(Pid::from_raw).ok_or_else(other)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|errno| CliError::io("cannot watch the worker", &errno.into()))?;
    // Looked at after it was opened, so it is the same process.
    if worker.pid != peer || !worker.exists() {
        return Err(other());
    }
    // The one that serves, or the one that was to follow it: which of the two goes on is settled between them.
    if record.mount.is_some() && record.workers().any(|known| known == worker) {
        Ok(pidfd)
    } else {
        Err(other())
    }
}
