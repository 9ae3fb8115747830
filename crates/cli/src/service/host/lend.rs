//! Lending a thread's mount to processes that have it in a mount namespace of their own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use selvedge_mountpoint::holders;
use selvedge_supervisor::StopMode;

use super::places::{Place, SAME};
use super::{Occasion, STACK, Service};
use crate::control::{MountDocument, MountState};
use crate::error::{CliError, Result};
use crate::namespace;
use crate::plan::Plan;
use crate::record::MountId;

/// The pause between two looks whether anybody still has a mount that was lent, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long somebody may have a mount by accident: a program that is just being started in a namespace of its own has
/// copies of everything for a moment.
const MOMENT: Duration = Duration::from_millis(300);

impl Service {
    /// Lends the thread's mount to the process whose pidfd comes along; `None` if the service is ending. Where the
    /// service may make one, a copy of the mount comes with it, for namespaces that do not see the mount itself.
    pub(super) fn lend(
        &self,
        plan: &Plan,
        mut fds: Vec<OwnedFd>,
    ) -> Result<Option<(MountDocument, Option<OwnedFd>)>> {
        let (Some(borrower), true) = (fds.pop(), fds.is_empty()) else {
            return Err(CliError::usage("a loan needs exactly one descriptor, the borrower's pidfd")
                .hint("use the version of selvedge that started the service"));
        };
        self.wait_cleaned();
        let deadline = Instant::now() + SAME;
        let mount = loop {
            let Some(mount) = self.mount(plan, Occasion::Asked)? else { return Ok(None) };
            if self.borrow(&mount.id) {
                break mount;
            }
            // It is just being taken down, and can be made again then.
            if Instant::now() >= deadline {
                return Err(CliError::timed_out(format!(
                    "thread {} is still being unmounted from its last use",
                    plan.thread
                ))
                .hint("selvedge list shows how it stands; try again"));
            }
            thread::sleep(FIRST_PAUSE);
        };
        self.watch_borrower(&mount.id, borrower);
        self.set_lent(&mount.id);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        // Refused where only the helper may mount.
        let copy = open_tree(CWD, mount.mountpoint.as_path(), flags).ok();
        Ok(Some((mount, copy)))
    }

    /// Goes on lending a mount to these processes.
    pub(super) fn go_on_lending(&self, id: &MountId, borrowers: Vec<OwnedFd>) {
        let count = borrowers.len();
        {
            let mut state = self.state();
            for place in state.places.iter_mut().filter(|place| place.attempt.starting.id() == id) {
                (place.borrowers, place.was_lent, place.kept) = (count, true, count == 0);
            }
        }
        for borrower in borrowers {
            self.watch_borrower(id, borrower);
        }
        if count == 0 {
            self.watch_loan(id);
        }
    }

    /// Counts one more borrower; `false` if the mount is going.
    fn borrow(&self, id: &MountId) -> bool {
        let mut state = self.state();
        match state.places.iter_mut().find(|place| place.attempt.starting.id() == id) {
            Some(place) if !place.leaving => {
                place.borrowers += 1;
                place.kept = false;
                true
            }
            _ => false,
        }
    }

    /// Waits, in a thread of its own, for the borrower's end.
    fn watch_borrower(&self, id: &MountId, borrower: OwnedFd) {
        let me = Weak::clone(&self.me);
        let (waited, borrower) = (id.clone(), Arc::new(borrower));
        self.borrowers().push((id.clone(), Arc::clone(&borrower)));
        let wait = move || {
            while poll(&mut [PollFd::new(&borrower, PollFlags::IN)], None) == Err(Errno::INTR) {}
            if let Some(me) = me.upgrade() {
                me.borrowers().retain(|(_, other)| !Arc::ptr_eq(other, &borrower));
                me.give_back(&waited, 1);
            }
        };
        let started = thread::Builder::new().name("borrower".to_owned()).stack_size(STACK).spawn(wait);
        if let Err(error) = started {
            // It stays until somebody unmounts it.
            tracing::warn!("the mount {id} is lent without a watch: {error}");
        }
    }

    /// Whether a mount that was lent is about to go: its borrowers have ended, be it this very moment, and left nobody
    /// who has it.
    pub(super) fn is_going(&self, place: &Place) -> bool {
        let id = place.attempt.starting.id();
        let lives = |process: &OwnedFd| {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)) == Ok(0)
        };
        let is_used = || self.borrowers().iter().any(|(lent, process)| lent == id && lives(process));
        // One that nobody has had yet is being lent.
        place.plan.lent && place.was_lent && !place.kept && !is_used()
    }

    /// Every mount as it is now.
    pub(super) fn list(&self) -> Vec<MountDocument> {
        let mut mounts = self.mounts.list();
        let state = self.state();
        for place in state.places.iter().filter(|place| self.is_going(place)) {
            let id = place.attempt.starting.id();
            for mount in mounts.iter_mut().filter(|mount| mount.id == *id) {
                mount.state = MountState::Stopping;
            }
        }
        mounts
    }

    pub(super) fn borrowers(&self) -> MutexGuard<'_, Vec<(MountId, Arc<OwnedFd>)>> {
        self.borrowers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmounts the copies that the namespaces of runs have of a mount that was not lent to them, unless they are in
    /// use there: a namespace begins with copies of everything, which would keep it alive. Does nothing where only
    /// the helper may unmount.
    pub(super) fn unmount_copies(&self, id: &MountId) {
        let Some(device) =
            self.mounts.find(id).ok().and_then(|hosted| hosted.record().identity()).map(|m| m.device)
        else {
            return;
        };
        let others: Vec<Arc<OwnedFd>> = self
            .borrowers()
            .iter()
            .filter(|(lent, _)| lent != id)
            .map(|(_, process)| Arc::clone(process))
            .collect();
        for process in others {
            let go = || {
                if namespace::enter(process.as_fd()).is_ok() {
                    namespace::unmount_copies(device);
                }
            };
            thread::scope(|scope| {
                // What cannot be done makes the unmount say who has the mount.
                let _ = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, go);
            });
        }
    }

    /// So many borrowers have ended. The last one's mount goes, once no process has it any more that the borrower left.
    pub(super) fn give_back(&self, id: &MountId, ended: usize) {
        let is_unused = |count: &dyn Fn(&mut usize)| {
            let mut state = self.state();
            let place = state.places.iter_mut().find(|place| place.attempt.starting.id() == id);
            place.is_some_and(|place| {
                count(&mut place.borrowers);
                place.plan.lent && place.borrowers == 0
            })
        };
        let mut unused = is_unused(&|borrowers| *borrowers = borrowers.saturating_sub(ended));
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        while unused && let Ok(hosted) = self.mounts.find(id) {
            let identity = hosted.record().identity();
            let is_kept = identity.is_none_or(|identity| !holders(&identity).is_empty());
            self.set_kept(id, is_kept && begun.elapsed() >= MOMENT);
            if !is_kept && self.set_leaving(id, true) {
                if hosted.stop(StopMode::Orderly).is_ok() {
                    return;
                }
                self.set_leaving(id, false);
                // By somebody who cannot be seen from here.
                self.set_kept(id, true);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            unused = is_unused(&|_| ());
        }
    }

    fn set_lent(&self, id: &MountId) {
        let mut state = self.state();
        for place in state.places.iter_mut().filter(|place| place.attempt.starting.id() == id) {
            place.was_lent = true;
        }
    }

    fn set_kept(&self, id: &MountId, kept: bool) {
        let mut state = self.state();
        for place in state.places.iter_mut().filter(|place| place.attempt.starting.id() == id) {
            place.kept = kept;
        }
    }

    /// Marks a mount as going, unless it has been lent again meanwhile.
    fn set_leaving(&self, id: &MountId, leaving: bool) -> bool {
        let mut state = self.state();
        match state.places.iter_mut().find(|place| place.attempt.starting.id() == id) {
            Some(place) if place.borrowers == 0 => {
                place.leaving = leaving;
                true
            }
            _ => false,
        }
    }
}
