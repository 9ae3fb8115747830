//! Starting a worker, and every way in which that can fail. Whatever happens, nothing is left.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Sandbox, process_exists};
use selvedge_supervisor::{
    Cancel, ExitReport, ExitStatus, SpawnError, SpawnSpec, State, Supervisor, WorkerProgram,
};
use selvedge_worker_proto::{ErrorKind, PROTOCOL_VERSION};

#[test]
fn fake_worker() {
    common::fake_worker();
}

fn failure(role: &str) -> (SpawnError, Sandbox) {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.spec(role);
    spec.handshake_deadline = Duration::from_secs(5);
    let error = Supervisor::spawn(&spec).unwrap_err();
    assert_eq!(sandbox.mounts(), [], "{error}");
    (error, sandbox)
}

fn gone(exit: &ExitReport) {
    assert!(!process_exists(exit.pid), "process {} is still there", exit.pid);
    assert_eq!(exit.mount_stuck, None);
}

#[test]
fn a_missing_binary_is_named() {
    let sandbox = Sandbox::new();
    let spec = SpawnSpec::new(WorkerProgram::Path("/no/such/worker".into()), sandbox.dir());
    let error = Supervisor::spawn(&spec).unwrap_err();
    assert!(matches!(error, SpawnError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("/no/such/worker"), "{error}");
}

#[test]
fn a_binary_that_cannot_be_executed_is_named() {
    let sandbox = Sandbox::new();
    let program = sandbox.dir().join("worker");
    for (text, mode) in [("#!/bin/sh\n", 0o644), ("no program", 0o755)] {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        let spec = SpawnSpec::new(WorkerProgram::Path(program.clone()), sandbox.dir());
        let error = Supervisor::spawn(&spec).unwrap_err();
        assert!(matches!(error, SpawnError::NotExecutable { .. }), "{error}");
        assert!(error.to_string().contains("worker"), "{error}");
    }
}

#[test]
fn a_start_that_is_called_off_ends_its_worker_at_once() {
    for role in ["hangs", "mounts and hangs"] {
        let sandbox = Sandbox::new();
        let cancel = Cancel::new().unwrap();
        let mut spec = sandbox.spec(role);
        spec.handshake_deadline = Duration::from_secs(20);
        spec.cancel = Some(cancel.clone());
        let (error, took) = std::thread::scope(|scope| {
            let spawned = scope.spawn(|| Supervisor::spawn(&spec));
            // Long enough for the worker to be there, and for the mount to be made.
            let ready = Instant::now() + Duration::from_secs(10);
            while role.starts_with("mounts") && sandbox.mounts().is_empty() && Instant::now() < ready {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(50));
            let called_off = Instant::now();
            cancel.cancel();
            (spawned.join().unwrap().unwrap_err(), called_off.elapsed())
        });
        let SpawnError::Cancelled { exit } = error else { panic!("{error}") };
        gone(&exit);
        assert_eq!(exit.status, ExitStatus::Signaled { signal: 9, core: false });
        assert_eq!(sandbox.mounts(), [], "{role}");
        assert!(took < Duration::from_secs(5), "{role}: {took:?}");
    }
}

#[test]
fn a_start_that_was_called_off_before_makes_no_mount() {
    let sandbox = Sandbox::new();
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let mut spec = sandbox.spec("hangs");
    spec.cancel = Some(cancel);
    assert!(matches!(Supervisor::spawn(&spec), Err(SpawnError::Cancelled { .. })));
}

#[test]
fn a_worker_that_dies_is_reported_with_what_it_said() {
    let (error, _sandbox) = failure("dies");
    let SpawnError::Died { exit } = &error else { panic!("{error}") };
    assert_eq!(exit.status, ExitStatus::Exited(7));
    gone(exit);
    let message = error.to_string();
    assert!(message.contains("exit code 7") && message.contains("the disk is on fire"), "{message}");
    assert!(!message.contains('\u{1b}'), "{message:?}");
}

#[test]
fn a_worker_that_hangs_is_ended_at_the_deadline() {
    let sandbox = Sandbox::new();
    let mut spec = sandbox.spec("hangs");
    spec.handshake_deadline = Duration::from_millis(300);
    let begun = Instant::now();
    let error = Supervisor::spawn(&spec).unwrap_err();
    let SpawnError::TimedOut { exit, .. } = &error else { panic!("{error}") };
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    gone(exit);
}

#[test]
fn a_worker_that_talks_nonsense_is_ended() {
    for (role, said) in [
        ("talks nonsense", "not a message"),
        ("talks too much", "4294967295 bytes"),
        ("tears a frame", "middle of a frame"),
        ("says an unknown word", "Sing"),
        ("closes and hangs", "closed the connection"),
        ("lies about its mount", "mount table"),
    ] {
        let (error, _sandbox) = failure(role);
        let SpawnError::Nonsense { message, exit } = &error else { panic!("{role}: {error}") };
        assert!(message.contains(said), "{role}: {message}");
        gone(exit);
    }
}

#[test]
fn a_worker_of_another_version_is_ended() {
    let (error, _sandbox) = failure("speaks another version");
    let SpawnError::Protocol { worker, ours } = error else { panic!("{error}") };
    assert_eq!((worker, ours), (PROTOCOL_VERSION + 1, PROTOCOL_VERSION));
}

#[test]
fn a_worker_that_cannot_mount_says_why_in_one_sentence() {
    let (error, _sandbox) = failure("cannot mount");
    assert_eq!(error.to_string(), "it is full");
    let SpawnError::Mount { failure, exit } = &error else { panic!("{error}") };
    assert_eq!((failure.kind, exit.status), (ErrorKind::Conflict, ExitStatus::Exited(0)));
    gone(exit);
}

#[test]
fn a_mount_left_by_a_worker_that_never_became_ready_is_taken_down() {
    let (error, _sandbox) = failure("mounts and dies");
    let SpawnError::Died { exit } = &error else { panic!("{error}") };
    assert!(exit.mount_left && exit.mount_stuck.is_none(), "{exit:?}");
    let sandbox = Sandbox::new();
    let mut spec = sandbox.spec("mounts and hangs");
    spec.handshake_deadline = Duration::from_secs(1);
    let error = Supervisor::spawn(&spec).unwrap_err();
    let SpawnError::TimedOut { exit, .. } = &error else { panic!("{error}") };
    assert!(exit.mount_left && exit.mount_stuck.is_none(), "{exit:?}");
    assert_eq!(sandbox.mounts(), []);
}

#[test]
fn a_ready_worker_is_as_it_says() {
    let sandbox = Sandbox::new();
    let supervisor = Supervisor::spawn(&sandbox.spec("sends escrow")).unwrap();
    assert_eq!(supervisor.ready().pid, supervisor.pid());
    assert_eq!(supervisor.ready().mount_path.as_path(), sandbox.dir());
    assert_eq!((supervisor.state(), supervisor.is_alive()), (State::Ready, true));
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_worker_has_its_own_process_group_and_works_in_the_root_directory() {
    let sandbox = Sandbox::new();
    let supervisor = Supervisor::spawn(&sandbox.spec("obeys")).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(supervisor.pid()).unwrap());
    assert_eq!(rustix::process::getpgid(pid).unwrap(), pid.unwrap());
    let cwd = fs::read_link(format!("/proc/{}/cwd", supervisor.pid())).unwrap();
    assert_eq!(cwd, Path::new("/"));
}

#[test]
fn a_worker_started_by_descriptor_outlives_its_file() {
    let sandbox = Sandbox::new();
    let copy = sandbox.root().join("worker");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut spec = sandbox.spec("obeys");
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(&copy, flags, rustix::fs::Mode::empty()).unwrap();
    fs::remove_file(&copy).unwrap();
    spec.worker = WorkerProgram::Fd(fd);
    let supervisor = Supervisor::spawn(&spec).unwrap();
    assert!(supervisor.status(Duration::from_secs(5)).is_ok());
}
