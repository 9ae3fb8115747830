//! Mounting and unmounting through `fusermount3`. Each test starts itself again as an ordinary user.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{NOBODY, Sandbox, again_as_nobody, again_as_nobody_with_path, options, passed, role, soon};
use selvedge_mountpoint::{
    MountError, MountOptions, MountedFuse, Mountpoint, TakenDown, UnmountMode, Unmounted, Via, mount_fuse,
    take_down, unmount,
};

/// Runs `test` as an ordinary user in a directory of its own, and sees that it leaves no mount.
fn as_nobody(name: &str, test: impl FnOnce(&Path)) {
    if let Some(home) = role() {
        return test(&home);
    }
    let sandbox = Sandbox::new();
    sandbox.dir("foreign");
    let output = again_as_nobody(name, &sandbox.dir("home"));
    let left = sandbox.mounts();
    passed(&output);
    assert_eq!(left, []);
}

fn dir(home: &Path, name: &str) -> std::path::PathBuf {
    let dir = home.join(name);
    fs::create_dir(&dir).unwrap();
    dir
}

#[test]
fn the_helper_mounts_on_the_directory_opened() {
    as_nobody("the_helper_mounts_on_the_directory_opened", |home| {
        let point = Mountpoint::open(&dir(home, "a b")).unwrap();
        let mounted = mount_fuse(&point, &options("main"), soon()).unwrap();
        assert_eq!(mounted.via, Via::Helper);
        let entry = mounted.identity.find().unwrap().unwrap();
        assert_eq!((&*entry.fs_type, &*entry.source), ("fuse.selvedge".as_ref(), "selvedge:main".as_ref()));
        assert_eq!((&*entry.mount_point, entry.user_id()), (point.path(), Some(NOBODY)));
        for option in ["nosuid", "nodev", "default_permissions", "rw"] {
            assert!(entry.has_option(option), "{option} in {entry:?}");
        }
        assert!(mounted.identity.unique_id.is_some());
        assert_eq!(unmount(&mounted.identity, UnmountMode::Plain, soon()).unwrap(), Unmounted::Now);
        assert_eq!(unmount(&mounted.identity, UnmountMode::Plain, soon()).unwrap(), Unmounted::Before);
    });
}

#[test]
fn every_way_of_unmounting_works_through_the_helper() {
    as_nobody("every_way_of_unmounting_works_through_the_helper", |home| {
        let dir = dir(home, "m");
        for mode in [UnmountMode::Lazy, UnmountMode::Force] {
            let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
            assert_eq!(unmount(&mounted.identity, mode, soon()).unwrap(), Unmounted::Now);
        }
        let read_only = MountOptions { read_only: true, ..options("t") };
        let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &read_only, soon()).unwrap();
        assert!(mounted.identity.find().unwrap().unwrap().has_option("ro"));
        drop(mounted.device);
        assert_eq!(take_down(&mounted.identity, soon()).unwrap(), TakenDown::Unmounted);
    });
}

#[test]
fn a_directory_swapped_for_a_symlink_is_not_mounted_on() {
    as_nobody("a_directory_swapped_for_a_symlink_is_not_mounted_on", |home| {
        let (dir, elsewhere) = (dir(home, "m"), dir(home, "elsewhere"));
        let point = Mountpoint::open(&dir).unwrap();
        fs::rename(&dir, home.join("moved")).unwrap();
        symlink(elsewhere, &dir).unwrap();
        let error = mount_fuse(&point, &options("t"), soon()).unwrap_err();
        assert!(matches!(error, MountError::Swapped { .. }), "{error}");
    });
}

#[test]
fn what_only_root_may_have_is_refused() {
    as_nobody("what_only_root_may_have_is_refused", |home| {
        let point = Mountpoint::open(&dir(home, "m")).unwrap();
        for wanted in [
            MountOptions { suid: true, ..options("t") },
            MountOptions { dev: true, ..options("t") },
            MountOptions { allow_other: true, ..options("t") },
        ] {
            let error = mount_fuse(&point, &wanted, soon()).unwrap_err();
            assert!(matches!(error, MountError::NotPermitted { .. }), "{error}");
        }
    });
}

#[test]
fn a_foreign_directory_is_refused_with_the_helpers_words() {
    as_nobody("a_foreign_directory_is_refused_with_the_helpers_words", |home| {
        let point = Mountpoint::open(&home.join("../foreign")).unwrap();
        let error = mount_fuse(&point, &options("t"), soon()).unwrap_err();
        let MountError::NotPermitted { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.contains("write access"), "{reason}");
    });
}

#[test]
fn a_process_that_can_gain_no_rights_is_told_so() {
    as_nobody("a_process_that_can_gain_no_rights_is_told_so", |home| {
        let point = Mountpoint::open(&dir(home, "m")).unwrap();
        rustix::thread::set_no_new_privs(true).unwrap();
        let error = mount_fuse(&point, &options("t"), soon()).unwrap_err();
        assert!(error.to_string().contains("no_new_privs"), "{error}");
    });
}

#[test]
fn root_takes_down_an_ordinary_users_mount() {
    const NAME: &str = "root_takes_down_an_ordinary_users_mount";
    if let Some(home) = role() {
        // Left behind on purpose, without a server.
        mount_fuse(&Mountpoint::open(&dir(&home, "m")).unwrap(), &options("t"), soon()).unwrap();
        return;
    }
    let sandbox = Sandbox::new();
    passed(&again_as_nobody(NAME, &sandbox.dir("home")));
    let [left] = &sandbox.mounts()[..] else { panic!("{:?}", sandbox.mounts()) };
    assert_eq!(take_down(&left.identity(), soon()).unwrap(), TakenDown::Unmounted);
    assert_eq!(sandbox.mounts(), []);
}

/// Runs `test` as an ordinary user for whom `helper` is the script that mounts.
fn with_helper(name: &str, helper: &str, test: impl FnOnce(Result<MountedFuse, MountError>)) {
    if let Some(home) = role() {
        let point = Mountpoint::open(&dir(&home, "m")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(1);
        return test(mount_fuse(&point, &options("t"), deadline));
    }
    let sandbox = Sandbox::new();
    let programs = sandbox.dir("programs");
    let script = programs.join("fusermount3");
    let text = format!("#!/bin/sh\n[ \"$1\" = -o ] || exec /usr/bin/fusermount3 \"$@\"\n{helper}\n");
    // Written by another process: a descriptor of this one, which a test beside it inherits while it starts a
    // program, would make the script's start fail with ETXTBSY.
    let write = "printf %s \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let written = Command::new("sh").args(["-ec", write, "sh"]).arg(&script).arg(text).status().unwrap();
    assert!(written.success());
    let output = again_as_nobody_with_path(name, &sandbox.dir("home"), &programs);
    let left = sandbox.mounts();
    passed(&output);
    assert_eq!(left, []);
}

#[test]
fn a_helper_that_mounts_and_hangs_leaves_no_mount() {
    const SCRIPT: &str = "/usr/bin/fusermount3 \"$@\"; exec /bin/sleep 60";
    with_helper("a_helper_that_mounts_and_hangs_leaves_no_mount", SCRIPT, |result| {
        let error = result.unwrap_err();
        assert!(matches!(error, MountError::TimedOut { .. }), "{error}");
    });
}

#[test]
fn a_helper_that_mounts_and_fails_leaves_no_mount() {
    const SCRIPT: &str = "/usr/bin/fusermount3 \"$@\"; printf 'no \\033[31mluck' >&2; exit 1";
    with_helper("a_helper_that_mounts_and_fails_leaves_no_mount", SCRIPT, |result| {
        let error = result.unwrap_err();
        let MountError::HelperFailed { stderr, .. } = &error else { panic!("{error}") };
        assert!(stderr.contains("luck") && !stderr.contains('\u{1b}'), "{stderr:?}");
    });
}

#[test]
fn a_helper_that_sends_nothing_is_not_believed() {
    with_helper("a_helper_that_sends_nothing_is_not_believed", "exit 0", |result| {
        let error = result.unwrap_err();
        assert!(matches!(error, MountError::HelperFailed { .. }), "{error}");
    });
}

#[test]
fn a_missing_helper_is_named() {
    const NAME: &str = "a_missing_helper_is_named";
    if let Some(home) = role() {
        let error =
            mount_fuse(&Mountpoint::open(&dir(&home, "m")).unwrap(), &options("t"), soon()).unwrap_err();
        assert!(
            matches!(error, MountError::NoHelper) && error.to_string().contains("fusermount3"),
            "{error}"
        );
        return;
    }
    let sandbox = Sandbox::new();
    let home = sandbox.dir("home");
    passed(&again_as_nobody_with_path(NAME, &home, &home));
}
