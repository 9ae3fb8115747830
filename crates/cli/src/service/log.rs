//! The service's log: a file of bounded size, written as far as that is possible.
//!
//! Logging is best effort: a line that cannot be written, for want of room or of a file, is dropped, and nobody
//! waits or fails for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, openat, renameat};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::LOG;
use crate::error::{CliError, Result};
use crate::runtime::RuntimeDir;

/// How long the log grows before it begins anew, in bytes. The one before is kept beside it.
const LIMIT: u64 = 1 << 20;

/// The name of the log before.
const OLD: &str = "service.log.1";

/// What is logged until the settings are known.
const FIRST_FILTER: &str = "info";

/// Where log lines go, and which do. Copies are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Log {
    sink: Lines,
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Where log lines go. Copies are one and the same.
#[derive(Debug, Clone)]
struct Lines(Arc<Mutex<Sink>>);

#[derive(Debug)]
enum Sink {
    /// Standard error: a terminal, or the pipe to whoever started the service.
    Stderr,
    File {
        runtime: Arc<RuntimeDir>,
        file: File,
        size: u64,
    },
}

impl Log {
    /// Logs to standard error everything of interest.
    pub(super) fn start() -> Result<Self> {
        let sink = Lines(Arc::new(Mutex::new(Sink::Stderr)));
        let (filter, handle) = reload::Layer::new(EnvFilter::new(FIRST_FILTER));
        let lines = tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_ansi(false)
            // It would complain to standard error, and end the process if even that fails.
            .log_internal_errors(false)
            .with_writer(sink.clone());
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(|error| {
            CliError::failed(format!("cannot start logging: {error}")).hint("report this")
        })?;
        Ok(Self { sink, filter: handle })
    }

    /// Logs what passes the filter `text` from now on; one that makes no sense has been refused before.
    pub(super) fn set_filter(&self, text: &str) {
        if let Ok(filter) = EnvFilter::try_new(text) {
            let _ = self.filter.reload(filter);
        }
    }

    /// Logs to the file from now on, and gives the file back for standard error.
    pub(super) fn to_file(&self, runtime: &Arc<RuntimeDir>) -> io::Result<OwnedFd> {
        let (file, size) = open(runtime)?;
        let copy = file.try_clone()?.into();
        *self.sink.lock() = Sink::File { runtime: Arc::clone(runtime), file, size };
        Ok(copy)
    }
}

impl Lines {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(runtime: &RuntimeDir) -> io::Result<(File, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(runtime.instance(), LOG, flags, Mode::RUSR | Mode::WUSR)?);
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Sink {
    fn write(&mut self, line: &[u8]) {
        match self {
            Self::Stderr => drop(io::stderr().write_all(line)),
            Self::File { runtime, file, size } => {
                if *size >= LIMIT
                    && renameat(runtime.instance(), LOG, runtime.instance(), OLD).is_ok()
                    && let Ok((anew, length)) = open(runtime)
                {
                    (*file, *size) = (anew, length);
                }
                if file.write_all(line).is_ok() {
                    *size += line.len() as u64;
                }
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lock().write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
