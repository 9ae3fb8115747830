//! Mount namespaces of their own, with a thread's mount in them.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_bind, mount_change, move_mount,
};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};
use selvedge_mountpoint::{Device, MountEntry, covering_mount, mountinfo};

use crate::error::{CliError, Result};
use crate::runtime::RUNS;
use crate::sys;
use crate::ui::show;

/// Gives the calling process, which must have one thread, a mount namespace of its own: what is mounted in it is seen
/// by nobody else, and what is mounted outside later may or may not be seen in it. Without the right to do so by
/// itself it gets a user namespace too, in which it stays the user it is.
pub(crate) fn leave() -> Result<()> {
    let may = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if may {
        sys::unshare(UnshareFlags::NEWNS)
            .map_err(|errno| CliError::io("cannot make a mount namespace", &errno.into()))?;
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).map_err(no_user_namespace)?;
        let maps = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ];
        for (file, text) in maps {
            std::fs::write(format!("/proc/self/{file}"), text)
                .map_err(|error| CliError::io(format!("cannot write the user namespace's {file}"), &error))?;
        }
    }
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags)
        .map_err(|errno| CliError::io("cannot keep mounts from being seen outside", &errno.into()))
}

fn no_user_namespace(errno: Errno) -> CliError {
    let tried = "cannot make a user namespace, which mounting without root needs here";
    let error = CliError::io(tried, &errno.into());
    match errno {
        Errno::PERM | Errno::ACCESS => error.hint(
            "this system keeps ordinary users from it (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns, or a container's profile): allow it, or run as root",
        ),
        Errno::NOSPC | Errno::USERS => error.hint("raise the sysctl user.max_user_namespaces"),
        _ => error,
    }
}

/// Opens the directory that a mount shall be seen at.
fn open_place(at: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(at, flags, Mode::empty()).map_err(|errno| {
        CliError::io(format!("cannot open {}", show(at)), &errno.into())
            .hint("make the directory first, or name another with --at")
    })
}

/// Puts a mount at the directory `at`, and makes sure that whoever goes there arrives in it.
pub(crate) fn put(copy: Option<&OwnedFd>, source: &Path, at: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let tried = || format!("cannot put the mount at {}", show(at));
    let io = |errno: Errno| CliError::io(tried(), &errno.into());
    let place = open_place(at)?;
    let wanted = match copy {
        Some(copy) => covering_mount(copy),
        None => rustix::fs::open(source, flags, Mode::empty()).and_then(covering_mount),
    };
    let wanted = wanted.map_err(io)?;
    // Where the mount is not seen there is the directory beneath it.
    let is_seen = |mounts: Vec<MountEntry>| {
        mounts.iter().any(|mount| mount.is_selvedge() && mount.device == wanted.device)
    };
    if copy.is_none() && !mountinfo::read().is_ok_and(is_seen) {
        return Err(CliError::failed(format!("{}: it is not seen in this mount namespace", tried())).hint(
            "inside another run an ordinary user sees only what was mounted when that began: mount the thread first, or run it outside",
        ));
    }
    match copy {
        Some(copy) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(copy, c"", &place, c"", flags)
        }
        None => mount_bind(source, format!("/proc/self/fd/{}", place.as_raw_fd())),
    }
    .map_err(io)?;
    let there = rustix::fs::open(at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if there.and_then(covering_mount).map_err(io)?.device == wanted.device {
        return Ok(());
    }
    Err(CliError::failed(format!("{}: another mount lies over it", tried()))
        .hint("name another directory with --at"))
}

/// Takes out of this namespace the copies of Selvedge mounts that the process in it has no business with, and would keep
/// alive: those that were made for other runs, and all but those in `keep`. Where that is not allowed, in a user
/// namespace, they live until this one ends.
pub(crate) fn let_go_of_others(base: &Path, keep: &[Device]) {
    let Ok(mounts) = mountinfo::read() else { return };
    for mount in mounts.iter().filter(|mount| mount.is_selvedge()) {
        let is_of_a_run = mount
            .mount_point
            .strip_prefix(base)
            .is_ok_and(|rest| rest.components().nth(1).is_some_and(|part| part.as_os_str() == RUNS));
        if is_of_a_run || !keep.contains(&mount.device) {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            let _ = rustix::mount::unmount(&mount.mount_point, flags);
        }
    }
}

/// Goes, with the calling thread alone, into the mount namespace of `process`.
pub(crate) fn enter(process: BorrowedFd<'_>) -> Result<()> {
    // Threads share the working directory, which a namespace brings along.
    sys::unshare(UnshareFlags::FS).map_err(|errno| CliError::io("cannot leave the others", &errno.into()))?;
    move_into_thread_name_spaces(process, ThreadNameSpaceType::MOUNT)
        .map_err(|errno| CliError::io("cannot enter its mount namespace", &errno.into()))
}

/// Unmounts what has the number `device` in the mount namespace that the calling thread is in, unless it is in use
/// there.
pub(crate) fn unmount_copies(device: Device) {
    let Ok(mounts) = mountinfo::read_from(Path::new("/proc/thread-self/mountinfo")) else { return };
    // The uppermost first.
    for mount in mounts.iter().rev().filter(|mount| mount.is_selvedge() && mount.device == device) {
        let _ = rustix::mount::unmount(&mount.mount_point, UnmountFlags::NOFOLLOW);
    }
}
