//! Reaching the worker of a thread that is mounted: only it may read the thread's layers.

use std::time::{Duration, Instant};

use selvedge_store::{Repository, ThreadRef};

use crate::context::Context;
use crate::control::client::ConnectError;
use crate::control::{Client, Reply, Request};
use crate::error::{CliError, Result};
use crate::record::MountId;
use crate::standing::live_mounts;

/// How long the process that holds a mount may take to greet.
const GREETING: Duration = Duration::from_secs(5);

/// How long a worker may take to freeze its thread.
const FREEZE: Duration = Duration::from_secs(40);

/// A connection to the process that holds the mount of `thread`, which `holder` has locked.
pub fn reach(
    context: &Context,
    repository: &Repository,
    thread: &ThreadRef,
    holder: Option<u32>,
) -> Result<(Client, MountId)> {
    let runtime = context.runtime()?;
    let id = thread.id.to_string();
    let record = live_mounts(&runtime, context.ui)?
        .into_iter()
        .map(|(record, _)| record)
        .find(|record| record.thread_id == id && record.repo.as_path() == repository.dir());
    let Some(record) = record else {
        let holder = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
        return Err(CliError::conflict(format!(
            "thread {} is in use by {holder}, which cannot be asked from here",
            thread.name
        ))
        .hint("try again when it has ended; a mount made under another SELVEDGE_RUNTIME_DIR needs the same here"));
    };
    let client =
        Client::connect(&runtime, &record, Instant::now() + GREETING).map_err(|error| match error {
            ConnectError::Gone => CliError::conflict("the thread is just being unmounted").hint("try again"),
            error => error.into(),
        })?;
    Ok((client, record.id))
}

/// Lets the worker of a mounted thread freeze it, so that its reference tells all of it.
pub fn freeze(
    context: &Context,
    repository: &Repository,
    thread: &ThreadRef,
    holder: Option<u32>,
) -> Result<()> {
    let (mut client, mount) = reach(context, repository, thread, holder)?;
    match client.ask(Request::Freeze { mount }, &[], Instant::now() + FREEZE)? {
        Reply::Frozen {} => Ok(()),
        other => Err(nonsense("a freeze", &other)),
    }
}

/// An answer that is none to what was asked.
pub fn nonsense(what: &str, reply: &Reply) -> CliError {
    CliError::failed(format!("{what} was answered with {reply:?}"))
        .hint("use the version of selvedge that made the mount")
}
