//! From arguments to a mount that is served.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use fuser::Session;
use rustix::fs::{Mode, OFlags};
use selvedge_mountpoint::{
    MountIdentity, MountOptions, Mountpoint, UnmountMode, covering_mount, mount_fuse, mountinfo, shown,
    unmount,
};
use selvedge_store::{OpenOptions, Repository, ThreadLock, ThreadName};
use selvedge_view::{View, ViewOptions, crash};
use selvedge_worker_proto::ErrorKind;

use super::args::Args;
use super::check_protocol;
use super::held_back::Held;
use super::passing::Wish;
use super::refusal::Refusal;
use super::serve::Happening;
use crate::adapter::Adapter;
use crate::backings::Backings;
use crate::load::Load;
use crate::page_cache::PageCache;
use crate::poison::Poison;
use crate::session::InitExchange;
use crate::session_state::{Header, SessionState};
use crate::tuning::{Profile, Tuning};
use crate::{op, session};

/// How long mounting may take; the helper program is another process and may hang.
const MOUNT_DEADLINE: Duration = Duration::from_secs(8);

/// How long it may take to take a mount down again that came to nothing.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(2);

/// Lets the worker panic while the kernel waits for the answer to its first request.
const PANIC_ON_INIT: &str = "SELVEDGE_FUSE_WORKER_PANIC_ON_INIT";

/// How many MiB of memory a measurement wants resident.
const BALLAST: &str = "SELVEDGE_TEST_BALLAST_MIB";

/// Lets the worker die at a named point.
const CRASH_AT: &str = "SELVEDGE_FUSE_WORKER_CRASH_AT";

/// Stands for the kernel's boot id, so that a test can open a thread as after a loss of power.
const BOOT_ID: &str = "SELVEDGE_TEST_BOOT_ID";

/// A mount that is served.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// The thread's tree.
    pub(crate) view: Arc<View>,
    /// Which mount it is.
    pub(crate) identity: MountIdentity,
    /// What the dispatch threads do.
    pub(crate) load: Arc<Load>,
    /// What the kernel holds of its files.
    pub(crate) pages: Arc<PageCache>,
    /// Which of its files are passed through.
    pub(crate) backings: Arc<Backings>,
    /// Whether it refuses changes.
    pub(crate) read_only: bool,
    /// What the kernel may hold of what programs write.
    pub(crate) held: Held,
    /// What a supervisor is to keep for a successor; empty if there can be none.
    pub(crate) escrow: Vec<OwnedFd>,
    /// Whether an earlier worker has served the mount.
    pub(crate) resumed: bool,
}

/// Opens the thread and mounts it; `events` learns of the session's end.
pub(crate) fn mount(args: &Args, protocol: u32, events: Sender<Happening>) -> Result<Mounted, Refusal> {
    check_protocol(protocol)?;
    args.tuning.check().map_err(|clash| Refusal::new(ErrorKind::Usage, clash.to_string(), clash.hint()))?;
    arm_crash_points()?;
    check_own_files()?;
    let name = thread_name(args)?;
    let repository = open_repository(args)?;
    let lock = lock_thread(&repository, &name)?;
    let point = Mountpoint::open(&args.mountpoint)?;
    check_outside(point.path(), &repository)?;
    let epoch = session::new_epoch()?;
    let options = ViewOptions {
        read_only: args.read_only,
        epoch,
        kernel_times: args.tuning.writeback,
        boot_id: boot_id(),
        ..ViewOptions::default()
    };
    let view = View::open(repository, &name, lock, options)?;
    let options = MountOptions {
        thread: name.to_string(),
        read_only: args.read_only,
        allow_other: args.allow_other,
        suid: args.suid,
        dev: args.dev,
    };
    let mounted = mount_fuse(&point, &options, Instant::now() + MOUNT_DEADLINE)?;
    let undo = Undo(Some(mounted.identity.clone()));
    let (view, load) = (Arc::new(view), Arc::new(Load::new()));
    let state = Arc::new(SessionState::create()?);
    state.serve_alone()?;
    state.blame(0);
    let poison = Poison::default();
    let wish = Wish::of(&args.tuning, args.read_only);
    let adapter = Adapter::new(Arc::clone(&view), Arc::clone(&load), Arc::clone(&state), poison, epoch)
        .tuned(&args.tuning)
        .passing(wish.depth(&view));
    let (pages, backings) = (adapter.pages(), adapter.backings());
    let (session, init) = session::start(adapter, &mounted.device, &args.tuning)?;
    wish.begin(&backings, &view, &init)?;
    check_writeback(args.tuning.writeback, init.writeback())?;
    let held = held(&args.tuning, &init);
    state.begin(&Header { epoch, identity: mounted.identity.clone(), init })?;
    // What is not handed over is closed here, so that the connection ends with the session.
    let escrow = if session::can_be_resumed(mounted.device.as_fd()) {
        let places = View::memory_of_places()
            .map_err(|error| Refusal::system("cannot make room for what a successor has to know", &error))?;
        let places = OwnedFd::from(places);
        remember_in(&view, &places)
            .map_err(|error| Refusal::system("cannot map what a successor has to know", &error))?;
        escrow(mounted.device, &state, &view, places)?
    } else {
        tracing::warn!("the kernel (before Linux 6.9) lets no successor take the mount over");
        Vec::new()
    };
    run(session, events)?;
    check_in_place(&mounted.identity)?;
    let identity = undo.keep(mounted.identity);
    let read_only = args.read_only;
    Ok(Mounted { view, identity, load, pages, backings, read_only, held, escrow, resumed: false })
}

/// What the kernel may hold of what programs write.
pub(crate) fn held(tuning: &Tuning, init: &InitExchange) -> Held {
    match tuning.profile {
        Profile::SmallFiles => Held::AnyStores,
        Profile::Throughput if init.writeback() => Held::Writes,
        Profile::Throughput => Held::Stores,
    }
}

fn check_writeback(wanted: bool, agreed: bool) -> Result<(), Refusal> {
    if wanted && !agreed {
        return Err(Refusal::new(
            ErrorKind::Failed,
            "the kernel (before Linux 3.15) cannot hold back what is written (writeback)",
            "set mount.writeback to false",
        ));
    }
    Ok(())
}

/// Keeps in `places` where unchanged files stand.
pub(super) fn remember_in(view: &View, places: &OwnedFd) -> io::Result<()> {
    view.remember_in(places.try_clone()?.into())
}

/// What a successor needs, in the order in which it looks for it: the connection, its state, the thread's lock, and where
/// unchanged files stand.
pub(super) fn escrow(
    device: OwnedFd,
    state: &SessionState,
    view: &View,
    places: OwnedFd,
) -> Result<Vec<OwnedFd>, Refusal> {
    let duplicate = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| {
            Refusal::new(
                ErrorKind::Failed,
                format!("cannot duplicate a descriptor: {error}"),
                "raise the limit of open files (ulimit -n)",
            )
        })
    };
    Ok(vec![device, duplicate(state.memory().as_fd())?, duplicate(view.lock_fd())?, places])
}

/// Makes as many MiB of memory resident as a measurement wants ([`BALLAST`]), beside everything else and for good: a large
/// process takes longer to die, and callers wait for that.
pub(super) fn take_ballast() {
    let Some(size) = std::env::var(BALLAST).ok().and_then(|text| text.parse::<usize>().ok()) else { return };
    // Not before the mount is served: the pause that is measured would have it in it.
    let taken = std::thread::Builder::new().name("ballast".to_owned()).spawn(move || {
        std::mem::forget(vec![1_u8; size << 20]);
    });
    if let Err(error) = taken {
        tracing::warn!("no ballast: {error}");
    }
}

/// What stands for the kernel's boot id, if a test says so.
pub(super) fn boot_id() -> Option<String> {
    std::env::var(BOOT_ID).ok().filter(|id| !id.is_empty())
}

/// Takes a mount down again when what comes after it fails.
struct Undo(Option<MountIdentity>);

impl Undo {
    fn keep(mut self, identity: MountIdentity) -> MountIdentity {
        self.0 = None;
        identity
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let Some(identity) = self.0.take() else { return };
        if let Err(error) = unmount(&identity, UnmountMode::Force, Instant::now() + UNMOUNT_DEADLINE) {
            tracing::error!("the mount that came to nothing is still there: {error}");
        }
    }
}

fn arm_crash_points() -> Result<(), Refusal> {
    if std::env::var_os(PANIC_ON_INIT).is_some_and(|value| !value.is_empty() && value != "0") {
        return arm(PANIC_ON_INIT, &format!("panic@{}", op::INIT.enter));
    }
    match std::env::var(CRASH_AT) {
        Ok(point) if !point.is_empty() => arm(CRASH_AT, &point),
        _ => Ok(()),
    }
}

/// Lets this process die at `point`, as the environment's `variable` wants.
pub(super) fn arm(variable: &str, point: &str) -> Result<(), Refusal> {
    crash::arm(point, op::POINTS).map_err(|error| {
        Refusal::new(
            ErrorKind::Usage,
            format!("{variable}: {error}"),
            "unset it, or name a point that exists",
        )
    })
}

/// Refuses to run from, or to log to, a Selvedge mount: a page of the program that has to be read while the
/// mount waits for this very program would hang both.
pub(super) fn check_own_files() -> Result<(), Refusal> {
    let program = Path::new("/proc/self/exe");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    if let Ok(fd) = rustix::fs::open(program, flags, Mode::empty()) {
        let name = std::env::current_exe().unwrap_or_else(|_| program.to_owned());
        check_not_ours(fd.as_fd(), &format!("the worker's program {}", shown(&name)))?;
    }
    check_not_ours(io::stderr().as_fd(), "the worker's log")
}

fn check_not_ours(fd: BorrowedFd<'_>, what: &str) -> Result<(), Refusal> {
    let covering = covering_mount(fd).ok().filter(|covering| !covering.device.is_of_a_disk());
    let entry = covering.and_then(|covering| mountinfo::by_id(covering.mount_id).ok().flatten());
    match entry.filter(mountinfo::MountEntry::is_selvedge) {
        None => Ok(()),
        Some(entry) => Err(Refusal::new(
            ErrorKind::Conflict,
            format!(
                "{what} lies on the Selvedge mount at {}, which could hang both",
                shown(&entry.mount_point)
            ),
            "move it to a place that lies on no Selvedge mount",
        )),
    }
}

pub(super) fn thread_name(args: &Args) -> Result<ThreadName, Refusal> {
    let text = args.thread.to_string_lossy();
    text.parse().map_err(|error| {
        Refusal::new(
            ErrorKind::Usage,
            format!("bad thread name {text:?}: {error}"),
            "selvedge thread list shows what there is",
        )
    })
}

pub(super) fn open_repository(args: &Args) -> Result<Repository, Refusal> {
    let safe: &[PathBuf] = if args.trust_repository { std::slice::from_ref(&args.repo) } else { &[] };
    Ok(Repository::open(&args.repo, &OpenOptions { safe, large_blob: args.tuning.large_blob })?)
}

fn lock_thread(repository: &Repository, name: &ThreadName) -> Result<ThreadLock, Refusal> {
    let thread = repository.refs().thread(name)?;
    let lock = ThreadLock::try_acquire(repository, &thread.id).map_err(|error| {
        let refusal = Refusal::from(error);
        Refusal::new(
            refusal.kind,
            format!("thread {name} is already mounted or being worked on: {}", refusal.message),
            refusal.hint,
        )
    })?;
    // Whoever renames or deletes a thread has its lock, so from here on the name stays its own.
    repository.refs().thread_again(&thread)?;
    Ok(lock)
}

/// Refuses a mountpoint inside the repository: the mount would hide what the thread is made of.
fn check_outside(mountpoint: &Path, repository: &Repository) -> Result<(), Refusal> {
    let inside = repository.path().canonicalize().unwrap_or_else(|_| repository.path().to_owned());
    if !mountpoint.starts_with(&inside) {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Conflict,
        format!("{} lies inside the repository {}", shown(mountpoint), shown(&inside)),
        "choose a directory outside it",
    ))
}

/// Starts the dispatch threads.
pub(super) fn run(session: Session<Adapter>, events: Sender<Happening>) -> Result<(), Refusal> {
    let started = thread::Builder::new().name("session".into()).spawn(move || {
        // Nobody listens only when the process is ending.
        let _ = events.send(Happening::SessionEnded(session::run(session)));
    });
    match started {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::system("cannot start a thread", &error)),
    }
}

/// Proves that whoever goes to the directory from now on arrives in this mount. The mount itself is not asked.
fn check_in_place(identity: &MountIdentity) -> Result<(), Refusal> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let there = rustix::fs::open(&identity.path, flags, Mode::empty()).and_then(covering_mount);
    match there {
        Ok(covering) if covering.mount_id == identity.mount_id && covering.device == identity.device => {
            Ok(())
        }
        Ok(_) => Err(Refusal::new(
            ErrorKind::Conflict,
            format!(
                "{} does not lead to the mount: it was replaced or mounted over meanwhile",
                shown(&identity.path)
            ),
            "mount on a directory that no other program changes",
        )),
        Err(errno) => Err(Refusal::system(
            &format!("cannot find the mount at {} again", shown(&identity.path)),
            &errno.into(),
        )),
    }
}
