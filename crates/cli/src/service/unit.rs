//! The service as a transient unit of the user's service manager, where there is one.
//!
//! A process that leaves its session stays in the session's control group, and goes when log-out empties that. A scope of
//! the user's manager is a group of its own. It is made by `systemd-run --scope`, which then *becomes* the service, so that
//! the lock it was given as standard input is handed on, and its process number stays.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::environment::Environment;

/// How long the manager may take to make the scope. It does so in milliseconds; one that hangs is done without.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(2);

/// The manager's program.
const PROGRAM: &str = "systemd-run";

/// Its arguments. The scope goes with its last process, whatever became of it, and running out of memory in one worker does
/// not end the others. Stopping it tells all its processes, as log-out does; `KillMode=mixed` would tell none and kill
/// them at once, because a scope has no main process.
const ARGUMENTS: [&str; 6] = [
    "--user",
    "--scope",
    "--quiet",
    "--collect",
    "--description=Selvedge: the service that holds mounts, and their workers",
    "--property=OOMPolicy=continue",
];

/// Starts the service in a scope of its own; `dress` gives the command everything else that it needs. `None` if there is no
/// manager, or it refuses or does not answer: then nothing of this is left.
pub(super) fn launch(environment: &Environment, dress: impl FnOnce(Command) -> Command) -> Option<Child> {
    let (manager, exe) = (find_manager(environment)?, std::env::current_exe().ok()?);
    let mut command = Command::new(manager);
    // Not through /proc/self/exe, which would be the manager's program there.
    command.args(ARGUMENTS).arg("--").arg(exe).args(["service", "run"]);
    let mut child = dress(command).spawn().ok()?;
    if becomes_us(&mut child) {
        return Some(child);
    }
    // Not reaped yet, so the number is still its own.
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The manager's program, if a manager of the caller runs: its socket is there, and the caller's own.
fn find_manager(environment: &Environment) -> Option<std::path::PathBuf> {
    let directory = environment.user_runtime.as_ref()?;
    let caller = rustix::process::geteuid().as_raw();
    let answers = ["systemd/private", "bus"].into_iter().any(|name| {
        let found = fs::symlink_metadata(directory.join(name));
        found.is_ok_and(|file| file.file_type().is_socket() && file.uid() == caller)
    });
    if answers { environment.find_program(PROGRAM) } else { None }
}

/// Waits until the process executes this program; `false` if it ends instead, or does not in time.
fn becomes_us(child: &mut Child) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let program = |link: String| fs::metadata(link).ok().map(|file| (file.dev(), file.ino()));
    let Some(own) = program("/proc/self/exe".to_owned()) else { return false };
    loop {
        if program(format!("/proc/{}/exe", child.id())) == Some(own) {
            return true;
        }
        if !matches!(child.try_wait(), Ok(None)) || Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}
