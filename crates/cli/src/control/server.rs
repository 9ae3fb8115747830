//! Answering commands about mounts that this process holds.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use selvedge_worker_proto::{Envelope, Receiver, RecvError, Sender, channel};

use super::message::{MountDocument, Reply, Request, VERSION};
use crate::error::CliError;

/// How long a connected client may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(5);

/// How long a client may take to greet.
const GREETING: Duration = Duration::from_secs(2);

/// How long a client may not read what it asked for.
const SEND: Duration = Duration::from_secs(5);

/// The most clients served at once. One more takes the place of the one that has been silent the longest, so that
/// silent ones neither use up this process's threads nor keep others out.
const MAX_CLIENTS: usize = 128;

/// Threads of clients touch little stack; most of this is never made resident.
const STACK: usize = 512 * 1024;

/// How much of a list one frame takes, in bytes of JSON; a single mount may be longer and still fits.
const CHUNK: usize = 16 * 1024;

/// Who knows the answers.
pub trait Host: Send + Sync {
    /// Answers `request`, which came with `fds`. Called from one thread per client; everything it waits for has
    /// a deadline.
    fn answer(&self, request: Request, fds: Vec<OwnedFd>, answer: &Answer);
}

/// The way back to the asker.
#[derive(Debug, Clone)]
pub struct Answer {
    sender: Sender<Reply>,
    id: u64,
    peer: u32,
}

impl Answer {
    /// The process that asks.
    pub const fn peer(&self) -> u32 {
        self.peer
    }

    /// The socket to the asker and the request's number, for a program that takes this process over: it can
    /// [answer](Self::of_predecessor) then.
    pub fn parts(&self) -> (BorrowedFd<'_>, u64) {
        (self.sender.as_fd(), self.id)
    }

    /// The way back to an asker of the program that this process was before.
    pub fn of_predecessor(socket: OwnedFd, id: u64) -> Self {
        Self { sender: channel::<Reply, Request>(socket).0, id, peer: 0 }
    }

    /// Sends one answer. `false` if the asker has gone: whatever is done for it alone may end.
    pub fn send(&self, reply: Reply) -> bool {
        self.send_with(reply, &[])
    }

    /// As [`Self::send`], with descriptors.
    pub fn send_with(&self, reply: Reply, fds: &[BorrowedFd<'_>]) -> bool {
        let sent = self.sender.send(Envelope::new(self.id, reply), fds, Some(Instant::now() + SEND));
        sent.inspect_err(|error| tracing::debug!("cannot answer a command: {error}")).is_ok()
    }

    /// Sends a list of mounts, in as many frames as it takes.
    pub fn send_mounts(&self, mounts: Vec<MountDocument>) -> bool {
        let mut chunk = Vec::new();
        let mut size = 0;
        for mount in mounts {
            let length = serde_json::to_string(&mount).map_or(CHUNK, |json| json.len());
            if size > 0 && size + length > CHUNK {
                if !self.send(Reply::Mounts { mounts: std::mem::take(&mut chunk), more: true }) {
                    return false;
                }
                size = 0;
            }
            size += length;
            chunk.push(mount);
        }
        self.send(Reply::Mounts { mounts: chunk, more: false })
    }

    /// Sends a failure.
    pub fn fail(&self, error: CliError) {
        self.send(Reply::Failed(error));
    }
}

/// A listening socket with its thread, which ends when this is dropped. Clients that are being answered meanwhile are
/// answered.
pub struct Server {
    listener: UnixListener,
    host: Arc<dyn Host>,
    clients: Arc<Clients>,
    accepting: Option<Accepting>,
}

/// The thread that lets clients in.
struct Accepting {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves `listener` on behalf of `host`.
    pub fn start(listener: UnixListener, host: Arc<dyn Host>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut server = Self { listener, host, clients: Arc::default(), accepting: None };
        server.accept()?;
        Ok(server)
    }

    /// Lets clients in (again).
    pub fn accept(&mut self) -> io::Result<()> {
        if self.accepting.is_some() {
            return Ok(());
        }
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let (seen, listener) = (stop.try_clone()?, self.listener.try_clone()?);
        let (host, admitted) = (Arc::clone(&self.host), Arc::clone(&self.clients));
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &seen, &host, &admitted))?;
        self.accepting = Some(Accepting { stop, thread });
        Ok(())
    }

    /// Lets no more clients in: they wait in the backlog. Those that are connected are answered.
    pub fn pause(&mut self) {
        if let Some(Accepting { stop, thread }) = self.accepting.take() {
            // A counter that cannot overflow: this is its only write.
            let _ = rustix::io::write(&stop, &1u64.to_ne_bytes());
            let _ = thread.join();
        }
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    /// Waits until every client has its answer, or `deadline`.
    pub fn drain(&self, deadline: Instant) {
        while self.clients() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pause();
    }
}

fn accept_all(listener: &UnixListener, stop: &OwnedFd, host: &Arc<dyn Host>, clients: &Arc<Clients>) {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return tracing::error!("the control socket cannot be watched: {errno}"),
        }
        if !ready[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => admit(stream.into(), host, clients),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // Out of descriptors, most likely: the client waits in the backlog until there are some.
                tracing::warn!("cannot accept a command's connection: {error}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn admit(socket: OwnedFd, host: &Arc<dyn Host>, clients: &Arc<Clients>) {
    let caller = rustix::process::geteuid();
    let peer = match socket_peercred(&socket) {
        Ok(peer) if peer.uid == caller => peer.pid.as_raw_nonzero().get().cast_unsigned(),
        Ok(peer) => {
            return tracing::warn!(
                "turned away process {} of user {}",
                peer.pid.as_raw_nonzero(),
                peer.uid.as_raw()
            );
        }
        Err(errno) => return tracing::warn!("turned away a client that cannot be identified: {errno}"),
    };
    let (sender, receiver) = channel::<Reply, Request>(socket);
    let Some(seat) = Seat::take(clients, sender, peer) else {
        return tracing::warn!("turned away a command: {MAX_CLIENTS} are being answered already");
    };
    let host = Arc::clone(host);
    let spawned = std::thread::Builder::new()
        .name("client".to_owned())
        .stack_size(STACK)
        .spawn(move || serve(&seat, receiver, host.as_ref()));
    if let Err(error) = spawned {
        tracing::warn!("turned away a command: {error}");
    }
}

/// Who is connected, the longest first.
#[derive(Debug, Default)]
struct Clients(Mutex<VecDeque<Arc<Connection>>>);

/// A connected client.
#[derive(Debug)]
struct Connection {
    sender: Sender<Reply>,
    peer: u32,
    /// Whether it is being answered.
    busy: AtomicBool,
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Connection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.lock().len()
    }
}

/// A client's place among those connected, given back when dropped.
#[derive(Debug)]
struct Seat {
    clients: Arc<Clients>,
    connection: Arc<Connection>,
}

impl Seat {
    /// A place for one more: a free one, else that of the one that has been silent the longest.
    fn take(clients: &Arc<Clients>, sender: Sender<Reply>, peer: u32) -> Option<Self> {
        let mut connected = clients.lock();
        if connected.len() >= MAX_CLIENTS {
            let silent = connected.iter().position(|other| !other.busy.load(Ordering::Acquire))?;
            // Its thread reads the end of the connection, and ends.
            if let Some(silent) = connected.remove(silent) {
                silent.sender.shut_down();
            }
        }
        let connection = Arc::new(Connection { sender, peer, busy: AtomicBool::new(false) });
        connected.push_back(Arc::clone(&connection));
        Some(Self { clients: Arc::clone(clients), connection })
    }

    fn answer(&self, id: u64) -> Answer {
        Answer { sender: self.connection.sender.clone(), id, peer: self.connection.peer }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.lock().retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

/// How far the acquaintance of a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Awaited,
    Ours,
    AnotherVersion,
}

fn serve(seat: &Seat, mut receiver: Receiver<Request>, host: &dyn Host) {
    let mut greeted = Greeting::Awaited;
    loop {
        let patience = if greeted == Greeting::Awaited { GREETING } else { IDLE };
        match receiver.recv(Some(Instant::now() + patience)) {
            Ok(received) => {
                seat.connection.busy.store(true, Ordering::Release);
                let answer = seat.answer(received.envelope.id);
                match received.envelope.msg {
                    Request::Hello { protocol } => {
                        answer.send(Reply::Hello { protocol: VERSION, pid: std::process::id() });
                        greeted = if protocol == VERSION { Greeting::Ours } else { Greeting::AnotherVersion };
                    }
                    // It is of the version that the service is to become.
                    request @ Request::Upgrade {} if greeted == Greeting::AnotherVersion => {
                        host.answer(request, received.fds, &answer);
                    }
                    _ if greeted == Greeting::AnotherVersion => return,
                    _ if greeted == Greeting::Awaited => {
                        answer.fail(
                            CliError::usage("the first request must be a greeting")
                                .hint("use the version of selvedge that made the mount"),
                        );
                        return;
                    }
                    request => host.answer(request, received.fds, &answer),
                }
                seat.connection.busy.store(false, Ordering::Release);
            }
            Err(RecvError::Closed | RecvError::TimedOut) => return,
            Err(error) => {
                tracing::debug!("a command talks nonsense: {error}");
                let id = match &error {
                    RecvError::Decode(error) => error.id().unwrap_or(0),
                    RecvError::Fds { id, .. } => *id,
                    _ => 0,
                };
                seat.answer(id).fail(
                    CliError::usage(format!("the request makes no sense: {error}"))
                        .hint("use the version of selvedge that made the mount"),
                );
                if !error.is_recoverable() {
                    return;
                }
            }
        }
    }
}
