//! A worker that is started and handed everything while the one before it is still there, and takes over when that has
//! been killed. So a supervisor that dies at any instant between the two leaves one that goes on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ChildStderr;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use selvedge_worker_proto::{Command, Envelope, Event, PROTOCOL_VERSION, Receiver, channel};

use crate::control::{HELLO, Input, Running};
use crate::launch::{Generation, Launch};
use crate::life::Life;
use crate::process::Process;
use crate::spawn::{DEATH, Worker};
use crate::{SpawnError, Successor, crash};

/// A worker that waits for the end of the one before it. It is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Heir(Option<Waiting>);

#[derive(Debug)]
struct Waiting {
    process: Process,
    pipe: Option<ChildStderr>,
    socket: OwnedFd,
}

impl Heir {
    fn start(launch: &Launch) -> Result<Self, SpawnError> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|errno| SpawnError::Io { what: "make a socket pair", source: errno.into() })?;
        let (process, pipe) = Process::start(launch, Generation::Successor, theirs)?;
        Ok(Self(Some(Waiting { process, pipe, socket })))
    }

    /// Hands it `fds`: the escrow, and then the process whose end it is to wait for.
    fn greet(&self, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let Some(Waiting { socket, .. }) = &self.0 else { return Ok(()) };
        let socket = socket.try_clone().map_err(|error| error.to_string())?;
        let (commands, _) = channel::<Command, Event>(socket);
        let hello = Envelope::new(HELLO, Command::Hello { protocol: PROTOCOL_VERSION });
        commands.send(hello, fds, Some(Instant::now())).map_err(|error| error.to_string())
    }

    fn pid(&self) -> u32 {
        self.0.as_ref().map_or(0, |waiting| waiting.process.pid())
    }

    /// Watches it from now on: the worker before it is gone.
    pub(crate) fn accede(
        mut self,
        life: &Arc<Life>,
        input: &mpsc::Sender<Input>,
    ) -> Result<(Worker, Receiver<Event>), SpawnError> {
        let io = |source| SpawnError::Io { what: "start a thread", source };
        let Some(Waiting { process, pipe, socket }) = self.0.take() else {
            return Err(io(std::io::ErrorKind::NotFound.into()));
        };
        Worker::watch(process.clone(), pipe, socket, life, input).map_err(|error| {
            process.signal(Signal::KILL);
            io(error)
        })
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let Some(Waiting { process, .. }) = self.0.take() else { return };
        process.signal(Signal::KILL);
        let patience = Timespec::try_from(DEATH).ok();
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], patience.as_ref());
        let _ = waitid(WaitId::PidFd(process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

impl Running {
    /// Starts the successor of the present worker, which is about to be killed, and hands it everything. Where this fails,
    /// a successor is started when that is gone, as after any death.
    pub(crate) fn appoint_heir(&mut self) {
        match self.heir() {
            Ok(heir) => self.heir = Some(heir),
            Err(why) => tracing::warn!("the next worker is not started ahead: {why}"),
        }
    }

    fn heir(&self) -> Result<Heir, String> {
        let control = &self.control;
        let heir = Heir::start(&control.launch).map_err(|error| error.to_string())?;
        crash::point("renewal.started");
        if let Some(herald) = &control.herald {
            herald.tell(Successor { pid: heir.pid(), follows: true });
        }
        crash::point("renewal.told");
        let mut fds: Vec<_> = control.escrow.iter().map(AsFd::as_fd).collect();
        fds.push(control.worker.process.as_fd());
        heir.greet(&fds)?;
        crash::point("renewal.greeted");
        Ok(heir)
    }
}
