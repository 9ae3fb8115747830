//! What a service that was killed leaves, and waiting for one that is just coming or going.

use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, statat, unlinkat};

use super::lock::{self, Lock};
use super::{Probe, SERVICE_LOCK, SOCKET, START_LOCK, probe};
use crate::runtime::RuntimeDir;
use crate::standing;

/// The pause between two looks at a service that is coming or going.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes the socket of a service that is gone. Says so if it did.
pub fn sweep(runtime: &RuntimeDir) -> Option<String> {
    let is_there = || statat(runtime.instance(), SOCKET, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if !is_there() || lock::holder(runtime, SERVICE_LOCK).is_some() {
        return None;
    }
    // Whoever holds both locks knows that nobody is, or becomes, the service meanwhile.
    let _starting = Lock::try_take(runtime, START_LOCK).ok()?;
    let _service = Lock::try_take(runtime, SERVICE_LOCK).ok()?;
    if !is_there() {
        return None;
    }
    unlinkat(runtime.instance(), SOCKET, AtFlags::empty()).ok()?;
    Some("removed the socket of the background service, which was killed".to_owned())
}

/// Looks for the service, and waits until `deadline` for one that is just coming up or going down, is brought back by
/// its workers or about to adopt them, or is slow to answer.
pub fn settle(runtime: &RuntimeDir, deadline: Instant) -> Probe {
    loop {
        let found = probe(runtime);
        let is_held = |name: &&str| lock::holder(runtime, name).is_some();
        let is_changing = match found {
            Probe::Version(_) => false,
            Probe::Silent(_) => true,
            Probe::Running(_) => standing::has_orphans(runtime),
            Probe::Down => [START_LOCK, SERVICE_LOCK].iter().any(is_held) || standing::has_orphans(runtime),
        };
        if !is_changing || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
}
