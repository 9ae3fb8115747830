//! What a process inherited from whoever started it, put right before anything else happens.
//!
//! A caller that ignores SIGCHLD makes `wait` answer ECHILD, one that blocks SIGTERM makes a worker that cannot
//! be asked to stop, and a pipe that a mount keeps open makes `$(selvedge mount …)` hang. So both binaries begin
//! here, and what they start later inherits the clean state.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::service::{crash, handover};
use crate::sys;

/// The variable that lets a worker dump core.
pub const CORE: &str = "SELVEDGE_FUSE_WORKER_CORE";

/// Environment variables that every process of ours keeps.
const KEPT: &[&str] =
    &["PATH", "HOME", "LANG", "LANGUAGE", "TMPDIR", "TZ", "RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];

/// Prefixes of variables that every process of ours keeps.
const KEPT_PREFIXES: &[&str] = &["LC_", "XDG_", "SELVEDGE_"];

/// Variables that say how to write to a terminal: kept by the command line only.
pub const KEPT_TERMINAL: &[&str] =
    &["TERM", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"];

/// Limits whose soft value a caller's shell may have lowered, and that would end our work half-way.
const RAISED: &[Resource] = &[
    Resource::Nofile,
    Resource::Fsize,
    Resource::As,
    Resource::Data,
    Resource::Nproc,
    Resource::Cpu,
    Resource::Memlock,
];

/// The signals that were ignored when this process started.
static IGNORED: OnceLock<Vec<i32>> = OnceLock::new();

/// Whether the caller had `signal` ignored, as `nohup` does with SIGHUP.
pub fn was_ignored(signal: i32) -> bool {
    IGNORED.get().is_some_and(|ignored| ignored.contains(&signal))
}

/// Ignores `signal` (again).
pub fn ignore(signal: i32) {
    sys::ignore_signal(signal);
}

/// Cleans what the command line inherited. Standard input, output and error stay; Rust's runtime has already put
/// `/dev/null` in the place of a missing one.
pub fn clean_cli() {
    let is_taken_over = handover::note();
    if is_taken_over && crash::arm().is_ok() {
        crash::point("upgrade.executed");
    }
    // The program that this process was before holds signals back, which are ours.
    signals(!is_taken_over);
    limits();
    umask(Mode::from_raw_mode(0o022));
    environment(|name| kept(name) || KEPT_TERMINAL.iter().any(|kept| name == OsStr::new(kept)));
    // The program that this process was before has left its own open, and no other.
    if !is_taken_over {
        // A kernel without close_range (before 5.9) leaves surplus descriptors open: harmful to the caller's pipe at
        // most, never to what this process does.
        let _ = sys::close_from(3);
    }
}

/// Cleans what the worker inherited: besides the above, no file mode bits are taken away (the kernel has applied
/// the caller's umask already), the working directory is `/`, and a crash dumps no core, unless that is wanted, because
/// callers wait while one is written.
pub fn clean_worker() -> io::Result<()> {
    // Started through an open descriptor, a process is called after its number. The kernel takes 15 bytes.
    let _ = rustix::thread::set_name(c"selvedge-fuse-w");
    signals(true);
    limits();
    let hard = getrlimit(Resource::Core).maximum;
    let core = if std::env::var_os(CORE).is_some_and(|wanted| wanted == "1") {
        hard
    } else {
        // One byte, not none: a limit of 0 still starts the handler that `core_pattern` may name, 1 does not.
        Some(hard.map_or(1, |hard| hard.min(1)))
    };
    setrlimit(Resource::Core, Rlimit { current: core, maximum: core })?;
    umask(Mode::empty());
    environment(kept);
    let _ = sys::close_from(3);
    std::env::set_current_dir("/")
}

fn signals(unblock: bool) {
    let ignored = sys::default_dispositions();
    if unblock {
        // Known signal sets cannot be refused (sigprocmask(2) fails for a bad address or operation only).
        let _ = sys::empty_signal_mask();
    }
    sys::ignore_signal(libc::SIGPIPE);
    sys::ignore_signal(libc::SIGXFSZ);
    let _ = IGNORED.set(ignored);
}

fn limits() {
    for resource in RAISED {
        let limit = getrlimit(*resource);
        if limit.current != limit.maximum {
            // Raising the soft limit to the hard one is always allowed; a limit that stays only shows later, in
            // the error of what it stopped.
            let _ = setrlimit(*resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
        }
    }
}

fn environment(keep: impl Fn(&OsStr) -> bool) {
    let surplus: Vec<_> = std::env::vars_os().map(|(name, _)| name).filter(|name| !keep(name)).collect();
    for name in surplus {
        // `remove_var` panics on such names, which `execve` lets through.
        if !name.is_empty() && !name.as_bytes().contains(&b'=') {
            sys::remove_environment(&name);
        }
    }
}

fn kept(name: &OsStr) -> bool {
    let name = name.as_bytes();
    KEPT.iter().any(|kept| name == kept.as_bytes())
        || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_change_how_programs_load_are_not_kept() {
        for name in ["LD_PRELOAD", "LD_LIBRARY_PATH", "_FUSE_COMMFD", "SQLITE_TMPDIR", "GCONV_PATH", ""] {
            assert!(!kept(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "LC_ALL", "XDG_STATE_HOME", "SELVEDGE_LOG"] {
            assert!(kept(OsStr::new(name)), "{name}");
        }
    }
}
