//! Where both sides of a conversation run: a wake-up across CPUs costs many times one on the same CPU.

use std::fmt;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where both sides run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// Runs `body` with this thread placed so. Threads and processes that it starts inherit the place; those that
    /// run already are where they are.
    pub fn run<T>(self, body: impl FnOnce() -> T) -> Result<T, Errno> {
        let before = sched_getaffinity(None)?;
        if self == Self::OneCpu {
            let mut one = CpuSet::new();
            let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap_or(0);
            one.set(first);
            sched_setaffinity(None, &one)?;
        }
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
