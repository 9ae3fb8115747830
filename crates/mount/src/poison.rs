//! Requests that workers die of.
//!
//! A request that kills its worker kills the successor to which it is sent again, and so on until the budget is spent
//! and everybody loses the mount. So a process notes, before it dies of a fault of its own (a panic, an abort, a bad
//! access), which request the faulting thread was at, and a request that two workers died of is answered with EIO. A
//! signal from outside is never the request's fault.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::session_state::checksum;
use crate::sys;

/// Bytes of a note: the request's number, the operation's name, the worker's number, a checksum.
const NOTE: usize = 32;

/// The latest so many workers' notes are kept.
const NOTES: usize = 64;

/// How many workers have to die of a request before it counts as the cause.
const DEADLY: usize = 2;

/// Bytes that the name of an operation has in a note.
const NAME: usize = 12;

thread_local! {
    /// What this thread is at. Without a destructor and initialised at compile time, so that a signal handler may read it.
    static AT_WORK: Cell<Option<(u64, &'static str)>> = const { Cell::new(None) };
}

/// Where this process's note belongs.
static POSITION: AtomicU64 = AtomicU64::new(0);
static WORKER: AtomicU64 = AtomicU64::new(0);

/// Whether this process has noted what it dies of: a panic ends in an abort, and is one death.
static NOTED: AtomicBool = AtomicBool::new(false);

/// Requests that two workers died of.
#[derive(Debug, Default)]
pub struct Poison {
    deaths: HashMap<u64, usize>,
}

impl Poison {
    /// Bytes of all notes.
    pub(crate) const BYTES: usize = NOTE * NOTES;

    /// What the notes tell. Damaged ones tell nothing.
    pub(crate) fn of(notes: &[u8]) -> Self {
        let mut poison = Self::default();
        for (unique, name) in notes.chunks_exact(NOTE).filter_map(decode) {
            tracing::warn!(operation = name, request = unique, "a worker died of a request");
            *poison.deaths.entry(unique).or_default() += 1;
        }
        poison
    }

    /// Whether the request (its number without the mark of a repetition) is one of them.
    pub(crate) fn contains(&self, unique: u64) -> bool {
        !self.deaths.is_empty() && self.deaths.get(&unique).is_some_and(|deaths| *deaths >= DEADLY)
    }
}

/// Lets the request be blamed if this thread brings the process down before the value goes.
pub(crate) fn at_work_on(unique: u64, operation: &'static str) -> AtWork {
    AT_WORK.set(Some((unique, operation)));
    AtWork(())
}

/// A thread that is at work on a request.
pub(crate) struct AtWork(());

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.set(None);
    }
}

/// The operation that this thread serves. For signal handlers.
pub(crate) fn operation() -> Option<&'static str> {
    AT_WORK.get().map(|(_, operation)| operation)
}

/// Has this process, worker number `worker` of its connection, note in `memory` what it dies of.
pub(crate) fn note_deaths(memory: &File, deaths: u64, worker: u64) {
    let slot = worker % NOTES as u64;
    POSITION.store(deaths + slot * NOTE as u64, Ordering::Relaxed);
    WORKER.store(worker, Ordering::Relaxed);
    match memory.try_clone() {
        Ok(notes) => sys::note_faults(notes.into()),
        Err(error) => tracing::warn!("what this worker dies of cannot be noted: {error}"),
    }
}

/// Notes the request that this thread is at. For panics and signal handlers: it allocates nothing and takes no lock.
pub(crate) fn note() {
    let Some((unique, operation)) = AT_WORK.get() else { return };
    let Some(notes) = sys::notes() else { return };
    if !NOTED.swap(true, Ordering::AcqRel) {
        let note = encode(unique, operation, WORKER.load(Ordering::Relaxed));
        // There is nobody left to tell of a failure.
        let _ = rustix::io::pwrite(notes, &note, POSITION.load(Ordering::Relaxed));
    }
}

fn encode(unique: u64, operation: &str, worker: u64) -> [u8; NOTE] {
    let mut note = [0; NOTE];
    note[..8].copy_from_slice(&unique.to_le_bytes());
    for (to, from) in note[8..8 + NAME].iter_mut().zip(operation.bytes()) {
        *to = from;
    }
    let [first, second, third, fourth, ..] = worker.to_le_bytes();
    note[20..24].copy_from_slice(&[first, second, third, fourth]);
    let sum = checksum(&note[..24]);
    note[24..].copy_from_slice(&sum.to_le_bytes());
    note
}

fn decode(note: &[u8]) -> Option<(u64, String)> {
    let sum = u64::from_le_bytes(note.get(24..NOTE)?.try_into().ok()?);
    if sum != checksum(&note[..24]) {
        return None;
    }
    let unique = u64::from_le_bytes(note[..8].try_into().ok()?);
    let name = String::from_utf8_lossy(&note[8..8 + NAME]);
    Some((unique, name.trim_end_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(entries: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; Poison::BYTES];
        for (unique, worker) in entries {
            let at = usize::try_from(*worker).unwrap() % NOTES * NOTE;
            bytes[at..at + NOTE].copy_from_slice(&encode(*unique, "removexattr", *worker));
        }
        bytes
    }

    #[test]
    fn a_request_that_one_worker_died_of_is_tried_again() {
        let poison = Poison::of(&notes(&[(10, 0), (12, 1)]));
        assert!(!poison.contains(10) && !poison.contains(12));
        let poison = Poison::of(&notes(&[(10, 0), (12, 1), (10, 2)]));
        assert!(poison.contains(10) && !poison.contains(12));
    }

    #[test]
    fn the_notes_of_old_workers_make_room() {
        let all: Vec<_> = (0..200).map(|worker| (10 + 2 * worker, worker)).collect();
        assert_eq!(Poison::of(&notes(&all)).deaths.len(), NOTES);
    }

    #[test]
    fn a_damaged_note_tells_nothing() {
        let whole = encode(10, "mkdir", 3);
        assert_eq!(decode(&whole), Some((10, "mkdir".to_owned())));
        for at in 0..NOTE {
            let mut damaged = whole;
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), None, "{at}");
        }
        assert!(Poison::of(&[0; Poison::BYTES]).deaths.is_empty());
    }
}
