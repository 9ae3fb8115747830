//! The worker's log: lines on standard error, which the supervisor reads.
//!
//! Logging is best effort. A supervisor that is stopped reads nothing, its pipe fills up, and a request handler
//! that then waited for the log would hang the mount; so lines go through a queue, and what does not fit is
//! dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const QUEUE: usize = 1024;

/// How long the end of the process waits for its last lines.
const FLUSH_DEADLINE: Duration = Duration::from_millis(500);

/// What is logged unless `SELVEDGE_LOG` says otherwise. fuser calls it an error when an answer comes too late for
/// a caller that was killed meanwhile, which is nobody's fault.
const DEFAULT_FILTER: &str = "info,fuser=off";

static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The running log.
#[derive(Debug)]
pub(crate) struct Log {
    queue: SyncSender<Message>,
}

/// Starts logging for the whole process.
pub(crate) fn start() -> Log {
    let (queue, lines) = mpsc::sync_channel(QUEUE);
    // Without its thread the queue fills up and everything is dropped: the worker runs, silently.
    let _ = thread::Builder::new().name("log".into()).spawn(move || write_lines(&lines));
    let filter = std::env::var("SELVEDGE_LOG").ok().and_then(|filter| EnvFilter::try_new(filter).ok());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER)))
        .with_writer(Queue(queue.clone()))
        .with_ansi(false)
        // The supervisor adds the time, and lines that are part of an error message are better without.
        .without_time()
        .with_target(false)
        .finish();
    // Fails only if there is a subscriber already, which then logs.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Log { queue }
}

impl Log {
    /// Waits, though not for long, until what was logged so far is written.
    pub(crate) fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_DEADLINE);
        }
    }
}

fn write_lines(lines: &Receiver<Message>) {
    // Not locked for good: others may have something to say too, if only at the very end.
    let mut to = io::stderr();
    for message in lines {
        match message {
            // Without a supervisor nobody reads.
            Message::Line(line) => {
                if to.write_all(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let dropped = DROPPED.load(Ordering::Relaxed);
        if dropped > 0 && writeln!(to, " WARN {dropped} lines of the log were dropped").is_ok() {
            DROPPED.fetch_sub(dropped, Ordering::Relaxed);
        }
    }
}

/// Where the subscriber writes: each event is one write, and one line.
#[derive(Debug, Clone)]
struct Queue(SyncSender<Message>);

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.0.try_send(Message::Line(line.to_vec()))
        {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Queue {
    type Writer = Self;

    fn make_writer(&'writer self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_lines_instead_of_waiting() {
        let (queue, _unread) = mpsc::sync_channel(1);
        let mut queue = Queue(queue);
        let before = DROPPED.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(queue.write(b"line\n").unwrap(), 5);
        }
        assert_eq!(DROPPED.load(Ordering::Relaxed) - before, 2);
    }
}
