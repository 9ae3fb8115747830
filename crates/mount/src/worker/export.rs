//! The thread's tree, as it is now, to a host directory, beside everything else.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{MountIdentity, covering_mount};
use selvedge_store::export::{ExportOptions, ExportReport, Progress, export};
use selvedge_view::View;
use selvedge_worker_proto::{
    Envelope, ErrorKind, Event, ExportDone, ExportNote, ExportNoted, ExportProgress, Sender, WirePath,
};

use super::PEER_DEADLINE;
use super::held_back::HeldBack;
use super::refusal::Refusal;
use super::serve::Happening;

/// How often the supervisor hears how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// An export to be made.
#[derive(Debug)]
pub(crate) struct Export {
    /// What to export.
    pub(crate) view: Arc<View>,
    /// What the kernel may hold of its files.
    pub(crate) held: HeldBack,
    /// The destination.
    pub(crate) dest: OwnedFd,
    /// Make the destination equal to the tree.
    pub(crate) delete: bool,
    /// The command's number.
    pub(crate) id: u64,
}

/// Refuses a destination inside the mount that is exported: it would grow while it is copied.
pub(crate) fn check_destination(dest: &OwnedFd, identity: &MountIdentity) -> Result<(), Refusal> {
    match covering_mount(dest.as_fd()) {
        Ok(covering) if covering.device == identity.device => Err(Refusal::new(
            ErrorKind::Conflict,
            "the destination lies in the mount of the thread that is to be exported",
            "choose a directory outside the mount",
        )),
        _ => Ok(()),
    }
}

/// Starts the export. How far it is goes to `sender`; its last answer to `events`, since whoever has that answer may
/// ask for the next export at once.
pub(crate) fn start(
    job: Export,
    sender: Sender<Event>,
    events: mpsc::Sender<Happening>,
) -> Result<(), Refusal> {
    let run = move || {
        let answers = Answers { sender, id: job.id };
        let id = job.id;
        let answer = outcome(job, &answers);
        // Nobody listens only when the process is ending.
        let _ = events.send(Happening::ExportEnded { id, answer });
    };
    match thread::Builder::new().name("export".into()).spawn(run) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::system("cannot start a thread", &error)),
    }
}

fn outcome(job: Export, answers: &Answers) -> Event {
    let mut last = Instant::now();
    let mut progress = |progress: Progress| {
        if last.elapsed() >= PROGRESS_INTERVAL {
            last = Instant::now();
            let Progress { files, bytes, .. } = progress;
            answers.tell(Event::ExportProgress(ExportProgress { files, bytes }));
        }
    };
    job.held.bring_in_writes(&job.view);
    match export(&*job.view, job.dest, &ExportOptions { delete: job.delete }, &mut progress) {
        Ok(report) => done(report, answers),
        Err(error) => Event::Failed(Refusal::from(error).into()),
    }
}

fn done(report: ExportReport, answers: &Answers) -> Event {
    let noted = [
        (report.skipped, ExportNote::LeftAlone),
        (report.owner_lost, ExportNote::OwnerLost),
        (report.xattrs_lost, ExportNote::XattrsLost),
    ];
    for (paths, note) in noted {
        for path in paths {
            answers.tell(Event::ExportNoted(ExportNoted { path: WirePath(path), note }));
        }
    }
    Event::ExportDone(ExportDone { files: report.files, bytes: report.bytes })
}

/// The way back to the supervisor for one command.
struct Answers {
    sender: Sender<Event>,
    id: u64,
}

impl Answers {
    fn tell(&self, event: Event) {
        let deadline = Some(Instant::now() + PEER_DEADLINE);
        if let Err(error) = self.sender.send(Envelope::new(self.id, event), &[], deadline) {
            tracing::warn!("the supervisor does not hear of the export: {error}");
        }
    }
}
