//! `selvedge service`

use std::time::{Duration, Instant};

use clap::Subcommand;
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use crate::context::Context;
use crate::control::client::AskError;
use crate::control::{Client, Reply, Request};
use crate::error::{CliError, Result};
use crate::formats::Formats;
use crate::process::ProcessId;
use crate::record::Record;
use crate::runtime::RuntimeDir;
use crate::service::{self, Probe};
use crate::standing::live_mounts;
use crate::ui::show;
use crate::{wanted, worker_program};

mod upgrade;

/// How long the service may take to say what it holds.
const ANSWER: Duration = Duration::from_secs(2);

/// How long a service that is just coming up or going down is waited for.
const SETTLE: Duration = Duration::from_secs(2);

/// How long ending it may take: unmounting everything, every step of ending workers that do not obey.
const END: Duration = Duration::from_secs(210);

/// How long its process may take to go when everything is unmounted.
const GONE: Duration = Duration::from_secs(10);

/// Start, stop and look at the background process that holds mounts
///
/// selvedge mount starts it when it is needed, so that there is rarely a reason to.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ServiceCommand {
    /// Start it, if it does not run yet
    Start,
    /// Unmount everything, mounts in use too, and end it
    Stop,
    /// Say whether it runs
    Status,
    /// Be the service, in this terminal, until Ctrl-C
    Run,
    /// Let the running service, and then the worker of every mount, be of this very installation
    ///
    /// Mounts stay, and programs that use them notice nothing but a moment. Refused, with nothing changed, if this version
    /// cannot go on from what the running one leaves.
    Upgrade,
    /// Say which formats this installation knows
    #[command(hide = true)]
    Formats,
}

#[derive(Debug, Serialize)]
struct Document {
    running: bool,
    pid: Option<u32>,
    socket: WirePath,
    mounts: usize,
}

/// Runs the command.
pub fn run(context: &Context, command: ServiceCommand) -> Result<()> {
    match command {
        ServiceCommand::Start => start(context),
        ServiceCommand::Stop => stop(context),
        ServiceCommand::Status => status(context),
        ServiceCommand::Run => service::run(context),
        ServiceCommand::Upgrade => upgrade::run(context),
        ServiceCommand::Formats => formats(context),
    }
}

fn start(context: &Context) -> Result<()> {
    let runtime = context.runtime()?;
    let mut client = service::connect(&context.environment, &runtime)?;
    running(context, &runtime, &mut client)
}

fn status(context: &Context) -> Result<()> {
    let runtime = context.runtime()?;
    match service::settle(&runtime, Instant::now() + SETTLE) {
        Probe::Running(mut client) => running(context, &runtime, &mut client),
        Probe::Silent(error) | Probe::Version(error) => Err(error),
        Probe::Down => down(context, &runtime, "the service is not running"),
    }
}

fn running(context: &Context, runtime: &RuntimeDir, client: &mut Client) -> Result<()> {
    let mounts = client.mounts(Instant::now() + ANSWER)?.len();
    let pid = client.pid();
    mention_lost(context, runtime)?;
    let document = Document { running: true, pid: Some(pid), socket: socket(runtime), mounts };
    context.ui.result(&document, || {
        let (log, logs) = (service::LOG, service::LOGS);
        let (log, logs) = (show(&runtime.path().join(log)), show(&runtime.path().join(logs)));
        format!("the service is running (process {pid}); mounts: {mounts}; log: {log}, of mounts: {logs}\n")
    })
}

fn formats(context: &Context) -> Result<()> {
    let worker = Formats::of_worker(std::process::Command::new(worker_program::find(&context.environment)?))?;
    let formats = Formats::of_command().with(worker);
    context.ui.result(&formats, || formats.text())
}

fn down(context: &Context, runtime: &RuntimeDir, said: &str) -> Result<()> {
    // What a service that was killed left behind is cleaned up and told.
    live_mounts(runtime, context.ui)?;
    mention_lost(context, runtime)?;
    let document = Document { running: false, pid: None, socket: socket(runtime), mounts: 0 };
    context.ui.result(&document, || format!("{said}\n"))
}

fn socket(runtime: &RuntimeDir) -> WirePath {
    WirePath(runtime.path().join(service::SOCKET))
}

fn mention_lost(context: &Context, runtime: &RuntimeDir) -> Result<()> {
    let lost = wanted::lost(runtime, &Record::all(runtime)?)?.len() + wanted::earlier(runtime);
    if lost > 0 {
        context.ui.note(format!(
            "mounts that are wanted and lost: {lost}; selvedge mount --restore makes them again"
        ));
    }
    Ok(())
}

fn stop(context: &Context) -> Result<()> {
    let runtime = context.runtime()?;
    let mut client = match service::settle(&runtime, Instant::now() + SETTLE) {
        Probe::Running(client) => client,
        Probe::Silent(error) | Probe::Version(error) => return Err(error),
        Probe::Down => return down(context, &runtime, "the service is not running"),
    };
    let pid = client.pid();
    let process = ProcessId::of(pid);
    let ended = client.ask(Request::End {}, &[], Instant::now() + END);
    drop(client);
    match ended {
        // Lost: it has been told to end by somebody else as well.
        Ok(Reply::Ended {}) | Err(AskError::Lost(_)) => {}
        Ok(other) => {
            return Err(CliError::failed(format!("the service answered with {other:?}")).hint("try again"));
        }
        Err(AskError::Failed(error)) => {
            return Err(error.context(format!("cannot stop the service (process {pid})")));
        }
    }
    if process.is_some_and(|process| !process.wait_gone(Instant::now() + GONE)) {
        return Err(CliError::timed_out(format!(
            "the service (process {pid}) has unmounted all, but does not end"
        ))
        .hint(format!("kill -9 {pid}")));
    }
    down(context, &runtime, &format!("stopped the service (process {pid})"))
}
