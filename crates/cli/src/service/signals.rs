//! The signals that the service heeds. They are blocked in every thread and read from a descriptor, so none is lost when
//! the service becomes another program: what comes meanwhile waits for that one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libc::{SIGHUP, SIGINT, SIGTERM};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::error::{CliError, Result};
use crate::sys;

/// The signals.
const HEEDED: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Bytes of one signal's description (`signalfd(2)`), which begins with its number.
const DESCRIPTION: usize = 128;

/// What reads the signals.
#[derive(Debug)]
pub(super) struct Signals {
    /// Whether one has come that ends the service. Nobody reads another while this is locked.
    ending: Arc<Mutex<bool>>,
}

/// Holds the signals back that come from now on, in this thread and all that it starts.
pub(super) fn hold_back() -> Result<()> {
    sys::block_signals(&HEEDED).map_err(|error| CliError::io("cannot hold signals back", &error))
}

impl Signals {
    /// Tells `events` of those that come, and of those that were held back, in a thread of its own.
    pub(super) fn watch<E: Send + 'static>(events: Sender<E>, event: fn(i32) -> E) -> Result<Self> {
        let tried = "cannot watch for signals";
        let descriptor = sys::signal_descriptor(&HEEDED).map_err(|error| CliError::io(tried, &error))?;
        let ending = Arc::<Mutex<bool>>::default();
        let seen = Arc::clone(&ending);
        let read = move || {
            loop {
                let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None);
                if ready.is_err_and(|errno| errno != Errno::INTR) {
                    return;
                }
                let mut ending = seen.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(signal) = next(&descriptor) else { continue };
                *ending |= signal != SIGHUP;
                if events.send(event(signal)).is_err() {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("signals".to_owned()).spawn(read);
        started.map_err(|error| CliError::io(tried, &error))?;
        Ok(Self { ending })
    }

    /// Leaves signals to whatever program this process becomes, until this is dropped. `None` if one has come that ends
    /// the service.
    pub(super) fn leave(&self) -> Option<MutexGuard<'_, bool>> {
        Some(self.ending.lock().unwrap_or_else(PoisonError::into_inner)).filter(|ending| !**ending)
    }
}

/// The next signal that has come, if there is one.
fn next(descriptor: &OwnedFd) -> Option<i32> {
    let mut description = [0; DESCRIPTION];
    let length = rustix::io::read(descriptor.as_fd(), &mut description).ok()?;
    let number = description.first_chunk().filter(|_| length == DESCRIPTION)?;
    Some(u32::from_ne_bytes(*number).cast_signed())
}
