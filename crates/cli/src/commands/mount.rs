//! `selvedge mount`

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::{Mountpoint, MountpointError};
use selvedge_store::{Repository, ThreadLock, ThreadName, ThreadRef};
use selvedge_supervisor::{SpawnSpec, WorkerProgram};

use crate::context::{Context, absolute, is_vouched_for, refuse_repository, resolved};
use crate::error::{CliError, Result};
use crate::foreground;
use crate::record::Record;
use crate::standing::live_mounts;
use crate::ui::show;
use crate::worker_program;

/// Mount a thread as a writable directory
///
/// The thread's files appear in DIR; changes are kept in the thread, and seen in no other. A missing DIR is made,
/// and removed by unmounting if it is still empty; one that is not empty is refused. A thread is mounted at most
/// once. Set-user-id bits and devices have no effect unless root asks for them.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct MountArgs {
    /// The thread
    #[arg(value_name = "THREAD")]
    thread: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Hold the mount in this process until Ctrl-C, SIGTERM or unmount
    #[arg(long)]
    foreground: bool,
    /// Refuse changes
    #[arg(long)]
    read_only: bool,
    /// Let other users in, as far as permissions allow [default for root]
    #[arg(long, conflicts_with = "no_allow_other")]
    allow_other: bool,
    /// Keep other users out, root included [default for others]
    #[arg(long)]
    no_allow_other: bool,
    /// Let set-user-id and set-group-id bits take effect (root only)
    #[arg(long)]
    suid: bool,
    /// Let device files work (root only)
    #[arg(long)]
    dev: bool,
    /// What happens when the worker dies
    #[arg(long, value_enum, value_name = "WHAT", default_value = "unmount")]
    on_crash: OnCrash,
}

/// What happens when a worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnCrash {
    /// A successor takes over (not built yet)
    Recover,
    /// The mount is taken down; every change made is kept
    Unmount,
}

/// Runs the command.
pub fn run(context: &Context, args: &MountArgs) -> Result<()> {
    let name: ThreadName = args.thread.parse()?;
    check_options(args)?;
    let repository = context.repository()?;
    let tried = || format!("cannot mount thread {name} on {}", show(&args.directory));
    let thread = repository.refs().thread(&name).map_err(|error| CliError::from(error).context(tried()))?;
    let program = worker_program::find(&context.environment)?;
    let runtime = context.runtime()?;
    refuse_mounted(context, &repository, &thread).map_err(|error| error.context(tried()))?;
    let place = Place::find(&args.directory).map_err(|error| error.context(tried()))?;

    let record = Record::new(
        repository.dir(),
        thread.name.as_str(),
        thread.id.to_string(),
        place.path.clone(),
        place.missing,
    )?;
    let mut spec = SpawnSpec::new(WorkerProgram::Path(program), place.path.clone());
    spec.args = worker_arguments(args, &repository, &thread, &place.path);
    spec.stop_grace = context.environment.stop_grace()?;
    // The worker opens the repository itself.
    drop(repository);
    foreground::hold(context.ui, &runtime, record, spec)
}

fn check_options(args: &MountArgs) -> Result<()> {
    if !args.foreground {
        return Err(CliError::failed(
            "cannot mount in the background: the background service is not built yet",
        )
        .hint("use --foreground, which holds the mount until Ctrl-C"));
    }
    if args.on_crash == OnCrash::Recover {
        return Err(CliError::failed("cannot mount with --on-crash recover: recovery is not built yet")
            .hint("use --on-crash unmount: every change made is kept"));
    }
    if (args.suid || args.dev) && !rustix::process::geteuid().is_root() {
        return Err(CliError::not_permitted("cannot mount with --suid or --dev: only root may")
            .hint("mount without them"));
    }
    Ok(())
}

fn worker_arguments(
    args: &MountArgs,
    repository: &Repository,
    thread: &ThreadRef,
    mountpoint: &Path,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![
        "--repo".into(),
        repository.dir().into(),
        "--thread".into(),
        thread.name.as_str().into(),
        "--mountpoint".into(),
        mountpoint.into(),
    ];
    let root = rustix::process::geteuid().is_root();
    let switches = [
        ("--read-only", args.read_only),
        ("--allow-other", args.allow_other || (root && !args.no_allow_other)),
        ("--suid", args.suid),
        ("--dev", args.dev),
        ("--trust-repository", is_vouched_for(repository.dir())),
    ];
    words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(word, _)| word.into()));
    words
}

/// A thread is mounted at most once. The worker's lock is what decides; this says where it is mounted.
fn refuse_mounted(context: &Context, repository: &Repository, thread: &ThreadRef) -> Result<()> {
    let id = thread.id.to_string();
    let already = live_mounts(&context.runtime()?, context.ui)?
        .into_iter()
        .find(|(record, _)| record.thread_id == id && record.repo.as_path() == repository.dir());
    if let Some((_, mount)) = already {
        let place = show(mount.mountpoint.as_path());
        return Err(CliError::conflict(format!("it is mounted already, on {place}"))
            .hint(format!("use it there, or unmount it first: selvedge unmount {}", thread.name)));
    }
    ThreadLock::try_acquire(repository, &thread.id).map(drop).map_err(CliError::from)
}

/// The directory to mount on.
struct Place {
    /// Absolute, without symbolic links.
    path: PathBuf,
    /// Whether it is still to be made.
    missing: bool,
}

impl Place {
    /// Checks the directory as far as can be before the worker opens it for good.
    fn find(wanted: &Path) -> Result<Self> {
        let wanted = absolute(wanted)?;
        let parent = parent_of(&wanted)?;
        refuse_repository(&parent)?;
        let (path, missing) = match (Mountpoint::open(&wanted), wanted.file_name()) {
            (Err(MountpointError::Missing { .. }), Some(name)) => (parent.join(name), true),
            (opened, _) => (opened?.path().to_owned(), false),
        };
        refuse_repository(&path)?;
        Ok(Self { path, missing })
    }
}

/// The directory that `path` is in, symbolic links resolved, by what the kernel remembers of an open descriptor.
fn parent_of(path: &Path) -> Result<PathBuf> {
    let parent = path.parent().unwrap_or(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(parent, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => CliError::not_found(format!("there is no directory {}", show(parent)))
            .hint("make it first; only the last directory of the path is made by mount"),
        Errno::NOTDIR => CliError::conflict(format!("{} is not a directory", show(parent)))
            .hint("choose an empty directory, or one that does not exist yet"),
        errno => CliError::io(format!("cannot open {}", show(parent)), &errno.into()),
    })?;
    resolved(fd.as_fd())
}
