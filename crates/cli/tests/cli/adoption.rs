//! The service dies and its mounts go on: their workers bring another one back, which adopts them.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, Stray, eventually, finish, runs, signal, wait};

/// How often the service is killed.
const ROUNDS: usize = 10;

pub(crate) fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))).unwrap()
}

/// Mounts `count` threads, and gives back where.
pub(crate) fn mounts(sandbox: &Sandbox, count: usize) -> Vec<PathBuf> {
    let directories = (0..count).map(|index| {
        let name = format!("t{index}");
        sandbox.run(["thread", "create", &name]).ok();
        sandbox.background(&name, &name);
        sandbox.path(name)
    });
    directories.collect()
}

/// The worker of every mount, all of which must be ready and answered for by `service`.
#[track_caller]
pub(crate) fn workers(list: &Value, service: u32) -> Vec<u32> {
    let mounts = list.as_array().unwrap().iter().map(|mount| {
        assert_eq!((&mount["state"], &mount["supervisor_pid"]), (&json!("ready"), &json!(service)), "{list}");
        number(&mount["worker_pid"])
    });
    mounts.collect()
}

/// Tells programs at work to end, also where the test fails.
pub(crate) struct Ending<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A program at work in `directory`: it panics at the first call that does not answer as it must.
fn work(directory: &Path, ended: &AtomicBool, done: &AtomicU64) {
    let mut options = OpenOptions::new();
    let kept = options.read(true).write(true).create(true).open(directory.join("kept")).unwrap();
    let mut round = 0_u64;
    while !ended.load(Ordering::Relaxed) {
        let pattern = vec![round.to_le_bytes()[0]; 70_000];
        kept.write_all_at(&pattern, round % 5 * 10_000).unwrap();
        let (first, second) = (directory.join(format!("a{round}")), directory.join(format!("b{round}")));
        File::create_new(&first).unwrap().write_all_at(&pattern, 0).unwrap();
        fs::rename(&first, &second).unwrap();
        assert!(fs::read(&second).unwrap() == pattern, "round {round}");
        fs::create_dir(&first).unwrap();
        fs::remove_file(&second).unwrap();
        fs::remove_dir(&first).unwrap();
        let mut back = vec![0; pattern.len()];
        kept.read_exact_at(&mut back, round % 5 * 10_000).unwrap();
        assert!(back == pattern, "round {round}");
        round += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until everybody who works has done more than was begun before.
pub(crate) fn all_go_on(done: &[AtomicU64]) {
    let seen: Vec<u64> = done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
    eventually("all go on", || {
        done.iter().zip(&seen).all(|(done, seen)| done.load(Ordering::Relaxed) > *seen + 1)
    });
}

pub(crate) fn start_work<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    directories: &'env [PathBuf],
    ended: &'env AtomicBool,
    done: &'env [AtomicU64],
) {
    for (directory, done) in directories.iter().zip(done) {
        scope.spawn(move || work(directory, ended, done));
    }
}

/// Kills the service, and waits until there is another one and it is known that all go on: how long that took.
fn kill_service(sandbox: &Sandbox) -> Duration {
    let killed = sandbox.service_pid();
    let begun = Instant::now();
    signal(killed, Signal::KILL);
    let list = sandbox.run(["list", "--json"]).ok();
    let took = begun.elapsed();
    assert_eq!(list.stderr, "");
    let service = sandbox.service_pid();
    assert_ne!(service, killed);
    workers(&list.document(), service);
    took
}

#[test]
fn nobody_notices_that_the_service_is_killed_again_and_again() {
    let sandbox = Sandbox::new();
    let directories = mounts(&sandbox, 3);
    let before = workers(&sandbox.json(["list"]), sandbox.service_pid());
    let ended = AtomicBool::new(false);
    let done: Vec<AtomicU64> = directories.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let _ending = Ending(&ended);
        start_work(scope, &directories, &ended, &done);
        for round in 0..ROUNDS {
            all_go_on(&done);
            eprintln!("round {round}: {:?}", kill_service(&sandbox));
            assert_eq!(workers(&sandbox.json(["list"]), sandbox.service_pid()), before, "round {round}");
        }
        all_go_on(&done);

        // The one that adopted them does for them what the first one did.
        signal(before[1], Signal::KILL);
        eventually("a successor", || {
            let list = sandbox.json(["list"]);
            list[1]["state"] == json!("ready") && list[1]["restarts"] == json!(1)
        });
        all_go_on(&done);
        kill_service(&sandbox);
        let list = sandbox.json(["list"]);
        let after = workers(&list, sandbox.service_pid());
        assert_eq!((after[0], after[2], &list[1]["restarts"]), (before[0], before[2], &json!(1)));
        assert_eq!(
            list[1]["last_crash"],
            json!("signal 9"),
            "of an adopted worker, and the next service knows it"
        );
        assert_ne!(after[1], before[1]);
        all_go_on(&done);
    });
    sandbox.run(["unmount", "t0"]).ok();
    assert_eq!(sandbox.mounts().len(), 2);
    sandbox.run(["service", "stop"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    eventually("no process is left", || sandbox.processes().is_empty());
    assert_eq!(sandbox.json(["list"]), json!([]), "nothing is wanted any more");
    sandbox.background("t1", "t1");
    assert!(sandbox.path("t1/kept").exists());
}

#[test]
fn eight_workers_bring_back_one_service() {
    let sandbox = Sandbox::new();
    mounts(&sandbox, 8);
    let before = workers(&sandbox.json(["list"]), sandbox.service_pid());
    signal(sandbox.service_pid(), Signal::KILL);
    // Nobody asks for anything meanwhile.
    eventually("another service", || sandbox.processes().len() == 9);
    let service = sandbox.service_pid();
    assert_eq!(workers(&sandbox.json(["list"]), service), before);
    eventually("those who started it have ended", || sandbox.processes().len() == 9);
    let log = fs::read_to_string(sandbox.instance().join("service.log")).unwrap();
    assert_eq!(log.matches("adopted worker").count(), 8, "{log}");
}

#[test]
fn a_worker_that_lives_brings_back_the_mounts_of_those_that_died() {
    let sandbox = Sandbox::new();
    mounts(&sandbox, 2);
    let service = sandbox.service_pid();
    let before = workers(&sandbox.json(["list"]), service);
    fs::write(sandbox.path("t0/acknowledged"), "1").unwrap();
    signal(service, Signal::STOP);
    signal(before[0], Signal::KILL);
    signal(service, Signal::KILL);
    eventually("both are there", || {
        let list = sandbox.json(["list"]);
        let states: Vec<&Value> = list.as_array().unwrap().iter().map(|mount| &mount["state"]).collect();
        states == [&json!("ready"); 2]
    });
    let after = workers(&sandbox.json(["list"]), sandbox.service_pid());
    assert_eq!(after[1], before[1]);
    assert_ne!(after[0], before[0]);
    assert_eq!(fs::read_to_string(sandbox.path("t0/acknowledged")).unwrap(), "1");
}

#[test]
fn what_is_unmounted_while_the_service_dies_stays_unmounted() {
    let sandbox = Sandbox::new();
    mounts(&sandbox, 2);
    let service = sandbox.service_pid();
    let before = workers(&sandbox.json(["list"]), service);
    signal(service, Signal::STOP);
    let mut unmount = Stray::start(sandbox.command().args(["unmount", "t0"]));
    // Until it waits for the service.
    thread::sleep(Duration::from_secs(2));
    signal(unmount.pid(), Signal::STOP);
    signal(before[0], Signal::KILL);
    signal(service, Signal::KILL);
    eventually("another service has made it again", || {
        let list = sandbox.json(["list"]);
        list[0]["state"] == json!("ready") && list[0]["worker_pid"] != json!(before[0])
    });
    signal(unmount.pid(), Signal::CONT);
    assert!(wait(&mut unmount.0, Duration::from_secs(30)).unwrap().success());
    let list = sandbox.json(["list"]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(workers(&list, sandbox.service_pid()), before[1..]);
    assert_eq!(sandbox.mounts().len(), 1);
    sandbox.background("t0", "t0");
}

#[test]
fn an_ordinary_users_service_is_brought_back_too() {
    let sandbox = Sandbox::unprivileged();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    kill_service(&sandbox);
    assert_eq!(sandbox.json(["list"])[0]["worker_pid"], json!(worker));
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn an_adopted_mount_that_another_program_unmounts_is_not_lost() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    kill_service(&sandbox);
    finish(sandbox.program("umount").arg(sandbox.path("m"))).ok();
    eventually("it is gone", || sandbox.json(["list"]) == json!([]) && !runs(worker));
    assert!(sandbox.records().is_empty() && !sandbox.path("m").exists());
}

#[test]
fn stopping_ends_workers_that_are_just_looking_for_another_service() {
    let sandbox = Sandbox::new();
    for _ in 0..3 {
        sandbox.background("main", "m");
        signal(sandbox.service_pid(), Signal::KILL);
        sandbox.run(["service", "stop"]).ok();
        eventually("no process is left", || sandbox.processes().is_empty());
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
        thread::sleep(Duration::from_millis(300));
        assert!(sandbox.processes().is_empty(), "nobody brings it back");
        assert_eq!(sandbox.json(["list"]), json!([]));
    }
}

#[test]
fn a_command_that_is_run_goes_on_when_the_service_dies() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    let script = "for n in 1 2 3 4 5 6 7 8; do echo $n >> new; sleep 1; done; cat new";
    command.args(["run", "main", "--", "sh", "-ec", script]).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    eventually("it runs", || sandbox.mounts().len() == 1 && sandbox.json(["list"])[0]["state"] == "ready");
    thread::sleep(Duration::from_millis(500));
    let took = kill_service(&sandbox);
    eprintln!("{took:?}");
    assert!(wait(&mut child, Duration::from_mins(1)).expect("an end").success());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "1\n2\n3\n4\n5\n6\n7\n8\n");
    eventually("the mount goes with it", || {
        sandbox.mounts().is_empty() && sandbox.records().is_empty() && sandbox.json(["list"]) == json!([])
    });
}

#[test]
fn a_worker_that_finds_no_service_unmounts_after_a_while() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    // Whoever has this lock is about to start one, which never comes.
    let lock = File::open(sandbox.instance().join("start.lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let begun = Instant::now();
    signal(sandbox.service_pid(), Signal::KILL);
    let list = sandbox.json(["list"]);
    assert_eq!((&list[0]["state"], &list[0]["supervisor_pid"]), (&json!("stuck"), &Value::Null), "{list}");
    thread::sleep(Duration::from_secs(15));
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
    eventually("it gives up", || !runs(worker));
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
    assert!(sandbox.mounts().is_empty());
    drop(lock);
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("lost"));
    sandbox.run(["mount", "--restore"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn a_worker_that_hangs_is_not_waited_for_for_ever() {
    // Orphans come to this process, so that the kernel does not wake up those that are stopped.
    rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
    let sandbox = Sandbox::new();
    mounts(&sandbox, 2);
    let before = workers(&sandbox.json(["list"]), sandbox.service_pid());
    signal(before[0], Signal::STOP);
    signal(sandbox.service_pid(), Signal::KILL);
    eventually("both are there", || {
        let list = sandbox.json(["list"]);
        (&list[0]["state"], &list[1]["state"]) == (&json!("ready"), &json!("ready"))
    });
    let after = workers(&sandbox.json(["list"]), sandbox.service_pid());
    assert_eq!(after[1], before[1]);
    assert!(after[0] != before[0] && !runs(before[0]));
}
