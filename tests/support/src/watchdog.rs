//! The end of a test that hangs in its own mount.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{MountIdentity, UnmountMode, unmount};

/// Ends a mount by force when it lives too long: whoever waits for it gets an error, and the test fails instead
/// of hanging. Dropping the watchdog lets the mount be.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn over(mount: MountIdentity, lifetime: Duration) -> Self {
        let (alive, over) = mpsc::channel::<()>();
        thread::spawn(move || {
            if over.recv_timeout(lifetime) == Err(RecvTimeoutError::Timeout) {
                eprintln!("watchdog: ending the mount at {} after {lifetime:?}", mount.path.display());
                let _ = unmount(&mount, UnmountMode::Force, Instant::now() + Duration::from_secs(5));
            }
        });
        Self { _alive: alive }
    }
}
