//! Answering commands about mounts that this process holds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use selvedge_worker_proto::{Envelope, RecvError, Sender, channel};

use super::message::{Reply, Request, VERSION};
use crate::error::CliError;

/// How long a connected client may say nothing. It costs a thread meanwhile, and delays nobody.
const IDLE: Duration = Duration::from_secs(5);

/// How long a client may not read what it asked for.
const SEND: Duration = Duration::from_secs(5);

/// The most clients served at once; more are turned away, so that they cannot use up this process's threads.
const MAX_CLIENTS: usize = 64;

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
}

impl Answer {
    /// Sends one answer. `false` if the asker has gone: whatever is done for it alone may end.
    pub fn send(&self, reply: Reply) -> bool {
        let sent = self.sender.send(Envelope::new(self.id, reply), &[], Some(Instant::now() + SEND));
        sent.inspect_err(|error| tracing::debug!("cannot answer a command: {error}")).is_ok()
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
    clients: Arc<AtomicUsize>,
}

impl Server {
    /// Serves `listener` on behalf of `host`.
    pub fn start(listener: UnixListener, host: Arc<dyn Host>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let seen = stop.try_clone()?;
        let clients = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&clients);
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || accept_all(&listener, &seen, &host, &counter))?;
        Ok(Self { stop, thread: Some(thread), clients })
    }

    /// Waits until every client has its answer, or `deadline`.
    pub fn drain(&self, deadline: Instant) {
        while self.clients.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
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

fn accept_all(listener: &UnixListener, stop: &OwnedFd, host: &Arc<dyn Host>, clients: &Arc<AtomicUsize>) {
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

fn admit(socket: OwnedFd, host: &Arc<dyn Host>, clients: &Arc<AtomicUsize>) {
    let caller = rustix::process::geteuid();
    match socket_peercred(&socket) {
        Ok(peer) if peer.uid == caller => {}
        Ok(peer) => {
            return tracing::warn!(
                "turned away process {} of user {}",
                peer.pid.as_raw_nonzero(),
                peer.uid.as_raw()
            );
        }
        Err(errno) => return tracing::warn!("turned away a client that cannot be identified: {errno}"),
    }
    let seat = Seat::take(clients);
    if clients.load(Ordering::Acquire) > MAX_CLIENTS {
        return tracing::warn!("turned away a command: {MAX_CLIENTS} are being answered already");
    }
    let host = Arc::clone(host);
    let spawned = std::thread::Builder::new().name("client".to_owned()).spawn(move || {
        let _seat = seat;
        serve(socket, host.as_ref());
    });
    if let Err(error) = spawned {
        tracing::warn!("turned away a command: {error}");
    }
}

/// A client's place in the count, given back when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(clients))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn serve(socket: OwnedFd, host: &dyn Host) {
    let (sender, mut receiver) = channel::<Reply, Request>(socket);
    loop {
        match receiver.recv(Some(Instant::now() + IDLE)) {
            Ok(received) => {
                let answer = Answer { sender: sender.clone(), id: received.envelope.id };
                match received.envelope.msg {
                    Request::Hello { .. } => {
                        answer.send(Reply::Hello { protocol: VERSION, pid: std::process::id() });
                    }
                    request => host.answer(request, received.fds, &answer),
                }
            }
            Err(RecvError::Closed | RecvError::TimedOut) => return,
            Err(error) => {
                tracing::debug!("a command talks nonsense: {error}");
                let id = match &error {
                    RecvError::Decode(error) => error.id().unwrap_or(0),
                    RecvError::Fds { id, .. } => *id,
                    _ => 0,
                };
                let answer = Answer { sender: sender.clone(), id };
                answer.fail(
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
