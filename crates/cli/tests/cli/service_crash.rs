//! The service dies at every point of what it does between two workers, between two programs and between two services;
//! programs at work in the mounts notice nothing, unless it is the second death within one recovery.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::Signal;
use selvedge_cli::service::crash::POINTS;
use selvedge_supervisor::crash::{RENEWAL, SUCCESSION};
use serde_json::{Value, json};

use crate::adoption::{Ending, all_go_on, number, start_work, workers};
use crate::sandbox::{Sandbox, Stray, eventually, finish, runs, signal, wait};
use crate::upgrade::install;

/// The variable that lets the service die at a point.
const CRASH_AT: &str = "SELVEDGE_SERVICE_CRASH_AT";

/// The points from which on a successor has everything.
const HANDED_OVER: [&str; 2] = ["succession.greeted", "succession.serves"];

/// How many threads are mounted.
const MOUNTS: usize = 2;

/// Makes the threads.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    for index in 0..MOUNTS {
        sandbox.run(["thread", "create", &format!("t{index}")]).ok();
    }
    sandbox
}

/// Starts a service that dies at `point`, and mounts every thread: where.
fn mounted(sandbox: &Sandbox, point: &str) -> Vec<PathBuf> {
    finish(sandbox.command().env(CRASH_AT, point).args(["service", "start"])).ok();
    let names = (0..MOUNTS).map(|index| format!("t{index}"));
    names
        .map(|name| {
            sandbox.background(&name, &name);
            sandbox.path(name)
        })
        .collect()
}

/// Waits until another service than `before` answers for every mount, and all are ready.
#[track_caller]
fn another_service(sandbox: &Sandbox, before: u32) -> Vec<u32> {
    let mut list = Value::Null;
    eventually("another service that has all mounts", || {
        list = sandbox.json(["list"]);
        let ready = list.as_array().unwrap().iter().filter(|mount| mount["state"] == json!("ready"));
        ready.count() == MOUNTS && list[0]["supervisor_pid"] != json!(before)
    });
    workers(&list, number(&list[0]["supervisor_pid"]))
}

/// Ends everything, and makes sure that nothing is left.
#[track_caller]
fn clean(sandbox: &Sandbox) {
    sandbox.run(["service", "stop"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    eventually("no process is left", || sandbox.processes().is_empty());
}

/// Has the service die at `point` of what `happens` while programs work in all mounts, which must not notice; gives back the
/// workers before and after.
#[track_caller]
fn nobody_notices(sandbox: &Sandbox, point: &str, happens: impl FnOnce(&[u32])) -> (Vec<u32>, Vec<u32>) {
    eprintln!("{point}");
    let directories = mounted(sandbox, point);
    let service = sandbox.service_pid();
    let before = workers(&sandbox.json(["list"]), service);
    let ended = AtomicBool::new(false);
    let done: Vec<AtomicU64> = directories.iter().map(|_| AtomicU64::new(0)).collect();
    let mut after = Vec::new();
    thread::scope(|scope| {
        let _ending = Ending(&ended);
        start_work(scope, &directories, &ended, &done);
        all_go_on(&done);
        happens(&before);
        eventually("the service is dead", || !runs(service));
        after = another_service(sandbox, service);
        all_go_on(&done);
    });
    (before, after)
}

#[test]
fn nobody_notices_that_the_service_dies_once_a_successor_has_everything() {
    let sandbox = sandbox();
    for point in HANDED_OVER {
        let (before, after) = nobody_notices(&sandbox, point, |workers| signal(workers[0], Signal::KILL));
        assert!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
        let list = sandbox.json(["list"]);
        assert_eq!((&list[0]["restarts"], &list[0]["last_crash"]), (&json!(1), &json!("signal 9")), "{list}");
        clean(&sandbox);
    }
}

#[test]
fn a_mount_whose_worker_and_service_die_before_there_is_a_successor_is_made_again() {
    let sandbox = sandbox();
    for point in SUCCESSION.iter().filter(|point| !HANDED_OVER.contains(point)) {
        eprintln!("{point}");
        let directories = mounted(&sandbox, point);
        fs::write(directories[0].join("acknowledged"), point).unwrap();
        let service = sandbox.service_pid();
        let before = workers(&sandbox.json(["list"]), service);
        signal(before[0], Signal::KILL);
        eventually("the service is dead", || !runs(service));
        let after = another_service(&sandbox, service);
        assert!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
        assert_eq!(fs::read_to_string(directories[0].join("acknowledged")).unwrap(), *point);
        clean(&sandbox);
    }
}

/// Has the service die at `points` of an upgrade.
fn nobody_notices_in_an_upgrade(points: &[&str]) {
    let sandbox = sandbox();
    let program = install(&sandbox, "new");
    for point in points {
        nobody_notices(&sandbox, point, |_| {
            // It is told that the service died, or that all was done where that dies late.
            let upgrade = finish(sandbox.program(&program).args(["service", "upgrade"]));
            assert!(upgrade.took < Duration::from_secs(20), "{upgrade:?}");
        });
        clean(&sandbox);
    }
}

#[test]
fn nobody_notices_that_the_service_dies_while_it_becomes_another_program() {
    let points: Vec<_> = POINTS.iter().copied().filter(|point| point.starts_with("upgrade.")).collect();
    nobody_notices_in_an_upgrade(&points);
}

#[test]
fn nobody_notices_that_the_service_dies_while_it_replaces_a_worker_first_half() {
    nobody_notices_in_an_upgrade(&RENEWAL[..RENEWAL.len() / 2]);
}

#[test]
fn nobody_notices_that_the_service_dies_while_it_replaces_a_worker_second_half() {
    let rest = ["succession.reaped", "succession.started", "succession.serves"];
    nobody_notices_in_an_upgrade(&[&RENEWAL[RENEWAL.len() / 2..], &rest].concat());
}

/// Keeps workers from starting a service.
fn keep_start_lock(sandbox: &Sandbox) -> File {
    let lock = File::open(sandbox.instance().join("start.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    lock
}

#[test]
fn nobody_notices_that_a_service_dies_while_it_adopts() {
    let sandbox = sandbox();
    for point in POINTS.iter().filter(|point| point.starts_with("adoption.")) {
        let (before, after) = nobody_notices(&sandbox, "", |_| {
            let service = sandbox.service_pid();
            let lock = keep_start_lock(&sandbox);
            signal(service, Signal::KILL);
            eventually("the service is dead", || !runs(service));
            let mut next = Stray::start(sandbox.command().env(CRASH_AT, point).args(["service", "run"]));
            let end = wait(&mut next.0, Duration::from_secs(20));
            assert!(end.is_some_and(|status| !status.success()), "{point}: {end:?}");
            drop(lock);
        });
        assert_eq!(before, after);
        clean(&sandbox);
    }
}

#[test]
fn a_signal_that_comes_while_the_service_becomes_another_program_ends_it_in_order() {
    let sandbox = sandbox();
    let program = install(&sandbox, "new");
    for point in POINTS.iter().filter(|point| point.starts_with("upgrade.")) {
        eprintln!("{point}");
        mounted(&sandbox, &format!("stop@{point}"));
        let service = sandbox.service_pid();
        let mut command = sandbox.program(&program);
        command.args(["service", "upgrade"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut upgrade = Stray(command.spawn().unwrap());
        let is_stopped = || fs::read_to_string(format!("/proc/{service}/stat")).unwrap().contains(") T ");
        eventually("it stands still", is_stopped);
        signal(service, Signal::TERM);
        signal(service, Signal::CONT);
        eventually("the service ends", || !runs(service));
        assert!(wait(&mut upgrade.0, Duration::from_secs(20)).is_some());
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
        eventually("no worker is left", || sandbox.processes().is_empty());
        let list = sandbox.json(["list"]);
        let states: Vec<_> = list.as_array().unwrap().iter().map(|mount| &mount["state"]).collect();
        assert_eq!(states, [&json!("lost"); MOUNTS], "{list}");
        sandbox.run(["unmount", "t0"]).ok();
        sandbox.run(["unmount", "t1"]).ok();
    }
}

#[test]
fn a_request_that_two_workers_died_of_is_refused_though_the_service_died_as_well() {
    let sandbox = sandbox();
    // When the third worker has been greeted: the first two have died of the request.
    finish(sandbox.command().env(CRASH_AT, "succession.greeted:2").args(["service", "start"])).ok();
    let mut command = sandbox.command();
    command.env("SELVEDGE_FUSE_WORKER_CRASH_AT", "fuse.mkdir.enter");
    command.env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", "1*fuse.mkdir.enter");
    let place = sandbox.path("t0");
    finish(command.args([OsStr::new("mount"), OsStr::new("t0"), place.as_os_str()])).ok();
    sandbox.background("t1", "t1");
    let service = sandbox.service_pid();
    let error = fs::create_dir(place.join("poisoned")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    assert!(!place.join("poisoned").exists());
    fs::create_dir(place.join("another")).unwrap();
    eventually("the service is dead", || !runs(service));
    another_service(&sandbox, service);
    let list = sandbox.json(["list"]);
    assert_eq!((&list[0]["restarts"], &list[0]["last_crash"]), (&json!(2), &json!("signal 6")), "{list}");
    fs::create_dir(place.join("poisoned")).unwrap();
    clean(&sandbox);
}

#[test]
fn an_unmount_beside_an_adoption_leaves_nothing() {
    let sandbox = sandbox();
    for round in 0..8_u64 {
        mounted(&sandbox, "");
        signal(sandbox.service_pid(), Signal::KILL);
        // From before another service comes to after it has adopted.
        thread::sleep(Duration::from_millis(round * 15));
        sandbox.run(["unmount", "t0"]).ok();
        assert_eq!(sandbox.mounts().len(), 1, "round {round}");
        eventually("the other one goes on", || {
            let list = sandbox.json(["list"]);
            list.as_array().unwrap().len() == 1 && list[0]["state"] == json!("ready")
        });
        assert!(!sandbox.path("t0").exists(), "round {round}");
        clean(&sandbox);
        assert_eq!(sandbox.json(["list"]), json!([]), "round {round}: nothing is wanted any more");
    }
}
