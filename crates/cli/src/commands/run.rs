//! `selvedge run`
//!
//! The process that is started becomes CMD: it keeps everything of its caller, so that exit code, signals, terminal and
//! descriptors need not be passed on. What needs a clean process (the repository, the service) is done by a second one,
//! which has ended when CMD begins.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use selvedge_mountpoint::Device;
use selvedge_store::ThreadName;
use selvedge_worker_proto::{Envelope, Message, WirePath, channel};
use serde::{Deserialize, Serialize};

use crate::args::GlobalArgs;
use crate::context::{Context, absolute};
use crate::error::{CliError, Result};
use crate::lending::{Lent, lend};
use crate::namespace;
use crate::record::Record;
use crate::sys;
use crate::ui::{Ui, show, show_os};

/// Our own failures.
const FAILED: u8 = 125;
/// CMD is there and cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// CMD is not there.
const NOT_FOUND: u8 = 127;

/// How long preparing may take: starting the service, and a mount.
const PREPARED: Duration = Duration::from_mins(2);

/// Run a command that sees a thread in place of a directory
///
/// CMD and what it starts find the thread's files at DIR, for instance in place of the original tree; nobody else does.
/// The mount is made if need be, and is gone when nobody has it any more. The exit code is CMD's; 125 if selvedge itself
/// fails, 126 if CMD cannot be run, 127 if it is not found. An ordinary user needs a system that lets users make user
/// namespaces; programs with a set-user-id bit have no effect then.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The thread
    #[arg(value_name = "THREAD")]
    thread: String,
    /// The directory at which CMD sees the thread [default: the one that holds .selvedge]
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
    /// What to run, and its arguments
    #[arg(value_name = "CMD", last = true, required_unless_present = "prepare")]
    command: Vec<OsString>,
    /// Be the second process
    #[arg(long, hide = true)]
    prepare: bool,
}

impl RunArgs {
    /// Whether this is the process that becomes CMD.
    pub const fn is_front(&self) -> bool {
        !self.prepare
    }
}

/// What the second process tells the first.
#[derive(Debug, Serialize, Deserialize)]
enum Prepared {
    /// The mount is there. A detached copy of it may come along.
    Ready {
        /// Where it is mounted.
        mountpoint: WirePath,
        /// Where it shall be seen.
        at: WirePath,
        /// The device numbers of the caller's mounts.
        keep: Vec<(u32, u32)>,
        /// What CMD's commands get as `SELVEDGE_RUNTIME_DIR`.
        runtime: WirePath,
        /// What they get as `SELVEDGE_RUNTIME_NAMESPACE`.
        namespace: String,
    },
}

impl Message for Prepared {
    const KINDS: &'static [&'static str] = &["Ready"];
}

/// Where CMD will be.
struct Inside {
    runtime: PathBuf,
    namespace: String,
}

/// Becomes CMD. Comes back only if that fails.
pub fn front(global: &GlobalArgs, args: &RunArgs) -> ExitCode {
    let ui = Ui { json: global.json, quiet: global.quiet };
    match enter(global, args) {
        Ok(Some(inside)) => execute(ui, args, &inside),
        // The second process has said why.
        Ok(None) => ExitCode::from(FAILED),
        Err(error) => {
            let tried =
                format!("cannot run {}", args.command.first().map_or(String::new(), |word| show_os(word)));
            ui.error(&error.context(tried));
            ExitCode::from(FAILED)
        }
    }
}

/// Has the mount made, and goes into a namespace that has it at its place.
fn enter(global: &GlobalArgs, args: &RunArgs) -> Result<Option<Inside>> {
    let Some((prepared, copy)) = prepare_elsewhere(global, args)? else { return Ok(None) };
    let Prepared::Ready { mountpoint, at, keep, runtime, namespace } = prepared;
    let at = at.as_path();
    // The path, because the descriptor of the directory beneath stays what it is.
    let here = std::env::current_dir().ok();
    namespace::leave()?;
    namespace::put(copy.as_ref(), mountpoint.as_path(), at)?;
    drop(copy);
    let keep: Vec<Device> = keep.into_iter().map(|(major, minor)| Device { major, minor }).collect();
    namespace::let_go_of_others(runtime.as_path(), &keep);
    if let Some(here) = here.filter(|here| here.starts_with(at))
        && std::env::set_current_dir(&here).is_err()
    {
        std::env::set_current_dir(at)
            .map_err(|error| CliError::io(format!("cannot enter {}", show(at)), &error))?;
    }
    Ok(Some(Inside { runtime: runtime.into_path_buf(), namespace }))
}

/// Runs the second process to its end.
fn prepare_elsewhere(global: &GlobalArgs, args: &RunArgs) -> Result<Option<(Prepared, Option<OwnedFd>)>> {
    let tried = "cannot start the process that prepares the mount";
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| CliError::io(tried, &errno.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("selvedge").stdin(Stdio::from(theirs)).stdout(Stdio::null());
    if let Some(repo) = &global.repo {
        command.arg("--repo").arg(repo);
    }
    for (switch, is_on) in [("--json", global.json), ("--quiet", global.quiet)] {
        command.args(is_on.then_some(switch));
    }
    command.args(std::iter::repeat_n("--verbose", usize::from(global.verbose)));
    command.args(["run", "--prepare"]);
    if let Some(at) = &args.at {
        command.arg("--at").arg(at);
    }
    let mut second = command.arg(&args.thread).spawn().map_err(|error| CliError::io(tried, &error))?;
    // The socket's other end went with it.
    drop(command);
    let (_, mut receiver) = channel::<Prepared, Prepared>(ours);
    let received = receiver.recv(Some(Instant::now() + PREPARED));
    // A caller that ignores SIGCHLD makes this fail; it has ended then all the same.
    let _ = second.wait();
    Ok(received.ok().map(|mut received| (received.envelope.msg, received.fds.pop())))
}

/// The second process: finds the thread, and has the service lend its mount to the first.
pub fn prepare(context: &Context, args: &RunArgs) -> Result<()> {
    let name: ThreadName = args.thread.parse()?;
    let tried = || format!("cannot run in thread {name}");
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| CliError::io(tried(), &error))?;
    let first = getppid()
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .ok_or_else(|| CliError::failed(tried()).hint("start it from a process that waits for it"))?;
    let repository = context.repository()?;
    let directory = repository.dir().to_owned();
    let runtime = context.runtime()?;
    let Lent { mountpoint, copy } =
        lend(context, &runtime, repository, &name, first.as_fd()).map_err(|error| error.context(tried()))?;
    let at = match &args.at {
        Some(at) => absolute(at)?,
        None => directory,
    };
    let namespace = runtime.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let records = Record::all(&runtime)?;
    let ready = Prepared::Ready {
        mountpoint: mountpoint.into(),
        at: at.into(),
        keep: records.iter().filter_map(|record| record.mount.as_ref()).map(|mount| mount.device).collect(),
        runtime: runtime.base_path().into(),
        namespace: namespace.to_owned(),
    };
    let (sender, _) = channel::<Prepared, Prepared>(socket);
    let copy: Vec<_> = copy.iter().map(AsFd::as_fd).collect();
    sender.send(Envelope::new(1, ready), &copy, Some(Instant::now() + PREPARED)).map_err(|error| {
        CliError::failed(format!("{}: its caller has gone: {error}", tried())).hint("run it again")
    })
}

fn execute(ui: Ui, args: &RunArgs, inside: &Inside) -> ExitCode {
    let ours = [
        ("SELVEDGE_RUNTIME_DIR", inside.runtime.as_os_str()),
        ("SELVEDGE_RUNTIME_NAMESPACE", inside.namespace.as_ref()),
    ];
    let others = std::env::vars_os().filter(|(name, _)| ours.iter().all(|(other, _)| name != other));
    let environment: Vec<(OsString, OsString)> =
        others.chain(ours.iter().map(|(name, value)| ((*name).into(), (*value).into()))).collect();
    let errno = sys::execute(&args.command, &environment);
    let (code, hint) = match Errno::from_io_error(&errno) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            (NOT_FOUND, "check its name, and that the thread has what it needs")
        }
        _ => (NOT_RUNNABLE, "check that it is a program and may be executed"),
    };
    let program = args.command.first().map_or(String::new(), |word| show_os(word));
    ui.error(&CliError::io(format!("cannot run {program}"), &errno).hint(hint));
    ExitCode::from(code)
}
