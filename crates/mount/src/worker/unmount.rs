//! Unmounting from a thread of its own, so that the worker goes on answering: an unmount first writes dirty
//! pages, which arrive as requests.

use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{Holder, MountIdentity, UnmountError, UnmountMode, holders, unmount};

use super::serve::Happening;

/// How long the helper program of an unprivileged unmount may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// An attempt to unmount that has ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Whether it was by force.
    pub(crate) forced: bool,
    /// How it ended.
    pub(crate) outcome: Outcome,
}

/// How an attempt to unmount ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The mount is no longer in the mount table.
    Gone,
    /// Somebody uses it.
    Busy(Vec<Holder>),
    /// It could not be done for another reason.
    Failed(UnmountError),
}

/// Tries once, if need be by force, after `first`; `events` gets the [`Attempt`].
pub(crate) fn start(
    identity: &MountIdentity,
    forced: bool,
    first: impl FnOnce() + Send + 'static,
    events: &Sender<Happening>,
) {
    let (identity, sender) = (identity.clone(), events.clone());
    let mode = if forced { UnmountMode::Force } else { UnmountMode::Plain };
    let attempt = move || {
        first();
        // Nobody listens only when the process is ending.
        let outcome = attempt(&identity, mode);
        let _ = sender.send(Happening::Unmounted(Attempt { forced, outcome }));
    };
    if let Err(error) = thread::Builder::new().name("unmount".into()).spawn(attempt) {
        let source = UnmountError::Io { what: "start a thread to unmount", path: "".into(), source: error };
        let _ = events.send(Happening::Unmounted(Attempt { forced, outcome: Outcome::Failed(source) }));
    }
}

fn attempt(identity: &MountIdentity, mode: UnmountMode) -> Outcome {
    match unmount(identity, mode, Instant::now() + DEADLINE) {
        Ok(_) => Outcome::Gone,
        Err(UnmountError::Busy { .. }) => Outcome::Busy(holders(identity)),
        Err(error) => Outcome::Failed(error),
    }
}

/// Looks for those who keep a detached mount alive, which takes as long as there are processes; `events` gets them,
/// for the commands that wait for an answer.
pub(crate) fn find_holders(identity: &MountIdentity, asked_by: Vec<u64>, events: &Sender<Happening>) {
    let (identity, sender, askers) = (identity.clone(), events.clone(), asked_by.clone());
    let look = move || {
        let holders = holders(&identity);
        let _ = sender.send(Happening::HoldersFound { asked_by: askers, holders });
    };
    if thread::Builder::new().name("holders".into()).spawn(look).is_err() {
        // Then they are told without names.
        let _ = events.send(Happening::HoldersFound { asked_by, holders: Vec::new() });
    }
}
