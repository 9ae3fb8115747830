//! A running worker: questions, ends, deaths. Whatever happens, the supervisor is unharmed and nothing is left.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{Sandbox, process_exists, soon};
use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::{CallError, ExitReport, ExitStatus, State, Step, StopError, StopMode, Supervisor};
use selvedge_worker_proto::{ErrorKind, ExportNote};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn fake_worker() {
    common::fake_worker();
}

fn start(role: &str) -> (Supervisor, Sandbox) {
    let sandbox = Sandbox::new();
    let supervisor = Supervisor::spawn(&sandbox.spec(role)).unwrap();
    (supervisor, sandbox)
}

fn signal(supervisor: &Supervisor, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(supervisor.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Stops the worker, and waits until none of its threads runs any more.
fn freeze(supervisor: &Supervisor) {
    signal(supervisor, Signal::STOP);
    let deadline = soon();
    let tasks = format!("/proc/{}/task", supervisor.pid());
    while fs::read_dir(&tasks).unwrap().any(|task| {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        !stat.contains(") T")
    }) {
        assert!(Instant::now() < deadline, "the worker still runs");
        thread::sleep(SECOND / 1000);
    }
}

fn nothing_left(supervisor: &Supervisor, sandbox: &Sandbox) {
    assert!(!supervisor.is_alive());
    assert!(!process_exists(supervisor.pid()), "process {} is still there", supervisor.pid());
    assert_eq!(sandbox.mounts(), []);
}

/// A process that keeps the mount busy without asking it anything.
fn hold(sandbox: &Sandbox) -> std::process::Child {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let open = rustix::fs::open(sandbox.dir(), flags, rustix::fs::Mode::empty()).unwrap();
    std::process::Command::new("sleep").arg("60").stdin(Stdio::from(open)).spawn().unwrap()
}

#[test]
fn status_is_answered() {
    let (supervisor, sandbox) = start("obeys");
    let status = supervisor.status(5 * SECOND).unwrap();
    assert_eq!((status.pid, status.requests), (supervisor.pid(), 42));
    assert_eq!(status.mount_path.as_path(), sandbox.dir());
}

#[test]
fn a_failed_command_leaves_the_worker_running() {
    let (supervisor, _sandbox) = start("fails at status");
    let error = supervisor.status(5 * SECOND).unwrap_err();
    assert!(matches!(error, CallError::Failed { kind: ErrorKind::NotPermitted, .. }), "{error}");
    assert_eq!(supervisor.state(), State::Ready);
}

#[test]
fn an_orderly_stop_ends_it_and_stopping_again_says_the_same() {
    let (supervisor, sandbox) = start("obeys");
    let report = supervisor.stop(StopMode::Orderly).unwrap();
    assert_eq!((report.step, report.exit.status), (Step::Ask, ExitStatus::Exited(0)));
    assert!(report.exit.is_clean(), "{report:?}");
    nothing_left(&supervisor, &sandbox);
    assert_eq!(supervisor.stop(StopMode::Force).unwrap(), report);
    assert_eq!(supervisor.state(), State::Exited(report.exit.clone()));
    assert_eq!(supervisor.wait(Some(Instant::now())), Some(report.exit.clone()));
    assert_eq!(supervisor.exit_events().recv_timeout(SECOND).unwrap(), report.exit);
    assert!(matches!(supervisor.status(SECOND), Err(CallError::Ended)));
}

#[test]
fn several_stops_at_once_get_one_report() {
    let (supervisor, sandbox) = start("obeys");
    let reports: Vec<_> = thread::scope(|scope| {
        let stops: Vec<_> = (0..8)
            .map(|number| {
                let supervisor = &supervisor;
                let mode = if number % 2 == 0 { StopMode::Orderly } else { StopMode::Force };
                scope.spawn(move || supervisor.stop(mode))
            })
            .collect();
        stops.into_iter().map(|stop| stop.join().unwrap().unwrap()).collect()
    });
    assert!(reports.iter().all(|report| *report == reports[0] && report.exit.is_clean()), "{reports:?}");
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_busy_mount_refuses_an_orderly_stop_and_yields_to_force() {
    let (supervisor, sandbox) = start("obeys");
    let mut holder = hold(&sandbox);
    let refused = supervisor.stop(StopMode::Orderly);
    let state = supervisor.state();
    let status = supervisor.status(5 * SECOND);
    let forced = supervisor.stop(StopMode::Force);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let Err(StopError::Busy(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!((&*refused.holders[0].name, state), ("somebody", State::Ready));
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(forced.unwrap().step, Step::Ask);
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_stopped_process_times_out_at_status_and_is_ended_by_escalation() {
    let (supervisor, sandbox) = start("obeys");
    freeze(&supervisor);
    let begun = Instant::now();
    let error = supervisor.status(SECOND / 5).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    let report = thread::scope(|scope| {
        let waiting = scope.spawn(|| supervisor.status(20 * SECOND));
        let report = supervisor.stop(StopMode::Orderly).unwrap();
        // Nobody waits for an answer from the dead.
        assert!(matches!(waiting.join().unwrap(), Err(CallError::Ended)));
        report
    });
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    assert_eq!(report.step, Step::Kill);
    assert!(report.exit.mount_left, "{report:?}");
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_worker_that_ignores_stop_gets_sigterm() {
    let (supervisor, sandbox) = start("ignores stop");
    let report = supervisor.stop(StopMode::Force).unwrap();
    assert_eq!(report.step, Step::Terminate);
    assert_eq!(report.exit.status, ExitStatus::Signaled { signal: Signal::TERM.as_raw(), core: false });
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_worker_that_is_at_work_on_a_stop_is_given_time() {
    let (supervisor, sandbox) = start("stops slowly");
    let begun = Instant::now();
    let report = supervisor.stop(StopMode::Orderly).unwrap();
    assert!(begun.elapsed() >= SECOND, "{:?}", begun.elapsed());
    assert_eq!((report.step, report.exit.status), (Step::Ask, ExitStatus::Exited(0)));
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_worker_that_flushes_for_ever_is_ended() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.spec("flushes for ever");
    spec.flush_deadline = SECOND / 5;
    let supervisor = Supervisor::spawn(&spec).unwrap();
    let report = supervisor.stop(StopMode::Orderly).unwrap();
    assert_eq!(report.step, Step::Terminate);
    assert!(!report.exit.mount_left, "{report:?}");
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn status_of_a_deaf_worker_never_delays_stop() {
    let (supervisor, sandbox) = start("is deaf");
    // More questions than its socket holds.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    assert!(supervisor.status(Duration::from_micros(10)).is_err());
                }
            });
        }
    });
    let begun = Instant::now();
    supervisor.stop(StopMode::Orderly).unwrap();
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    nothing_left(&supervisor, &sandbox);
}

fn death(role: &str, death: impl FnOnce(&Supervisor)) -> ExitReport {
    let (supervisor, sandbox) = start(role);
    let events = supervisor.exit_events();
    death(&supervisor);
    let report = events.recv_timeout(20 * SECOND).unwrap();
    assert_eq!(supervisor.wait(Some(soon())), Some(report.clone()));
    assert!(report.mount_left && report.mount_stuck.is_none(), "{report:?}");
    nothing_left(&supervisor, &sandbox);
    assert_eq!(supervisor.stop(StopMode::Orderly).unwrap().step, Step::None);
    report
}

#[test]
fn deaths_are_reported_as_they_were_and_the_mount_is_taken_down() {
    for fatal in [Signal::KILL, Signal::SEGV, Signal::ABORT] {
        let report = death("obeys", |supervisor| {
            signal(supervisor, fatal);
            if fatal == Signal::SEGV {
                // Rust's handler takes the first for a fault, which would come again by itself.
                thread::sleep(SECOND / 10);
                signal(supervisor, fatal);
            }
        });
        let ExitStatus::Signaled { signal, .. } = report.status else { panic!("{report:?}") };
        assert_eq!(signal, fatal.as_raw());
    }
    assert_eq!(death("exits when ready", |_| {}).status, ExitStatus::Exited(0));
}

#[test]
fn a_caller_of_the_mount_is_freed_when_the_worker_dies() {
    let (supervisor, sandbox) = start("obeys");
    // Nobody answers it: this worker reads no requests.
    let mut caller = std::process::Command::new("stat")
        .arg(sandbox.dir().join("x"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(SECOND / 10);
    assert!(caller.try_wait().unwrap().is_none());
    signal(&supervisor, Signal::KILL);
    supervisor.wait(Some(soon())).unwrap();
    let deadline = soon();
    while caller.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the caller still waits");
        thread::sleep(SECOND / 100);
    }
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn a_mount_that_dies_busy_is_detached() {
    let (supervisor, sandbox) = start("obeys");
    let mut holder = hold(&sandbox);
    signal(&supervisor, Signal::KILL);
    let report = supervisor.wait(Some(soon())).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(report.mount_left && report.mount_stuck.is_none(), "{report:?}");
    nothing_left(&supervisor, &sandbox);
}

/// The descendant keeps the socket and the standard error open.
#[test]
fn a_descendant_of_the_worker_delays_nothing() {
    let (supervisor, sandbox) = start("has a child with its socket");
    let group = Pid::from_raw(i32::try_from(supervisor.pid()).unwrap()).unwrap();
    assert!(supervisor.status(5 * SECOND).is_ok());
    signal(&supervisor, Signal::KILL);
    let report = supervisor.wait(Some(Instant::now() + 10 * SECOND));
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    assert!(report.is_some(), "the end is not reported");
    assert_eq!(sandbox.mounts(), []);
}

#[test]
fn a_worker_that_raves_is_ended() {
    let (supervisor, sandbox) = start("raves when ready");
    let report = supervisor.wait(Some(soon())).unwrap();
    assert!(matches!(report.status, ExitStatus::Signaled { .. }), "{report:?}");
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn an_unmount_from_outside_shows_in_no_leftover() {
    let (supervisor, sandbox) = start("obeys");
    let mount = supervisor.mount();
    selvedge_mountpoint::unmount(mount, selvedge_mountpoint::UnmountMode::Plain, soon()).unwrap();
    signal(&supervisor, Signal::TERM);
    let report = supervisor.wait(Some(soon())).unwrap();
    assert!(!report.mount_left, "{report:?}");
    nothing_left(&supervisor, &sandbox);
}

#[test]
fn dropping_it_ends_the_worker() {
    for stop_first in [false, true] {
        let (supervisor, sandbox) = start("obeys");
        if stop_first {
            freeze(&supervisor);
        }
        let pid = supervisor.pid();
        drop(supervisor);
        assert!(!process_exists(pid));
        assert_eq!(sandbox.mounts(), []);
    }
}

#[test]
fn waiting_has_a_deadline() {
    let (supervisor, _sandbox) = start("obeys");
    assert_eq!(supervisor.wait(Some(Instant::now() + SECOND / 20)), None);
    assert_eq!(supervisor.state(), State::Ready);
}

#[test]
fn an_export_goes_to_the_directory_given() {
    let (supervisor, _sandbox) = start("obeys");
    let dest = tempfile::tempdir().unwrap();
    let open = || std::os::fd::OwnedFd::from(fs::File::open(dest.path()).unwrap());
    let mut seen = Vec::new();
    let report = supervisor.export(open(), false, 5 * SECOND, &mut |now| seen.push(now.bytes)).unwrap();
    assert_eq!((report.files, report.bytes, seen), (1, 5, vec![5]));
    let [noted] = &report.noted[..] else { panic!("{report:?}") };
    assert_eq!(
        (noted.path.as_path(), noted.note),
        (std::path::Path::new(".selvedge"), ExportNote::LeftAlone)
    );
    assert_eq!(fs::read(dest.path().join("hello")).unwrap(), b"hello");
    let error = supervisor.export(open(), true, 5 * SECOND, &mut |_| {}).unwrap_err();
    assert!(matches!(error, CallError::Failed { kind: ErrorKind::Conflict, .. }), "{error}");
}

#[test]
fn an_export_that_stalls_times_out() {
    let (supervisor, _sandbox) = start("exports for ever");
    let dest = tempfile::tempdir().unwrap();
    let open = fs::File::open(dest.path()).unwrap().into();
    let error = supervisor.export(open, false, SECOND / 5, &mut |_| {}).unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert!(supervisor.status(5 * SECOND).is_ok());
}
