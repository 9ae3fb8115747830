//! Mounting and unmounting by system calls.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use common::{Sandbox, options, soon};
use selvedge_mountpoint::{
    AbortError, Device, Hold, MountError, MountOptions, Mountpoint, TakenDown, UnmountError, UnmountMode,
    Unmounted, Via, abort_connection, covering_mount, holders, mount_fuse, mountinfo, take_down, unmount,
};

#[test]
fn the_mount_shows_as_promised() {
    let sandbox = Sandbox::new();
    let point = Mountpoint::open(&sandbox.dir("m")).unwrap();
    let mounted = mount_fuse(&point, &options("agent-1"), soon()).unwrap();
    assert_eq!(mounted.via, Via::Direct);
    let entry = mounted.identity.find().unwrap().unwrap();
    assert_eq!(entry.fs_type, "fuse.selvedge");
    assert_eq!(entry.source, "selvedge:agent-1");
    assert_eq!(entry.mount_point, point.path());
    assert_eq!((entry.parent_id, entry.user_id()), (point.parent_mount(), Some(0)));
    for option in ["nosuid", "nodev", "default_permissions", "rw"] {
        assert!(entry.has_option(option), "{option} in {entry:?}");
    }
    assert!(!entry.has_option("allow_other") && !entry.has_option("ro"));
}

#[test]
fn options_are_the_ones_asked_for() {
    let sandbox = Sandbox::new();
    let all = MountOptions { read_only: true, allow_other: true, suid: true, dev: true, ..options("t") };
    let mounted = mount_fuse(&Mountpoint::open(&sandbox.dir("m")).unwrap(), &all, soon()).unwrap();
    let entry = mounted.identity.find().unwrap().unwrap();
    for option in ["ro", "allow_other"] {
        assert!(entry.has_option(option), "{option} in {entry:?}");
    }
    for option in ["nosuid", "nodev", "rw"] {
        assert!(!entry.has_option(option), "{option} in {entry:?}");
    }
}

#[test]
fn each_way_of_unmounting_leaves_nothing() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    for mode in [UnmountMode::Plain, UnmountMode::Lazy, UnmountMode::Force] {
        let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
        assert_eq!(unmount(&mounted.identity, mode, soon()).unwrap(), Unmounted::Now);
        assert_eq!(sandbox.mounts(), []);
        assert_eq!(unmount(&mounted.identity, mode, soon()).unwrap(), Unmounted::Before);
    }
}

#[test]
fn a_later_mount_at_the_same_place_is_left_alone() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let first = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    unmount(&first.identity, UnmountMode::Plain, soon()).unwrap();
    let second = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    // Even one that got the same numbers.
    let mut stale = second.identity.clone();
    stale.unique_id = first.identity.unique_id;
    assert_eq!(unmount(&first.identity, UnmountMode::Force, soon()).unwrap(), Unmounted::Before);
    assert_eq!(unmount(&stale, UnmountMode::Force, soon()).unwrap(), Unmounted::Before);
    assert!(second.identity.find().unwrap().is_some());
}

#[test]
fn a_covered_mount_is_not_mistaken_for_what_covers_it() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).status().unwrap();
    assert!(status.success());
    let error = unmount(&mounted.identity, UnmountMode::Plain, soon()).unwrap_err();
    assert!(matches!(error, UnmountError::Covered { .. }), "{error}");
    assert_eq!(sandbox.mounts().len(), 2);
}

#[test]
fn a_busy_mount_is_left_and_its_holders_are_named() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    // Opened without asking the server there is none of; a child inherits it as standard input.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let open = rustix::fs::open(&dir, flags, rustix::fs::Mode::empty()).unwrap();
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(open)).spawn().unwrap();
    let busy = unmount(&mounted.identity, UnmountMode::Plain, soon());
    let found = holders(&mounted.identity);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(busy, Err(UnmountError::Busy { .. })), "{busy:?}");
    // Another test's namespace may have a copy of this mount too.
    let holder = found.iter().find(|holder| holder.pid == child.id()).unwrap();
    assert_eq!((&*holder.name, holder.hold), ("sleep", Hold::OpenFile));
    assert!(holders(&mounted.identity).iter().all(|holder| holder.hold == Hold::Namespace));
    unmount(&mounted.identity, UnmountMode::Plain, soon()).unwrap();
}

/// On a file system that answers, because a working directory cannot be entered where nobody does.
#[test]
fn working_directories_programs_and_mappings_are_found() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).status().unwrap().success());
    let mount = mountinfo::at(&dir).unwrap()[0].identity();
    let program = dir.join("sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut inside = Command::new("sleep").arg("60").current_dir(&dir).spawn().unwrap();
    let mut running = Command::new(&program).arg("60").current_dir("/").spawn().unwrap();
    let found = holders(&mount);
    for child in [&mut inside, &mut running] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let hold = |pid| found.iter().find(|holder| holder.pid == pid).map(|holder| holder.hold);
    assert_eq!(hold(inside.id()), Some(Hold::WorkingDirectory));
    assert_eq!(hold(running.id()), Some(Hold::Program));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn a_copy_in_another_mount_namespace_is_found() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    let mut child = Command::new("unshare").args(["--mount", "sleep", "60"]).spawn().unwrap();
    let started = std::time::Instant::now();
    let found = loop {
        let found = holders(&mounted.identity);
        if !found.is_empty() || started.elapsed().as_secs() > 10 {
            break found;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        found.iter().any(|holder| (holder.pid, holder.hold) == (child.id(), Hold::Namespace)),
        "{found:?}"
    );
}

#[test]
fn a_directory_renamed_and_replaced_by_a_symlink_is_noticed() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let elsewhere = sandbox.dir("elsewhere");
    let point = Mountpoint::open(&dir).unwrap();
    fs::rename(&dir, sandbox.path().join("moved")).unwrap();
    symlink(&elsewhere, &dir).unwrap();
    let error = mount_fuse(&point, &options("t"), soon()).unwrap_err();
    assert!(matches!(&error, MountError::Swapped { path } if *path == dir), "{error}");
    assert_eq!(sandbox.mounts(), []);
}

#[test]
fn a_directory_removed_meanwhile_is_noticed() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let point = Mountpoint::open(&dir).unwrap();
    fs::remove_dir(&dir).unwrap();
    let error = mount_fuse(&point, &options("t"), soon()).unwrap_err();
    assert!(matches!(error, MountError::Swapped { .. }), "{error}");
}

#[test]
fn a_mount_without_a_server_is_taken_down() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    drop(mounted.device);
    assert_eq!(take_down(&mounted.identity, soon()).unwrap(), TakenDown::Unmounted);
    assert_eq!(take_down(&mounted.identity, soon()).unwrap(), TakenDown::WasGone);
    assert_eq!(sandbox.mounts(), []);
}

/// Somebody holds the mount, and somebody else waits for an answer that will never come.
#[test]
fn taking_down_frees_callers_and_detaches_what_is_held() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let open = rustix::fs::open(&dir, flags, rustix::fs::Mode::empty()).unwrap();
    let mut holder = Command::new("sleep").arg("60").stdin(Stdio::from(open)).spawn().unwrap();
    let mut caller =
        Command::new("stat").arg(dir.join("x")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    // The device stays open, as in a successor's or an escrow's hands.
    let taken = take_down(&mounted.identity, soon());
    let freed = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        caller.try_wait().unwrap().is_some()
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(taken.unwrap(), TakenDown::Detached);
    assert!(freed, "the caller still waits");
    assert_eq!(sandbox.mounts(), []);
}

#[test]
fn a_connection_is_aborted_through_its_control_file() {
    let nowhere = Device { major: 0, minor: 4_000_000 };
    assert!(matches!(abort_connection(nowhere), Err(AbortError::Unavailable { .. })));
}

#[test]
fn the_covering_mount_answers_for_a_mount_that_nobody_serves() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir("m");
    let mounted = mount_fuse(&Mountpoint::open(&dir).unwrap(), &options("t"), soon()).unwrap();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let covering = covering_mount(rustix::fs::open(&dir, flags, rustix::fs::Mode::empty()).unwrap()).unwrap();
    assert_eq!(covering.mount_id, mounted.identity.mount_id);
    assert_eq!(covering.device, mounted.identity.device);
    assert_eq!(covering.unique_id, mounted.identity.unique_id);
}
