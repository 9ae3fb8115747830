//! Waiting for the end of a worker that is there still, to take its mount over: its supervisor kills it, and may die as
//! well before or after it has.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use selvedge_worker_proto::ErrorKind;

use super::refusal::Refusal;

/// How long a worker may take to die that was killed. One that is there afterwards was not: it goes on, and finds another
/// supervisor by itself.
const DEATH: Duration = Duration::from_secs(5);

/// Waits for the end of the process `before`, which serves the connection `device`. While the `supervisor` is there it
/// decides how long that may take, and what an end means; afterwards, if the connection has ended as well, nothing is left
/// to take over.
pub(crate) fn wait_for_end(
    before: &OwnedFd,
    device: BorrowedFd<'_>,
    supervisor: BorrowedFd<'_>,
) -> Result<(), Refusal> {
    let mut until = None;
    loop {
        let left = until.map(|until: Instant| until.saturating_duration_since(Instant::now()));
        let watched =
            [PollFd::new(before, PollFlags::IN), PollFd::from_borrowed_fd(supervisor, PollFlags::RDHUP)];
        // Its end is told once.
        let mut watched = if until.is_none() { watched.to_vec() } else { watched[..1].to_vec() };
        match poll(&mut watched, left.and_then(|left| Timespec::try_from(left).ok()).as_ref()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Refusal::system("cannot wait for the worker before", &errno.into())),
            Ok(0) => return Err(goes_on()),
            Ok(_) if !watched[0].revents().is_empty() => {
                return if until.is_some() && has_ended(device) { Err(unmounted()) } else { Ok(()) };
            }
            Ok(_) => until = Some(Instant::now() + DEATH),
        }
    }
}

/// Whether the connection is over, as whoever waits for requests is told.
fn has_ended(device: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(device, PollFlags::IN)];
    let told = poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    told.is_ok() && watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

fn unmounted() -> Refusal {
    Refusal::new(
        ErrorKind::NotFound,
        "the mount has ended",
        "mount the thread again: every change made is kept",
    )
}

fn goes_on() -> Refusal {
    Refusal::new(
        ErrorKind::Conflict,
        "the worker before serves the mount",
        "selvedge list shows how it stands",
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn sleeper() -> (Child, OwnedFd) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        (child, pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    fn sockets() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn the_end_of_the_worker_before_is_waited_for_whether_its_supervisor_lives_or_not() {
        for supervisor_dies in [false, true] {
            let (mut child, before) = sleeper();
            let (theirs, ours) = sockets();
            let theirs = (!supervisor_dies).then_some(theirs);
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| wait_for_end(&before, before.as_fd(), ours.as_fd()));
                std::thread::sleep(Duration::from_millis(50));
                assert!(!waiting.is_finished());
                child.kill().unwrap();
                waiting.join().unwrap().unwrap();
            });
            child.wait().unwrap();
            drop(theirs);
        }
    }

    #[test]
    fn what_ended_with_the_worker_before_is_not_taken_over() {
        let (mut child, before) = sleeper();
        let (_, ours) = sockets();
        // Whose other end is gone, like a connection's.
        let (_, device) = sockets();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_for_end(&before, device.as_fd(), ours.as_fd()));
            std::thread::sleep(Duration::from_millis(50));
            child.kill().unwrap();
            assert_eq!(waiting.join().unwrap(), Err(unmounted()));
        });
        child.wait().unwrap();
    }

    #[test]
    fn a_worker_that_its_dead_supervisor_did_not_kill_goes_on() {
        let (mut child, before) = sleeper();
        let (_, ours) = sockets();
        let refusal = wait_for_end(&before, before.as_fd(), ours.as_fd()).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(refusal, goes_on());
    }
}
