//! Holding still, so that another supervisor can go on from exactly here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_worker_proto::MountReady;

use crate::Orphan;
use crate::control::{Gate, Input, Pending, Running};

/// How long a worker may take to finish the frame it is saying.
const FRAME: Duration = Duration::from_millis(500);

/// The pause between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(1);

/// A supervisor that holds still until this is dropped: it reads nothing of what its worker says, starts no successor and
/// signals nobody. The worker serves meanwhile.
#[derive(Debug)]
pub struct Held {
    /// What another supervisor needs to go on: the descriptors are duplicates.
    pub orphan: Orphan,
    /// The worker's program, if it was opened.
    pub program: Option<OwnedFd>,
    /// The supervisor waits for its end.
    _going_on: mpsc::Sender<()>,
}

/// Why a supervisor does not hold still.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The worker is being replaced or ended, or is at work on a command; later it may.
    #[error("the worker is being replaced or ended, or is at work on a command")]
    Changing,
    /// The mount has ended.
    #[error("the mount has ended")]
    Ended,
    /// Out of descriptors.
    #[error("cannot duplicate a descriptor: {0}")]
    Descriptors(String),
}

impl Running {
    /// Holds still until the asker has had enough.
    pub(crate) fn hold(&mut self, reply: &mpsc::Sender<Result<Held, HoldError>>) {
        let gate = Arc::clone(&self.control.gate);
        // Nothing is read from here on, so that whoever goes on reading begins with a whole frame.
        let Some(_quiet) = closed(&gate) else { return drop(reply.send(Err(HoldError::Changing))) };
        // What was read before is dealt with.
        while let Ok(input) = self.control.inputs.try_recv() {
            if matches!(input, Input::Reaped(_)) {
                // For the loop, which alone deals with it.
                let _ = self.control.input.send(input);
                return drop(reply.send(Err(HoldError::Changing)));
            }
            self.handle(input);
        }
        let (going_on, over) = mpsc::channel();
        let held = self.standing().map(|(orphan, program)| Held { orphan, program, _going_on: going_on });
        if reply.send(held).is_ok() {
            // Nobody sends: this is the sender's end.
            let _ = over.recv();
        }
    }

    /// Everything that there is to go on from, if nothing is half done.
    fn standing(&self) -> Result<(Orphan, Option<OwnedFd>), HoldError> {
        let is_at_work = self
            .pending
            .values()
            .any(|pending| !matches!(pending, Pending::Heartbeat | Pending::Status { .. } | Pending::Probe));
        if self.succession.is_open() || self.ending.is_some() || self.is_renewing() || is_at_work {
            return Err(HoldError::Changing);
        }
        let control = &self.control;
        let (worker, life) = (&control.worker, &control.life);
        let pid = worker.process.pid();
        let orphan = Orphan {
            pid,
            pidfd: duplicate(worker.process.as_fd())?,
            socket: duplicate(worker.commands.as_fd())?,
            log: worker.log.as_ref().map(|log| duplicate(log.as_fd())).transpose()?,
            escrow: control.escrow.iter().map(|fd| duplicate(fd.as_fd())).collect::<Result<_, _>>()?,
            ready: MountReady { pid, ..control.ready.clone() },
            last_id: self.last_id,
            restarts: life.restarts(),
            last_cause: life.last_cause(),
        };
        Ok((orphan, control.launch.program().map(duplicate).transpose()?))
    }
}

/// The gate, once nobody reads.
fn closed(gate: &Gate) -> Option<MutexGuard<'_, ()>> {
    let deadline = Instant::now() + FRAME;
    loop {
        match gate.try_lock() {
            Ok(quiet) => return Some(quiet),
            Err(TryLockError::Poisoned(quiet)) => return Some(PoisonError::into_inner(quiet)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, HoldError> {
    fd.try_clone_to_owned().map_err(|error| HoldError::Descriptors(error.to_string()))
}
