//! Processes, told apart by pid and start time: a pid alone may be another process's by now.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process as it was when it was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// The process that has `pid` now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: start_time(pid)? })
    }

    /// The calling process.
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// What [`Self`]'s `Display` wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (pid, start) = text.split_once('-')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    /// Whether it still exists, be it as a zombie that nobody has reaped.
    pub fn exists(self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Sends SIGKILL, and waits until the process has ended. `false` if it has not by `deadline`.
    ///
    /// The signal goes through a pidfd that is checked after it was opened, so it cannot meet a process that
    /// took the pid over.
    pub fn kill(self, deadline: Instant) -> bool {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw)
            && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && self.exists()
        {
            // ESRCH: it has ended meanwhile. EPERM: it is not ours, and the wait below says so.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        self.wait_gone(deadline)
    }

    /// Waits until the process has ended. `false` if it has not by `deadline`.
    pub fn wait_gone(self, deadline: Instant) -> bool {
        let mut pause = Duration::from_millis(1);
        loop {
            if !self.runs() {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            std::thread::sleep(pause.min(deadline - now));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Whether it still exists and is no zombie: a zombie holds neither descriptors nor mounts, and whoever
    /// has to reap it may be slow.
    pub fn runs(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.start == self.start && !matches!(stat.state, b'Z' | b'X'))
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.start)
    }
}

/// The memory that is the process's alone, in bytes: what would be free if it ended (`proc_pid_smaps_rollup(5)`).
pub fn private_memory(pid: u32) -> Option<u64> {
    parse_private(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_private(rollup: &str) -> Option<u64> {
    let lines = rollup.lines().filter(|line| {
        ["Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"].iter().any(|name| line.starts_with(name))
    });
    let sizes: Option<Vec<u64>> = lines.map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    sizes.filter(|sizes| !sizes.is_empty()).map(|sizes| sizes.iter().sum::<u64>() * 1024)
}

struct Stat {
    state: u8,
    start: u64,
}

fn start_time(pid: u32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    parse_stat(&text)
}

/// The second field, the command's name, is in parentheses and may itself contain spaces and parentheses.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let line = b"7 (a) Z (b)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.start), (b'S', 4711));
        assert!(parse_stat(b"7 (a) S 1").is_none());
    }

    #[test]
    fn private_memory_is_what_only_the_process_has() {
        let rollup = "Rss: 9 kB\nPrivate_Clean:      4 kB\nPrivate_Dirty:    100 kB\nSwap: 1 kB\n";
        assert_eq!(parse_private(rollup), Some(104 * 1024));
        assert_eq!(parse_private("Rss: 9 kB\n"), None);
        assert!(private_memory(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn another_process_with_the_same_pid_is_another_process() {
        let own = ProcessId::own().unwrap();
        assert!(own.runs());
        let reused = ProcessId { start: own.start + 1, ..own };
        assert!(!reused.exists());
        // Were the start time not compared, this would be the end of the test.
        assert!(reused.kill(Instant::now()));
    }
}
