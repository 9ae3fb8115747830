//! Joins a FUSE connection and runs its dispatch threads.
//!
//! fuser never sees the kernel's first request: the INIT exchange is read from the device, or remembered from a
//! worker that had the connection before, and played to fuser over a socket, under whose number the device is
//! then put. So a fresh connection and one that is taken over begin the same way, and what a successor needs to
//! say the same to its fuser is at hand as bytes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{DupFlags, Errno};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::adapter::Adapter;
use crate::tuning::Tuning;
use crate::{resident, sys};

/// How long the kernel may take to send INIT. It queues it before mount(2) returns.
const INIT_DEADLINE: Duration = Duration::from_secs(5);

/// The smallest buffer with which the kernel lets anyone read its device (`FUSE_MIN_READ_BUFFER`).
const READ_BUFFER: usize = 8192;

/// Where the major version of the protocol stands in an INIT request: behind the 40 bytes of header.
const MAJOR: std::ops::Range<usize> = 40..44;

/// The major version of the protocol that fuser speaks.
const OUR_MAJOR: u32 = 7;

/// Why a connection could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The kernel did not start the conversation.
    #[error("the kernel sent no INIT request within {} s of the mount", INIT_DEADLINE.as_secs())]
    NoInit,
    /// The mount was gone before it was served.
    #[error("the mount was taken down before it was ready")]
    Disconnected,
    /// The kernel speaks another version of the protocol.
    #[error("the kernel speaks version {major} of the FUSE protocol, this program version {OUR_MAJOR}")]
    Version {
        /// The kernel's major version; 0 if it could not be read.
        major: u32,
    },
    /// The agreement that a successor came to with its fuser is not the one its predecessor had with the kernel.
    #[error("the connection was set up by another version of this program")]
    Disagreement,
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SessionError {
    move |source| SessionError::Io { what, source: source.into() }
}

/// What kernel and worker said to each other first, as bytes: enough for a successor to bring its own fuser to
/// the same agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitExchange {
    /// The kernel's request with its header.
    pub request: Vec<u8>,
    /// The worker's reply with its header.
    pub reply: Vec<u8>,
}

impl InitExchange {
    /// Whether kernel and worker agreed that the kernel holds back what programs write.
    pub fn writeback(&self) -> bool {
        /// Behind 16 bytes of header, the first word of flags of `fuse_init_out`.
        const FLAGS: std::ops::Range<usize> = 28..32;
        /// `FUSE_WRITEBACK_CACHE`.
        const WRITEBACK_CACHE: u32 = 1 << 16;
        let word = self.reply.get(FLAGS).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        word.is_some_and(|flags| flags & WRITEBACK_CACHE != 0)
    }

    /// How deep file systems may be stacked below, if kernel and worker agreed that files may be passed through.
    pub fn stack_depth(&self) -> Option<u32> {
        /// Behind 16 bytes of header, the second word of flags and the depth of `fuse_init_out`.
        const FLAGS2: std::ops::Range<usize> = 48..52;
        const DEPTH: std::ops::Range<usize> = 52..56;
        /// `FUSE_PASSTHROUGH`, bit 37 of both words.
        const PASSTHROUGH: u32 = 1 << 5;
        let word = |at: std::ops::Range<usize>| self.reply.get(at)?.try_into().ok().map(u32::from_ne_bytes);
        let depth = word(DEPTH).filter(|depth| *depth > 0);
        word(FLAGS2).is_some_and(|flags| flags & PASSTHROUGH != 0).then_some(depth).flatten()
    }
}

/// Draws the epoch of a new connection: the kernel numbers requests from the same start on every mount, so
/// without it one mount's requests could be taken for another's.
pub fn new_epoch() -> Result<u64, SessionError> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(failed("getrandom"))?;
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// Starts the conversation on a fresh connection and prepares the dispatch threads; [`run`](Session::run) starts
/// them.
///
/// Access is the kernel's business (`default_permissions`, and `allow_other` or not): fuser's own check would
/// refuse requests that the kernel sends as root on behalf of nobody in particular.
pub fn start(
    adapter: Adapter,
    device: &OwnedFd,
    tuning: &Tuning,
) -> Result<(Session<Adapter>, InitExchange), SessionError> {
    let request = read_init(device.as_fd())?;
    let pages = adapter.pages();
    let (session, reply) = shake_hands(adapter, &request, tuning)?;
    write_whole(device.as_fd(), &reply).map_err(failed("answer INIT"))?;
    sys::replace(session.as_fd(), device.as_fd(), DupFlags::CLOEXEC)
        .map_err(failed("join the connection"))?;
    pages.attach(session.as_fd()).map_err(failed("duplicate a descriptor"))?;
    Ok((session, InitExchange { request, reply }))
}

/// Joins a connection whose worker is dead, and asks the kernel to send again what that worker left unanswered.
///
/// The dead worker must have been reaped: what it still did would be done twice. `joined` is called with the connection
/// before the kernel sends anything.
pub fn resume(
    adapter: Adapter,
    device: &OwnedFd,
    init: &InitExchange,
    tuning: &Tuning,
    joined: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Session<Adapter>, SessionError> {
    let (session, reply) = shake_hands(adapter, &init.request, tuning)?;
    if reply != init.reply {
        return Err(SessionError::Disagreement);
    }
    sys::replace(session.as_fd(), device.as_fd(), DupFlags::CLOEXEC)
        .map_err(failed("join the connection"))?;
    joined(session.as_fd()).map_err(failed("duplicate a descriptor"))?;
    resend(device.as_fd()).map_err(failed("ask for unanswered requests"))?;
    Ok(session)
}

/// Whether the kernel sends unanswered requests again when it is asked to (since Linux 6.9), without which nobody can
/// take the connection over. To be asked while none is unanswered.
pub fn can_be_resumed(device: BorrowedFd<'_>) -> bool {
    resend(device).is_ok()
}

/// `FUSE_NOTIFY_RESEND`: a `fuse_out_header` with a length of 16, the notification's number where replies have their
/// error, and no request's number. What is sent again bears bit 63 in its number.
fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    const NOTIFY_RESEND: i32 = 7;
    let mut message = [0; 16];
    message[..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    write_whole(device, &message)
}

/// Runs the dispatch threads until the connection ends.
///
/// However it ends, by an unmount or aborted, nothing has failed. Reading the device says ENODEV then, and ECONNABORTED
/// if the end came between the kernel's choice of a request and the hand-over (`fuse_dev_do_read` in `fs/fuse/dev.c`).
pub fn run(session: Session<Adapter>) -> io::Result<()> {
    ended(session.run())
}

fn ended(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error()) => Ok(()),
        outcome => outcome,
    }
}

fn read_init(device: BorrowedFd<'_>) -> Result<Vec<u8>, SessionError> {
    let mut request = vec![0; READ_BUFFER];
    let deadline = Instant::now() + INIT_DEADLINE;
    loop {
        if !readable(device, deadline).map_err(failed("wait for INIT"))? {
            return Err(SessionError::NoInit);
        }
        match rustix::io::read(device, &mut request) {
            Ok(length) => {
                request.truncate(length);
                break;
            }
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
            Err(Errno::NODEV | Errno::CONNABORTED) => return Err(SessionError::Disconnected),
            Err(errno) => return Err(failed("read INIT")(errno)),
        }
    }
    // fuser would answer another version with its own and wait for a second request, which no socket sends.
    let major = request.get(MAJOR).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    if major == OUR_MAJOR { Ok(request) } else { Err(SessionError::Version { major }) }
}

/// Plays `request` to a new session over a socket, and returns what it answered.
fn shake_hands(
    adapter: Adapter,
    request: &[u8],
    tuning: &Tuning,
) -> Result<(Session<Adapter>, Vec<u8>), SessionError> {
    // Message boundaries are what the device has too.
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("socketpair"))?;
    write_whole(ours.as_fd(), request).map_err(failed("pass INIT on"))?;
    let mut config = Config::default();
    config.n_threads = usize::try_from(tuning.threads).ok();
    // fuser reads this one request into a buffer of its own.
    let session = resident::without(|| Session::from_fd(adapter, theirs, SessionACL::All, config));
    let session = session.map_err(failed("start the session"))?;
    let mut reply = vec![0; READ_BUFFER];
    let length = rustix::io::read(&ours, &mut reply).map_err(failed("read the answer to INIT"))?;
    reply.truncate(length);
    Ok((session, reply))
}

fn write_whole(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_kernel_is_not_waited_for_for_ever() {
        let (silent, _other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        assert!(!readable(silent.as_fd(), Instant::now() + Duration::from_millis(20)).unwrap());
    }

    #[test]
    fn another_version_of_the_protocol_is_named() {
        let (device, kernel) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut init = vec![0; 104];
        init[MAJOR].copy_from_slice(&8_u32.to_ne_bytes());
        write_whole(kernel.as_fd(), &init).unwrap();
        assert!(matches!(read_init(device.as_fd()), Err(SessionError::Version { major: 8 })));
    }

    #[test]
    fn an_aborted_connection_is_an_end_and_no_failure() {
        assert!(ended(Err(Errno::CONNABORTED.into())).is_ok());
        assert!(ended(Err(Errno::IO.into())).is_err());
    }

    #[test]
    fn epochs_differ() {
        assert_ne!(new_epoch().unwrap(), new_epoch().unwrap());
    }
}
