//! The worker process: arguments, checks, the mount, commands, the end.
//!
//! Its life is a straight line until the mount is ready ([`setup`], or [`resume`] where a worker served it before), then one loop over a closed set of events
//! ([`serve`]), whose end is the process's.

mod adoption;
mod args;
mod browse;
mod export;
mod following;
mod forgotten;
mod held_back;
mod log;
mod passing;
mod refusal;
mod resume;
mod serve;
mod setup;
mod snapshot;
mod trace;
mod unmount;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::io::DupFlags;
use selvedge_worker_proto::{
    Command, Envelope, ErrorKind, Event, PROTOCOL_VERSION, Receiver, Sender, channel,
};

use crate::{formats, page_cache, poison, stacks, sys};
pub use adoption::{Adopter, NotAdopted, Orphan};
use args::Args;
use refusal::Refusal;
use serve::Service;

/// How long the supervisor may take for its first frame, and to read one of ours.
const PEER_DEADLINE: Duration = Duration::from_secs(10);

/// Exit code after wrong usage, as the command line's.
const USAGE: u8 = 2;

/// Runs the worker from start to end.
///
/// The process's standard input is the socket to its supervisor, and what was inherited otherwise has been
/// cleaned up. `adopter` makes, from the name that the supervisor gave the mount, what finds another supervisor
/// when that one is gone; without it the end of the supervisor is the mount's.
pub fn main(adopter: fn(&OsStr) -> Option<Arc<dyn Adopter>>) -> ExitCode {
    // The kernel calls a program that is executed through a descriptor by that descriptor's number.
    let _ = rustix::thread::set_name(c"selvedge-fuse-worker");
    abort_on_panic();
    let log = log::start();
    stacks::start();
    let code = run(adopter);
    log.flush();
    code
}

/// A panic ends the whole process, however it was built: the thread's request would hang otherwise.
fn abort_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        poison::note();
        print(panic);
        std::process::abort();
    }));
}

fn run(adopter: fn(&OsStr) -> Option<Arc<dyn Adopter>>) -> ExitCode {
    let started = Instant::now();
    trace::reached("started");
    if let Some(code) = page_cache::other_process(std::env::args_os().skip(1)) {
        return code;
    }
    if std::env::args_os().skip(1).eq(["--formats"]) {
        return say_formats();
    }
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return usage(&error.to_string()),
    };
    let Some(socket) = control_socket() else {
        return usage("its standard input is not a socket: it is started by selvedge mount");
    };
    // Now, while the supervisor is surely there.
    let adopter = args.adopt_as.as_deref().and_then(adopter);
    let (sender, mut receiver) = channel::<Event, Command>(socket);
    let hello = match wait_for_hello(&mut receiver) {
        Ok(hello) => hello,
        Err(message) => {
            tracing::error!("no greeting from the supervisor: {message}");
            return ExitCode::FAILURE;
        }
    };
    trace::reached("greeted");
    let (events, happenings) = mpsc::channel();
    let mounted = match hello.escrow {
        None => setup::mount(&args, hello.protocol, events.clone()),
        Some(mut escrow) => resume::await_turn(&mut escrow, receiver.as_fd())
            .and_then(|()| resume::resume(&args, hello.protocol, escrow, &sender, events.clone())),
    };
    match mounted {
        Ok(mounted) => {
            let mut service = Service::new(mounted, sender, events, started, adopter);
            service.listen(receiver);
            setup::take_ballast();
            service.run(hello.id, &happenings)
        }
        Err(refusal) => {
            tell_refusal(&sender, hello.id, &refusal);
            ExitCode::from(refusal.kind.exit_code())
        }
    }
}

/// Says which formats this program knows, to whoever wants to put it in the place of another one.
fn say_formats() -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let said = formats().iter().try_for_each(|(name, version)| writeln!(stdout, "{name} {version}"));
    if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(message: &str) -> ExitCode {
    tracing::error!("selvedge-fuse-worker: {message}");
    ExitCode::from(USAGE)
}

/// Takes the socket off standard input, so that no child (`fusermount3`) has it.
fn control_socket() -> Option<OwnedFd> {
    let stdin = std::io::stdin();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&stdin).ok()?.st_mode);
    let socket = (kind == FileType::Socket).then(|| stdin.as_fd().try_clone_to_owned().ok())??;
    // Where this cannot be done, a child that has the socket ends long before the worker does.
    if let Ok(nothing) = File::open("/dev/null") {
        let _ = sys::replace(stdin.as_fd(), nothing.as_fd(), DupFlags::empty());
    }
    Some(socket)
}

/// The supervisor's first frame.
#[derive(Debug)]
struct Hello {
    id: u64,
    protocol: u32,
    /// What a worker that died, or is about to, has left; in that case its process comes last.
    escrow: Option<Vec<OwnedFd>>,
}

fn wait_for_hello(receiver: &mut Receiver<Command>) -> Result<Hello, String> {
    let deadline = Instant::now() + PEER_DEADLINE;
    let received = receiver.recv(Some(deadline)).map_err(|error| error.to_string())?;
    match received.envelope.msg {
        Command::Hello { protocol } => Ok(Hello {
            id: received.envelope.id,
            protocol,
            escrow: Some(received.fds).filter(|fds| !fds.is_empty()),
        }),
        other => Err(format!("expected Hello, got {other:?}")),
    }
}

/// Refuses a supervisor of another version: what it would say next could mean something else to us.
fn check_protocol(theirs: u32) -> Result<(), Refusal> {
    if theirs == PROTOCOL_VERSION {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorKind::Failed,
        format!(
            "the worker speaks protocol {PROTOCOL_VERSION}, its supervisor {theirs}: are they of the same installation?"
        ),
        "install selvedge and selvedge-fuse-worker together, from one version",
    ))
}

fn tell_refusal(sender: &Sender<Event>, id: u64, refusal: &Refusal) {
    let event = Event::MountError(refusal.clone().into());
    let deadline = Instant::now() + PEER_DEADLINE;
    if let Err(error) = sender.send(Envelope::new(id, event), &[], Some(deadline)) {
        tracing::error!("{} (and the supervisor could not be told: {error})", refusal.message);
    }
}
