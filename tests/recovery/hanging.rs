//! A worker that hangs is replaced like one that died.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_test_support::wait_until;

use crate::application::Application;
use crate::scene::{SOON, mounting, repo};

const LIMIT: Duration = Duration::from_secs(1);

/// A worker stays in a request, in a way that the prefix of a crash point names.
fn is_carried_out_by_a_successor(stays: &str) {
    let repo = repo();
    let mount = mounting(&repo)
        .env("SELVEDGE_FUSE_WORKER_CRASH_AT", &format!("{stays}@fuse.mkdir.reply"))
        .hang_limit(LIMIT)
        .start();
    Application::start("innocent", mount.path(), 0).serve(&mount);
    assert_eq!(mount.restarts(), 1);
    let cause = mount.last_cause().unwrap();
    assert!(cause.contains("a request hung"), "{cause}");
    mount.stop();
}

#[test]
fn a_request_that_hangs_is_carried_out_by_a_successor() {
    is_carried_out_by_a_successor("hang");
}

#[test]
fn a_request_that_spins_is_carried_out_by_a_successor() {
    is_carried_out_by_a_successor("spin");
}

#[test]
fn a_worker_that_is_stopped_is_replaced() {
    let repo = repo();
    let mount = mounting(&repo).hang_limit(LIMIT).start();
    let pid = Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    Application::start("innocent", mount.path(), 0).serve(&mount);
    // It goes on for as long as it takes to say what its threads were at, and may answer meanwhile.
    wait_until("a successor", SOON, || mount.restarts() == 1);
    let cause = mount.last_cause().unwrap();
    assert!(cause.contains("answered nothing"), "{cause}");
    mount.stop();
}

#[test]
fn a_worker_with_nothing_to_do_does_not_hang() {
    let repo = repo();
    let mount = mounting(&repo).hang_limit(LIMIT / 4).start();
    std::thread::sleep(4 * LIMIT);
    assert_eq!(mount.restarts(), 0);
    wait_until("an orderly end", SOON, || {
        mount.supervisor().stop(selvedge_supervisor::StopMode::Orderly).is_ok()
    });
}
