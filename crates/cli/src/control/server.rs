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
#[derive(Debug)]
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

/// A listening socket with its thread; both end when this is dropped. Clients that are being answered meanwhile
/// are answered.
#[derive(Debug)]
pub struct Server {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
    clients: Arc<Clients>,
}

impl Server {
    /// Serves `listener` on behalf of `host`.
    pub fn start(listener: UnixListener, host: Arc<dyn Host>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let seen = stop.try_clone()?;
        let clients = Arc::new(Clients::default());
        let admitted = Arc::clone(&clients);
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &seen, &host, &admitted))?;
        Ok(Self { stop, thread: Some(thread), clients })
    }

    /// Waits until every client has its answer, or `deadline`.
    pub fn drain(&self, deadline: Instant) {
        while self.clients.count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A counter that cannot overflow: this is its only write.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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

fn serve(seat: &Seat, mut receiver: Receiver<Request>, host: &dyn Host) {
    let mut greeted = false;
    loop {
        let patience = if greeted { IDLE } else { GREETING };
        match receiver.recv(Some(Instant::now() + patience)) {
            Ok(received) => {
                seat.connection.busy.store(true, Ordering::Release);
                let answer = seat.answer(received.envelope.id);
                match received.envelope.msg {
                    Request::Hello { protocol } => {
                        answer.send(Reply::Hello { protocol: VERSION, pid: std::process::id() });
                        if protocol != VERSION {
                            return;
                        }
                        greeted = true;
                    }
                    _ if !greeted => {
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
