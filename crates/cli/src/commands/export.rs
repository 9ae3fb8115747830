//! `selvedge export`

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::FS_TYPE;
use selvedge_store::export::{ExportOptions, ExportReport, SnapshotSource, Source, export};
use selvedge_store::{LockError, Repository, ThreadLock, ThreadRef};
use selvedge_view::{View, ViewOptions};
use selvedge_worker_proto::ExportNote;
use serde::Serialize;

use crate::context::{Context, absolute, lexical_file_system, refuse_repository, resolved};
use crate::control::{Reply, Request};
use crate::error::{CliError, Result};
use crate::mounted::{nonsense, reach};
use crate::runtime::file_system_type;
use crate::target::{Target, is_dirty};
use crate::ui::{Ui, counted, human_bytes, show};

/// How long a mounted thread's worker may show no progress.
const IDLE: Duration = Duration::from_secs(40);

/// Write a thread or snapshot to a directory
///
/// Writes the tree byte for byte, with modes, owners, times, hard links, holes and extended attributes. A thread
/// is written as it is now, changes included, mounted or not. DEST's own .selvedge and other mounts in it are
/// neither entered nor removed.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A thread's name, or a snapshot's id or at least 8 digits of it
    #[arg(value_name = "THREAD|SNAPSHOT")]
    what: String,
    /// The directory to write to; made if missing
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Make DEST equal to the tree, removing what is not in it; without this DEST must be empty
    #[arg(long)]
    delete: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    files: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(context: &Context, args: &ExportArgs) -> Result<()> {
    let (repository, _objects) = context.held_repository()?;
    let target = Target::find(&repository, &args.what)?;
    let destination = Destination::open(&args.destination)?;
    let tried = format!("cannot export {} to {}", args.what, show(&destination.path));
    let report = write(context, repository, target, &destination, args.delete)
        .inspect_err(|_| destination.undo())
        .map_err(|error| error.context(tried))?;
    mention(context.ui, &destination.path, &report);
    context.ui.result(&Document { files: report.files, bytes: report.bytes }, || {
        format!(
            "exported {}, {} to {}\n",
            counted(report.files, "file"),
            human_bytes(report.bytes),
            show(&destination.path)
        )
    })
}

fn write(
    context: &Context,
    repository: Repository,
    target: Target,
    destination: &Destination,
    delete: bool,
) -> Result<ExportReport> {
    let options = ExportOptions { delete };
    match target {
        Target::Snapshot(id) => {
            let source = SnapshotSource::new(repository.store().clone(), &id)?;
            write_source(context.ui, &source, destination, options)
        }
        Target::Thread(thread) => match ThreadLock::try_acquire(&repository, &thread.id) {
            Ok(lock) => write_thread(context.ui, repository, &thread, lock, destination, options),
            Err(LockError::Held { pid }) => {
                write_mounted(context, &repository, &thread, pid, destination, delete)
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// A thread that nobody has mounted: its layers are read by this process, which holds its lock meanwhile.
fn write_thread(
    ui: Ui,
    repository: Repository,
    thread: &ThreadRef,
    lock: ThreadLock,
    destination: &Destination,
    options: ExportOptions,
) -> Result<ExportReport> {
    // Looked up again: it may have changed before it was locked.
    let thread = repository.refs().thread_again(thread)?;
    if !is_dirty(&thread) {
        let source = SnapshotSource::new(repository.store().clone(), &thread.snapshot)?;
        return write_source(ui, &source, destination, options);
    }
    let view = View::open(
        repository,
        &thread.name,
        lock,
        ViewOptions { read_only: true, ..ViewOptions::default() },
    )?;
    let report = write_source(ui, &view, destination, options)?;
    view.close()?;
    Ok(report)
}

fn write_source(
    ui: Ui,
    source: &dyn Source,
    destination: &Destination,
    options: ExportOptions,
) -> Result<ExportReport> {
    let progress = ui.progress("exporting");
    Ok(export(source, destination.duplicate()?, &options, &mut |done| progress.set(done.files, done.bytes))?)
}

/// A mounted thread: only its worker may read its layers, so the worker writes.
fn write_mounted(
    context: &Context,
    repository: &Repository,
    thread: &ThreadRef,
    holder: Option<u32>,
    destination: &Destination,
    delete: bool,
) -> Result<ExportReport> {
    let (mut client, mount) = reach(context, repository, thread, holder)?;
    let progress = context.ui.progress("exporting");
    let request = Request::Export { mount, delete };
    let mut reply = client.ask(request, &[destination.fd.as_fd()], Instant::now() + IDLE)?;
    let mut report = ExportReport::default();
    loop {
        match reply {
            Reply::ExportProgress(done) => progress.set(done.files, done.bytes),
            Reply::ExportNoted(noted) => {
                let paths = match noted.note {
                    ExportNote::LeftAlone => &mut report.skipped,
                    ExportNote::OwnerLost => &mut report.owner_lost,
                    ExportNote::XattrsLost => &mut report.xattrs_lost,
                };
                paths.push(noted.path.into_path_buf());
            }
            Reply::ExportDone(done) => {
                return Ok(ExportReport { files: done.files, bytes: done.bytes, ..report });
            }
            other => return Err(nonsense("an export", &other)),
        }
        reply = client.answer(Instant::now() + IDLE)?;
    }
}

fn mention(ui: Ui, destination: &Path, report: &ExportReport) {
    for path in &report.skipped {
        ui.note(format!("left alone: {}", show(&destination.join(path))));
    }
    ui.warn_of(destination, &report.owner_lost, "belongs to you now: only root gives files away");
    ui.warn_of(destination, &report.xattrs_lost, "lacks some extended attributes");
}

/// An open destination.
struct Destination {
    path: PathBuf,
    fd: OwnedFd,
    made: bool,
}

impl Destination {
    fn open(wanted: &Path) -> Result<Self> {
        let path = absolute(wanted)?;
        let tried = format!("cannot export to {}", show(&path));
        let on_mount = || {
            CliError::conflict(format!("{tried}: it lies on a Selvedge mount"))
                .hint("choose a directory that lies on no Selvedge mount")
        };
        if lexical_file_system(&path).is_some_and(|kind| kind == FS_TYPE) {
            return Err(on_mount());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (fd, made) = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => (fd, false),
            Err(Errno::NOENT) => {
                refuse_repository(&resolved_parent(&path)?).map_err(|error| error.context(&tried))?;
                rustix::fs::mkdir(&path, Mode::from_raw_mode(0o777))
                    .map_err(|errno| CliError::io(&tried, &errno.into()))?;
                let fd = rustix::fs::open(&path, flags, Mode::empty())
                    .map_err(|errno| CliError::io(&tried, &errno.into()))?;
                (fd, true)
            }
            Err(Errno::NOTDIR) => {
                return Err(CliError::conflict(format!("{tried}: it is not a directory"))
                    .hint("choose an empty directory, or one that does not exist yet"));
            }
            Err(errno) => return Err(CliError::io(&tried, &errno.into())),
        };
        let destination = Self { path, fd, made };
        let resolved = resolved(destination.fd.as_fd())?;
        let checked = if file_system_type(destination.fd.as_fd()).is_some_and(|kind| kind == FS_TYPE) {
            Err(on_mount())
        } else {
            refuse_repository(&resolved).map_err(|error| error.context(&tried))
        };
        match checked {
            Ok(()) => Ok(Self { path: resolved, ..destination }),
            Err(error) => {
                destination.undo();
                Err(error)
            }
        }
    }

    fn duplicate(&self) -> Result<OwnedFd> {
        self.fd.try_clone().map_err(|error| CliError::io("cannot duplicate a descriptor", &error))
    }

    /// Removes the directory if it was made for an export that wrote nothing.
    fn undo(&self) {
        if self.made {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

fn resolved_parent(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(parent, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => CliError::not_found(format!("there is no directory {}", show(parent)))
            .hint("make it first; only the last directory of the path is made by export"),
        errno => CliError::io(format!("cannot open {}", show(parent)), &errno.into()),
    })?;
    resolved(fd.as_fd())
}
