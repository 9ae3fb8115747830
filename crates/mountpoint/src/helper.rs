//! The set-user-id program of the FUSE package, `fusermount3` or `fusermount`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mount::{io_error, source};
use crate::mountinfo::{self, MountEntry};
use crate::unmount::{UnmountMode, unmount};
use crate::{
    Device, MountError, MountIdentity, MountOptions, MountedFuse, Mountpoint, Via, escape_for_print,
};

/// The helper, by its present name or its older one; `None` if `PATH` has neither.
pub(crate) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let directories: Vec<PathBuf> = env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    ["fusermount3", "fusermount"]
        .iter()
        .flat_map(|name| directories.iter().map(move |dir| dir.join(name)))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok())
}

/// Whether programs cannot gain rights when executed by this process, set-user-id ones included.
pub(crate) fn is_powerless() -> bool {
    rustix::thread::no_new_privs().unwrap_or(false)
}

/// What is said where [`is_powerless`].
pub(crate) const POWERLESS: &str =
    "no_new_privs is set for this process, so fusermount3 cannot gain the rights it needs";

/// Mounts with the helper, which sends the descriptor back over a socket.
pub(crate) fn mount(
    point: &Mountpoint,
    options: &MountOptions,
    deadline: Instant,
) -> Result<MountedFuse, MountError> {
    let path = point.path();
    let refused =
        |reason: &str| MountError::NotPermitted { path: path.to_owned(), reason: reason.to_owned() };
    if options.suid || options.dev {
        return Err(refused("only root can mount with set-user-id programs or device files"));
    }
    if is_powerless() {
        return Err(refused(POWERLESS));
    }
    let program = find().ok_or(MountError::NoHelper)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| io_error("make a socket for", path, errno.into()))?;
    let mut command = Command::new(&program);
    command
        .arg("-o")
        .arg(mount_options(options))
        .args(["--", "."])
        // The kernel resolves this in the child: it becomes the directory opened, whatever its path leads to.
        .current_dir(format!("/proc/self/fd/{}", point.as_fd().as_raw_fd()))
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs));
    let mut helper = Helper::start(command).map_err(|error| io_error("start fusermount for", path, error))?;
    let mounted = conclude(&mut helper, &ours, &program, point, options, deadline);
    if mounted.is_err() {
        // A helper that ended badly, or did not end, may have mounted all the same.
        drop(helper);
        remove_stray(point, options, deadline);
    }
    mounted
}

/// Waits for the helper and takes what it made.
fn conclude(
    helper: &mut Helper,
    ours: &OwnedFd,
    program: &Path,
    point: &Mountpoint,
    options: &MountOptions,
    deadline: Instant,
) -> Result<MountedFuse, MountError> {
    let path = point.path();
    let outcome = helper.finish(deadline);
    // What it sent before it ended is in the socket.
    let device = receive(ours.as_fd());
    let said = match outcome {
        Ok(Finished { status, said }) if status.success() => said,
        Ok(Finished { said, .. }) => return Err(explain(program, path, &said)),
        Err(HelperError::TimedOut) => {
            return Err(MountError::TimedOut { what: "mounting with fusermount", path: path.to_owned() });
        }
        Err(HelperError::Io(error)) => return Err(io_error("wait for fusermount on", path, error)),
    };
    let Some(device) = device.map_err(|errno| io_error("receive the device for", path, errno.into()))? else {
        return Err(explain(program, path, &said));
    };
    let identity = confirm(point, options, &device, deadline)?;
    Ok(MountedFuse { device, identity, via: Via::Helper })
}

fn mount_options(options: &MountOptions) -> OsString {
    let access = if options.read_only { "ro" } else { "rw" };
    let others = if options.allow_other { ",allow_other" } else { "" };
    let source = source(options).replace('\\', "\\\\").replace(',', "\\,");
    format!("{access},nosuid,nodev,default_permissions{others},subtype=selvedge,fsname={source}").into()
}

/// The descriptor in the socket, if there is one.
fn receive(socket: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    match recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(_) => {}
        Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fds.next())
}

/// Finds the mount that the helper made, and makes sure that it is on the directory opened: the helper works
/// with paths, which somebody may have swapped.
fn confirm(
    point: &Mountpoint,
    options: &MountOptions,
    device: &OwnedFd,
    deadline: Instant,
) -> Result<MountIdentity, MountError> {
    let path = point.path();
    let wanted = source(options);
    let user = rustix::process::getuid().as_raw();
    let connection = connection_of(device.as_fd());
    let candidates: Vec<MountEntry> = mountinfo::read()
        .map_err(|error| io_error("read the mount table for", path, error))?
        .into_iter()
        .filter(|entry| match connection {
            Some(device) => entry.device == device,
            None => entry.is_selvedge() && entry.source == *wanted && entry.user_id() == Some(user),
        })
        .collect();
    let right =
        candidates.iter().find(|entry| entry.mount_point == path && entry.parent_id == point.parent_mount());
    if let Some(entry) = right {
        let still = rustix::fs::readlink(format!("/proc/self/fd/{}", point.as_fd().as_raw_fd()), Vec::new());
        if still.is_ok_and(|still| entry.mount_point.as_os_str().as_encoded_bytes() == still.to_bytes()) {
            return Ok(entry.identity().with_unique_id());
        }
    }
    // Without the connection's number a candidate may be somebody else's mount: better one that answers ENOTCONN
    // is left than another is taken away.
    if let ([stray], Some(_)) = (&candidates[..], connection) {
        let _ = unmount(&stray.identity(), UnmountMode::Lazy, deadline);
    }
    Err(MountError::Swapped { path: path.to_owned() })
}

/// Removes what the helper has mounted on the directory nevertheless. Nobody can be using it.
fn remove_stray(point: &Mountpoint, options: &MountOptions, deadline: Instant) {
    let (source, user) = (source(options), rustix::process::getuid().as_raw());
    let strays = mountinfo::at(point.path()).unwrap_or_default().into_iter().filter(|entry| {
        entry.parent_id == point.parent_mount()
            && entry.is_selvedge()
            && entry.source == *source
            && entry.user_id() == Some(user)
    });
    for stray in strays {
        let _ = unmount(
            &stray.identity(),
            UnmountMode::Lazy,
            deadline.max(Instant::now() + Duration::from_secs(2)),
        );
    }
}

/// The device number of the connection that a `/dev/fuse` descriptor serves, where the kernel tells.
fn connection_of(device: BorrowedFd<'_>) -> Option<Device> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", device.as_raw_fd())).ok()?;
    let minor = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?.trim().parse().ok()?;
    Some(Device { major: 0, minor })
}

/// The error for what the helper said. Its texts are stable since FUSE 2.
fn explain(program: &Path, path: &Path, said: &str) -> MountError {
    const REFUSALS: [&str; 7] = [
        "Permission denied",
        "Operation not permitted",
        "no write access",
        "not owned by user",
        "only allowed if",
        "too many FUSE filesystems",
        "could not determine username",
    ];
    if said.contains("fuse device not found") || said.contains("No such file or directory: /dev/fuse") {
        return MountError::NoDevice;
    }
    if REFUSALS.iter().any(|text| said.contains(text)) {
        return MountError::NotPermitted { path: path.to_owned(), reason: said.to_owned() };
    }
    MountError::HelperFailed {
        program: program.to_owned(),
        path: path.to_owned(),
        stderr: if said.is_empty() { "it said nothing".to_owned() } else { said.to_owned() },
    }
}

/// What to do about a refusal in the helper's words, or in ours where it is not even asked.
pub(crate) fn advice(reason: &str) -> &'static str {
    const KNOWN: [(&str, &str); 7] = [
        (
            "user_allow_other",
            "mount without --allow-other, or add the line user_allow_other to /etc/fuse.conf as root",
        ),
        ("no write access", "choose a directory that you may write"),
        ("not owned by user", "choose a directory that is your own: its parent's sticky bit asks for that"),
        ("too many FUSE filesystems", "unmount some, or raise mount_max in /etc/fuse.conf as root"),
        (
            "could not determine username",
            "give this user an entry in /etc/passwd: the helper mounts for nobody else",
        ),
        (
            "no_new_privs",
            "start selvedge without no_new_privs (systemd: NoNewPrivileges=no; containers: without no-new-privileges)",
        ),
        ("only root can mount", "mount without --suid and --dev"),
    ];
    KNOWN
        .iter()
        .find(|(text, _)| reason.contains(text))
        .map_or("selvedge doctor says what mounting needs here and what is missing", |(_, advice)| advice)
}

/// Why the helper did not run to its end.
#[derive(Debug)]
pub(crate) enum HelperError {
    /// It was killed at the deadline.
    TimedOut,
    /// It could not be started or waited for.
    Io(io::Error),
}

/// A helper that ran to its end.
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard error, made printable.
    pub(crate) said: String,
}

/// Unmounts `path` with the helper: `-u`, and `-z` as well if `lazy`.
pub(crate) fn unmount_path(
    program: &Path,
    path: &OsStr,
    lazy: bool,
    deadline: Instant,
) -> Result<Finished, HelperError> {
    let mut command = Command::new(program);
    command.arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(path).current_dir("/").stdin(Stdio::null());
    Helper::start(command).map_err(HelperError::Io)?.finish(deadline)
}

/// A started helper; killed and reaped if it is dropped before its end.
struct Helper {
    child: Child,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Helper {
    fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let pidfd = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match pidfd {
            Ok(pidfd) => Ok(Self { child, pidfd, reaped: false }),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(errno.into())
            }
        }
    }

    fn finish(&mut self, deadline: Instant) -> Result<Finished, HelperError> {
        if !self.ended_before(deadline).map_err(|errno| HelperError::Io(errno.into()))? {
            return Err(HelperError::TimedOut);
        }
        let status = self.child.wait().map_err(HelperError::Io)?;
        self.reaped = true;
        Ok(Finished { status, said: self.said().map_err(HelperError::Io)? })
    }

    fn ended_before(&self, deadline: Instant) -> Result<bool, Errno> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], timeout.as_ref()) {
                Err(Errno::INTR) => {}
                other => return other.map(|ready| ready > 0),
            }
        }
    }

    /// What is in the pipe, without waiting for a descendant that may hold its other end.
    fn said(&mut self) -> io::Result<String> {
        const ENOUGH: usize = 4096;
        let Some(mut stderr) = self.child.stderr.take() else { return Ok(String::new()) };
        rustix::fs::fcntl_setfl(&stderr, rustix::fs::OFlags::NONBLOCK)?;
        let mut text = vec![0; ENOUGH];
        let mut length = 0;
        while length < ENOUGH {
            match stderr.read(&mut text[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        text.truncate(length);
        let lines: Vec<String> =
            text.trim_ascii_end().split(|&byte| byte == b'\n').map(escape_for_print).collect();
        Ok(lines.join("; "))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        // It runs with this user's real id, so it may be killed though it has gained rights.
        let _ = self.child.kill();
        if self.ended_before(Instant::now() + Duration::from_secs(1)).unwrap_or(false) {
            let _ = self.child.wait();
        }
    }
}
