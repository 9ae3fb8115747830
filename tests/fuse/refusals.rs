//! What is refused before there is a mount: one clear sentence each, and nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;

use selvedge_supervisor::SpawnError;
use selvedge_worker_proto::ErrorKind;

use crate::WORKER;
use selvedge_test_support::{Mounting, Repo, assert_no_mount, copy_program};

/// Fails unless `mounting` is refused with this kind and a message of one line that contains `needle`.
#[track_caller]
fn assert_refused(mounting: Mounting, kind: ErrorKind, needle: &str) {
    match mounting.try_start() {
        Ok(_) => panic!("mounted"),
        Err(SpawnError::Mount { failure, .. }) => {
            assert!(failure.message.contains(needle), "{failure:?}");
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(!failure.message.contains('\n'), "{failure:?}");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_unknown_thread_is_named() {
    let repo = Repo::empty();
    assert_refused(repo.mounting(WORKER).thread("nobody"), ErrorKind::NotFound, "nobody");
    assert_refused(repo.mounting(WORKER).thread("-x/y"), ErrorKind::Usage, "thread name");
    assert_no_mount(&repo.mountpoint());
}

#[test]
fn a_mountpoint_must_be_an_empty_directory() {
    let repo = Repo::empty();
    let at = |name: &str| repo.mounting(WORKER).at(&repo.dir().join(name));
    assert_refused(at("missing"), ErrorKind::NotFound, "does not exist");
    fs::write(repo.dir().join("file"), b"").unwrap();
    assert_refused(at("file"), ErrorKind::Conflict, "not a directory");
    symlink("mnt", repo.dir().join("link")).unwrap();
    assert_refused(at("link"), ErrorKind::Conflict, "symbolic link");
    fs::create_dir_all(repo.dir().join("full/inner")).unwrap();
    assert_refused(at("full"), ErrorKind::Conflict, "not empty");
}

#[test]
fn a_mountpoint_inside_the_repository_is_refused() {
    let repo = Repo::empty();
    let inside = repo.path().join(".selvedge/inside");
    fs::create_dir(&inside).unwrap();
    assert_refused(repo.mounting(WORKER).at(&inside), ErrorKind::Conflict, "inside the repository");
}

#[test]
fn a_thread_is_mounted_once() {
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).start();
    let second = repo.dir().join("second");
    fs::create_dir(&second).unwrap();
    assert_refused(repo.mounting(WORKER).at(&second), ErrorKind::Conflict, "already mounted");
    assert_refused(repo.mounting(WORKER), ErrorKind::Conflict, "already mounted");
    let within = mount.path().join("within");
    fs::create_dir(&within).unwrap();
    assert_refused(repo.mounting(WORKER).at(&within), ErrorKind::Conflict, "already mounted");
    mount.stop();
}

#[test]
fn a_mountpoint_on_a_mount_of_ours_is_refused() {
    let (one, two) = (Repo::empty(), Repo::empty());
    let mount = one.mounting(WORKER).start();
    assert_refused(two.mounting(WORKER).at(mount.path()), ErrorKind::Conflict, "Selvedge mount");
    mount.stop();
}

#[test]
fn a_program_on_a_mount_of_ours_is_refused() {
    let (one, two) = (Repo::empty(), Repo::empty());
    let mount = one.mounting(WORKER).start();
    let copy = mount.path().join("worker");
    copy_program(WORKER, &copy);
    let program = copy.to_str().unwrap();
    assert_refused(two.mounting(program), ErrorKind::Conflict, "worker's program");
    mount.stop();
}

#[test]
fn a_repository_on_a_mount_of_ours_is_refused() {
    let one = Repo::with_tree(|source| {
        let (_, _) = selvedge_store::Repository::init(source).unwrap();
    });
    let two = Repo::empty();
    let mount = one.mounting(WORKER).start();
    let repo = mount.path().to_str().unwrap().to_owned();
    assert_refused(
        two.mounting(WORKER).option("--repo").option(&repo),
        ErrorKind::Conflict,
        "Selvedge mount",
    );
    mount.stop();
}

#[test]
fn a_repository_of_somebody_else_is_refused_unless_trusted() {
    let repo = Repo::empty();
    std::os::unix::fs::chown(repo.path().join(".selvedge"), Some(65534), None).unwrap();
    assert_refused(repo.mounting(WORKER), ErrorKind::NotPermitted, "65534");
    repo.mounting(WORKER).option("--trust-repository").start().stop();
}

#[test]
fn a_repository_of_another_format_is_refused() {
    let repo = Repo::empty();
    fs::write(repo.path().join(".selvedge/format"), "999\n").unwrap();
    assert_refused(repo.mounting(WORKER), ErrorKind::Failed, "999");
}

#[test]
fn a_missing_fuse_device_is_named() {
    let repo = Repo::empty();
    let hidden = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec \"$@\"";
    let unshared = ["--mount", "--propagation", "private", "sh", "-c", hidden, "sh"];
    assert_refused(repo.mounting(WORKER).through("unshare", &unshared), ErrorKind::Failed, "/dev/fuse");
}

#[test]
fn an_unknown_crash_point_is_named() {
    let repo = Repo::empty();
    let mounting = repo.mounting(WORKER).env("SELVEDGE_FUSE_WORKER_CRASH_AT", "nowhere");
    assert_refused(mounting, ErrorKind::Usage, "nowhere");
}

#[test]
fn what_no_mount_can_have_at_once_is_refused() {
    let repo = Repo::empty();
    let held_back = || repo.mounting(WORKER).option("--writeback");
    assert_refused(held_back().option("--direct-io"), ErrorKind::Usage, "direct_io");
    let passing = held_back().option("--passthrough").option("on");
    assert_refused(passing, ErrorKind::Usage, "passes no files through");
    for option in ["--direct-io", "--writeback"] {
        let unasked = repo.mounting(WORKER).option("--profile").option("small-files");
        assert_refused(unasked.option(option), ErrorKind::Usage, "without asking");
    }
    assert_no_mount(&repo.mountpoint());
}
