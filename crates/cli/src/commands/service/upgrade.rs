//! `selvedge service upgrade`

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use selvedge_worker_proto::WirePath;
use serde::Serialize;

use super::{SETTLE, down, socket};
use crate::context::Context;
use crate::control::client::{AskError, ConnectError};
use crate::control::{Client, Reply, Request};
use crate::error::{CliError, Result};
use crate::service::{self, Probe};

/// How long the service may take: commands that it still answers, and then the replacement of every worker.
const UPGRADE: Duration = Duration::from_mins(5);

/// How long it may take to greet.
const GREETING: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Document {
    running: bool,
    pid: Option<u32>,
    socket: WirePath,
    mounts: usize,
    replaced: usize,
    kept: usize,
}

/// Has the service become this program.
pub(super) fn run(context: &Context) -> Result<()> {
    let runtime = context.runtime()?;
    runtime.require_own("upgrade the service")?;
    if matches!(service::settle(&runtime, Instant::now() + SETTLE), Probe::Down) {
        return down(context, &runtime, "the service is not running");
    }
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| CliError::io("cannot open this program", &errno.into()))?;
    let mut client = match Client::service_of_any_version(&runtime, Instant::now() + GREETING) {
        Ok(client) => client,
        Err(ConnectError::Gone) => return down(context, &runtime, "the service is not running"),
        Err(error) => return Err(error.into()),
    };
    let pid = client.pid();
    let tried = |error: CliError| error.context(format!("cannot upgrade the service (process {pid})"));
    match client.ask(Request::Upgrade {}, &[program.as_fd()], Instant::now() + UPGRADE) {
        Ok(Reply::Upgraded { replaced, kept, failed }) => {
            for error in &failed {
                context.ui.note(error.to_string());
            }
            if let Some(error) = failed.into_iter().next() {
                return Err(error);
            }
            let mounts = replaced + kept;
            let document =
                Document { running: true, pid: Some(pid), socket: socket(&runtime), mounts, replaced, kept };
            context.ui.result(&document, || {
                let kept = if kept == 0 { String::new() } else { format!("; left as they are: {kept}") };
                format!("upgraded the service (process {pid}); workers replaced: {replaced}{kept}\n")
            })
        }
        Ok(other) => Err(tried(client.unexpected("an upgrade", &other))),
        Err(AskError::Failed(error)) => Err(tried(error)),
        Err(AskError::Lost(error)) => Err(tried(
            error.hint("its workers start another service and go on: selvedge list; then try again"),
        )),
    }
}
