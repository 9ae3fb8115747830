//! How a worker ended.

use std::fmt;

/// How a mount's last worker ended, and what it left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitReport {
    /// The worker's process id, which may belong to another process by now.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// Whether it left its mount behind, which was then taken down.
    pub mount_left: bool,
    /// Why the mount could not be taken down; `None` if it is gone.
    pub mount_stuck: Option<String>,
    /// The last of what it wrote to its standard error, made printable.
    pub stderr_tail: String,
    /// How many workers had been replaced.
    pub restarts: u32,
    /// Why no successor took over, where one should have.
    pub gave_up: Option<String>,
}

impl ExitReport {
    /// Whether it ended by itself, successfully, and left nothing. How an adopted worker ended may not be known; one that
    /// died has left its mount.
    pub fn is_clean(&self) -> bool {
        matches!(self.status, ExitStatus::Exited(0) | ExitStatus::Unknown)
            && !self.mount_left
            && self.mount_stuck.is_none()
    }

    /// The last of what it said, for the end of a message.
    pub(crate) fn said(&self) -> String {
        let said = self.stderr_tail.trim();
        if said.is_empty() { String::new() } else { format!("; it said:\n{said}") }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// With an exit code.
    Exited(i32),
    /// By a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether memory was dumped.
        core: bool,
    },
    /// Somebody else took the status, as init may of adopted workers, and the kernel (before Linux 6.15) does not tell it:
    /// the process is gone.
    Unknown,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled { signal, core } => {
                write!(f, "signal {signal}{}", if *core { ", memory dumped" } else { "" })
            }
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}
