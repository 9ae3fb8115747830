//! The service's log: a file of bounded size, written as far as that is possible.
//!
//! Logging is best effort: a line that cannot be written, for want of room or of a file, is dropped, and nobody
//! waits or fails for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, openat, renameat};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::LOG;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::runtime::RuntimeDir;

/// How long the log grows before it begins anew, in bytes. The one before is kept beside it.
const LIMIT: u64 = 1 << 20;

/// The name of the log before.
const OLD: &str = "service.log.1";

/// Where log lines go. Copies are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Mutex<Sink>>);

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
    /// Logs to standard error, what `SELVEDGE_LOG` says or else everything of interest.
    pub(super) fn start(environment: &Environment) -> Result<Self> {
        let log = Self(Arc::new(Mutex::new(Sink::Stderr)));
        let filter = environment.log.as_ref().and_then(|text| EnvFilter::try_new(text.to_str()?).ok());
        tracing_subscriber::fmt()
            .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
            .with_target(false)
            .with_ansi(false)
            // It would complain to standard error, and end the process if even that fails.
            .log_internal_errors(false)
            .with_writer(log.clone())
            .try_init()
            .map_err(|error| {
                CliError::failed(format!("cannot start logging: {error}")).hint("report this")
            })?;
        Ok(log)
    }

    /// Logs to the file from now on, and gives the file back for standard error.
    pub(super) fn to_file(&self, runtime: &Arc<RuntimeDir>) -> io::Result<OwnedFd> {
        let (file, size) = open(runtime)?;
        let copy = file.try_clone()?.into();
        *self.lock() = Sink::File { runtime: Arc::clone(runtime), file, size };
        Ok(copy)
    }

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

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lock().write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
