//! Replacing a worker that serves by one of another program: told to let go, killed, succeeded, as if it had died.
//!
//! It ends by a signal, not in order: an orderly end would unmount. What it had read and not answered its successor
//! is sent again, so nobody notices more than a death. The successor is started first ([`crate::heir`]), so that this
//! process, too, may die at any instant.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_worker_proto::Command;

use crate::control::{Pending, Running};
use crate::launch::Launch;
use crate::{SpawnError, State, WorkerProgram, crash};

/// How long a worker may take to answer the requests that it has begun. What it has not answered then is sent again.
const HAND_OVER: Duration = Duration::from_secs(1);

/// Why a worker is not of the new program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// No successor could take its mount over.
    #[error("the mount was made without recovery, so its worker cannot be replaced")]
    NotReplaceable,
    /// It is being replaced already.
    #[error("its worker is being replaced already")]
    Changing,
    /// The new program cannot be opened.
    #[error(transparent)]
    Program(#[from] SpawnError),
    /// The new worker served nothing, and the program before serves again.
    #[error("the new worker failed, and the program before serves again: {cause}")]
    Failed {
        /// How it ended.
        cause: String,
    },
    /// No successor served in time; it may yet.
    #[error("the new worker did not serve within {} ms", waited.as_millis())]
    TimedOut {
        /// How long that was.
        waited: Duration,
    },
    /// The mount has ended.
    #[error("the mount has ended")]
    Ended,
}

/// A change to another program.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// Who waits for it; `None` once that is told.
    reply: Option<mpsc::Sender<Result<(), RenewError>>>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// The worker is still at work on a command.
    Waiting { new: Launch },
    /// It was told to let go.
    Told { new: Launch, until: Instant },
    /// It was killed, and the new one has not proved itself.
    Begun { old: Launch },
    /// The new one has served nothing, and the next is of the program before.
    Back { cause: String },
}

impl Renewal {
    /// When the worker has had its time.
    pub(crate) const fn due(&self) -> Option<Instant> {
        match &self.step {
            Step::Told { until, .. } => Some(*until),
            Step::Waiting { .. } | Step::Begun { .. } | Step::Back { .. } => None,
        }
    }

    fn tell(&mut self, outcome: Result<(), RenewError>) {
        if let Some(reply) = self.reply.take() {
            // Whoever does not wait any more sees it by the worker's number.
            let _ = reply.send(outcome);
        }
    }
}

impl Running {
    /// Somebody wants the worker to be of `program`.
    pub(crate) fn renew(&mut self, program: &WorkerProgram, reply: mpsc::Sender<Result<(), RenewError>>) {
        let refusal = if !self.may_have_successor() {
            RenewError::NotReplaceable
        } else if self.is_renewing() {
            RenewError::Changing
        } else {
            match self.control.launch.with(program) {
                Ok(new) => {
                    self.renewal = Some(Renewal { reply: Some(reply), step: Step::Waiting { new } });
                    return;
                }
                Err(error) => error.into(),
            }
        };
        let _ = reply.send(Err(refusal));
    }

    /// Whether somebody waits for a worker of another program.
    pub(crate) fn is_renewing(&self) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| renewal.reply.is_some())
    }

    /// Tells the worker to let go, once it is at work on nothing that would be lost.
    pub(crate) fn go_on_renewing(&mut self) {
        let is_at_work = self.pending.values().any(|pending| {
            matches!(pending, Pending::Export { .. } | Pending::Ask { .. } | Pending::Browse { .. })
        });
        if self.succession.is_open() || self.ending.is_some() || is_at_work {
            return;
        }
        let Some(Renewal { reply, step: Step::Waiting { new } }) =
            self.renewal.take_if(|renewal| matches!(renewal.step, Step::Waiting { .. }))
        else {
            return;
        };
        crash::point("renewal.asked");
        let told = self.send(Command::HandOver {}, None);
        let until = Instant::now() + if told.is_ok() { HAND_OVER } else { Duration::ZERO };
        if let Ok(id) = told {
            self.pending.insert(id, Pending::HandOver);
        }
        self.renewal = Some(Renewal { reply, step: Step::Told { new, until } });
    }

    /// Ends a worker that was told to let go: it has, had its time, or is wanted to do something else.
    pub(crate) fn end_handing_over(&mut self) {
        if !matches!(self.renewal, Some(Renewal { step: Step::Told { .. }, .. })) {
            return;
        }
        crash::point("renewal.let-go");
        self.switch();
        self.appoint_heir();
        self.control.worker.process.signal(Signal::KILL);
        crash::point("renewal.killed");
        self.succession.renewed();
        self.control.life.set_state(State::Recovering);
    }

    /// The next worker is of the new program.
    fn switch(&mut self) {
        self.renewal = self.renewal.take().map(|Renewal { reply, step }| {
            let step = match step {
                Step::Waiting { new } | Step::Told { new, .. } => {
                    Step::Begun { old: std::mem::replace(&mut self.control.launch, new) }
                }
                begun @ (Step::Begun { .. } | Step::Back { .. }) => begun,
            };
            Renewal { reply, step }
        });
    }

    /// A worker was reaped: the next is of the new program, unless that has shown that it serves nothing.
    pub(crate) fn settle_renewal(&mut self) {
        let is_unfit = self.succession.failed() > 0;
        let is_told = !self.is_renewing();
        match &mut self.renewal {
            // It died before it could be told.
            Some(Renewal { step: Step::Waiting { .. } | Step::Told { .. }, .. }) => self.switch(),
            Some(Renewal { step: step @ Step::Begun { .. }, .. }) if is_unfit => {
                let cause = self.succession.cause().to_owned();
                tracing::error!("the new worker failed, and the program before is to serve again: {cause}");
                if let Step::Begun { old } = std::mem::replace(step, Step::Back { cause }) {
                    self.control.launch = old;
                }
            }
            Some(_) if is_told => self.renewal = None,
            Some(_) | None => {}
        }
    }

    /// A successor serves.
    pub(crate) fn renewed(&mut self) {
        if let Some(renewal) = &mut self.renewal {
            let outcome = match &renewal.step {
                Step::Back { cause } => Err(RenewError::Failed { cause: cause.clone() }),
                _ => Ok(()),
            };
            renewal.tell(outcome);
        }
    }
}
