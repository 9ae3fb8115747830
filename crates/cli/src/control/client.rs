//! Asking the process that holds a mount.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use selvedge_worker_proto::{Envelope, Receiver, RecvError, Sender, channel};

use super::message::{Reply, Request, VERSION};
use crate::error::{CliError, Result};
use crate::record::Record;
use crate::runtime::RuntimeDir;

/// A connection to the process that holds a mount.
#[derive(Debug)]
pub struct Client {
    sender: Sender<Request>,
    receiver: Receiver<Reply>,
    pid: u32,
    next: u64,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Nobody listens: the process is gone or going.
    Gone,
    /// Somebody listens who does not answer in time, or not as they should.
    Silent(CliError),
}

impl Client {
    /// Connects to the process that holds `record`'s mount, and greets it.
    pub fn connect(runtime: &RuntimeDir, record: &Record, deadline: Instant) -> Result<Self, ConnectError> {
        let supervisor = record.supervisor.pid;
        let silent = |why: String| {
            ConnectError::Silent(
                CliError::timed_out(format!("process {supervisor}, which holds the mount, {why}")).hint(
                    format!(
                        "if it stays so, end it (kill -9 {supervisor}): its worker then unmounts by itself"
                    ),
                ),
            )
        };
        let system = |errno: Errno| silent(format!("cannot be reached: {errno}"));
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(system)?;
        // A full backlog makes connect(2) wait as long as the sending time-out says.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_socket_timeout(&socket, Timeout::Send, Some(left)).map_err(system)?;
        let path = runtime.socket_path(&record.id.socket_name());
        let address = SocketAddrUnix::new(&path).map_err(system)?;
        match connect(&socket, &address) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(ConnectError::Gone),
            Err(Errno::AGAIN) => return Err(silent("is too busy to answer".to_owned())),
            Err(errno) => return Err(system(errno)),
        }
        let peer = socket_peercred(&socket).map_err(system)?;
        if peer.uid != rustix::process::geteuid() {
            return Err(silent(format!("belongs to user {}, not to you", peer.uid.as_raw())));
        }
        let (sender, receiver) = channel(socket);
        let mut client = Self { sender, receiver, pid: supervisor, next: 1 };
        match client.ask(Request::Hello { protocol: VERSION }, &[], deadline) {
            Ok(Reply::Hello { protocol: VERSION, .. }) => Ok(client),
            Ok(Reply::Hello { protocol, .. }) => Err(ConnectError::Silent(
                CliError::failed(format!(
                    "process {supervisor}, which holds the mount, speaks version {protocol} of the control protocol, this program version {VERSION}"
                ))
                .hint("use the version of selvedge that made the mount"),
            )),
            Ok(other) => Err(silent(format!("answers a greeting with {other:?}"))),
            Err(error) => Err(ConnectError::Silent(error)),
        }
    }

    /// Asks, and waits for the first answer.
    pub fn ask(&mut self, request: Request, fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<Reply> {
        let id = self.next;
        self.next += 1;
        let holder = self.pid;
        self.sender.send(Envelope::new(id, request), fds, Some(deadline)).map_err(|error| {
            CliError::failed(format!("cannot ask process {holder}, which holds the mount: {error}"))
                .hint("selvedge list shows how the mount is")
        })?;
        self.answer(deadline)
    }

    /// Waits for a further answer to what was asked.
    pub fn answer(&mut self, deadline: Instant) -> Result<Reply> {
        let holder = self.pid;
        match self.receiver.recv(Some(deadline)) {
            Ok(received) => match received.envelope.msg {
                Reply::Failed(error) => Err(error),
                reply => Ok(reply),
            },
            Err(RecvError::TimedOut) => Err(CliError::timed_out(format!(
                "process {holder}, which holds the mount, did not answer in time"
            ))
            .hint(format!(
                "try again; if it stays so, end it (kill -9 {holder}): its worker then unmounts by itself"
            ))),
            Err(error) => {
                Err(CliError::failed(format!("lost process {holder}, which holds the mount: {error}"))
                    .hint("selvedge list shows how the mount is, and cleans up if that process has died"))
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
