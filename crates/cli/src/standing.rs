//! How a recorded mount stands now, and cleaning after those whose supervisor is gone.

use std::time::{Duration, Instant};

use selvedge_mountpoint::{MountIdentity, SOURCE_PREFIX, mountinfo, take_down};
use selvedge_worker_proto::Passthrough;

use crate::control::client::ConnectError;
use crate::control::{Client, MountDocument, MountState, Reply, Request};
use crate::error::{CliError, Result};
use crate::process::ProcessId;
use crate::record::Record;
use crate::runtime::RuntimeDir;
use crate::ui::{Ui, show};

/// How long a supervisor may take to say how its mounts are. Commands that list answer within a second.
const ANSWER: Duration = Duration::from_millis(700);

/// How long a worker whose supervisor died may take to notice and unmount by itself, before it counts as hung.
const NOTICE: Duration = Duration::from_millis(500);

/// How long a worker that has unmounted by itself is waited for.
const FLUSH: Duration = Duration::from_secs(2);

/// How long cleaning one mount may take.
const CLEAN: Duration = Duration::from_secs(5);

/// A recorded mount.
#[derive(Debug)]
pub enum Standing {
    /// It is there, as its supervisor says or, if that does not answer, as the mount table does.
    Live(MountDocument),
    /// It is being made or taken down by a process that is there.
    Changing,
    /// It was left behind, and has been cleaned up: what was done.
    Cleaned(String),
    /// It was left behind and could not be cleaned up.
    Stale(CliError),
}

/// Looks at every record, all at once, so that one that does not answer delays nobody. What was left behind is
/// cleaned up.
pub fn survey(runtime: &RuntimeDir) -> Result<Vec<(Record, Standing)>> {
    Record::sweep(runtime);
    let records = Record::all(runtime)?;
    let standings: Vec<Option<Standing>> = std::thread::scope(|scope| {
        let threads: Vec<_> = records
            .iter()
            .map(|record| std::thread::Builder::new().spawn_scoped(scope, move || examine(runtime, record)))
            .collect();
        threads.into_iter().map(|thread| thread.ok()?.join().ok()).collect()
    });
    let no_thread = || {
        Standing::Stale(
            CliError::failed("cannot look at the mount: no thread could be started")
                .hint("the system is short of processes or memory: end something, then try again"),
        )
    };
    Ok(records
        .into_iter()
        .zip(standings.into_iter().map(|standing| standing.unwrap_or_else(no_thread)))
        .collect())
}

/// [`survey`], with what was cleaned or could not be told to the user; only the live ones are returned.
pub fn live_mounts(runtime: &RuntimeDir, ui: Ui) -> Result<Vec<(Record, MountDocument)>> {
    let mut live = Vec::new();
    for (record, standing) in survey(runtime)? {
        match standing {
            Standing::Live(document) => live.push((record, document)),
            Standing::Changing => {}
            Standing::Cleaned(what) => ui.note(what),
            Standing::Stale(error) => ui.warn(error.to_string()),
        }
    }
    Ok(live)
}

/// Looks at one record, and cleans up if its supervisor is gone.
pub fn examine(runtime: &RuntimeDir, record: &Record) -> Standing {
    if !record.supervisor.runs() {
        return match clean(runtime, record) {
            Ok(what) => Standing::Cleaned(what),
            Err(error) => Standing::Stale(error),
        };
    }
    let deadline = Instant::now() + ANSWER;
    let answer = Client::connect(runtime, record, deadline)
        .and_then(|mut client| client.ask(Request::List {}, &[], deadline).map_err(ConnectError::Silent));
    match answer {
        Ok(Reply::Mounts { mounts }) => match mounts.into_iter().find(|mount| mount.id == record.id) {
            Some(document) => Standing::Live(document),
            None => Standing::Changing,
        },
        // The socket comes before the mount and goes after it.
        Err(ConnectError::Gone) if record.is_mounted() => told_by_record(record, MountState::Stopping),
        Err(ConnectError::Gone) => Standing::Changing,
        Ok(_) | Err(ConnectError::Silent(_)) => told_by_record(record, MountState::Stuck),
    }
}

/// The mount as the record has it, for want of somebody who knows.
fn told_by_record(record: &Record, state: MountState) -> Standing {
    if !record.is_mounted() {
        return Standing::Changing;
    }
    let mount = record.mount.as_ref();
    Standing::Live(MountDocument {
        id: record.id.clone(),
        thread: record.thread.clone(),
        mountpoint: record.mountpoint.clone(),
        worker_pid: mount.map(|mount| mount.worker.pid),
        supervisor_pid: record.supervisor.pid,
        passthrough: mount.map_or(Passthrough { active: false, reason: None }, |m| m.passthrough.clone()),
        repo: record.repo.clone(),
        state,
        restarts: 0,
        uptime_s: mount.map_or(0, |mount| mount.uptime().as_secs()),
    })
}

/// Cleans up after a supervisor that is gone: its worker unmounts by itself and is ended if it does not, the
/// mount is taken down, the directory that was made for it and the record are removed. Says what was done.
pub fn clean(runtime: &RuntimeDir, record: &Record) -> Result<String> {
    let supervisor = record.supervisor.pid;
    let mut done = format!(
        "cleaned up the mount of thread {} at {}: process {supervisor}, which held it, is gone",
        record.thread,
        show(record.mountpoint.as_path())
    );
    let worker = record.mount.as_ref().map(|mount| mount.worker).or(record.worker);
    if let Some(worker) = worker {
        let notice = Instant::now() + NOTICE;
        while is_at_work(record, worker) && Instant::now() < notice {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_at_work(record, worker) {
            if !worker.kill(Instant::now() + CLEAN) {
                return Err(CliError::failed(format!(
                    "the mount of thread {} at {} was left behind, and its worker (pid {}) cannot be ended",
                    record.thread,
                    show(record.mountpoint.as_path()),
                    worker.pid
                ))
                .hint("it waits in the kernel, most likely for a disk; it ends when that answers"));
            }
            done = format!("{done}; ended its worker (pid {})", worker.pid);
        }
    }
    for identity in left_mounts(runtime, record)? {
        take_down(&identity, Instant::now() + CLEAN).map_err(|error| {
            CliError::failed(format!("cannot clean up after process {supervisor}: {error}"))
                .hint(format!("umount -l {}", show(record.mountpoint.as_path())))
        })?;
    }
    record.remove_directory();
    record.remove(runtime)?;
    if let Some(worker) = worker {
        // It may still be writing out, and holds the thread until then: waited for, so that the thread can be
        // mounted next, but not for ever.
        worker.wait_gone(Instant::now() + FLUSH);
    }
    Ok(done)
}

/// Whether a worker without a supervisor still has, or may still make, its mount. One that has unmounted is let be.
fn is_at_work(record: &Record, worker: ProcessId) -> bool {
    worker.runs() && (record.mount.is_none() || record.is_mounted())
}

/// What a supervisor that is gone left mounted: the mount that its record names; or, where it died before it wrote
/// that down, the mount of its thread in that place that no other record names.
fn left_mounts(runtime: &RuntimeDir, record: &Record) -> Result<Vec<MountIdentity>> {
    if record.mount.is_some() {
        return Ok(record.identity().into_iter().filter(|_| record.is_mounted()).collect());
    }
    let others = Record::all(runtime)?;
    let is_named =
        |id| others.iter().any(|other| other.mount.as_ref().is_some_and(|mount| mount.mount_id == id));
    let source = format!("{SOURCE_PREFIX}{}", record.thread);
    let caller = rustix::process::geteuid().as_raw();
    let there = mountinfo::at(record.mountpoint.as_path())
        .map_err(|error| CliError::io("cannot read the mount table", &error))?;
    let ours = there.into_iter().rev().filter(|entry| {
        entry.is_selvedge()
            && entry.user_id() == Some(caller)
            && *entry.source == *source
            && !is_named(entry.mount_id)
    });
    Ok(ours.map(|entry| entry.identity()).collect())
}
