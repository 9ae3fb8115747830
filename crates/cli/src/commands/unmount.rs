//! `selvedge unmount`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use selvedge_mountpoint::mountinfo;
use selvedge_store::ThreadName;
use selvedge_worker_proto::{ErrorKind, WirePath};
use serde::Serialize;

use crate::context::{Context, absolute};
use crate::control::client::{AskError, ConnectError};
use crate::control::{Client, Reply, Request};
use crate::error::{CliError, Result};
use crate::record::{MountId, Record};
use crate::runtime::RuntimeDir;
use crate::standing::{Standing, examine, survey};
use crate::ui::{show, show_os};
use crate::{service, wanted};

/// How long the process that holds the mount may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// How long unmounting may take: flushing, and every step of ending a worker that does not obey.
const UNMOUNT: Duration = Duration::from_mins(3);

/// How often a request is sent again whose service was killed before it answered.
const ATTEMPTS: u32 = 5;

/// How long a process may take to be gone after its connections.
const ENDING: Duration = Duration::from_secs(3);

/// How long a mount that is being made or taken down is waited for.
const SETTLE: Duration = Duration::from_secs(15);

/// Take a mount down
///
/// Returns when everything is written and the thread can be mounted again. A mount in use is refused, naming who
/// uses it. A thread that is not mounted is no error.
#[derive(Debug, clap::Args)]
pub struct UnmountArgs {
    /// The mounted directory (anything with a slash), or the thread: of --repo or `$SELVEDGE_REPO` if given,
    /// else of the only mount of that name
    #[arg(value_name = "THREAD|DIR")]
    what: OsString,
    /// Unmount even if it is in use: whoever uses it is cut off
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    mountpoint: Option<WirePath>,
}

/// Runs the command.
pub fn run(context: &Context, args: &UnmountArgs) -> Result<()> {
    let runtime = context.runtime()?;
    let wanted = Wanted::new(context, &args.what)?;
    let mut ended = Vec::new();
    let mut taken_down = None;
    for _ in 0..ATTEMPTS {
        let Seen { known, mut found, mut cleaned } =
            look(context, &runtime, |record| is_meant(&wanted, &ended, record))?;
        let forgotten = forget_lost(context, &runtime, &wanted, &mut ended)?;
        ended.extend(cleaned.iter().filter_map(|record| record.request.clone()));
        let mountpoint = match found.len() {
            0 => cleaned.pop().map(|record| record.mountpoint).or(forgotten),
            1 => {
                let record = found.remove(0);
                take_down(&runtime, &record, args.force).map_err(|error| {
                    error.context(format!("cannot unmount {}", show(record.mountpoint.as_path())))
                })?;
                // The service has struck it out itself, unless it was killed over this.
                if let Some(request) = record.request {
                    wanted::remove(&runtime, &request)?;
                    ended.push(request);
                }
                taken_down = Some(record.mountpoint);
                None
            }
            _ => return Err(several(&wanted, &found)),
        };
        // A service that has just followed one that was killed may have taken it for lost before it was struck out, and be
        // making it again.
        let is_new = |record: &Record| !known.contains(&record.id) && is_meant(&wanted, &ended, record);
        if Record::all(&runtime)?.iter().any(is_new) {
            continue;
        }
        let Some(mountpoint) = taken_down else { return not_mounted(context, &wanted, mountpoint) };
        let document = Document { mountpoint: Some(mountpoint.clone()) };
        return context.ui.result(&document, || format!("unmounted {}\n", show(mountpoint.as_path())));
    }
    Err(CliError::conflict(format!("{} is mounted again as soon as it is unmounted", wanted.show()))
        .hint("selvedge list shows how it stands"))
}

/// Mounts, as they stand.
#[derive(Debug, Default)]
struct Seen {
    /// All of them.
    known: Vec<MountId>,
    /// Those that are meant and there.
    found: Vec<Record>,
    /// Those that are meant, were left behind and have been cleaned up.
    cleaned: Vec<Record>,
}

/// Looks at all mounts, and cleans up what was left behind.
fn look(context: &Context, runtime: &RuntimeDir, is_meant: impl Fn(&Record) -> bool) -> Result<Seen> {
    let mut seen = Seen::default();
    for (record, standing) in survey(runtime)? {
        let meant = is_meant(&record);
        seen.known.push(record.id.clone());
        match standing {
            Standing::Cleaned(what) => {
                context.ui.note(what);
                if meant {
                    seen.cleaned.push(record);
                }
            }
            Standing::Stale(error) if meant => return Err(error),
            Standing::Stale(error) => context.ui.warn(error.to_string()),
            Standing::Live(_) | Standing::Changing if meant => seen.found.push(record),
            Standing::Live(_) | Standing::Changing => {}
        }
    }
    if let Some(swept) = service::sweep(runtime) {
        context.ui.note(swept);
    }
    Ok(seen)
}

/// Asks the process that holds the mount; a service that dies meanwhile is followed by another.
fn take_down(runtime: &RuntimeDir, record: &Record, force: bool) -> Result<()> {
    let settled = Instant::now() + SETTLE;
    let mut left = ATTEMPTS;
    while left > 0 {
        match ask_holder(runtime, record, force) {
            Ok(true) => return Ok(()),
            Ok(false) => left -= 1,
            // A service that has just come up adopts the mount in a moment, or cleans up after it.
            Err(error) if error.kind == ErrorKind::NotFound && Instant::now() < settled => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
    Err(CliError::timed_out(format!("the service ended {ATTEMPTS} times before it could answer"))
        .hint("somebody keeps killing it; try again"))
}

/// Asks the process that holds the mount. `false` if it has died meanwhile, and another one answers for the mount.
fn ask_holder(runtime: &RuntimeDir, record: &Record, force: bool) -> Result<bool> {
    let settled = Instant::now() + SETTLE;
    let mut client = loop {
        match Client::connect(runtime, record, Instant::now() + GREETING) {
            Ok(client) => break client,
            // It is being made or taken down: one of the two soon.
            Err(ConnectError::Gone) if Instant::now() < settled => match examine(runtime, record) {
                Standing::Cleaned(_) => return Ok(true),
                Standing::Stale(error) => return Err(error),
                _ if !is_recorded(runtime, record)? => return Ok(true),
                _ => std::thread::sleep(Duration::from_millis(20)),
            },
            Err(ConnectError::Gone) => {
                let holder = record.supervisor.pid;
                return Err(CliError::timed_out(format!(
                    "process {holder}, which holds the mount, does not listen"
                ))
                .hint(format!(
                    "if it stays so, end it (kill -9 {holder}): its worker then unmounts by itself"
                )));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let request = Request::Unmount { mount: record.id.clone(), force };
    match client.ask(request, &[], Instant::now() + UNMOUNT) {
        Ok(Reply::Unmounted {}) => Ok(true),
        Ok(other) => Err(client.unexpected("an unmount", &other)),
        // It ended by itself, or its holder did, just before.
        Err(_) if !is_recorded(runtime, record)? => Ok(true),
        Err(AskError::Lost(_)) if has_ended(record) => match examine(runtime, record) {
            Standing::Stale(error) => Err(error),
            Standing::Cleaned(_) => Ok(true),
            Standing::Live(_) | Standing::Changing => Ok(!is_recorded(runtime, record)?),
        },
        Err(error) => Err(error.into()),
    }
}

/// A lost mount is not wanted any more when somebody unmounts it. Gives back the directory of the last one.
fn forget_lost(
    context: &Context,
    runtime: &RuntimeDir,
    wanted: &Wanted,
    ended: &mut Vec<MountId>,
) -> Result<Option<WirePath>> {
    let mut forgotten = None;
    for plan in wanted::lost(runtime, &Record::all(runtime)?)? {
        if wanted.means(plan.mountpoint.as_path(), &plan.thread, plan.repo.as_path()) {
            wanted::remove(runtime, &plan.request)?;
            let place = show(plan.mountpoint.as_path());
            context
                .ui
                .note(format!("thread {} was lost, and is not wanted on {place} any more", plan.thread));
            ended.push(plan.request);
            forgotten = Some(plan.mountpoint);
        }
    }
    Ok(forgotten)
}

/// Whether a mount is to be unmounted: what the argument means or, once mounts for some requests have been, what is made for
/// the same ones, but nothing that somebody has asked for since.
fn is_meant(wanted: &Wanted, ended: &[MountId], record: &Record) -> bool {
    match &record.request {
        Some(request) if !ended.is_empty() => ended.contains(request),
        _ => ended.is_empty() && wanted.matches(record),
    }
}

/// Whether the process that held the mount is gone, for somebody whose connection to it has just ended: that happens a
/// moment before the process does.
fn has_ended(record: &Record) -> bool {
    let until = Instant::now() + ENDING;
    while record.supervisor.runs() {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn is_recorded(runtime: &RuntimeDir, record: &Record) -> Result<bool> {
    Ok(Record::all(runtime)?.iter().any(|other| other.id == record.id))
}

/// What the argument means.
#[derive(Debug)]
enum Wanted {
    /// A directory, absolute.
    Directory(PathBuf),
    /// A thread, of a repository if one was named.
    Thread { name: ThreadName, repo: Option<PathBuf> },
}

impl Wanted {
    fn new(context: &Context, what: &OsStr) -> Result<Self> {
        if what.as_bytes().contains(&b'/') || what == "." || what == ".." {
            return Ok(Self::Directory(plain(&absolute(Path::new(what))?)));
        }
        let name = what
            .to_str()
            .ok_or_else(|| {
                CliError::usage(format!("{} is no thread name", show_os(what)))
                    .hint("a directory is told apart from a thread by a slash: ./DIR")
            })?
            .parse::<ThreadName>()
            .map_err(|error| {
                CliError::from(error).hint("a directory is told apart from a thread by a slash: ./DIR")
            })?;
        // Compared as the record has it: opened, when that can be done without asking a mount.
        let repo = context.named_repository()?.map(|path| plain(&path));
        Ok(Self::Thread { name, repo })
    }

    fn matches(&self, record: &Record) -> bool {
        self.means(record.mountpoint.as_path(), &record.thread, record.repo.as_path())
    }

    fn means(&self, mountpoint: &Path, thread: &str, of: &Path) -> bool {
        match self {
            Self::Directory(path) => mountpoint == path,
            Self::Thread { name, repo } => {
                thread == name.as_str() && repo.as_ref().is_none_or(|repo| of == repo)
            }
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Directory(path) => show(path),
            Self::Thread { name, .. } => format!("thread {name}"),
        }
    }
}

/// `path` with the symbolic links of its parent resolved. The last component is not touched: it may be a mount
/// that does not answer, and the mountpoints of records are no symbolic links.
fn plain(path: &Path) -> PathBuf {
    use std::os::fd::{AsFd, AsRawFd};
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    // `..` and trailing `.` name no component that could be kept apart.
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    rustix::fs::open(parent, flags, rustix::fs::Mode::empty())
        .ok()
        .and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).ok())
        .map_or_else(|| path.to_owned(), |parent| parent.join(name))
}

/// Nothing to do is success, as long as what was named is known at all.
fn not_mounted(context: &Context, wanted: &Wanted, known: Option<WirePath>) -> Result<()> {
    let mountpoint = match (wanted, known) {
        (_, Some(mountpoint)) => Some(mountpoint),
        (Wanted::Directory(path), None) => {
            check_directory(path)?;
            Some(WirePath(path.clone()))
        }
        (Wanted::Thread { name, .. }, None) => {
            check_thread(context, name)?;
            None
        }
    };
    context.ui.result(&Document { mountpoint }, || format!("{} is not mounted\n", wanted.show()))
}

/// Whether there is such a directory, found out without asking a mount that it may be.
fn check_directory(path: &Path) -> Result<()> {
    let mounts = mountinfo::at(path).map_err(|error| CliError::io("cannot read the mount table", &error))?;
    if let Some(mount) = mounts.last() {
        let kind = show_os(&mount.fs_type);
        return Err(CliError::not_found(format!("{} is a mount ({kind}), but none of yours", show(path)))
            .hint("selvedge list shows what is yours; a mount made under another SELVEDGE_RUNTIME_DIR needs the same here"));
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map(drop).map_err(|_| {
        CliError::not_found(format!("there is no mount and no directory {}", show(path)))
            .hint("selvedge list shows what is mounted")
    })
}

/// Only now the repository is looked up: no mount of that name is there.
fn check_thread(context: &Context, name: &ThreadName) -> Result<()> {
    let unknown = || {
        CliError::not_found(format!(
            "no thread {name} is mounted, and there is no repository to look it up in"
        ))
        .hint("selvedge list shows what is mounted")
    };
    let directory = match context.named_repository()? {
        Some(named) => named,
        None => context.found_repository()?.ok_or_else(unknown)?,
    };
    let repository = context.open_repository(&directory)?;
    repository.refs().thread(name)?;
    Ok(())
}

fn several(wanted: &Wanted, found: &[Record]) -> CliError {
    let places: Vec<String> = found
        .iter()
        .map(|record| format!("{} (of {})", show(record.mountpoint.as_path()), show(record.repo.as_path())))
        .collect();
    CliError::conflict(format!("several mounts are meant by {}: {}", wanted.show(), places.join(", ")))
        .hint("give the directory, or the repository with --repo")
}
