//! Where log lines go.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use selvedge_mountpoint::FS_TYPE;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::context::{absolute, lexical_file_system};
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::runtime::file_system_type;
use crate::service::log::Log;
use crate::ui::{show, show_os};

/// Sets up logging as `SELVEDGE_LOG` and `SELVEDGE_LOG_FILE` say; `verbose` counts `-v` and decides when
/// `SELVEDGE_LOG` does not. Without either, errors are logged. The result is for a mount that this process comes to hold.
pub(crate) fn start(environment: &Environment, verbose: u8) -> Result<Log> {
    let filter = match &environment.log {
        None => EnvFilter::new(match verbose {
            // What concerns the user is printed anyway; a worker's last words are part of the error.
            0 => "error",
            1 => "info",
            _ => "debug",
        }),
        Some(text) => text.to_str().and_then(|text| EnvFilter::try_new(text).ok()).ok_or_else(|| {
            CliError::usage(format!("SELVEDGE_LOG is no log filter: {}", show_os(text))).hint(
                "use a level (error, warn, info, debug, trace) or target=level pairs with commas between",
            )
        })?,
    };
    // Which mount a line is about goes without saying where there is but one.
    let filter = MOUNT_SPANS.parse().map_or(filter.clone(), |spans| filter.add_directive(spans));
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_ansi(false);
    let lines = match &environment.log_file {
        None => lines.with_writer(std::io::stderr).without_time().with_filter(filter).boxed(),
        Some(path) => lines.with_writer(Mutex::new(open(path)?)).with_filter(filter).boxed(),
    };
    let (log, of_mounts) = Log::unused();
    tracing_subscriber::registry().with(vec![lines, of_mounts.boxed()]).try_init().map_err(|error| {
        CliError::failed(format!("cannot start logging: {error}"))
            .hint("unset SELVEDGE_LOG and SELVEDGE_LOG_FILE")
    })?;
    Ok(log)
}

/// Keeps the spans that say which mount a line is about from the lines themselves.
const MOUNT_SPANS: &str = "selvedge::mount=off";

/// What to do about a log file that cannot be opened.
const ELSEWHERE: &str = "name a file that you may write in SELVEDGE_LOG_FILE, or unset it";

fn open(path: &Path) -> Result<std::fs::File> {
    let tried = || format!("cannot open the log file {}", show(path));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let on_mount = || {
        CliError::conflict(format!("{}: it lies on a Selvedge mount", tried()))
            .hint("a worker that logs to its own mount waits for itself; choose a file elsewhere")
    };
    // By the mount table only, because opening a file beneath a mount asks its worker: by name first, then as the
    // kernel resolves the directory.
    if lexical_file_system(&absolute(path)?).is_some_and(|kind| kind == FS_TYPE) {
        return Err(on_mount());
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())
        .map_err(|errno| CliError::io(tried(), &errno.into()).hint(ELSEWHERE))?;
    if file_system_type(directory.as_fd()).is_some_and(|kind| kind == FS_TYPE) {
        return Err(on_mount());
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| CliError::io(tried(), &error).hint(ELSEWHERE))
}
