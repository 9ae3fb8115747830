//! `selvedge snapshot`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge_mountpoint::shown;
use selvedge_store::{LockError, Repository, ThreadLock, ThreadName, ThreadRef};
use selvedge_view::{View, ViewOptions};
use selvedge_worker_proto::{SnapshotDone, WirePath};
use serde::Serialize;

use crate::context::Context;
use crate::control::{Reply, Request};
use crate::error::{CliError, Result};
use crate::mounted;
use crate::target::is_dirty;
use crate::ui::{Ui, counted};

/// How long a mounted thread's worker may show no progress.
const IDLE: Duration = Duration::from_secs(130);

/// The longest message, in bytes: it has to fit a frame of the worker's protocol, however it is written there.
const MAX_MESSAGE: usize = 8 * 1024;

/// Keep a thread as it is now
///
/// Makes a snapshot of everything the thread has at this moment, mounted or not. Whoever works in it goes on meanwhile;
/// what is written later is not in the snapshot. It takes as long as what changed since the last one takes to read.
#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    /// The thread
    #[arg(value_name = "THREAD")]
    thread: String,
    /// The snapshot's message
    #[arg(short, long, value_name = "MSG", default_value = "", hide_default_value = true)]
    message: OsString,
}

#[derive(Debug, Serialize)]
struct Document {
    snapshot: String,
    changed: u64,
    /// Files that were written while they were copied.
    moving: Vec<WirePath>,
}

/// Runs the command.
pub fn run(context: &Context, args: &SnapshotArgs) -> Result<()> {
    let name: ThreadName = args.thread.parse()?;
    if args.message.len() > MAX_MESSAGE {
        return Err(CliError::usage(format!(
            "the message has {} bytes, and at most {MAX_MESSAGE} are kept",
            args.message.len()
        ))
        .hint("say it in fewer words"));
    }
    let repository = context.repository()?;
    let thread = repository.refs().thread(&name)?;
    let done = make(context, repository, &thread, &args.message)
        .map_err(|error| error.context(format!("cannot make a snapshot of thread {name}")))?;
    if done.mapped > 0 {
        context.ui.warn(format!(
            "{} files were open for writing and could not be asked in time what was stored to them through mappings; it may not be in the snapshot",
            done.mapped
        ));
    }
    for WirePath(path) in &done.moving {
        context.ui.warn(format!(
            "{} was written without a pause while it was copied; the snapshot may have parts of it of different instants",
            shown(path)
        ));
    }
    let document = Document { snapshot: done.snapshot, changed: done.changed, moving: done.moving };
    let Document { snapshot, changed, .. } = &document;
    context.ui.result(&document, || match (done.made, changed) {
        (false, _) => format!("thread {name} is as its snapshot {snapshot} has it\n"),
        (true, 0) => format!("snapshot {snapshot} of thread {name}: only times changed\n"),
        (true, &changed) => {
            format!("snapshot {snapshot} of thread {name}: {} changed\n", counted(changed, "path"))
        }
    })
}

fn make(
    context: &Context,
    repository: Repository,
    thread: &ThreadRef,
    message: &OsString,
) -> Result<SnapshotDone> {
    match ThreadLock::try_acquire(&repository, &thread.id) {
        Ok(lock) => make_here(context.ui, repository, thread, lock, message),
        Err(LockError::Held { pid }) => {
            let (mut client, mount) = mounted::reach(context, &repository, thread, pid)?;
            let progress = context.ui.progress("reading changes");
            let message = WirePath(PathBuf::from(message));
            let mut reply = client.ask(Request::Snapshot { mount, message }, &[], Instant::now() + IDLE)?;
            loop {
                match reply {
                    Reply::SnapshotProgress(now) => progress.set(now.files, now.bytes),
                    Reply::SnapshotDone(done) => return Ok(done),
                    other => return Err(mounted::nonsense("a snapshot", &other)),
                }
                reply = client.answer(Instant::now() + IDLE)?;
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// A thread that nobody has mounted: this process reads its layers, and holds its lock meanwhile.
fn make_here(
    ui: Ui,
    repository: Repository,
    thread: &ThreadRef,
    lock: ThreadLock,
    message: &OsString,
) -> Result<SnapshotDone> {
    // Looked up again: it may have changed before it was locked.
    let thread = repository.refs().thread_again(thread)?;
    if !is_dirty(&thread) {
        let snapshot = thread.snapshot.to_string();
        return Ok(SnapshotDone { snapshot, changed: 0, made: false, mapped: 0, moving: Vec::new() });
    }
    let view = View::open(Arc::new(repository), &thread.name, lock, ViewOptions::default())?;
    let report = {
        let progress = ui.progress("reading changes");
        view.snapshot(message.as_bytes(), &|now| progress.set(now.files, now.bytes))
    };
    // What was made counts, and what was not is as it was: either way the thread is closed in order.
    let closed = view.close();
    let report = report?;
    closed?;
    Ok(SnapshotDone {
        snapshot: report.snapshot.to_string(),
        changed: report.changed,
        made: report.made,
        mapped: 0,
        moving: Vec::new(),
    })
}
