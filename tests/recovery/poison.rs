//! A request that two workers died of is answered with EIO, and everybody else goes on.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use rustix::process::Signal;
use selvedge_supervisor::State;
use selvedge_test_support::wait_until;

use crate::application::{Application, Talk};
use crate::scene::{SOON, kill, mounting, repo};

/// Has the first worker and its successor die, or hang, over the first directory that is made.
fn deadly(by: &str) -> [(&'static str, String); 2] {
    let point = format!("{by}fuse.mkdir.enter");
    [
        ("SELVEDGE_FUSE_WORKER_CRASH_AT", point.clone()),
        ("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", format!("1*{point}")),
    ]
}

#[test]
fn a_request_that_two_workers_died_of_is_refused_and_everybody_else_goes_on() {
    for by in ["", "panic@"] {
        let repo = repo();
        let [first, second] = deadly(by);
        let mount = mounting(&repo).env(first.0, &first.1).env(second.0, &second.1).start();
        Application::start("poisoned", mount.path(), 0).serve(&mount);
        assert_eq!((mount.restarts(), mount.last_cause().as_deref()), (2, Some("signal 6")));
        mount.stop();
    }
}

pub(crate) fn poisoned(talk: &Talk) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..200 {
                symlink("x", talk.dir.join(format!("link{number}"))).unwrap();
            }
        });
        // Beneath another directory: the kernel lets one caller at a time change a directory.
        let error = fs::create_dir(talk.dir.join("w0/poisoned")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    });
    assert!(!talk.dir.join("w0/poisoned").exists());
    fs::create_dir(talk.dir.join("w0/poisoned")).unwrap();
    assert_eq!(fs::read_dir(talk.dir.join("w0")).unwrap().count(), 4);
}

#[test]
fn a_request_is_not_to_blame_for_a_signal_from_outside() {
    for signal in [Signal::KILL, Signal::ABORT, Signal::SEGV] {
        let repo = repo();
        let [first, second] = deadly("hang@");
        let mount = mounting(&repo).env(first.0, &first.1).env(second.0, &second.1).start();
        let application = Application::start("innocent", mount.path(), 0);
        for restarts in 0..2 {
            wait_until("a request that hangs", SOON, || {
                mount.restarts() == restarts && mount.state() == State::Ready && {
                    let status = mount.status(Duration::from_secs(5));
                    status.is_ok_and(|status| status.oldest_request_ms.is_some_and(|age| age > 100))
                }
            });
            kill(&mount, signal);
        }
        application.serve(&mount);
        assert_eq!(mount.restarts(), 2);
        mount.stop();
    }
}

pub(crate) fn innocent(talk: &Talk) {
    fs::create_dir(talk.dir.join("w0/innocent")).unwrap();
}
