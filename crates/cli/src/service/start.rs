//! Finding the service, or starting it: any number of commands at once come to the same one.

use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use selvedge_mountpoint::escape_for_print;

use super::lock::{self, Lock, TryLockError};
use super::{Probe, SERVICE_LOCK, START_LOCK, probe, unit};
use crate::context::refuse_selvedge_mount;
use crate::control::Client;
use crate::control::client::AskError;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::hygiene;
use crate::runtime::RuntimeDir;

/// How long until the service must answer.
const READY: Duration = Duration::from_secs(10);

/// The pause between two looks whether it answers, doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often a request is sent again whose service ended before it answered.
const ATTEMPTS: u32 = 5;

/// How much of what the service says before it is ready is kept, in bytes.
const KEPT: usize = 8 * 1024;

/// Asks the service, which is started if need be, until it answers: a service that ends meanwhile is followed by
/// another. `ask` gives `None` for a service that is ending.
pub fn retrying<T>(
    environment: &Environment,
    runtime: &RuntimeDir,
    mut ask: impl FnMut(&mut Client) -> Result<Option<T>, AskError>,
) -> Result<T> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut client = connect(environment, runtime)?;
        match ask(&mut client) {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => {}
            Err(AskError::Lost(error)) => last = Some(error),
            Err(AskError::Failed(error)) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        CliError::timed_out(format!("the service ended {ATTEMPTS} times before it could answer"))
            .hint("somebody keeps stopping it; try again")
    }))
}

/// Connects to the service, and starts it if there is none.
pub fn connect(environment: &Environment, runtime: &RuntimeDir) -> Result<Client> {
    let deadline = Instant::now() + READY;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(client) = running(runtime)? {
            return Ok(client);
        }
        runtime.require_own("start the service")?;
        if let Some(starting) = not_held(Lock::try_take(runtime, START_LOCK))? {
            // It may have come up before the lock was free.
            if let Some(client) = running(runtime)? {
                return Ok(client);
            }
            if let Some(lock) = not_held(Lock::try_take(runtime, SERVICE_LOCK))? {
                let started = start(environment, runtime, lock, deadline);
                drop(starting);
                return started;
            }
            // A service that is ending, or hangs: its socket is left alone.
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(no_answer(runtime));
        }
        std::thread::sleep(pause.min(deadline - now));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn running(runtime: &RuntimeDir) -> Result<Option<Client>> {
    match probe(runtime) {
        Probe::Running(client) => Ok(Some(*client)),
        Probe::Version(error) => Err(error),
        Probe::Silent(_) | Probe::Down => Ok(None),
    }
}

fn not_held(taken: Result<Lock, TryLockError>) -> Result<Option<Lock>> {
    match taken {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::Held(_)) => Ok(None),
        Err(TryLockError::Failed(error)) => Err(error),
    }
}

fn no_answer(runtime: &RuntimeDir) -> CliError {
    let waited = READY.as_secs();
    match lock::holder(runtime, SERVICE_LOCK) {
        Some(pid) => CliError::timed_out(format!(
            "the service (process {pid}) did not answer within {waited} s"
        ))
        .hint(format!("if it stays so, end it (kill -9 {pid}): another one then takes its mounts over")),
        None => CliError::timed_out(format!("there was no service after {waited} s")).hint("try again"),
    }
}

/// Starts the service, which takes the lock over, and waits until it answers.
fn start(environment: &Environment, runtime: &RuntimeDir, lock: Lock, deadline: Instant) -> Result<Client> {
    let tried = "cannot start the service";
    let program = std::env::current_exe().map_err(|error| CliError::io(tried, &error))?;
    refuse_selvedge_mount(&program).map_err(|error| {
        error.context(format!("{tried}: {}", crate::ui::show(&program))).hint("install selvedge elsewhere")
    })?;
    let lock = lock.into_fd();
    let again = lock.try_clone().map_err(|error| CliError::io(tried, &error))?;
    let mut child = match unit::launch(environment, |program| command(environment, runtime, again, program)) {
        Some(child) => child,
        None => command(environment, runtime, lock, service_program())
            .spawn()
            .map_err(|error| CliError::io(tried, &error).hint("install selvedge again"))?,
    };
    until_ready(&mut child, runtime, deadline).inspect_err(|_| {
        // Not reaped yet, so the number is still its own.
        let _ = child.kill();
        let _ = child.wait();
    })
}

/// This very program again, so that the service is of the version of whoever starts it, also while the file is
/// replaced.
fn service_program() -> Command {
    let mut program = Command::new("/proc/self/exe");
    program.arg0("selvedge").args(["service", "run"]);
    program
}

/// Has `command` start the service. Its standard input is the lock; everything else of the caller's surroundings stays
/// behind.
fn command(environment: &Environment, runtime: &RuntimeDir, lock: OwnedFd, mut command: Command) -> Command {
    command
        .current_dir("/")
        .stdin(Stdio::from(lock))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("SELVEDGE_RUNTIME_DIR", runtime.base_path());
    for name in hygiene::KEPT_TERMINAL {
        command.env_remove(name);
    }
    // What a caller sets for a mount must not reach everybody's mounts.
    let of_the_mount = environment.for_worker.iter().map(|(name, _)| name.clone());
    for name in of_the_mount
        .chain(["SELVEDGE_REPO", "SELVEDGE_LOG_FILE", "SELVEDGE_RUNTIME_NAMESPACE"].map(OsString::from))
    {
        command.env_remove(name);
    }
    command
}

/// Waits until the service answers. It lets go of its standard error when it does, so that end is a hint to look at
/// once.
fn until_ready(child: &mut Child, runtime: &RuntimeDir, deadline: Instant) -> Result<Client> {
    let mut said = Said { pipe: child.stderr.take(), text: Vec::new() };
    let mut pause = FIRST_PAUSE;
    loop {
        said.listen(pause);
        match probe(runtime) {
            Probe::Running(client) => return Ok(*client),
            Probe::Version(error) => return Err(error),
            Probe::Silent(_) | Probe::Down => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            said.listen(Duration::ZERO);
            return Err(CliError::failed(format!(
                "the service ended as soon as it was started ({status}){}",
                said.told()
            ))
            .hint("selvedge service run shows in this terminal what it does"));
        }
        if Instant::now() >= deadline {
            return Err(CliError::timed_out(format!(
                "the service, started as process {}, was not ready within {} s{}",
                child.id(),
                READY.as_secs(),
                said.told()
            ))
            .hint("selvedge service run shows in this terminal what it does"));
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the service says before it is ready.
struct Said {
    pipe: Option<ChildStderr>,
    text: Vec<u8>,
}

impl Said {
    /// Listens for up to `limit`; less if the service lets go of the pipe.
    fn listen(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        let Some(pipe) = &mut self.pipe else { return std::thread::sleep(limit) };
        if fcntl_setfl(&*pipe, OFlags::NONBLOCK).is_err() {
            return std::thread::sleep(limit);
        }
        loop {
            let mut bytes = [0; 1024];
            match pipe.read(&mut bytes) {
                Ok(0) => {
                    self.pipe = None;
                    return;
                }
                Ok(count) => {
                    let room = KEPT.saturating_sub(self.text.len());
                    self.text.extend_from_slice(&bytes[..count.min(room)]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    // Only a signal ends this early, and then there is another round.
                    let _ = poll(
                        &mut [PollFd::new(&*pipe, PollFlags::IN)],
                        Timespec::try_from(left).ok().as_ref(),
                    );
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return std::thread::sleep(until.saturating_duration_since(Instant::now())),
            }
        }
    }

    fn told(&self) -> String {
        let lines: Vec<String> = self
            .text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| escape_for_print(line.strip_prefix(b"error: ").unwrap_or(line)))
            .collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) }
    }
}
