//! A writer: does one change after another and knows which were acknowledged.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::model::{Body, Model};
use crate::operation::Operation;
use crate::random::Random;
use selvedge_test_support::wait_until;

/// What the end of a connection looks like to a program.
const CUT_OFF: [Errno; 2] = [Errno::NOTCONN, Errno::CONNABORTED];

/// What a writer knows at its end.
#[derive(Debug, Clone)]
pub(crate) struct Knowledge {
    /// The result of every acknowledged change.
    acknowledged: Model,
    /// The change that got an error instead, and may or may not have been made.
    pending: Option<Operation>,
    /// How many were acknowledged.
    count: u64,
}

impl Knowledge {
    /// Before anything is changed.
    pub(crate) fn of(model: Model) -> Self {
        Self { acknowledged: model, pending: None, count: 0 }
    }

    /// What there is, if nothing was cut off.
    #[allow(dead_code, reason = "for those who go on with it")]
    #[track_caller]
    pub(crate) fn model(&self) -> &Model {
        assert!(self.pending.is_none(), "{:?} was cut off", self.pending);
        &self.acknowledged
    }

    /// Fails unless `found` has every acknowledged change, and of the pending one nothing or all: of a write, any
    /// part. What is found is what the writer goes on from.
    #[track_caller]
    pub(crate) fn check(&self, found: &Model, who: &str) -> Self {
        let mut after = self.acknowledged.clone();
        if let Some(pending) = &self.pending {
            pending.apply(&mut after);
        }
        let (before, after, found) = (self.acknowledged.canonical(), after.canonical(), found.canonical());
        let kept = found == before || found == after || self.torn_write(&before, &after, &found);
        let (count, pending) = (self.count, &self.pending);
        assert!(kept, "{who}: {} after {count} changes and {pending:?}", difference(&before, &found));
        Self::of(found)
    }

    /// Whether `found` is `before` with a part of the pending write.
    fn torn_write(&self, before: &Model, after: &Model, found: &Model) -> bool {
        let Some(Operation::Write { name, .. }) = &self.pending else { return false };
        let content = |model: &Model| match model.get(name).map(|node| &node.body) {
            Some(Body::File(content)) => Some(content.clone()),
            _ => None,
        };
        let (Some(old), Some(new), Some(now)) = (content(before), content(after), content(found)) else {
            return false;
        };
        let mut rest = found.clone();
        if let Some(node) = rest.get_mut(name) {
            node.body = Body::File(old.clone());
        }
        let possible =
            |(at, byte): (usize, &u8)| old.get(at).unwrap_or(&0) == byte || new.get(at) == Some(byte);
        rest == *before
            && (old.len()..=new.len()).contains(&now.len())
            && now.iter().enumerate().all(possible)
    }
}

/// The first thing in which two directories differ.
fn difference(expected: &Model, found: &Model) -> String {
    for name in expected.names.keys().chain(found.names.keys()) {
        let (one, two) = (expected.get(name), found.get(name));
        if one != two {
            let place = match (one.map(|node| &node.body), two.map(|node| &node.body)) {
                (Some(Body::File(one)), Some(Body::File(two))) => {
                    one.iter().zip(two).position(|(one, two)| one != two)
                }
                _ => None,
            };
            return format!("{name} is {two:?} instead of {one:?}, first difference {place:?}");
        }
    }
    "hard links differ".to_owned()
}

/// Writers at work, each in a directory of its own.
#[derive(Debug)]
pub(crate) struct Writers {
    threads: Vec<JoinHandle<Knowledge>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Starts one writer for each of `from`, in the directories `w0`, `w1` … beneath `mount`.
    pub(crate) fn start(mount: &Path, from: Vec<Knowledge>, seed: u64) -> Self {
        let acknowledged = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let start = |(index, knowledge): (usize, Knowledge)| {
            // A writer never says the mount's path again: with the mount gone it would lead to the host's directory.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(mount.join(format!("w{index}")), flags, Mode::empty());
            let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
            let random = Random::new(seed * 100 + index as u64);
            thread::spawn(move || match directory {
                Ok(directory) => write(&directory, knowledge, random, &acknowledged, &stop),
                // The worker died of being asked for this directory, or for the one before: then the mount may be
                // gone already, and what it covered has no such directory.
                Err(errno) if CUT_OFF.contains(&errno) || errno == Errno::NOENT => knowledge,
                Err(errno) => panic!("w{index}: {errno}"),
            })
        };
        let threads = from.into_iter().enumerate().map(start).collect();
        Self { threads, acknowledged, stop }
    }

    /// Waits until all of them together have had so many changes acknowledged.
    #[track_caller]
    pub(crate) fn wait_for(&self, changes: u64) {
        wait_until("acknowledged changes", Duration::from_mins(1), || {
            assert!(!self.threads.iter().all(JoinHandle::is_finished), "the writers ended by themselves");
            self.acknowledged.load(Ordering::Relaxed) >= changes
        });
    }

    /// Lets them end after their present change.
    pub(crate) fn stop(self) -> Vec<Knowledge> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended()
    }

    /// Waits until all have ended because of an error, which frees nobody who hangs.
    #[track_caller]
    pub(crate) fn ended(self) -> Vec<Knowledge> {
        wait_until("writers to be freed", Duration::from_secs(30), || {
            self.threads.iter().all(JoinHandle::is_finished)
        });
        self.threads
            .into_iter()
            .map(|thread| thread.join().expect("the writer met nothing unexpected"))
            .collect()
    }
}

fn write(
    directory: &OwnedFd,
    mut knowledge: Knowledge,
    mut random: Random,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> Knowledge {
    while !stop.load(Ordering::Relaxed) {
        let operation = Operation::choose(&mut random, &knowledge.acknowledged);
        match operation.perform(directory) {
            Ok(None) => {
                operation.apply(&mut knowledge.acknowledged);
                knowledge.count += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            // A write over several pages may take several requests: what was acknowledged is kept, what came next
            // met the end of the connection.
            Ok(Some(rest)) => {
                operation.without(&rest).apply(&mut knowledge.acknowledged);
                let next = rest.perform(directory);
                assert!(
                    matches!(next, Err(errno) if CUT_OFF.contains(&errno)),
                    "{rest:?} was left out: {next:?}"
                );
                knowledge.pending = Some(rest);
                return knowledge;
            }
            Err(errno) if CUT_OFF.contains(&errno) => {
                knowledge.pending = Some(operation);
                return knowledge;
            }
            Err(errno) => panic!("{operation:?} got {errno} after {} changes", knowledge.count),
        }
    }
    knowledge
}
