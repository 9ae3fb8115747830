//! How a mounted worker ends: asked by its supervisor, by a signal, or because nobody is left to ask.

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{Hold, Holder, UnmountMode, unmount as unmount_now};
use selvedge_view::View;
use selvedge_worker_proto::{ErrorKind, Event, StopRefused};

use super::Service;
use crate::worker::refusal;
use crate::worker::unmount::{self, Attempt, Outcome};

/// How long after an unmount the connection may take to end. It ends with the unmount itself, unless something
/// else keeps the file system alive: then it is detached. A program that is just being started in a mount namespace
/// of its own does so for a moment.
const SETTLE: Duration = Duration::from_millis(700);

/// How long an attempt to unmount may take where the end must come anyway. An unmount waits for what is still to be
/// written, so a request that hangs makes it hang, and without a supervisor nobody else would end it.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long an unmount by force waits for what the kernel holds back: less than whoever asked for it waits.
const RESCUE: Duration = Duration::from_millis(1500);

/// How long the end may take to make everything durable. A worker that is ended here has lost nothing: all it
/// acknowledged is where a successor finds it.
const CLOSE_DEADLINE: Duration = Duration::from_secs(25);

/// How long a clean-up of a mount table entry may take at the very end.
const CLEAN_DEADLINE: Duration = Duration::from_secs(2);

/// How much an ending is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// If nobody uses the mount.
    IfFree,
    /// Whoever uses it: asked for by force, or nobody is left who could be told that it is busy.
    Anyway,
}

/// An ending on its way.
#[derive(Debug)]
pub(super) struct Ending {
    urgency: Urgency,
    /// The commands to answer.
    asked_by: Vec<u64>,
}

/// How it ends.
#[derive(Debug)]
pub(super) enum End {
    /// The connection has ended: nobody can change the thread any more.
    Connection(io::Result<()>),
    /// The connection ends with the process.
    CutOff,
}

impl Ending {
    /// Makes this one as urgent as `other`, for both askers.
    fn join(&mut self, mut other: Self) {
        self.urgency = self.urgency.max(other.urgency);
        self.asked_by.append(&mut other.asked_by);
    }
}

/// Where the worker is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    /// The mount is up.
    Serving,
    /// An attempt to unmount is being made, by force or not.
    Unmounting {
        ending: Ending,
        forced: bool,
        /// Until when, if the end must come anyway.
        until: Instant,
    },
    /// The mount is gone from the mount table; the connection must end by itself until then.
    Settling { ending: Ending, until: Instant },
    /// The mount is gone from the mount table and goes on elsewhere.
    Detached,
}

impl Phase {
    /// When what it waits for is too late. Who may be told that the mount is busy waits for as long as that takes.
    pub(super) const fn until(&self) -> Option<Instant> {
        match self {
            Self::Settling { until, .. }
            | Self::Unmounting { until, ending: Ending { urgency: Urgency::Anyway, .. }, .. } => Some(*until),
            _ => None,
        }
    }
}

impl Service {
    /// Begins to end, or joins an ending that is under way and makes it as urgent as this one.
    pub(super) fn end(&mut self, urgency: Urgency, asked_by: Option<u64>) {
        let ending = Ending { urgency, asked_by: asked_by.into_iter().collect() };
        if urgency == Urgency::IfFree && self.exporting && matches!(self.phase, Phase::Serving) {
            return self.refuse(&ending.asked_by, "an export of the thread is running", Vec::new());
        }
        if urgency == Urgency::IfFree && self.snapshotting && matches!(self.phase, Phase::Serving) {
            return self.refuse(&ending.asked_by, "a snapshot of the thread is being made", Vec::new());
        }
        match &mut self.phase {
            Phase::Serving => self.unmount(ending, false),
            Phase::Detached if urgency == Urgency::Anyway => self.unmount(ending, true),
            Phase::Detached => self.refuse_detached(ending),
            Phase::Unmounting { ending: current, until, .. } => {
                if current.urgency < urgency {
                    *until = Instant::now() + ATTEMPT;
                }
                current.join(ending);
            }
            Phase::Settling { ending: current, .. } => current.join(ending),
        }
    }

    fn unmount(&mut self, ending: Ending, forced: bool) {
        self.phase = Phase::Unmounting { ending, forced, until: Instant::now() + ATTEMPT };
        let (held, view) = (self.held_back(), Arc::downgrade(&self.mounted.view));
        // Force cuts the kernel off with what it holds.
        let rescue = move || {
            if let Some(view) = view.upgrade().filter(|_| forced) {
                held.rescue(&view, RESCUE);
            }
        };
        unmount::start(&self.mounted.identity, forced, rescue, &self.events);
    }

    pub(super) fn unmounted(&mut self, attempt: Attempt) -> Option<End> {
        let Attempt { forced, outcome } = attempt;
        match &self.phase {
            // An attempt that was given up for a more forceful one tells nothing but that the mount is gone.
            Phase::Unmounting { forced: now, .. } if *now == forced || matches!(outcome, Outcome::Gone) => {}
            _ => return None,
        }
        let Phase::Unmounting { ending, .. } = std::mem::replace(&mut self.phase, Phase::Serving) else {
            return None;
        };
        match (outcome, ending.urgency) {
            (Outcome::Gone, _) => {
                self.phase = Phase::Settling { ending, until: Instant::now() + SETTLE };
            }
            (Outcome::Busy(_) | Outcome::Failed(_), Urgency::Anyway) if !forced => self.unmount(ending, true),
            (Outcome::Busy(_), Urgency::Anyway) => return Some(self.cut_off(ending, "it is still in use")),
            (Outcome::Failed(error), Urgency::Anyway) => {
                return Some(self.cut_off(ending, &refusal::sentence(&error)));
            }
            (Outcome::Busy(holders), Urgency::IfFree) => {
                self.refuse(&ending.asked_by, "the mount is in use", holders);
            }
            (Outcome::Failed(error), Urgency::IfFree) => {
                tracing::error!("{error}");
                for id in ending.asked_by {
                    self.tell(id, Event::failed(ErrorKind::Failed, refusal::sentence(&error)));
                }
            }
        }
        None
    }

    /// What the present phase waits for has not come in time.
    pub(super) fn too_late(&mut self) -> Option<End> {
        match std::mem::replace(&mut self.phase, Phase::Detached) {
            Phase::Unmounting { ending, forced: false, .. } => self.unmount(ending, true),
            Phase::Unmounting { ending, forced: true, .. } => {
                return Some(self.cut_off(ending, "it takes too long"));
            }
            Phase::Settling { ending, .. } if ending.urgency == Urgency::IfFree => {
                self.refuse_detached(ending);
            }
            Phase::Settling { ending, .. } => {
                if let Err(error) = selvedge_mountpoint::abort_connection(self.mounted.identity.device) {
                    tracing::info!("{error}; the connection ends with this process");
                }
                return Some(self.cut_off(ending, "it is kept alive elsewhere"));
            }
            phase @ (Phase::Serving | Phase::Detached) => self.phase = phase,
        }
        None
    }

    /// Ends although the mount has not, which cuts off everybody who uses it.
    fn cut_off(&mut self, ending: Ending, why: &str) -> End {
        tracing::warn!("the mount cannot be ended in order: {why}; it ends with this process");
        self.phase = Phase::Settling { ending, until: Instant::now() };
        End::CutOff
    }

    fn refuse_detached(&self, ending: Ending) {
        unmount::find_holders(&self.mounted.identity, ending.asked_by, &self.events);
    }

    pub(super) fn refuse(&self, asked_by: &[u64], message: &str, holders: Vec<Holder>) {
        let holders: Vec<_> = holders.into_iter().map(wire_holder).collect();
        tracing::warn!(?holders, "not stopped: {message}");
        for id in asked_by {
            self.tell(*id, Event::StopRefused(StopRefused::new(message, holders.clone())));
        }
    }

    /// The last things: the mount table, the supervisor, the disk.
    pub(super) fn finish(mut self, end: End) -> ExitCode {
        self.escrow = Arc::default();
        let connection = match end {
            End::Connection(outcome) => outcome,
            End::CutOff => Ok(()),
        };
        if let Err(error) = &connection {
            tracing::error!("the session ended: {error}");
        }
        // An aborted connection leaves a dead mount behind; an unmount leaves nothing to find.
        let deadline = Instant::now() + CLEAN_DEADLINE;
        if let Err(error) = unmount_now(&self.mounted.identity, UnmountMode::Lazy, deadline) {
            tracing::error!("the dead mount is still there: {error}");
        }
        self.tell_stopping();
        let closed = close(self.mounted.view);
        if connection.is_ok() && closed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn tell_stopping(&mut self) {
        let asked_by = match &mut self.phase {
            Phase::Unmounting { ending, .. } | Phase::Settling { ending, .. } => {
                std::mem::take(&mut ending.asked_by)
            }
            Phase::Serving | Phase::Detached => Vec::new(),
        };
        if asked_by.is_empty() {
            self.tell(0, Event::Stopping {});
        }
        for id in asked_by {
            self.tell(id, Event::Stopping {});
        }
    }
}

/// Closes the view, within a deadline. Where an export or a connection that is being cut off still has it,
/// everything acknowledged is made durable all the same.
fn close(view: Arc<View>) -> bool {
    let (done, closed) = mpsc::channel();
    let closing = thread::Builder::new().name("close".into()).spawn(move || {
        let outcome = match Arc::try_unwrap(view) {
            Ok(view) => view.close(),
            Err(shared) => shared.sync(),
        };
        let _ = done.send(outcome);
    });
    if let Err(error) = closing {
        tracing::error!("cannot start a thread to close the thread's layers: {error}");
        return false;
    }
    match closed.recv_timeout(CLOSE_DEADLINE) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!("not everything is durable yet: {error}");
            false
        }
        Err(_) => {
            tracing::error!("not everything is durable after {} s", CLOSE_DEADLINE.as_secs());
            false
        }
    }
}

fn wire_holder(holder: Holder) -> selvedge_worker_proto::Holder {
    let name = match holder.hold {
        Hold::Namespace => format!("{} (mount namespace)", holder.name),
        _ => holder.name,
    };
    selvedge_worker_proto::Holder { pid: holder.pid, name }
}
