//! The thread that waits for the worker's end: the only one that ever does.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use selvedge_worker_proto::{Command, Sender};

use crate::control::Input;
use crate::life::Life;
use crate::process::Process;
use crate::spawn::thread_named;
use crate::{ExitStatus, inquest};

/// Starts the reaper. At the worker's end it flips `life`, ends the conversation, so that nobody goes on waiting
/// for an answer, and reports, in this order.
pub(crate) fn start(
    process: Process,
    life: Arc<Life>,
    commands: Sender<Command>,
    inputs: mpsc::Sender<Input>,
) -> io::Result<JoinHandle<()>> {
    thread_named("reaper", move || {
        let status = reap(&process);
        life.set_dead();
        commands.shut_down();
        let _ = inputs.send(Input::Reaped(status));
        tracing::debug!(pid = process.pid(), %status, "the worker has ended");
    })
}

fn reap(process: &Process) -> ExitStatus {
    loop {
        match waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(process)), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return if let Some(code) = status.exit_status() {
                    ExitStatus::Exited(code)
                } else if let Some(signal) = status.terminating_signal() {
                    ExitStatus::Signaled { signal, core: status.dumped() }
                } else {
                    ExitStatus::Unknown
                };
            }
            Ok(None) | Err(Errno::INTR) => {}
            // It was adopted, and others reap it; or whoever started this process ignores SIGCHLD.
            Err(_) => {
                wait_for_end(process);
                return inquest::how_it_ended(process);
            }
        }
    }
}

fn wait_for_end(process: &Process) {
    while poll(&mut [PollFd::new(process, PollFlags::IN)], None) == Err(Errno::INTR) {}
}
