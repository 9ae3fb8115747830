//! How a process ended that others have to reap, as a worker that was adopted is reaped by init.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use crate::process::Process;
use crate::{ExitStatus, sys};

/// How the process, which has ended, did so. It is not waited for: before it is reaped its state shows it, and afterwards
/// its descriptor does (since Linux 6.15).
pub(crate) fn how_it_ended(process: &Process) -> ExitStatus {
    let reaped = || sys::status_of_reaped(process.as_fd());
    // It may be reaped between the first two looks.
    reaped().or_else(|| of_zombie(process)).or_else(reaped).map_or(ExitStatus::Unknown, decode)
}

/// The status of a process that nobody has reaped yet.
fn of_zombie(process: &Process) -> Option<i32> {
    let stat = fs::read(format!("/proc/{}/stat", process.pid())).ok()?;
    let status = parse(&stat)?;
    // Asked afterwards: while it is not reaped the number is its own.
    (!is_reaped(process)).then_some(status)
}

/// The last field of a zombie's `proc_pid_stat(5)`. The second one, in parentheses, may have spaces of its own.
fn parse(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    // Field 52; the state is the third.
    fields.nth(48)?.parse().ok()
}

/// Whether somebody has reaped it: then its descriptor names no number any more.
fn is_reaped(process: &Process) -> bool {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_fd().as_raw_fd()));
    let own = format!("Pid:\t{}", process.pid());
    !about.is_ok_and(|text| text.lines().any(|line| line == own))
}

fn decode(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
    } else if libc::WIFEXITED(status) {
        ExitStatus::Exited(libc::WEXITSTATUS(status))
    } else {
        ExitStatus::Unknown
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    /// A child that ends as `script` says, watched as somebody else's.
    fn ended(script: &str) -> (Child, Process) {
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let process = Process::adopted(child.id(), pidfd_open(pid, PidfdFlags::empty()).unwrap());
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        (child, process)
    }

    /// Whether this kernel tells how others' children ended (Linux 6.15).
    fn tells() -> bool {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map_while(|text| text.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }

    #[test]
    fn how_it_ended_is_known_before_and_after_somebody_reaps_it() {
        let expected = [
            ("exit 7", ExitStatus::Exited(7)),
            ("exit 0", ExitStatus::Exited(0)),
            ("kill -9 $$", ExitStatus::Signaled { signal: 9, core: false }),
        ];
        for (script, status) in expected {
            let (mut child, process) = ended(script);
            assert_eq!(of_zombie(&process).map(decode), Some(status), "{script}, not reaped");
            assert_eq!(how_it_ended(&process), status, "{script}, not reaped");
            child.wait().unwrap();
            assert_eq!(of_zombie(&process), None, "{script}: the number may be another's");
            let known = if tells() { status } else { ExitStatus::Unknown };
            assert_eq!(how_it_ended(&process), known, "{script}, reaped");
        }
    }

    #[test]
    fn a_process_that_runs_has_not_ended() {
        let own = Process::adopted(
            std::process::id(),
            pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap(),
        );
        assert_eq!(how_it_ended(&own), ExitStatus::Unknown);
    }
}
