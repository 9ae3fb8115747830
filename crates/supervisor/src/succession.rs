//! From the death of a worker to a successor that serves: who may have one, when it is started, when it is given up.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{MountIdentity, UnmountMode, unmount};
use selvedge_worker_proto::{Command, Envelope, Event, MountReady, PROTOCOL_VERSION, Receiver};

use crate::control::{HELLO, Running, start_reader};
use crate::launch::Generation;
use crate::spawn::{DEATH, Worker};
use crate::{ExitStatus, SpawnError, State, Step, StopMode, Successor, crash, examine};

/// How long a successor to which nobody turns has to live to have proved itself.
const SETTLED: Duration = Duration::from_secs(1);

/// The pause before the second successor in a row; doubled before each further one. The first has none.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How long a worker that hangs may take to say what its threads are at.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Why a worker ended that was replaced by one of another program.
const UPGRADED: &str = "an upgrade";

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where the mount is between its workers.
#[derive(Debug)]
enum Phase {
    /// A worker serves.
    Serving,
    /// The worker has ended the conversation and is about to die, or is killed then.
    Silent(Deadline),
    /// There is no worker.
    Between,
    /// A successor has been started and does not serve yet.
    Awaited(Deadline),
}

/// When patience with a worker that does not serve ends.
#[derive(Debug)]
struct Deadline {
    /// `None`: everything was tried.
    at: Option<Instant>,
    killed: bool,
}

/// What is known of the present worker, and of those that failed before it.
#[derive(Debug)]
pub(crate) struct Succession {
    phase: Phase,
    /// How many successors in a row may fail.
    budget: u32,
    /// How many in a row have.
    failed: u32,
    /// Whether the present worker has answered a request. A mount's first worker counts as one that has.
    proven: bool,
    /// When it began to serve.
    ready_at: Option<Instant>,
    /// Whether it hangs and was asked what its threads are at.
    is_examined: bool,
    /// Whether it said that it has unmounted.
    left: bool,
    /// Why the present worker cannot serve, by its own words or ours.
    refusal: Option<String>,
    /// How the worker before ended.
    cause: String,
}

impl Succession {
    pub(crate) fn new(budget: u32) -> Self {
        Self {
            phase: Phase::Serving,
            budget,
            failed: 0,
            proven: true,
            ready_at: None,
            is_examined: false,
            left: false,
            refusal: None,
            cause: String::new(),
        }
    }

    /// Whether nobody serves at the moment, and somebody may again.
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Serving)
    }

    /// Whether a successor has yet to say that it serves.
    pub(crate) const fn is_awaited(&self) -> bool {
        matches!(self.phase, Phase::Awaited(_))
    }

    /// When something has to be done about a worker that does not serve.
    pub(crate) const fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Silent(deadline) | Phase::Awaited(deadline) => deadline.at,
            Phase::Serving | Phase::Between => None,
        }
    }

    /// The worker has ended the conversation.
    pub(crate) fn silent(&mut self, until: Instant) {
        if !self.is_awaited() {
            self.phase = Phase::Silent(Deadline { at: Some(until), killed: false });
        } else if let Phase::Awaited(deadline) = &mut self.phase
            && !deadline.killed
        {
            deadline.at = deadline.at.min(Some(until));
        }
    }

    /// The worker hangs and has been killed.
    fn hung(&mut self, why: String) {
        self.refused(why);
        self.phase = Phase::Silent(Deadline { at: Some(Instant::now() + LAST_WORDS), killed: false });
        self.is_examined = true;
    }

    /// The worker has been killed so that one of another program can follow it, which is no fault of its own.
    pub(crate) fn renewed(&mut self) {
        self.proven = true;
        self.refused(UPGRADED.to_owned());
        self.phase = Phase::Silent(Deadline { at: Some(Instant::now() + DEATH), killed: true });
    }

    /// How the worker before ended.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// How many successors in a row have served nothing.
    pub(crate) const fn failed(&self) -> u32 {
        self.failed
    }

    /// The worker is reaped.
    pub(crate) fn died(&mut self) {
        self.phase = Phase::Between;
        self.is_examined = false;
    }

    /// The worker has answered a request.
    pub(crate) fn proved(&mut self) {
        self.proven = true;
    }

    /// No more than the latest `fruitless` workers before the present one have answered nothing: some that had died before
    /// they could say so.
    pub(crate) fn correct(&mut self, fruitless: u32) {
        self.failed = self.failed.min(fruitless);
    }

    /// The worker has unmounted.
    pub(crate) fn left(&mut self) {
        self.left = true;
    }

    /// The successor cannot serve.
    pub(crate) fn refused(&mut self, why: String) {
        self.refusal.get_or_insert(why);
    }

    /// Takes a death into account; an error when the budget is spent.
    fn count(&mut self, status: ExitStatus) -> Result<(), String> {
        let settled = self.ready_at.take().is_some_and(|at| at.elapsed() >= SETTLED);
        let served = self.proven || settled;
        self.failed = if served { 0 } else { self.failed + 1 };
        self.cause = self.refusal.take().unwrap_or_else(|| status.to_string());
        if self.failed < self.budget.max(1) {
            return Ok(());
        }
        Err(format!("{} in a row failed before they served anything, the last: {}", self.failed, self.cause))
    }

    fn pause(&self) -> Duration {
        match self.failed {
            0 => Duration::ZERO,
            failed => (FIRST_PAUSE * 2_u32.saturating_pow(failed - 1)).min(LONGEST_PAUSE),
        }
    }
}

impl Running {
    /// Whether the present worker, should it die now, would be replaced.
    pub(crate) fn may_have_successor(&self) -> bool {
        !self.control.escrow.is_empty() && !self.succession.left
    }

    /// Decides whether a reaped worker gets a successor, and waits until its time has come. An error ends the mount,
    /// with the reason if it should have gone on.
    pub(crate) fn prepare_successor(&mut self, status: ExitStatus) -> Result<(), Option<String>> {
        if !self.may_have_successor() || self.must_end() {
            return Err(None);
        }
        match &mut self.ending {
            // Whoever wants the mount to end if it is free asks the next worker.
            Some(ending) if ending.asked => (ending.step, ending.due) = (Step::None, None),
            _ => self.ending = None,
        }
        self.succession.count(status).map_err(Some)?;
        self.settle_renewal();
        if self.succession.failed > 0 && self.ending.is_some() {
            return Err(Some(self.succession.cause.clone()));
        }
        self.control.life.set_state(State::Recovering);
        let pid = self.control.worker.process.pid();
        tracing::warn!(pid, cause = self.succession.cause, "the worker has ended and is replaced");
        let until = Instant::now() + self.succession.pause();
        while Instant::now() < until {
            if let Some(input) = self.next(Some(until)) {
                self.handle(input);
            }
            if self.must_end() {
                return Err(None);
            }
        }
        Ok(())
    }

    /// Whether somebody wants the end at any price, or was refused nothing before the worker was ended by us.
    fn must_end(&self) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| ending.asked && (ending.mode == StopMode::Force || ending.step > Step::Ask))
    }

    /// Starts a successor and hands it the escrow. Whether it serves is told by its answer.
    pub(crate) fn start_successor(&mut self) -> Result<(), SpawnError> {
        self.succession.proven = false;
        let heir = self.heir.take();
        let is_greeted = heir.is_some();
        let control = &mut self.control;
        crash::point("succession.reaped");
        let (worker, events) = match heir {
            Some(heir) => heir.accede(&control.life, &control.input)?,
            None => Worker::start(&control.launch, Generation::Successor, &control.life, &control.input)?,
        };
        control.life.replaced(&self.succession.cause);
        let dead = std::mem::replace(&mut control.worker, worker);
        let _ = dead.reaper.join();
        let until = Instant::now() + control.handshake_deadline;
        self.succession.phase = Phase::Awaited(Deadline { at: Some(until), killed: false });
        if let Err(error) = self.hear_successor(events).and_then(|()| self.greet(is_greeted)) {
            self.succession.refused(error);
            self.control.worker.process.signal(Signal::KILL);
        }
        Ok(())
    }

    fn hear_successor(&mut self, events: Receiver<Event>) -> Result<(), String> {
        let control = &mut self.control;
        let reader = start_reader(events, control.input.clone(), Arc::clone(&control.gate));
        control.reader = Some(reader.map_err(|error| format!("cannot start a thread: {error}"))?);
        Ok(())
    }

    /// Hands a successor everything, unless that was done before the worker before it was gone. From then on this process
    /// may die: what lies in the socket is the successor's.
    fn greet(&self, is_greeted: bool) -> Result<(), String> {
        crash::point("succession.started");
        let control = &self.control;
        if is_greeted {
            return Ok(());
        }
        if let Some(herald) = &control.herald {
            herald.tell(Successor { pid: control.worker.process.pid(), follows: false });
        }
        crash::point("succession.told");
        let hello = Envelope::new(HELLO, Command::Hello { protocol: PROTOCOL_VERSION });
        let escrow: Vec<_> = control.escrow.iter().map(AsFd::as_fd).collect();
        control
            .worker
            .commands
            .send(hello, &escrow, Some(Instant::now()))
            .map_err(|error| format!("cannot hand the mount over: {error}"))?;
        crash::point("succession.greeted");
        Ok(())
    }

    /// The successor says that it serves.
    pub(crate) fn take_over(&mut self, ready: &MountReady) {
        let pid = self.control.worker.process.pid();
        if let Err(why) = check(ready, pid, &self.control.identity) {
            self.succession.refused(why);
            return self.control.worker.process.signal(Signal::KILL);
        }
        crash::point("succession.serves");
        self.succession.phase = Phase::Serving;
        self.heartbeat.begin();
        self.succession.ready_at = Some(Instant::now());
        self.control.life.restarted();
        tracing::info!(pid, restarts = self.control.life.restarts(), "a successor serves");
        self.renewed();
        if let Some(ending) = &self.ending {
            self.ask_to_stop(ending.mode);
        }
    }

    /// Asks a worker that hangs what its threads are at, and kills it when it has said so: its successor does what it does
    /// not.
    pub(crate) fn end_hanging(&mut self, why: String) {
        let process = &self.control.worker.process;
        tracing::error!(pid = process.pid(), "the worker hangs and is killed: {why}");
        for line in examine::threads(process.pid()) {
            tracing::error!("{line}");
        }
        process.signal(Signal::USR2);
        // One that is stopped takes no signal.
        process.signal(Signal::CONT);
        self.succession.hung(why);
        self.control.life.set_state(State::Recovering);
    }

    /// A worker that hangs has said all that there is to know.
    pub(crate) fn examined(&mut self, pid: u32) {
        if self.succession.is_examined && pid == self.control.worker.process.pid() {
            self.successor_is_late();
        }
    }

    /// A worker that does not serve has had its time.
    pub(crate) fn successor_is_late(&mut self) {
        let (Phase::Silent(deadline) | Phase::Awaited(deadline)) = &mut self.succession.phase else { return };
        let process = &self.control.worker.process;
        if deadline.killed {
            // It may wait in the kernel for an answer to a request on its own mount, which gets one now. Nothing can
            // replace a process that does not die.
            deadline.at = None;
            tracing::error!(pid = process.pid(), "the worker cannot be killed; its mount is ended");
            let _ = unmount(&self.control.identity, UnmountMode::Force, Instant::now() + DEATH);
            return;
        }
        process.signal(Signal::KILL);
        *deadline = Deadline { at: Some(Instant::now() + DEATH), killed: true };
        self.succession.is_examined = false;
        self.succession.refused("it did not serve in time".to_owned());
    }
}

/// Checks that a successor serves the mount that its predecessor did. The mount table is not asked: the mount may be
/// detached, or gone since.
fn check(ready: &MountReady, pid: u32, identity: &MountIdentity) -> Result<(), String> {
    if ready.protocol != PROTOCOL_VERSION {
        return Err(format!(
            "the successor speaks protocol {}, this program {PROTOCOL_VERSION}",
            ready.protocol
        ));
    }
    let device = (ready.device.major, ready.device.minor);
    let same = ready.pid == pid
        && ready.mount_id == identity.mount_id
        && device == (identity.device.major, identity.device.minor);
    if same { Ok(()) } else { Err("the successor speaks of another process or mount".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: ExitStatus = ExitStatus::Signaled { signal: 9, core: false };

    #[test]
    fn deaths_after_something_was_served_cost_nothing() {
        let mut succession = Succession::new(2);
        for _ in 0..100 {
            assert_eq!(succession.count(KILLED), Ok(()));
            assert_eq!(succession.pause(), Duration::ZERO);
            succession.proven = false;
            succession.proved();
        }
    }

    #[test]
    fn successors_that_serve_nothing_spend_the_budget_with_growing_pauses() {
        let mut succession = Succession::new(3);
        assert_eq!(succession.count(KILLED), Ok(()));
        succession.proven = false;
        let mut pauses = Vec::new();
        while succession.count(KILLED).is_ok() {
            pauses.push(succession.pause());
        }
        assert_eq!(pauses, [FIRST_PAUSE, 2 * FIRST_PAUSE]);
    }

    #[test]
    fn deaths_of_those_that_served_and_could_not_say_so_cost_nothing_once_it_is_known() {
        let mut succession = Succession::new(2);
        for _ in 0..100 {
            succession.proven = false;
            assert_eq!(succession.count(KILLED), Ok(()));
            succession.correct(0);
        }
        succession.proven = false;
        assert_eq!(succession.count(KILLED), Ok(()), "of itself it has not said anything");
        assert!(succession.count(KILLED).is_err());
    }

    #[test]
    fn a_refusal_is_the_reason_that_is_told() {
        let mut succession = Succession::new(1);
        succession.proven = false;
        succession.refused("the catalog is damaged".to_owned());
        succession.refused("it did not serve in time".to_owned());
        assert!(succession.count(KILLED).unwrap_err().contains("the catalog is damaged"));
    }
}
