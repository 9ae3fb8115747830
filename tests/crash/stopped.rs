//! A worker that is asked to stop: in order, and while it hangs.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::{CallError, ExitStatus, Step, StopError, StopMode};
use selvedge_test_support::{assert_gone, assert_no_mount, wait_until};

use crate::scene::Scene;
use crate::writer::Writers;

#[test]
fn an_orderly_stop_keeps_everything_acknowledged() {
    let mut scene = Scene::new(4);
    let mount = scene.mounting().start();
    let writers = scene.writers(mount.path(), 4);
    writers.wait_for(1000);
    let known = writers.stop();
    mount.stop();
    scene.assert_kept(&known);
}

/// A program that hangs in a request about `directory` that is never answered.
pub(crate) fn hang(directory: &std::path::Path) -> Child {
    let child = Command::new("mkdir").arg(directory.join("never")).stderr(Stdio::null()).spawn().unwrap();
    let place = format!("/proc/{}/wchan", child.id());
    wait_until("a program that hangs", Duration::from_secs(10), || {
        std::fs::read_to_string(&place).is_ok_and(|place| place.contains("request_wait_answer"))
    });
    child
}

/// Lets one request hang.
pub(crate) const HANG: (&str, &str) = ("SELVEDGE_FUSE_WORKER_CRASH_AT", "hang@fuse.mkdir.enter");

#[test]
fn a_request_that_hangs_shows_its_age_and_is_freed_by_force() {
    let mut scene = Scene::new(2);
    let mount = scene.mounting().env(HANG.0, HANG.1).grace(Duration::from_secs(3)).start();
    let path = mount.path().to_owned();
    let mut hanging = hang(&path.join("w1"));
    // The worker takes the request up a little after its caller has begun to wait.
    std::thread::sleep(Duration::from_millis(200));
    let age = mount.status(Duration::from_secs(1)).unwrap().oldest_request_ms;
    assert!(age.is_some_and(|age| age >= 50), "{age:?}");
    // Nobody else is kept waiting, outside that directory.
    let writers = Writers::start(&path, scene.known[..1].to_vec(), 6);
    writers.wait_for(100);
    let mut known = writers.stop();
    known.push(scene.known[1].clone());
    assert!(matches!(mount.supervisor().stop(StopMode::Orderly), Err(StopError::Busy(_))));
    let report = mount.supervisor().stop(StopMode::Force).unwrap();
    assert_eq!(report.exit.mount_stuck, None);
    assert!(!hanging.wait().unwrap().success());
    assert_gone(report.exit.pid);
    assert_no_mount(&path);
    drop(mount);
    scene.assert_kept(&known);
}

#[test]
fn a_stop_ends_a_stopped_worker_by_escalation() {
    let mut scene = Scene::new(4);
    let mount = scene.mounting().grace(Duration::from_millis(300)).start();
    let path = mount.path().to_owned();
    let writers = scene.writers(mount.path(), 3);
    writers.wait_for(200);
    let pid = Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let start = Instant::now();
    assert!(matches!(mount.status(Duration::from_millis(200)), Err(CallError::TimedOut { .. })));
    let report = mount.supervisor().stop(StopMode::Orderly).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(report.step, Step::Kill);
    assert_eq!(report.exit.status, ExitStatus::Signaled { signal: libc::SIGKILL, core: false });
    assert_eq!(report.exit.mount_stuck, None);
    assert_gone(report.exit.pid);
    assert_no_mount(&path);
    let known = writers.ended();
    drop(mount);
    scene.assert_kept(&known);
}
