//! How a mount that recovers ends: by a stop at any moment, by somebody's unmount, by a budget that is spent.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::{UnmountMode, unmount};
use selvedge_supervisor::{SpawnError, State, StopError, StopMode};
use selvedge_test_support::{assert_gone, assert_no_mount, wait_until};
use selvedge_worker_proto::ErrorKind;

use crate::WORKER;
use crate::application::{Application, Talk};
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
fn nobody_else_gets_the_thread_while_it_is_recovered() {
    let repo = repo();
    let mount = mounting(&repo).env(HOPELESS.0, HOPELESS.1).restart_budget(1000).start();
    kill(&mount, Signal::KILL);
    wait_until("recovery", SOON, || mount.state() == State::Recovering);
    let other = repo.dir().join("other");
    std::fs::create_dir(&other).unwrap();
    for _ in 0..5 {
        let refused = repo.mounting(WORKER).at(&other).try_start();
        let Err(SpawnError::Mount { failure, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(failure.kind, ErrorKind::Conflict, "{failure:?}");
    }
    assert_eq!(mount.state(), State::Recovering);
    mount.supervisor().stop(StopMode::Force).unwrap();
    drop(mount);
    repo.mounting(WORKER).at(&other).start().stop();
}

#[test]
fn a_read_only_mount_recovers_read_only() {
    let repo = repo();
    let mount = mounting(&repo).option("--read-only").start();
    Application::start("reader", mount.path(), 0).serve(&mount);
    assert_eq!(mount.restarts(), 2);
    mount.stop();
}

pub(crate) fn read_only(talk: &Talk) {
    use std::os::unix::fs::FileExt as _;
    let large = std::fs::File::open(talk.dir.join("large")).unwrap();
    let expected = std::fs::read(talk.dir.join("large")).unwrap();
    for round in 1..=2_u64 {
        talk.replace_worker();
        let mut piece = vec![0; 1 << 20];
        large.read_exact_at(&mut piece, round * 1000).unwrap();
        let start = usize::try_from(round * 1000).unwrap();
        assert!(piece[..] == expected[start..start + (1 << 20)]);
        assert_eq!(std::fs::read_dir(talk.dir.join("many")).unwrap().count(), 500);
        let refused = std::fs::write(talk.dir.join("new"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    }
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
    // One that dies before it has served anything or lived for a second is not followed where the mount is to end.
    std::thread::sleep(Duration::from_millis(1200));
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
