//! `selvedge bind`

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use selvedge_store::ThreadName;
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::context::{Context, absolute};
use crate::error::{CliError, Result};
use crate::lending::{Lent, lend};
use crate::namespace;
use crate::ui::show;

/// Let a running process see a thread in place of a directory (root only)
///
/// The process must have a mount namespace of its own, as those of containers and of selvedge run have. The mount is
/// made if need be, and goes when the process and all others of its namespace have ended.
#[derive(Debug, clap::Args)]
pub struct BindArgs {
    /// The thread
    #[arg(value_name = "THREAD")]
    thread: String,
    /// The process
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,
    /// The directory, as the process sees it, at which the thread appears [default: the one that holds .selvedge]
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Document {
    thread: String,
    pid: i32,
    at: WirePath,
}

/// Runs the command.
pub fn run(context: &Context, args: &BindArgs) -> Result<()> {
    let name: ThreadName = args.thread.parse()?;
    let tried = || format!("cannot bind thread {name} into process {}", args.pid);
    if !rustix::process::geteuid().is_root() {
        return Err(CliError::not_permitted(format!("{}: only root may", tried()))
            .hint("selvedge run starts a process that sees a thread, as any user"));
    }
    let process =
        Pid::from_raw(args.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).ok_or_else(
            || CliError::not_found(format!("{}: there is no such process", tried())).hint("see ps"),
        )?;
    require_own_namespace(args.pid).map_err(|error| error.context(tried()))?;
    let repository = context.repository()?;
    let at = match &args.at {
        Some(at) => absolute(at)?,
        None => repository.dir().to_owned(),
    };
    let runtime = context.runtime()?;
    let Lent { mountpoint, copy } = lend(context, &runtime, repository, &name, process.as_fd())
        .map_err(|error| error.context(tried()))?;
    let copy = copy.ok_or_else(|| {
        CliError::not_permitted(format!("{}: the service may not copy mounts", tried()))
            .hint("start the service with CAP_SYS_ADMIN")
    })?;
    inside(&process, &copy, &mountpoint, &at).map_err(|error| error.context(tried()))?;
    let document = Document { thread: name.to_string(), pid: args.pid, at: at.clone().into() };
    context.ui.result(&document, || format!("process {} sees thread {name} at {}\n", args.pid, show(&at)))
}

/// In the caller's own namespace everybody would see it, and it would stay.
fn require_own_namespace(pid: i32) -> Result<()> {
    let of = |process: &str| {
        std::fs::read_link(format!("/proc/{process}/ns/mnt"))
            .map_err(|error| CliError::io("cannot tell its mount namespace", &error))
    };
    if of("self")? == of(&pid.to_string())? {
        return Err(CliError::conflict("it shares the mount namespace of this command")
            .hint("selvedge mount makes a mount that is seen there"));
    }
    Ok(())
}

/// Puts the mount at its place in the namespace of `process`, by a thread that goes there and ends.
fn inside(process: &OwnedFd, copy: &OwnedFd, mountpoint: &Path, at: &Path) -> Result<()> {
    let go = || {
        namespace::enter(process.as_fd())?;
        namespace::put(Some(copy), mountpoint, at)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, go);
        let thread = thread.map_err(|error| CliError::io("cannot start a thread", &error))?;
        thread.join().unwrap_or_else(|_| {
            Err(CliError::failed("the thread that entered its mount namespace died").hint("try again"))
        })
    })
}
