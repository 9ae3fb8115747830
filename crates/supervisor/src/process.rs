//! The worker's process, known by a descriptor that never comes to mean another process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::SpawnError;
use crate::launch::{Generation, Launch};

/// A process, which the reaper alone waits for.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Starts the worker with `socket` as its standard input, in a process group of its own, so that a Ctrl-C in
    /// the terminal reaches only its supervisor. Gives back the process and its standard error.
    pub(crate) fn start(
        launch: &Launch,
        generation: Generation,
        socket: OwnedFd,
    ) -> Result<(Self, Option<ChildStderr>), SpawnError> {
        let mut command = Command::new(launch.executable());
        command
            .arg0(launch.name())
            .args(&launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)));
        for name in Launch::withheld(generation) {
            command.env_remove(name);
        }
        let mut child = command
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| launch.refusal(source))?;
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

    /// A process that others have started, known by `pidfd`.
    pub(crate) fn adopted(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Arc::new(pidfd) }
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
