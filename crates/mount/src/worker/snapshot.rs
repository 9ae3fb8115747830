//! Freezing the thread and making snapshots of it, beside everything else.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::shown;
use selvedge_store::export::Progress;
use selvedge_view::View;
use selvedge_worker_proto::{Envelope, Event, Sender, SnapshotDone, SnapshotProgress, WirePath};

use super::PEER_DEADLINE;
use super::held_back::HeldBack;
use super::refusal::Refusal;
use super::serve::Happening;

/// How often the supervisor hears how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What is to be done with the thread as it is.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Freeze it.
    Freeze,
    /// Make a snapshot that says this of itself.
    Snapshot(WirePath),
}

/// A freeze or snapshot to be made.
#[derive(Debug)]
pub(crate) struct Job {
    /// Of what.
    pub(crate) view: Arc<View>,
    /// What the kernel may hold of its files.
    pub(crate) held: HeldBack,
    /// What of it.
    pub(crate) wish: Wish,
    /// The command's number.
    pub(crate) id: u64,
}

/// Starts it. How far it is goes to `sender`; its last answer to `events`, as with exports.
pub(crate) fn start(job: Job, sender: Sender<Event>, events: mpsc::Sender<Happening>) -> Result<(), Refusal> {
    let run = move || {
        let id = job.id;
        let answer = outcome(&job, &sender).unwrap_or_else(|refusal| Event::Failed(refusal.into()));
        // The view is let go of first: whoever has the answer may ask for the end at once.
        drop(job);
        // Nobody listens only when the process is ending.
        let _ = events.send(Happening::SnapshotEnded { id, answer });
    };
    match thread::Builder::new().name("snapshot".into()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::system("cannot start a thread", &error)),
    }
}

fn outcome(job: &Job, sender: &Sender<Event>) -> Result<Event, Refusal> {
    let mapped = job.held.bring_in(&job.view);
    match &job.wish {
        Wish::Freeze => {
            job.view.freeze().map_err(|error| Refusal::of_view("the thread cannot be frozen", &error))?;
            Ok(Event::Frozen {})
        }
        Wish::Snapshot(message) => {
            let last = Mutex::new(Instant::now());
            let progress = |Progress { files, bytes }| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= PROGRESS_INTERVAL {
                    *last = Instant::now();
                    tell(sender, job.id, Event::SnapshotProgress(SnapshotProgress { files, bytes }));
                }
            };
            let report = job
                .view
                .snapshot(message.0.as_os_str().as_bytes(), &progress)
                .map_err(|error| Refusal::of_view("no snapshot can be made", &error))?;
            Ok(Event::SnapshotDone(SnapshotDone {
                snapshot: report.snapshot.to_string(),
                changed: report.changed,
                made: report.made,
                mapped,
                moving: moving(report.moving),
            }))
        }
    }
}

/// As many of the paths as fit a frame; the log has them all.
fn moving(paths: Vec<Vec<u8>>) -> Vec<WirePath> {
    let paths: Vec<_> = paths.into_iter().map(|path| PathBuf::from(OsString::from_vec(path))).collect();
    for path in &paths {
        tracing::warn!(path = %shown(path), "the file was written faster than it could be copied");
    }
    let fitting = paths.into_iter().scan(0, |bytes, path| {
        *bytes += path.as_os_str().len();
        (*bytes <= SnapshotDone::MAX_MOVING).then_some(WirePath(path))
    });
    fitting.collect()
}

fn tell(sender: &Sender<Event>, id: u64, event: Event) {
    let deadline = Some(Instant::now() + PEER_DEADLINE);
    if let Err(error) = sender.send(Envelope::new(id, event), &[], deadline) {
        tracing::warn!("the supervisor does not hear of the snapshot: {error}");
    }
}
