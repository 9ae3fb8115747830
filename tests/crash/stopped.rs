//! A worker that is asked to stop: in order, and while it hangs.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::{CallError, ExitStatus, Step, StopMode};
use selvedge_test_support::{assert_gone, assert_no_mount};

use crate::scene::Scene;

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
