//! Getting rid of a mount whose server is dead.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::abort_connection;
use crate::unmount::{UnmountError, UnmountMode, Unmounted, unmount};
use crate::{MountIdentity, shown};

/// What it took to get rid of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenDown {
    /// Nothing: it was not in the mount table.
    WasGone,
    /// An ordinary unmount.
    Unmounted,
    /// Its users were cut off; they keep dead descriptors.
    Detached,
}

/// Why a mount without a server is still there.
#[derive(Debug, thiserror::Error)]
#[error("the mount without a server at {} cannot be removed: {source}", shown(path))]
pub struct TakeDownError {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The last attempt's failure.
    pub source: UnmountError,
}

/// The first pause between two attempts, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Attempts to unmount in the ordinary way. Callers that were freed a moment ago need one to let go.
const POLITE: u32 = 3;

/// Removes a mount whose server is dead and reaped: callers are freed, then it is unmounted, if need be
/// detached, with growing pauses between attempts until `deadline`. When this returns `Ok`, it is not in the
/// mount table. At least one attempt to detach it is made, however near the deadline.
pub fn take_down(mount: &MountIdentity, deadline: Instant) -> Result<TakenDown, TakeDownError> {
    // A descriptor of the device that is still open somewhere keeps callers waiting; without the control file
    // system, forcing has the same effect later.
    // Without the mount its device number may be another connection's by now.
    if matches!(mount.find(), Ok(Some(_))) {
        let _ = abort_connection(mount.device);
    }
    let mut pause = FIRST_PAUSE;
    for attempt in 0.. {
        let late = Instant::now() >= deadline;
        let polite = attempt < POLITE && !late;
        let mode = if polite { UnmountMode::Plain } else { UnmountMode::Force };
        match unmount(mount, mode, deadline.max(Instant::now() + LONGEST_PAUSE)) {
            Ok(Unmounted::Before) if attempt == 0 => return Ok(TakenDown::WasGone),
            Ok(_) if polite => return Ok(TakenDown::Unmounted),
            Ok(_) => return Ok(TakenDown::Detached),
            Err(source) if late => return Err(TakeDownError { path: mount.path.clone(), source }),
            Err(_) => {
                thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    Ok(TakenDown::WasGone)
}
