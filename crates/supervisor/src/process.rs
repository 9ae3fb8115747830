//! The worker's process, known by a descriptor that never comes to mean another process.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{SpawnError, SpawnSpec, WorkerProgram};

/// A started process, which the reaper alone waits for.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Starts the worker with `socket` as its standard input, in a process group of its own, so that a Ctrl-C in
    /// the terminal reaches only its supervisor. Gives back the process and its standard error.
    pub(crate) fn start(
        spec: &SpawnSpec,
        socket: OwnedFd,
    ) -> Result<(Self, Option<ChildStderr>), SpawnError> {
        let program = match &spec.worker {
            WorkerProgram::Path(path) => path.clone(),
            WorkerProgram::Fd(fd) => PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())),
        };
        let mut child = Command::new(&program)
            .arg0(name_of(&spec.worker))
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| refusal(program, source))?;
        let stderr = child.stderr.take();
        match open_pidfd(&child) {
            Ok(pidfd) => Ok((Self { pid: child.id(), pidfd: Arc::new(pidfd) }, stderr)),
            Err(errno) => {
                // Not reaped yet, so the number is still its own.
                let _ = child.kill();
                let _ = child.wait();
                Err(SpawnError::Io { what: "watch the worker", source: errno.into() })
            }
        }
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; a process that has ended gets none, and neither does another one of its number.
    pub(crate) fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => tracing::warn!(pid = self.pid, ?signal, %errno, "cannot signal the worker"),
        }
    }
}

impl AsFd for Process {
    /// Readable once the process has ended, whether it has been reaped or not.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn open_pidfd(child: &Child) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty())
}

/// What `ps` shows as the program, also where it is started through a descriptor.
fn name_of(worker: &WorkerProgram) -> &OsStr {
    match worker {
        WorkerProgram::Path(path) => path.as_os_str(),
        WorkerProgram::Fd(_) => OsStr::new("selvedge-fuse-worker"),
    }
}

fn refusal(program: PathBuf, source: io::Error) -> SpawnError {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => SpawnError::Missing { program },
        Some(Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR | Errno::TXTBSY) => {
            SpawnError::NotExecutable { program, source }
        }
        _ => SpawnError::Io { what: "start the worker", source },
    }
}
