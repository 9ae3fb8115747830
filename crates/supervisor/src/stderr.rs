//! What a worker writes to its standard error: forwarded to the log, and its end kept for messages.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::ChildStderr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use selvedge_mountpoint::escape_for_print;
use selvedge_worker_proto::END_OF_STACKS;

use crate::control::Input;
use crate::process::Process;
use crate::spawn::thread_named;

/// How much is kept, in bytes.
const KEPT: usize = 8 * 1024;
/// How much is read after the worker's end, should a descendant go on writing.
const LAST_WORDS: usize = 1024 * 1024;
/// How long the last words may take to reach the log.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread that reads a worker's standard error.
#[derive(Debug)]
pub(crate) struct Stderr {
    tail: Arc<Mutex<VecDeque<u8>>>,
    done: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Stderr {
    pub(crate) fn start(pipe: ChildStderr, process: Process, input: mpsc::Sender<Input>) -> io::Result<Self> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(KEPT)));
        let (finished, done) = mpsc::channel();
        let kept = Arc::clone(&tail);
        let thread = thread_named("stderr", move || {
            Pump { pipe, pid: process.pid(), kept, line: Vec::new(), input }.run(&process);
            let _ = finished.send(());
        })?;
        Ok(Self { tail, done, thread })
    }

    /// The end of what the worker wrote, made printable, after it has been reaped.
    pub(crate) fn finish(self) -> String {
        // A log that nobody drains may hold the thread up; what is kept is complete enough then.
        if self.done.recv_timeout(PATIENCE).is_ok() {
            let _ = self.thread.join();
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<String> =
            tail.make_contiguous().trim_ascii().split(|&byte| byte == b'\n').map(escape_for_print).collect();
        lines.join("\n")
    }
}

struct Pump {
    pipe: ChildStderr,
    pid: u32,
    kept: Arc<Mutex<VecDeque<u8>>>,
    line: Vec<u8>,
    /// Who waits for the worker's stacks.
    input: mpsc::Sender<Input>,
}

impl Pump {
    /// Reads to the end of the pipe or of the worker, whichever comes first: a descendant of the worker may keep
    /// the pipe open for ever.
    fn run(&mut self, process: &Process) {
        loop {
            let mut fds = [PollFd::new(&self.pipe, PollFlags::IN), PollFd::new(process, PollFlags::IN)];
            // Only a signal can end this without anything to do.
            let _ = poll(&mut fds, None);
            let ended = !fds[1].revents().is_empty();
            if !self.drain(if ended { LAST_WORDS } else { KEPT }) || ended {
                break;
            }
        }
        self.log_line();
    }

    /// Takes what is in the pipe, up to `limit`; false at its end.
    fn drain(&mut self, limit: usize) -> bool {
        let mut bytes = [0; 4096];
        let mut taken = 0;
        while taken < limit {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => {
                    taken += count;
                    self.keep(&bytes[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn keep(&mut self, bytes: &[u8]) {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(bytes);
            let surplus = kept.len().saturating_sub(KEPT);
            kept.drain(..surplus);
        }
        for &byte in bytes {
            if byte == b'\n' || self.line.len() >= KEPT {
                self.log_line();
            }
            if byte != b'\n' {
                self.line.push(byte);
            }
        }
    }

    fn log_line(&mut self) {
        if !self.line.is_empty() {
            tracing::warn!(target: "selvedge::worker", pid = self.pid, "{}", escape_for_print(&self.line));
            if self.line == END_OF_STACKS.as_bytes() {
                // Nobody listens when the mount has ended.
                let _ = self.input.send(Input::Examined { pid: self.pid });
            }
            self.line.clear();
        }
    }
}
