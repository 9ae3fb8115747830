//! The worker's side: a helper that is started when it is first needed, and again if it dies.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair, sockopt,
};

use crate::error::BackingError;
use crate::message::{LENGTH, Reply, Request};

/// How long the helper may take for an answer. It does nothing that waits for anybody, but a busy machine may not get
/// around to it at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// After so many helpers in a row that did not answer none is started any more.
const MOST_FAILURES: u32 = 3;

/// The helper of one worker.
#[derive(Debug)]
pub struct Helper {
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    failures: u32,
}

impl Helper {
    /// A helper that is executed from `program`, not before it is asked.
    pub fn new(program: PathBuf) -> Self {
        Self { program, state: Mutex::default() }
    }

    /// Has `connection` know `file` by the number that is returned.
    pub(crate) fn open(&self, connection: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<u32, BackingError> {
        self.ask(Request::Open, &[connection, file])
    }

    /// Has `connection` let go of such a number.
    pub(crate) fn close(&self, connection: BorrowedFd<'_>, id: u32) -> Result<(), BackingError> {
        self.ask(Request::Close(id), &[connection]).map(drop)
    }

    /// Whether it is not asked any more, because it does not answer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.state().failures >= MOST_FAILURES
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<u32, BackingError> {
        let mut state = self.state();
        let mut failure = io::Error::from(io::ErrorKind::BrokenPipe);
        // One that was killed since it was asked last is no reason to fail. A number that it had given out before is
        // one that nobody uses.
        while state.failures < MOST_FAILURES {
            let asked = match state.running.take() {
                Some(running) => running.ask(request, fds),
                None => Running::start(&self.program).and_then(|running| running.ask(request, fds)),
            };
            match asked {
                Ok((running, reply)) => {
                    state.running = Some(running);
                    state.failures = 0;
                    return self.outcome(reply);
                }
                Err(error) => {
                    state.failures += 1;
                    failure = error;
                }
            }
        }
        Err(BackingError::Helper { program: self.program.clone(), source: failure })
    }

    fn outcome(&self, reply: Reply) -> Result<u32, BackingError> {
        match reply {
            Reply::Done(id) => Ok(id),
            Reply::Failed(errno) => {
                let errno = i32::try_from(errno).unwrap_or_default();
                Err(BackingError::Kernel(io::Error::from_raw_os_error(errno)))
            }
            Reply::Refused(why) => Err(BackingError::Refused { program: self.program.clone(), why }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever was interrupted, the helper that was being asked is gone: the next one starts afresh.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A helper that runs.
#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    child: Child,
}

impl Running {
    fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let mut command = Command::new(program);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
        Ok(Self { socket: ours, child: command.spawn()? })
    }

    /// A helper that did not answer is not asked again: its answer might come instead of the next one.
    fn ask(self, request: Request, fds: &[BorrowedFd<'_>]) -> io::Result<(Self, Reply)> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = request.encode();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
        let mut answer = [0; LENGTH + 1];
        let (length, _) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut answer, RecvFlags::empty()))?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Reply::decode(answer.get(..length).unwrap_or_default()) {
            Some(reply) => Ok((self, reply)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It holds no lock and waits for nobody, so it is dead as soon as it is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
