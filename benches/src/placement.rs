//! Where both sides of a conversation run: a wake-up across CPUs costs many times one on the same CPU.

use std::fmt;
use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use serde::Serialize;

/// Where both sides run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Both on one CPU.
    OneCpu,
    /// Wherever the scheduler puts them.
    Scheduler,
}

impl Placement {
    /// Both.
    pub const ALL: [Self; 2] = [Self::OneCpu, Self::Scheduler];

    /// A name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneCpu => "one CPU",
            Self::Scheduler => "scheduler",
        }
    }

    /// Places all threads of these processes, as they are now, where [`run`](Self::run) places this one.
    pub fn apply_to(self, processes: &[u32]) -> io::Result<()> {
        let place = self.cpus(&sched_getaffinity(None)?);
        for process in processes {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let task = task?.file_name();
                let number = task.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
                match sched_setaffinity(number, &place) {
                    // It has ended meanwhile.
                    Err(Errno::SRCH) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Of these, the ones to run on.
    fn cpus(self, allowed: &CpuSet) -> CpuSet {
        match self {
            Self::Scheduler => *allowed,
            Self::OneCpu => {
                let mut one = CpuSet::new();
                one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap_or(0));
                one
            }
        }
    }

    /// Runs `body` with this thread placed so. Threads and processes that it starts inherit the place; those that
    /// run already are where they are.
    pub fn run<T>(self, body: impl FnOnce() -> T) -> Result<T, Errno> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, &self.cpus(&before))?;
        let result = body();
        sched_setaffinity(None, &before)?;
        Ok(result)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
