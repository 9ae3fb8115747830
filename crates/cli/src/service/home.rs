//! Where commands find the service: its lock and its socket in the runtime directory.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::host::Service;
use super::lock::{Lock, TryLockError};
use super::log::Log;
use super::run::redirect;
use super::{SERVICE_LOCK, SOCKET};
use crate::context::Context;
use crate::control::{Host, Server};
use crate::error::{CliError, Result};
use crate::runtime::RuntimeDir;
use crate::ui::show;

/// The service's lock, held until this is dropped; its socket, and who answers there.
pub(super) struct Home {
    runtime: Arc<RuntimeDir>,
    lock: Lock,
    socket: Option<Socket>,
    server: Server,
    /// The log, if it goes to the file beside them.
    pub(super) log: Option<Log>,
    /// Whether it was said that another service has taken the place.
    told: bool,
}

impl Home {
    /// Answers on behalf of `service` from now on.
    pub(super) fn open(runtime: &Arc<RuntimeDir>, lock: Lock, service: &Arc<Service>) -> Result<Self> {
        Self::serve(runtime, lock, Socket::bind(runtime)?, service)
    }

    /// As [`Self::open`], where the program that this process was before has left its listening socket.
    pub(super) fn inherit(
        runtime: &Arc<RuntimeDir>,
        lock: Lock,
        listener: OwnedFd,
        service: &Arc<Service>,
    ) -> Result<Self> {
        let socket = Socket { runtime: Arc::clone(runtime), listener: listener.into() };
        Self::serve(runtime, lock, socket, service)
    }

    fn serve(runtime: &Arc<RuntimeDir>, lock: Lock, socket: Socket, service: &Arc<Service>) -> Result<Self> {
        let server = listen(&socket, service)?;
        Ok(Self { runtime: Arc::clone(runtime), lock, socket: Some(socket), server, log: None, told: false })
    }

    /// Makes the runtime directory anew if somebody has removed it, with everything that has to be in it. What cannot
    /// be done now is tried again the next time.
    pub(super) fn keep(&mut self, context: &Context, service: &Arc<Service>) {
        if self.lock.is_at(&self.runtime.path().join(SERVICE_LOCK)) {
            return;
        }
        match self.make_anew(context, service) {
            Ok(()) => {
                self.told = false;
                tracing::warn!("the runtime directory was removed, and has been made anew");
            }
            Err(error) if !std::mem::replace(&mut self.told, true) => {
                tracing::error!("the runtime directory was removed: {error}");
            }
            Err(_) => {}
        }
    }

    fn make_anew(&mut self, context: &Context, service: &Arc<Service>) -> Result<()> {
        let anew = RuntimeDir::open(&context.environment)?;
        let lock = Lock::try_take(&anew, SERVICE_LOCK).map_err(|error| match error {
            TryLockError::Failed(error) => error,
            TryLockError::Held(_) => CliError::conflict("another service has been started since")
                .hint("stop it, and this one takes its place again"),
        })?;
        lock.sign().map_err(|error| CliError::io("cannot write into the lock", &error))?;
        // What it would remove lies in the directory that is gone.
        drop(self.socket.take());
        self.runtime.replace(&anew)?;
        self.lock = lock;
        service.write_down_again();
        let socket = Socket::bind(&self.runtime)?;
        let server = listen(&socket, service)?;
        self.socket = Some(socket);
        self.server = server;
        self.log.as_ref().map_or(Ok(()), |log| redirect(log, &self.runtime))
    }

    /// Lets no more commands in: they wait, and notice nothing.
    pub(super) fn pause(&mut self) {
        self.server.pause();
    }

    /// Lets commands in again.
    pub(super) fn go_on(&mut self) {
        if let Err(error) = self.server.accept() {
            tracing::error!("cannot serve the control socket: {error}");
        }
    }

    /// How many commands are being answered.
    pub(super) fn clients(&self) -> usize {
        self.server.clients()
    }

    /// What another program needs to go on here: the lock and the listening socket.
    pub(super) fn parts(&self) -> Option<(BorrowedFd<'_>, BorrowedFd<'_>)> {
        Some((self.lock.as_fd(), self.socket.as_ref()?.listener.as_fd()))
    }

    /// Removes the socket; those who are connected are still answered.
    pub(super) fn close(&mut self) {
        drop(self.socket.take());
    }

    /// Waits until every client has its answer, or `deadline`.
    pub(super) fn drain(&self, deadline: Instant) {
        self.server.drain(deadline);
    }
}

fn listen(socket: &Socket, service: &Arc<Service>) -> Result<Server> {
    let tried = "cannot serve the control socket";
    let listener = socket.listener.try_clone().map_err(|error| CliError::io(tried, &error))?;
    Server::start(listener, Arc::clone(service) as Arc<dyn Host>).map_err(|error| CliError::io(tried, &error))
}

/// The service's socket, removed when dropped.
struct Socket {
    runtime: Arc<RuntimeDir>,
    listener: UnixListener,
}

impl Socket {
    /// Binds it in the place of one that a killed service left: the lock says that it is nobody's.
    fn bind(runtime: &Arc<RuntimeDir>) -> Result<Self> {
        let tried = || format!("cannot make the service's socket in {}", show(runtime.path()));
        match unlinkat(runtime.instance(), SOCKET, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(CliError::io(tried(), &errno.into())),
        }
        let listener = UnixListener::bind(runtime.instance_socket_path(SOCKET))
            .map_err(|error| CliError::io(tried(), &error))?;
        Ok(Self { runtime: Arc::clone(runtime), listener })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What cannot be removed is swept by the next command.
        let _ = unlinkat(self.runtime.instance(), SOCKET, AtFlags::empty());
    }
}
