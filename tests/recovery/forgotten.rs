//! Files without a name, of which the kernel said that it had forgotten them when nobody was left to hear it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use selvedge_supervisor::State;
use selvedge_test_support::wait_until;

use crate::application::{Application, Talk};
use crate::scene::{SOON, mounting, repo};

#[test]
fn what_the_kernel_forgot_as_the_worker_died_gives_its_room_back_and_what_somebody_has_stays() {
    let repo = repo();
    let mount = mounting(&repo).env("SELVEDGE_FUSE_WORKER_CRASH_AT", "kill@fuse.forget.enter").start();
    let mut application = Application::start("forgotten", mount.path(), 0);
    application.wait_started();
    wait_until("a successor", SOON, || mount.restarts() == 1 && mount.state() == State::Ready);
    wait_until("one file less", SOON, || repo.working_files().len() == 1);
    application.end();
    wait_until("no file", SOON, || repo.working_files().is_empty());
    assert_eq!(mount.restarts(), 1);
    mount.stop();
}

pub(crate) fn files_without_a_name(talk: &Talk) {
    let make = |name: &str| {
        let path = talk.dir.join(name);
        let mut file = File::create_new(&path).unwrap();
        file.write_all(b"bytes").unwrap();
        (path, file)
    };
    let (path, file) = make("kept");
    // Held by nothing that the worker is told of.
    let kept = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
    drop(file);
    fs::remove_file(&path).unwrap();
    let (path, file) = make("gone");
    fs::remove_file(&path).unwrap();
    // The last that the kernel says of it is the last that the worker hears.
    drop(file);
    assert_eq!(kept.metadata().unwrap().len(), 5);
    talk.started();
    talk.wait_for_end();
    assert_eq!(fs::read(format!("/proc/self/fd/{}", kept.as_raw_fd())).unwrap(), b"bytes");
}
