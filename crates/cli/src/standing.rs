//! How a recorded mount stands now, and cleaning after those whose supervisor is gone.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use selvedge_mountpoint::{MountIdentity, SOURCE_PREFIX, mountinfo, take_down};
use selvedge_store::{LockError, Repository, ThreadId, ThreadLock};
use selvedge_worker_proto::Passthrough;

use crate::context::Context;
use crate::control::client::ConnectError;
use crate::control::{Client, MountDocument, MountState};
use crate::error::{CliError, Result};
use crate::plan::Plan;
use crate::process::ProcessId;
use crate::record::{Holder, Record};
use crate::runtime::RuntimeDir;
use crate::service;
use crate::service::lock::Lock;
use crate::ui::{Ui, show};

/// How long a supervisor may take to say how its mounts are. Commands that list answer within a second.
const ANSWER: Duration = Duration::from_millis(700);

/// How long a worker whose supervisor died may take to notice and unmount by itself, before it counts as hung.
const NOTICE: Duration = Duration::from_millis(500);

/// How long a worker that has unmounted by itself is waited for.
const FLUSH: Duration = Duration::from_secs(2);

/// How long a mount that a run gives back is waited for. Commands that list answer within a second.
const GIVEN_BACK: Duration = Duration::from_millis(600);

/// How long a command that needs the thread waits for that.
const UNLOCKED: Duration = Duration::from_secs(10);

/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(10);

/// How long another command that cleans up is waited for.
const OTHERS: Duration = Duration::from_secs(10);

/// The lock of whoever cleans up.
const CLEAN_LOCK: &str = "clean.lock";

/// How long a worker is waited for that looks for another service.
const ADOPTION: Duration = Duration::from_secs(3);

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
    await_adoption(runtime, Instant::now() + ADOPTION);
    let runs = |record: &Record| record.supervisor.runs();
    let Sorted { living, orphaned, dead } = sort(Record::all(runtime)?, runs, Record::is_orphaned);
    // Each process that holds mounts is asked once, however many those are.
    let mut groups: Vec<Vec<Record>> = Vec::new();
    for record in living {
        let of_the_same = |group: &&mut Vec<Record>| {
            record.holder == Holder::Service
                && group[0].holder == Holder::Service
                && group[0].supervisor == record.supervisor
        };
        match groups.iter_mut().find(of_the_same) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    let mut looks: Vec<Look<'_>> =
        groups.into_iter().map(|group| -> Look<'_> { Box::new(move || look(runtime, group)) }).collect();
    if !dead.is_empty() {
        looks.push(Box::new(move || clean_dead(runtime, dead)));
    }
    let mut found = at_once(looks);
    found.extend(orphaned.into_iter().map(forsaken));
    found.sort_by(|(a, _), (b, _)| (&a.repo, &a.thread, &a.id).cmp(&(&b.repo, &b.thread, &b.id)));
    Ok(found)
}

/// Mounts by what became of the processes that hold them.
#[derive(Debug)]
struct Sorted<T> {
    living: Vec<T>,
    orphaned: Vec<T>,
    dead: Vec<T>,
}

/// Asks first who `runs`, and of the others who `is_orphaned`, which nobody is whose holder runs: a service that dies in
/// between leaves mounts to be adopted, not to be cleaned up.
fn sort<T>(records: Vec<T>, runs: impl Fn(&T) -> bool, is_orphaned: impl Fn(&T) -> bool) -> Sorted<T> {
    let (living, others): (Vec<T>, Vec<T>) = records.into_iter().partition(runs);
    let (orphaned, dead) = others.into_iter().partition(is_orphaned);
    Sorted { living, orphaned, dead }
}

/// Whether workers look for another service.
pub fn has_orphans(runtime: &RuntimeDir) -> bool {
    Record::all(runtime).is_ok_and(|records| records.iter().any(Record::is_orphaned))
}

/// Waits until no worker looks for another service any more, or `deadline`.
pub fn await_adoption(runtime: &RuntimeDir, deadline: Instant) {
    while has_orphans(runtime) && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
    }
}

/// A mount whose worker lives and has found no other service in time: it hangs, or there can be none. It unmounts by
/// itself in the end, and the next service ends it if it does not.
fn forsaken(record: Record) -> (Record, Standing) {
    let standing = told_by_record(&record, MountState::Stuck);
    (record, standing)
}

type Look<'a> = Box<dyn FnOnce() -> Vec<(Record, Standing)> + Send + 'a>;

fn at_once(looks: Vec<Look<'_>>) -> Vec<(Record, Standing)> {
    let looks: Vec<_> = looks.into_iter().map(|look| Mutex::new(Some(look))).collect();
    let taken = |look: &Mutex<Option<Look<'_>>>| {
        let look = look.lock().unwrap_or_else(PoisonError::into_inner).take();
        look.map_or_else(Vec::new, |look| look())
    };
    std::thread::scope(|scope| {
        let start = |look| std::thread::Builder::new().spawn_scoped(scope, move || taken(look));
        let threads: Vec<_> = looks.iter().map(|look| (look, start(look))).collect();
        // What no thread could be started for is done here, however long it takes.
        threads
            .into_iter()
            .flat_map(|(look, thread)| match thread {
                Ok(thread) => thread.join().unwrap_or_default(),
                Err(_) => taken(look),
            })
            .collect()
    })
}

/// [`survey`], with what was cleaned or could not be told to the user; only the live ones are returned. What a run
/// that has ended is just giving back is waited for: to whoever looks next, the run is over.
pub fn live_mounts(runtime: &RuntimeDir, ui: Ui) -> Result<Vec<(Record, MountDocument)>> {
    let deadline = Instant::now() + GIVEN_BACK;
    loop {
        let live = live_now(runtime, ui)?;
        let is_given_back = live.iter().any(|(_, mount)| is_given_back(runtime, mount));
        if Instant::now() >= deadline || !is_given_back {
            return Ok(live);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a run that has ended is just giving the mount back.
pub fn is_given_back(runtime: &RuntimeDir, mount: &MountDocument) -> bool {
    mount.state == MountState::Stopping && runtime.is_of_a_run(mount.mountpoint.as_path())
}

/// Takes the lock of a thread. One that a run which has ended is just giving back is waited for.
pub fn lock_thread(
    context: &Context,
    repository: &Repository,
    thread: &ThreadId,
) -> Result<ThreadLock, LockError> {
    let deadline = Instant::now() + UNLOCKED;
    loop {
        let taken = ThreadLock::try_acquire(repository, thread);
        if !matches!(taken, Err(LockError::Held { .. })) || Instant::now() >= deadline {
            return taken;
        }
        // What cannot be found out now is said by whoever finds the thread locked.
        let Ok(runtime) = context.runtime() else { return taken };
        let of_it = |record: &Record| {
            record.thread_id == thread.to_string() && record.repo.as_path() == repository.dir()
        };
        let is_given_back = live_now(&runtime, context.ui).is_ok_and(|live| {
            live.iter().any(|(record, mount)| of_it(record) && is_given_back(&runtime, mount))
        });
        if !is_given_back {
            // It may have been given back since it was tried.
            return ThreadLock::try_acquire(repository, thread);
        }
        std::thread::sleep(PAUSE);
    }
}

fn live_now(runtime: &RuntimeDir, ui: Ui) -> Result<Vec<(Record, MountDocument)>> {
    let mut live = Vec::new();
    for (record, standing) in survey(runtime)? {
        match standing {
            Standing::Live(document) => live.push((record, document)),
            Standing::Changing => {}
            Standing::Cleaned(what) => ui.note(what),
            Standing::Stale(error) => ui.warn(error.to_string()),
        }
    }
    if let Some(done) = service::sweep(runtime) {
        ui.note(done);
    }
    Ok(live)
}

/// Cleans up after every process that is gone, but for the mounts that are `spared`. Says what was done.
pub fn clean_all(runtime: &RuntimeDir, spared: &dyn Fn(&Record) -> bool) -> Result<Vec<String>> {
    let is_dead = |record: &Record| !record.supervisor.runs() && !spared(record);
    let dead: Vec<Record> = Record::all(runtime)?.into_iter().filter(is_dead).collect();
    let cleaned = if dead.is_empty() { Vec::new() } else { clean_dead(runtime, dead) };
    Ok(cleaned
        .into_iter()
        .filter_map(|(_, standing)| match standing {
            Standing::Cleaned(what) => Some(what),
            Standing::Stale(error) => Some(error.to_string()),
            Standing::Live(_) | Standing::Changing => None,
        })
        .collect())
}

/// Looks at one record, and cleans up if its supervisor is gone.
pub fn examine(runtime: &RuntimeDir, record: &Record) -> Standing {
    if record.is_orphaned() {
        await_adoption(runtime, Instant::now() + ADOPTION);
    }
    let records = Record::all(runtime).unwrap_or_default();
    let record = records.into_iter().find(|other| other.id == record.id).unwrap_or_else(|| record.clone());
    let found = if record.supervisor.runs() {
        look(runtime, vec![record])
    } else if record.is_orphaned() {
        vec![forsaken(record)]
    } else {
        clean_dead(runtime, vec![record])
    };
    found.into_iter().next().map_or(Standing::Changing, |(_, standing)| standing)
}

/// Asks the one process that holds these mounts.
fn look(runtime: &RuntimeDir, records: Vec<Record>) -> Vec<(Record, Standing)> {
    let deadline = Instant::now() + ANSWER;
    let Some(first) = records.first() else { return Vec::new() };
    let answer = Client::connect(runtime, first, deadline)
        .and_then(|mut client| client.mounts(deadline).map_err(ConnectError::Silent));
    let standing = |record: &Record| match &answer {
        Ok(mounts) => match mounts.iter().find(|mount| mount.id == record.id) {
            Some(document) => Standing::Live(document.clone()),
            None => Standing::Changing,
        },
        // The socket comes before the mount and goes after it.
        Err(ConnectError::Gone) if record.is_mounted() => told_by_record(record, MountState::Stopping),
        Err(ConnectError::Gone) => Standing::Changing,
        Err(_) => told_by_record(record, MountState::Stuck),
    };
    let standings: Vec<Standing> = records.iter().map(standing).collect();
    records.into_iter().zip(standings).collect()
}

/// Cleans up after processes that are gone, all mounts at once. One command does so at a time: another would take
/// away what is being mounted in the same place again.
fn clean_dead(runtime: &RuntimeDir, dead: Vec<Record>) -> Vec<(Record, Standing)> {
    if !runtime.is_own() {
        // Their mounts are in another namespace, where somebody will clean up.
        return dead.into_iter().map(|record| (record, Standing::Changing)).collect();
    }
    let stale = |error: &CliError| Standing::Stale(error.clone());
    let _cleaning = match Lock::take(runtime, CLEAN_LOCK, Instant::now() + OTHERS) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            let error =
                CliError::timed_out("another command has been cleaning up for long").hint("try again");
            return dead.into_iter().map(|record| (record, stale(&error))).collect();
        }
        Err(error) => return dead.into_iter().map(|record| (record, stale(&error))).collect(),
    };
    // Others may have been faster.
    let still = Record::all(runtime).unwrap_or_default();
    let looks = dead
        .into_iter()
        .map(|record| -> Look<'_> {
            let is_same = |other: &Record| other.id == record.id && other.supervisor == record.supervisor;
            let is_there = still.iter().any(is_same);
            Box::new(move || {
                let standing = match is_there.then(|| clean(runtime, &record)) {
                    Some(Ok(what)) => Standing::Cleaned(what),
                    Some(Err(error)) => Standing::Stale(error),
                    None => Standing::Changing,
                };
                vec![(record, standing)]
            })
        })
        .collect();
    at_once(looks)
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
        supervisor_pid: record.supervisor.runs().then_some(record.supervisor.pid),
        passthrough: mount.map_or(Passthrough { active: false, reason: None }, |m| m.passthrough.clone()),
        writeback: mount.is_some_and(|mount| mount.writeback),
        repo: record.repo.clone(),
        state,
        restarts: record.restarts,
        last_crash: record.last_cause.clone(),
        uptime_s: mount.map_or(0, |mount| mount.uptime().as_secs()),
        requests_per_s: None,
        memory: None,
        opens: None,
        passed_opens: None,
    })
}

/// A mount that is wanted and not there; `failed` is why, if it was given up.
pub fn lost(plan: &Plan, failed: Option<&String>) -> MountDocument {
    MountDocument {
        id: plan.request.clone(),
        thread: plan.thread.clone(),
        mountpoint: plan.mountpoint.clone(),
        worker_pid: None,
        supervisor_pid: None,
        passthrough: Passthrough { active: false, reason: None },
        writeback: false,
        repo: plan.repo.clone(),
        state: if failed.is_some() { MountState::Failed } else { MountState::Lost },
        restarts: 0,
        last_crash: failed.cloned(),
        uptime_s: 0,
        requests_per_s: None,
        memory: None,
        opens: None,
        passed_opens: None,
    }
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
    for worker in record.workers() {
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
    for worker in record.workers() {
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
    Ok(ours.map(|entry| entry.identity().with_unique_id()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_service_that_dies_between_two_questions_leaves_no_mount_to_be_cleaned_up() {
        for lives_for in 0..8 {
            let asked = Cell::new(0);
            let has_died = || asked.replace(asked.get() + 1) >= lives_for;
            // Their workers live.
            let sorted = sort(vec![1, 2, 3], |_| !has_died(), |_| has_died());
            assert_eq!(sorted.dead, [] as [i32; 0], "after {lives_for} questions");
            assert_eq!(sorted.living.len() + sorted.orphaned.len(), 3);
        }
    }
}
