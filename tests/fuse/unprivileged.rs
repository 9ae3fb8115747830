//! Without root: through the set-user-id helper `fusermount3`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use selvedge_supervisor::{SpawnError, StopError, StopMode};
use selvedge_worker_proto::ErrorKind;

use crate::WORKER;
use selvedge_test_support::{Mounting, Repo, assert_no_mount, copy_program, mount_of};

pub(crate) const NOBODY: u32 = 65534;

pub(crate) const AS_NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Lets every user open the device, as udev does wherever it runs. Where it does not (containers), the device is
/// root's alone and no user could mount anything; so this set-up stands in for udev.
fn open_the_device() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if fs::metadata("/dev/fuse").unwrap().mode() & 0o666 != 0o666 {
            eprintln!("set-up: chmod 0666 /dev/fuse, as udev does");
            fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap();
        }
    });
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// A repository that nobody (as a user) owns, and a worker that nobody may execute.
pub(crate) fn nobodys(fill: impl FnOnce(&Path)) -> (Repo, String) {
    open_the_device();
    let repo = Repo::with_tree(|source| {
        fill(source);
        give(source);
    });
    let worker = repo.dir().join("selvedge-fuse-worker");
    copy_program(WORKER, &worker);
    give(repo.dir());
    (repo, worker.to_str().unwrap().to_owned())
}

pub(crate) fn as_nobody(mounting: Mounting) -> Mounting {
    mounting.through("setpriv", &AS_NOBODY)
}

/// Runs `script` with `$1` set to `path`, as nobody, and tells whether it succeeded.
pub(crate) fn script(script: &str, path: &Path) -> bool {
    let shell = ["sh", "-c", script, "sh"];
    Command::new("setpriv").args(AS_NOBODY).args(shell).arg(path).status().unwrap().success()
}

#[test]
fn a_user_mounts_works_and_unmounts() {
    let (repo, worker) = nobodys(|source| fs::write(source.join("base"), b"base").unwrap());
    let mount = as_nobody(repo.mounting(&worker)).start();
    let entry = mount_of(mount.path()).unwrap();
    assert_eq!(entry.user_id(), Some(NOBODY));
    assert!(entry.has_option("nosuid") && entry.has_option("nodev"), "{entry:?}");
    assert!(script(
        "cd \"$1\" && echo changed >base && mkdir dir && mv base dir/ && cat dir/base",
        mount.path()
    ));
    // Without allow-other nobody else gets in, not even root.
    assert_eq!(crate::errno(fs::read_dir(mount.path())), libc::EACCES);
    mount.stop();
    assert_no_mount(&repo.mountpoint());
    let mount = as_nobody(repo.mounting(&worker)).start();
    assert!(script("test \"$(cat \"$1/dir/base\")\" = changed", mount.path()));
    mount.stop();
}

#[test]
fn a_users_busy_mount_stays_until_it_is_forced() {
    let (repo, worker) = nobodys(|_| ());
    let mount = as_nobody(repo.mounting(&worker)).start();
    let mut holder = Command::new("setpriv")
        .args(AS_NOBODY)
        .args(["sh", "-c", "cd \"$1\" && exec sleep 60", "sh"])
        .arg(mount.path())
        .spawn()
        .unwrap();
    let working_directory = format!("/proc/{}/cwd", holder.id());
    selvedge_test_support::wait_until("a holder", std::time::Duration::from_secs(10), || {
        fs::read_link(&working_directory).is_ok_and(|path| path == mount.path())
    });
    assert!(matches!(mount.supervisor().stop(StopMode::Orderly), Err(StopError::Busy(_))));
    assert!(script("touch \"$1/still-there\"", mount.path()));
    mount.supervisor().stop(StopMode::Force).unwrap();
    assert_no_mount(&repo.mountpoint());
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_user_unmounts_with_fusermount3_and_that_is_a_clean_end() {
    let (repo, worker) = nobodys(|_| ());
    let mount = as_nobody(repo.mounting(&worker)).start();
    assert!(script("fusermount3 -u \"$1\"", mount.path()));
    let exit = mount.wait(Some(std::time::Instant::now() + std::time::Duration::from_secs(10))).unwrap();
    assert!(exit.is_clean(), "{exit:?}");
}

#[test]
fn a_missing_helper_is_named() {
    let (repo, worker) = nobodys(|_| ());
    let empty = repo.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let mounting = repo.mounting(&worker).through("/usr/bin/setpriv", &AS_NOBODY);
    match mounting.env("PATH", empty.to_str().unwrap()).try_start() {
        Err(SpawnError::Mount { failure, .. }) => {
            assert!(failure.message.contains("fusermount3"), "{failure:?}");
            assert_eq!(failure.kind, ErrorKind::Failed);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_that_is_not_the_users_is_refused() {
    let (repo, worker) = nobodys(|_| ());
    chown(repo.mountpoint(), Some(0), Some(0)).unwrap();
    fs::set_permissions(repo.mountpoint(), Permissions::from_mode(0o755)).unwrap();
    match as_nobody(repo.mounting(&worker)).try_start() {
        Err(SpawnError::Mount { failure, .. }) => {
            assert!(failure.message.contains("fusermount3"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_no_mount(&repo.mountpoint());
}

#[test]
fn the_helper_may_have_its_older_name() {
    let (repo, worker) = nobodys(|_| ());
    let bin = repo.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    let helper = Command::new("sh").args(["-c", "command -v fusermount3"]).output().unwrap();
    let helper = String::from_utf8(helper.stdout).unwrap();
    std::os::unix::fs::symlink(helper.trim(), bin.join("fusermount")).unwrap();
    let only = format!("PATH={}", bin.to_str().unwrap());
    let renamed = repo.mounting(&worker).through("/usr/bin/env", &[&only]);
    let mount = as_nobody(renamed).start();
    assert!(script("echo x >\"$1/file\"", mount.path()));
    mount.stop();
    assert_no_mount(&repo.mountpoint());
}
