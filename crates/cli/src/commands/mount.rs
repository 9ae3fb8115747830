//! `selvedge mount`

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use selvedge_mountpoint::{Mountpoint, MountpointError};
use selvedge_store::{Repository, ThreadName, ThreadRef};
use selvedge_supervisor::WorkerProgram;

use crate::context::{Context, absolute, refuse_repository, resolved};
use crate::control::client::AskError;
use crate::control::{MountDocument, Reply, Request};
use crate::error::{CliError, Result};
use crate::plan::{OnCrash, Options, Plan};
use crate::record::{Holder, Record};
use crate::runtime::RuntimeDir;
use crate::settings::{Override, Settings};
use crate::standing::{is_given_back, live_mounts, lock_thread};
use crate::ui::show;
use crate::{foreground, service, wanted, worker_program};

/// How long a mount may take that the service makes: the worker's handshake, and cleaning up if that fails.
const MOUNT: Duration = Duration::from_mins(1);

/// How long making lost mounts again may take.
const RESTORE: Duration = Duration::from_mins(3);

/// Mount a thread as a writable directory
///
/// Returns when the directory is usable; the mount is held by the background service, which is started if need be, and
/// lasts until selvedge unmount. The thread's files appear in DIR; changes are kept in the thread, and seen in no other. A missing DIR is made,
/// and removed by unmounting if it is still empty; one that is not empty is refused. A thread is mounted at most
/// once. Set-user-id bits and devices have no effect unless root asks for them.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
pub struct MountArgs {
    /// The thread
    #[arg(value_name = "THREAD", required_unless_present = "restore")]
    thread: Option<String>,
    /// The directory to mount on
    #[arg(value_name = "DIR", required_unless_present = "restore")]
    directory: Option<PathBuf>,
    /// Mount again what was lost when everything was killed or the machine was restarted
    #[arg(
        long,
        conflicts_with_all = ["thread", "directory", "foreground", "read_only", "read_write", "allow_other", "no_allow_other", "suid", "dev", "set"]
    )]
    restore: bool,
    /// Hold the mount in this process, instead of in the background, until Ctrl-C, SIGTERM or unmount
    #[arg(long)]
    foreground: bool,
    /// Refuse changes
    #[arg(long)]
    read_only: bool,
    /// Take changes, whatever the settings say; the default
    #[arg(long, conflicts_with = "read_only")]
    read_write: bool,
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
    #[arg(long, value_enum, value_name = "WHAT", default_value = "recover")]
    on_crash: OnCrash,
    #[command(flatten)]
    set: SetArgs,
}

/// Settings for one mount.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SetArgs {
    /// Set something for this mount alone, for instance mount.threads=2; selvedge config lists what there is
    #[arg(long, value_name = "KEY=VALUE", value_parser = for_a_mount)]
    pub set: Vec<Override>,
}

/// Settings of the service concern all mounts, and those of trust no mount at all.
fn for_a_mount(text: &str) -> Result<Override, String> {
    let set = Override::parse(text)?;
    if set.key.starts_with("mount.") || set.key.starts_with("store.") {
        Ok(set)
    } else {
        Err(format!("{} is not a mount's: set it in your config.toml", set.key))
    }
}

/// Runs the command.
pub fn run(context: &Context, args: &MountArgs) -> Result<()> {
    let (Some(thread), Some(directory)) = (&args.thread, &args.directory) else { return restore(context) };
    let name: ThreadName = thread.parse()?;
    check_options(args)?;
    let repository = context.repository()?;
    let tried = || format!("cannot mount thread {name} on {}", show(directory));
    let thread = repository.refs().thread(&name).map_err(|error| CliError::from(error).context(tried()))?;
    // Looked for now: a missing program is better told before anything is started.
    let program = worker_program::find(&context.environment)?;
    let runtime = Arc::new(context.runtime()?);
    runtime.require_own("mount").map_err(|error| error.context(tried()))?;
    refuse_mounted(context, &runtime, &repository, &thread).map_err(|error| error.context(tried()))?;
    let place = Place::find(directory).map_err(|error| error.context(tried()))?;
    let settings = context.settings_for(&repository, &overrides(args))?;
    let plan = plan(context, args, &settings, &repository, &thread, place)?;
    if !args.foreground {
        drop(repository);
        return in_background(context, &runtime, &plan);
    }
    lock_thread(context, &repository, &thread.id).map(drop).map_err(|error| {
        CliError::from(error).hint("wait until it has ended, or unmount the thread there").context(tried())
    })?;
    // The worker opens the repository itself.
    drop(repository);
    let service = &settings.sections().service;
    if let Some(log) = &context.log {
        log.to_mounts(&runtime, service);
    }
    let spec = plan.spec(WorkerProgram::Path(program), service);
    foreground::hold(context.ui, &runtime, &plan.record(Holder::Foreground)?, spec)
}

fn check_options(args: &MountArgs) -> Result<()> {
    if (args.suid || args.dev) && !rustix::process::geteuid().is_root() {
        return Err(CliError::not_permitted("cannot mount with --suid or --dev: only root may")
            .hint("mount without them"));
    }
    Ok(())
}

/// What the command line sets. Its own switches count more than `--set`.
fn overrides(args: &MountArgs) -> Vec<Override> {
    let switches = [
        ("mount.read_only", args.read_only, "--read-only", "true"),
        ("mount.read_only", args.read_write, "--read-write", "false"),
        ("mount.allow_other", args.allow_other, "--allow-other", "true"),
        ("mount.allow_other", args.no_allow_other, "--no-allow-other", "false"),
    ];
    let given = switches.into_iter().filter(|(_, is_given, ..)| *is_given);
    let given = given.map(|(key, _, flag, value)| Override::new(key, value, flag));
    args.set.set.iter().cloned().chain(given).collect()
}

fn plan(
    context: &Context,
    args: &MountArgs,
    settings: &Settings,
    repository: &Repository,
    thread: &ThreadRef,
    place: Place,
) -> Result<Plan> {
    let mut plan = Plan::new(&context.environment, settings, repository, thread, place.path, place.missing)?;
    plan.options = Options { suid: args.suid, dev: args.dev, on_crash: args.on_crash, ..plan.options };
    if args.foreground {
        // Its worker inherits them.
        plan.environment.clear();
    }
    Ok(plan)
}

/// Has the service make the mount, and prints it.
fn in_background(context: &Context, runtime: &RuntimeDir, plan: &Plan) -> Result<()> {
    // What was lost of the thread or at the place is not wanted any more, or a service that is just being started
    // would bring it back at this very moment.
    let superseded = Superseded::take(runtime, plan)?;
    let mount = service::retrying(&context.environment, runtime, |client| {
        let request = Request::Mount { plan: Box::new(plan.clone()) };
        match client.ask(request, &[], Instant::now() + MOUNT)? {
            Reply::Mounted { mount } => Ok(Some(*mount)),
            Reply::Ending {} => Ok(None),
            other => Err(AskError::Failed(client.unexpected("a mount", &other))),
        }
    })?;
    superseded.forget();
    context.ui.result(&mount, || {
        let worker = mount.worker_pid.map_or(String::new(), |pid| format!(" (worker {pid})"));
        format!("thread {} is mounted on {}{worker}\n", mount.thread, show(mount.mountpoint.as_path()))
    })
}

/// Lost mounts that make room for a new one; they are wanted again if that does not come to be.
struct Superseded<'a> {
    runtime: &'a RuntimeDir,
    plans: Vec<Plan>,
}

impl<'a> Superseded<'a> {
    fn take(runtime: &'a RuntimeDir, plan: &Plan) -> Result<Self> {
        let mut plans = wanted::lost(runtime, &Record::all(runtime)?)?;
        plans.retain(|other| {
            other.is_of_thread(plan.repo.as_path(), &plan.thread_id) || other.mountpoint == plan.mountpoint
        });
        for lost in &plans {
            wanted::remove(runtime, &lost.request)?;
        }
        Ok(Self { runtime, plans })
    }

    fn forget(mut self) {
        self.plans.clear();
    }
}

impl Drop for Superseded<'_> {
    fn drop(&mut self) {
        for lost in &self.plans {
            if let Err(error) = wanted::write(self.runtime, lost) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Has the service make again what is wanted and lost, of this boot and of earlier ones.
fn restore(context: &Context) -> Result<()> {
    let runtime = context.runtime()?;
    live_mounts(&runtime, context.ui)?;
    wanted::take_over(&runtime)?;
    let lost = wanted::lost(&runtime, &Record::all(&runtime)?)?;
    if lost.is_empty() {
        return context.ui.result(&Vec::<MountDocument>::new(), || "nothing is lost\n".to_owned());
    }
    let (mounts, failed) = service::retrying(&context.environment, &runtime, |client| {
        let deadline = Instant::now() + RESTORE;
        match client.ask(Request::Restore {}, &[], deadline)? {
            Reply::Restored { failed } => {
                Ok(Some((client.further_mounts(deadline).map_err(AskError::Failed)?, failed)))
            }
            Reply::Ending {} => Ok(None),
            other => Err(AskError::Failed(client.unexpected("a wish for lost mounts", &other))),
        }
    })?;
    let places = |mount: &MountDocument| lost.iter().any(|plan| plan.mountpoint == mount.mountpoint);
    let again: Vec<MountDocument> = mounts.into_iter().filter(places).collect();
    context.ui.result(&again, || {
        let line = |mount: &MountDocument| {
            format!("thread {} is mounted on {} again\n", mount.thread, show(mount.mountpoint.as_path()))
        };
        again.iter().map(line).collect()
    })?;
    for error in &failed {
        context.ui.warn(error.to_string());
    }
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => {
            Err(CliError::new(first.kind, "not everything that was lost is mounted again").hint(first.hint))
        }
    }
}

/// A thread is mounted at most once. The worker's lock is what decides; this says where it is mounted.
fn refuse_mounted(
    context: &Context,
    runtime: &RuntimeDir,
    repository: &Repository,
    thread: &ThreadRef,
) -> Result<()> {
    let id = thread.id.to_string();
    let already = live_mounts(runtime, context.ui)?
        .into_iter()
        .filter(|(_, mount)| !is_given_back(runtime, mount))
        .find(|(record, _)| record.thread_id == id && record.repo.as_path() == repository.dir());
    if let Some((_, mount)) = already {
        let place = show(mount.mountpoint.as_path());
        return Err(CliError::conflict(format!("it is mounted already, on {place}"))
            .hint(format!("use it there, or unmount it first: selvedge unmount {}", thread.name)));
    }
    Ok(())
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
