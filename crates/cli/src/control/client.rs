//! Asking a process that holds mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use selvedge_worker_proto::{Envelope, Receiver, RecvError, SendError, Sender, channel};

use super::message::{MountDocument, Reply, Request, VERSION};
use crate::error::{CliError, Result};
use crate::record::{Holder, Record};
use crate::runtime::RuntimeDir;
use crate::service;

/// A connection to a process that holds mounts.
#[derive(Debug)]
pub struct Client {
    sender: Sender<Request>,
    receiver: Receiver<Reply>,
    peer: Peer,
    next: u64,
}

/// Who is asked, for messages.
#[derive(Debug, Clone, Copy)]
struct Peer {
    holder: Holder,
    pid: u32,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Nobody listens: the process is gone or going.
    Gone,
    /// Somebody listens who does not answer in time.
    Silent(CliError),
    /// Somebody answers who does not speak our protocol.
    Foreign(CliError),
    /// It speaks another version of our protocol.
    Version(CliError),
}

/// Why an answer did not come.
#[derive(Debug)]
pub enum AskError {
    /// The connection ended first: whether the request was carried out is not known.
    Lost(CliError),
    /// The answer is that it failed, or it did not come in time.
    Failed(CliError),
}

impl From<AskError> for CliError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Lost(error) | AskError::Failed(error) => error,
        }
    }
}

impl Peer {
    fn name(self) -> String {
        match self.holder {
            Holder::Foreground => format!("process {}, which holds the mount,", self.pid),
            Holder::Service => format!("the service (process {})", self.pid),
        }
    }

    fn advice(self) -> String {
        let pid = self.pid;
        match self.holder {
            Holder::Foreground => {
                format!("if it stays so, end it (kill -9 {pid}): its worker then unmounts by itself")
            }
            Holder::Service => {
                format!("if it stays so, end it (kill -9 {pid}): another one then takes its mounts over")
            }
        }
    }

    fn silent(self, why: impl std::fmt::Display) -> CliError {
        CliError::timed_out(format!("{} {why}", self.name())).hint(self.advice())
    }
}

impl Client {
    /// Connects to the process that holds `record`'s mount, and greets it.
    pub fn connect(runtime: &RuntimeDir, record: &Record, deadline: Instant) -> Result<Self, ConnectError> {
        let peer = Peer { holder: record.holder, pid: record.supervisor.pid };
        match record.holder {
            Holder::Foreground => Self::open(&runtime.socket_path(&record.id.socket_name()), peer, deadline),
            Holder::Service => Self::open(&runtime.instance_socket_path(service::SOCKET), peer, deadline),
        }
    }

    /// Connects to the service, and greets it.
    pub fn service(runtime: &RuntimeDir, deadline: Instant) -> Result<Self, ConnectError> {
        let peer = Peer { holder: Holder::Service, pid: 0 };
        Self::open(&runtime.instance_socket_path(service::SOCKET), peer, deadline)
    }

    /// As [`Self::service`], whichever version it is of, for what can be asked of any.
    pub fn service_of_any_version(runtime: &RuntimeDir, deadline: Instant) -> Result<Self, ConnectError> {
        let peer = Peer { holder: Holder::Service, pid: 0 };
        let mut client = Self::reach(&runtime.instance_socket_path(service::SOCKET), peer, deadline)?;
        match client.greet(deadline) {
            Ok(()) | Err(ConnectError::Version(_)) => Ok(client),
            Err(error) => Err(error),
        }
    }

    fn open(path: &Path, peer: Peer, deadline: Instant) -> Result<Self, ConnectError> {
        let mut client = Self::reach(path, peer, deadline)?;
        client.greet(deadline)?;
        Ok(client)
    }

    fn reach(path: &Path, mut peer: Peer, deadline: Instant) -> Result<Self, ConnectError> {
        let system = |errno: Errno| {
            ConnectError::Foreign(
                CliError::io(format!("cannot reach {}", peer.name()), &errno.into()).hint(peer.advice()),
            )
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(system)?;
        // A full backlog makes connect(2) wait as long as the sending time-out says.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left)).map_err(system)?;
        let address = SocketAddrUnix::new(path).map_err(system)?;
        match connect(&socket, &address) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(ConnectError::Gone),
            Err(Errno::AGAIN) => return Err(ConnectError::Silent(peer.silent("is too busy to answer"))),
            Err(errno) => return Err(system(errno)),
        }
        let credentials = socket_peercred(&socket).map_err(system)?;
        if credentials.uid != rustix::process::geteuid() {
            let owner = credentials.uid.as_raw();
            return Err(ConnectError::Foreign(
                CliError::not_permitted(format!("{} belongs to user {owner}, not to you", peer.name()))
                    .hint("set SELVEDGE_RUNTIME_DIR to a directory of your own"),
            ));
        }
        peer.pid = credentials.pid.as_raw_nonzero().get().cast_unsigned();
        let (sender, receiver) = channel(socket);
        Ok(Self { sender, receiver, peer, next: 1 })
    }

    fn greet(&mut self, deadline: Instant) -> Result<(), ConnectError> {
        let peer = self.peer;
        let foreign = |what: String| {
            ConnectError::Foreign(CliError::failed(format!("{} {what}", peer.name())).hint(peer.advice()))
        };
        let id =
            self.send(Request::Hello { protocol: VERSION }, &[], deadline).map_err(|error| match error {
                AskError::Lost(_) => ConnectError::Gone,
                AskError::Failed(error) => ConnectError::Silent(error),
            })?;
        match self.receiver.recv(Some(deadline)) {
            Ok(received) => match received.envelope.msg {
                Reply::Hello { protocol: VERSION, .. } if received.envelope.id == id => Ok(()),
                Reply::Hello { protocol, .. } => Err(ConnectError::Version(
                    CliError::failed(format!(
                        "{} speaks version {protocol} of the control protocol, this program version {VERSION}",
                        peer.name()
                    ))
                    .hint("use the version of selvedge that made the mount, or unmount with it first"),
                )),
                other => Err(foreign(format!("answers a greeting with {other:?}"))),
            },
            Err(RecvError::TimedOut) => Err(ConnectError::Silent(peer.silent("did not answer in time"))),
            // It has turned us away, or is just ending.
            Err(RecvError::Closed) => Err(ConnectError::Gone),
            Err(error) => Err(foreign(format!("answers a greeting with nonsense: {error}"))),
        }
    }

    /// The process at the other end.
    pub const fn pid(&self) -> u32 {
        self.peer.pid
    }

    /// Asks, and waits for the first answer.
    pub fn ask(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<Reply, AskError> {
        self.send(request, fds, deadline)?;
        self.answer(deadline)
    }

    fn send(&mut self, request: Request, fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<u64, AskError> {
        let id = self.next;
        self.next += 1;
        let peer = self.peer;
        self.sender.send(Envelope::new(id, request), fds, Some(deadline)).map_err(|error| {
            let said = CliError::failed(format!("cannot ask {}: {error}", peer.name())).hint(peer.advice());
            match error {
                SendError::Closed => AskError::Lost(said.hint("try again")),
                _ => AskError::Failed(said),
            }
        })?;
        Ok(id)
    }

    /// Waits for a further answer to what was asked.
    pub fn answer(&mut self, deadline: Instant) -> Result<Reply, AskError> {
        self.answer_with_fds(deadline).map(|(reply, _)| reply)
    }

    /// As [`Self::ask`], for an answer that brings descriptors.
    pub fn ask_for_fds(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(Reply, Vec<OwnedFd>), AskError> {
        self.send(request, fds, deadline)?;
        self.answer_with_fds(deadline)
    }

    fn answer_with_fds(&mut self, deadline: Instant) -> Result<(Reply, Vec<OwnedFd>), AskError> {
        let peer = self.peer;
        match self.receiver.recv(Some(deadline)) {
            Ok(received) => match received.envelope.msg {
                Reply::Failed(error) => Err(AskError::Failed(error)),
                reply => Ok((reply, received.fds)),
            },
            Err(RecvError::TimedOut) => Err(AskError::Failed(peer.silent("did not answer in time"))),
            Err(error) => Err(AskError::Lost(
                CliError::failed(format!("lost {}: {error}", peer.name()))
                    .hint("look with selvedge list how it stands, and try again"),
            )),
        }
    }

    /// The mounts that the process holds, as they are now.
    pub fn mounts(&mut self, deadline: Instant) -> Result<Vec<MountDocument>> {
        let first = self.ask(Request::List {}, &[], deadline)?;
        self.list(first, deadline)
    }

    /// A list of mounts that comes as a further answer to what was asked.
    pub fn further_mounts(&mut self, deadline: Instant) -> Result<Vec<MountDocument>> {
        let first = self.answer(deadline)?;
        self.list(first, deadline)
    }

    fn list(&mut self, mut reply: Reply, deadline: Instant) -> Result<Vec<MountDocument>> {
        let mut all = Vec::new();
        loop {
            match reply {
                Reply::Mounts { mounts, more } => {
                    all.extend(mounts);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(self.unexpected("a list", &other)),
            }
            reply = self.answer(deadline)?;
        }
    }

    /// The error that `what` was answered with `reply`, which makes no sense.
    pub fn unexpected(&self, what: &str, reply: &Reply) -> CliError {
        CliError::failed(format!("{} answered {what} with {reply:?}", self.peer.name()))
            .hint(self.peer.advice())
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Gone => Self::timed_out("nobody answers for the mount")
                .hint("selvedge list cleans up, then try again"),
            ConnectError::Silent(error) | ConnectError::Foreign(error) | ConnectError::Version(error) => {
                error
            }
        }
    }
}
