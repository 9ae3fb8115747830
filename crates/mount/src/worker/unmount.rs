//! Unmounting from a thread of its own, so that the worker goes on answering: an unmount first writes dirty
//! pages, which arrive as requests.

use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{Holder, MountIdentity, UnmountError, UnmountMode, holders, unmount};

use super::serve::Happening;

/// How long the helper program of an unprivileged unmount may take.
const DEADLINE: Duration = Duration::from_secs(20);

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

/// Tries once; `events` gets the [`Outcome`].
pub(crate) fn start(identity: &MountIdentity, mode: UnmountMode, events: &Sender<Happening>) {
    let (identity, sender) = (identity.clone(), events.clone());
    let attempt = move || {
        // Nobody listens only when the process is ending.
        let _ = sender.send(Happening::Unmounted(attempt(&identity, mode)));
    };
    if let Err(error) = thread::Builder::new().name("unmount".into()).spawn(attempt) {
        let source = UnmountError::Io { what: "start a thread to unmount", path: "".into(), source: error };
        let _ = events.send(Happening::Unmounted(Outcome::Failed(source)));
    }
}

fn attempt(identity: &MountIdentity, mode: UnmountMode) -> Outcome {
    match unmount(identity, mode, Instant::now() + DEADLINE) {
        Ok(_) => Outcome::Gone,
        Err(UnmountError::Busy { .. }) => Outcome::Busy(holders(identity)),
        Err(error) => Outcome::Failed(error),
    }
}
