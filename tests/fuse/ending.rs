//! How a mount ends.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::{ExitStatus, State, StopError, StopMode};

use crate::{WORKER, mounted};
use selvedge_test_support::{Mounted, Repo, assert_gone, assert_no_mount, wait_until};

const SOON: Duration = Duration::from_secs(10);

fn exit_of(mount: &Mounted) -> selvedge_supervisor::ExitReport {
    mount.wait(Some(std::time::Instant::now() + SOON)).expect("the worker ends")
}

#[test]
fn a_stop_is_an_orderly_end() {
    let (repo, mount) = mounted();
    let (pid, path) = (mount.pid(), mount.path().to_owned());
    fs::write(path.join("file"), b"x").unwrap();
    let report = mount.stop();
    assert_eq!(report.exit.status, ExitStatus::Exited(0));
    assert_gone(pid);
    assert_no_mount(&path);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    // The thread is free at once.
    repo.mounting(WORKER).start().stop();
}

#[test]
fn unmounted_by_another_program_is_a_clean_end() {
    for program in [&["umount"][..], &["fusermount3", "-u"]] {
        let (repo, mount) = mounted();
        fs::write(mount.path().join("file"), b"kept").unwrap();
        // A child that another test is just starting has this process's descriptors until it executes, and may so
        // keep the mount busy for a moment.
        wait_until(program[0], SOON, || {
            Command::new(program[0]).args(&program[1..]).arg(mount.path()).status().unwrap().success()
        });
        let exit = exit_of(&mount);
        assert!(exit.is_clean(), "{exit:?}");
        assert_gone(exit.pid);
        drop(mount);
        let mount = repo.mounting(WORKER).start();
        assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"kept");
        mount.stop();
    }
}

#[test]
fn a_busy_mount_stays_and_its_holders_are_named() {
    let (_repo, mount) = mounted();
    let mut holder = Command::new("sleep").arg("60").current_dir(mount.path()).spawn().unwrap();
    let Err(StopError::Busy(refused)) = mount.supervisor().stop(StopMode::Orderly) else {
        panic!("the mount was not busy");
    };
    assert!(refused.holders.iter().any(|one| one.pid == holder.id() && one.name == "sleep"), "{refused:?}");
    fs::write(mount.path().join("still"), b"there").unwrap();
    assert_eq!(mount.state(), State::Ready);
    holder.kill().unwrap();
    holder.wait().unwrap();
    mount.stop();
}

#[test]
fn force_ends_a_busy_mount_and_frees_its_users() {
    let (repo, mount) = mounted();
    let path = mount.path().to_owned();
    let file = File::create_new(path.join("file")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"acknowledged", 0).unwrap();
    let report = mount.supervisor().stop(StopMode::Force).unwrap();
    assert_eq!(report.exit.status, ExitStatus::Exited(0), "{report:?}");
    assert_no_mount(&path);
    let mut byte = [0];
    let after = std::os::unix::fs::FileExt::read_at(&file, &mut byte, 0);
    // What the page cache holds may still be read; nothing may hang.
    assert!(after.is_ok() || [libc::ENOTCONN, libc::ECONNABORTED].contains(&crate::errno(after)));
    drop((file, mount));
    let mount = repo.mounting(WORKER).start();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"acknowledged");
    mount.stop();
}

#[test]
fn sigterm_is_a_request_to_unmount() {
    let (_repo, mount) = mounted();
    let pid = Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    let file = File::create_new(mount.path().join("file")).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    // Busy: it stays.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(mount.state(), State::Ready);
    drop(file);
    kill_process(pid, Signal::TERM).unwrap();
    let exit = exit_of(&mount);
    assert!(exit.is_clean(), "{exit:?}");
    assert_no_mount(mount.path());
}

/// A process with a mount namespace of its own, and a copy of every mount in it.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(mount: &Path) -> Self {
        // The namespace has copies of the other tests' mounts too, which would keep them alive as well.
        let script = "while read -r id parent device root at rest; do \
                          case $at:$rest in \
                              \"$1\":*) ;; \
                              *' - fuse.selvedge '*) umount -l \"$at\" ;; \
                          esac; \
                      done </proc/self/mountinfo; exec sleep 60";
        let unshared = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
        let child = Command::new("unshare").args(unshared).arg(mount).spawn().unwrap();
        let table = format!("/proc/{}/mountinfo", child.id());
        let namespace = format!("/proc/{}/ns/mnt", child.id());
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        wait_until("a mount namespace with a copy", SOON, || {
            fs::read_link(&namespace).is_ok_and(|other| other != own)
                && fs::read_to_string(&table).is_ok_and(|table| table.contains(mount.to_str().unwrap()))
                && fs::read_to_string(format!("/proc/{}/comm", child.id()))
                    .is_ok_and(|name| name == "sleep\n")
        });
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_mount_kept_alive_elsewhere_is_detached_until_it_is_let_go() {
    let (repo, mount) = mounted();
    let elsewhere = Elsewhere::start(mount.path());
    let Err(StopError::Busy(refused)) = mount.supervisor().stop(StopMode::Orderly) else {
        panic!("the mount was not kept alive");
    };
    assert!(refused.message.contains("detached"), "{refused:?}");
    assert!(refused.holders.iter().any(|holder| holder.pid == elsewhere.0.id()), "{refused:?}");
    assert_no_mount(mount.path());
    // Nobody else gets the thread meanwhile.
    let second = repo.mounting(WORKER).try_start().expect_err("a second mount").to_string();
    assert!(second.contains("already mounted"), "{second}");
    drop(elsewhere);
    let exit = exit_of(&mount);
    assert!(exit.is_clean(), "{exit:?}");
}

#[test]
fn force_ends_a_mount_that_is_kept_alive_elsewhere() {
    let (repo, mount) = mounted();
    let elsewhere = Elsewhere::start(mount.path());
    let report = mount.supervisor().stop(StopMode::Force).unwrap();
    assert_eq!(report.exit.status, ExitStatus::Exited(0), "{report:?}");
    drop(mount);
    repo.mounting(WORKER).start().stop();
    drop(elsewhere);
}

#[test]
fn the_status_says_what_was_done() {
    let (_repo, mount) = mounted();
    let before = mount.status(SOON).unwrap();
    assert_eq!((before.pid, before.mount_path.as_path()), (mount.pid(), mount.path()));
    for number in 0..10 {
        fs::write(mount.path().join(number.to_string()), b"x").unwrap();
    }
    let after = mount.status(SOON).unwrap();
    assert!(after.requests >= before.requests + 30, "{after:?}");
    // Files are released after close(2) has returned.
    wait_until("an idle worker", SOON, || mount.status(SOON).unwrap().oldest_request_ms.is_none());
    mount.stop();
}

#[test]
fn an_export_writes_the_tree_as_it_is_now() {
    let repo = Repo::with_tree(|source| fs::write(source.join("base"), b"base").unwrap());
    let mount = repo.mounting(WORKER).start();
    fs::write(mount.path().join("new"), b"new").unwrap();
    fs::remove_file(mount.path().join("base")).unwrap();
    let dest = repo.dir().join("dest");
    fs::create_dir(&dest).unwrap();
    let report =
        mount.export(File::open(&dest).unwrap().into(), false, SOON, &mut |_| ()).expect("an export");
    assert_eq!(report.bytes, 3);
    assert_eq!(fs::read(dest.join("new")).unwrap(), b"new");
    assert!(!dest.join("base").exists());
    // A second time it is in the way of itself; and into itself it does not go.
    mount.export(File::open(&dest).unwrap().into(), false, SOON, &mut |_| ()).expect_err("not empty");
    let inside = mount.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let refused = mount.export(File::open(&inside).unwrap().into(), false, SOON, &mut |_| ());
    let refused = refused.expect_err("a refusal").to_string();
    assert!(refused.contains("mount of the thread"), "{refused}");
    mount.stop();
}
