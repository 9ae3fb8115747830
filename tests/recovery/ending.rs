//! How a mount that recovers ends: by a stop at any moment, by somebody's unmount, by a budget that is spent.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{UnmountMode, unmount};
use selvedge_supervisor::{State, StopError, StopMode};
use selvedge_test_support::{assert_gone, assert_no_mount, wait_until};

use crate::application::Application;
use crate::scene::{SOON, kill, kill_and_replace, mounting, repo};

/// Lets every successor die before it serves.
const HOPELESS: (&str, &str) = ("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", "resume.opened");

#[test]
fn a_budget_that_is_spent_frees_every_caller_and_says_why() {
    let repo = repo();
    let mount = mounting(&repo).env(HOPELESS.0, HOPELESS.1).restart_budget(3).start();
    let path = mount.path().to_owned();
    let mut sleeper = Application::start("sleeper", &path, 0);
    sleeper.wait_started();
    kill(&mount, Signal::KILL);
    // Somebody asks while nobody serves.
    let mut caller = Command::new("ls").arg("-lR").arg(&path).output().map(|output| output.status);
    let exit = mount.wait(Some(Instant::now() + SOON)).expect("the mount is given up");
    assert!(!caller.as_mut().unwrap().success());
    let why = exit.gave_up.clone().expect("a reason");
    assert!(why.starts_with("3 in a row") && why.contains("signal 6"), "{why}");
    assert_eq!((exit.restarts, exit.mount_stuck.as_deref()), (3, None));
    assert_eq!(mount.state(), State::Exited(exit.clone()));
    assert_gone(exit.pid);
    assert_no_mount(&path);
    sleeper.end();
    // The thread is free, and everything is there.
    drop(mount);
    mounting(&repo).start().stop();
}

#[test]
fn a_forced_stop_waits_for_no_successor() {
    let repo = repo();
    let mount = mounting(&repo).env(HOPELESS.0, HOPELESS.1).restart_budget(1000).start();
    let path = mount.path().to_owned();
    kill(&mount, Signal::KILL);
    wait_until("recovery", SOON, || mount.state() == State::Recovering);
    let report = mount.supervisor().stop(StopMode::Force).unwrap();
    assert_eq!(report.exit.mount_stuck, None);
    assert_eq!(report.exit.gave_up, None);
    assert_no_mount(&path);
    drop(mount);
    mounting(&repo).start().stop();
}

#[test]
fn an_orderly_stop_asks_the_successor() {
    let repo = repo();
    let mount = mounting(&repo).start();
    let path = mount.path().to_owned();
    let mut sleeper = Application::start("sleeper", &path, 0);
    sleeper.wait_started();
    kill(&mount, Signal::KILL);
    let refused = mount.supervisor().stop(StopMode::Orderly);
    assert!(matches!(refused, Err(StopError::Busy(_))), "{refused:?}");
    assert_eq!((mount.state(), mount.restarts()), (State::Ready, 1));
    sleeper.end();
    kill(&mount, Signal::KILL);
    let deadline = Instant::now() + SOON;
    let report = loop {
        match mount.supervisor().stop(StopMode::Orderly) {
            Err(StopError::Busy(_)) if Instant::now() < deadline => {}
            other => break other.unwrap(),
        }
    };
    assert!(report.exit.is_clean(), "{report:?}");
    assert_no_mount(&path);
}

#[test]
fn an_unmount_while_nobody_serves_is_a_clean_end() {
    let repo = repo();
    let mount = mounting(&repo).start();
    kill_and_replace(&mount);
    // Stopped, so that it does not notice the end before it dies.
    kill_without_death(&mount);
    unmount(mount.identity(), UnmountMode::Plain, Instant::now() + SOON).unwrap();
    kill(&mount, Signal::KILL);
    let exit = mount.wait(Some(Instant::now() + SOON)).expect("the mount has ended");
    assert!(exit.is_clean() && exit.gave_up.is_none(), "{exit:?}");
    drop(mount);
    mounting(&repo).start().stop();
}

fn kill_without_death(mount: &selvedge_test_support::Mounted) {
    let pid = rustix::process::Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let stat = format!("/proc/{}/stat", mount.pid());
    wait_until("a stopped worker", SOON, || std::fs::read_to_string(&stat).unwrap().contains(") T"));
}

#[test]
fn a_sigterm_is_a_request_to_unmount_and_no_death() {
    let repo = repo();
    let mount = mounting(&repo).start();
    let pid = rustix::process::Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    let deadline = Instant::now() + SOON;
    // Refused while another test's child, just starting, has a copy of the mount.
    while mount.is_alive() && Instant::now() < deadline {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        mount.wait(Some(Instant::now() + Duration::from_millis(500)));
    }
    let exit = mount.wait(Some(Instant::now() + SOON)).expect("the mount has ended");
    assert!(exit.is_clean() && exit.restarts == 0, "{exit:?}");
}
