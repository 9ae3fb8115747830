//! How a worker of the service finds another one when that has died: it starts it as any command would, and asks it.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use selvedge_mount::worker::{Adopter, NotAdopted, Orphan};
use selvedge_worker_proto::ErrorKind;

use crate::control::client::AskError;
use crate::control::message::Adoption;
use crate::control::{Client, Reply, Request};
use crate::environment::Environment;
use crate::error::CliError;
use crate::process::ProcessId;
use crate::record::MountId;
use crate::runtime::RuntimeDir;
use crate::service::lock;
use crate::service::{Probe, SERVICE_LOCK, START_LOCK, probe};

/// How long the service may take to adopt a worker.
const ANSWER: Duration = Duration::from_secs(10);

/// How long starting it may take: as long as whoever starts it waits, and then some.
const START: Duration = Duration::from_secs(12);

/// The pause between two looks whether the starter has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Finds the service that shall adopt the worker of one mount.
#[derive(Debug)]
struct Finder {
    mount: MountId,
    /// The service's own program, opened while it ran: a service of the same version, whatever is installed since.
    program: OwnedFd,
}

/// The variable that tells a worker which process is the service that starts it: `PID-START`.
pub(crate) const SERVICE: &str = "SELVEDGE_SERVICE_PROCESS";

/// What finds another service for the worker of the mount `name`. To be called as early as can be: while the service, this
/// process's parent, is there, its program is known for certain.
pub fn adopter(name: &OsStr) -> Option<Arc<dyn Adopter>> {
    let mount = MountId::try_from(name.to_str()?.to_owned()).ok()?;
    let program = program_of_the_service().or_else(installed_beside);
    if program.is_none() {
        tracing::warn!("the service's program cannot be found: it will have no successor");
    }
    Some(Arc::new(Finder { mount, program: program? }))
}

/// The program that the service is, unless that is gone already: then the parent is another process.
fn program_of_the_service() -> Option<OwnedFd> {
    let service = ProcessId::parse(&std::env::var(SERVICE).ok()?)?;
    let program = open_program(format!("/proc/{}/exe", service.pid))?;
    // Looked at after it was opened, so it is the same process.
    service.runs().then_some(program)
}

/// The command that lies beside this worker's program, as it was installed.
fn installed_beside() -> Option<OwnedFd> {
    open_program(std::env::current_exe().ok()?.with_file_name("selvedge"))
}

fn open_program(path: impl AsRef<Path>) -> Option<OwnedFd> {
    rustix::fs::open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Adopter for Finder {
    fn adopt(&self, orphan: &Orphan<'_>) -> Result<(), NotAdopted> {
        // Opened now: a worker holds no descriptors that it may never need.
        let runtime = RuntimeDir::open(&Environment::read()).map_err(yet)?;
        let mut client = self.service(&runtime)?;
        let worker =
            ProcessId::own().ok_or_else(|| NotAdopted::Yet("cannot read /proc/self/stat".to_owned()))?;
        let adoption = Adoption {
            mount: self.mount.clone(),
            worker,
            ready: orphan.ready.clone(),
            last_id: orphan.last_id,
        };
        let request = Request::Adopt { adoption: Box::new(adoption) };
        match client.ask(request, &orphan.fds, Instant::now() + ANSWER) {
            Ok(Reply::Adopted {}) => Ok(()),
            Ok(Reply::Ending {}) => Err(NotAdopted::Refused("the service is ending".to_owned())),
            Ok(other) => Err(NotAdopted::Refused(format!("the service answered with {other:?}"))),
            Err(AskError::Failed(error)) if is_final(&error) => Err(NotAdopted::Refused(error.to_string())),
            Err(error) => Err(yet(error)),
        }
    }
}

impl Finder {
    /// The service, which is started if nobody else does.
    fn service(&self, runtime: &RuntimeDir) -> Result<Client, NotAdopted> {
        match probe(runtime) {
            Probe::Running(client) => return Ok(*client),
            Probe::Version(error) => return Err(NotAdopted::Refused(error.to_string())),
            Probe::Silent(error) => return Err(yet(error)),
            Probe::Down => {}
        }
        let is_coming = [START_LOCK, SERVICE_LOCK].iter().any(|name| lock::holder(runtime, name).is_some());
        if is_coming {
            return Err(NotAdopted::Yet("the service is just coming or going".to_owned()));
        }
        self.start(runtime)?;
        match probe(runtime) {
            Probe::Running(client) => Ok(*client),
            _ => Err(NotAdopted::Yet("the service does not answer".to_owned())),
        }
    }

    /// Starts it by a process in between, whose end makes it nobody's child, as it is when a command starts it.
    fn start(&self, runtime: &RuntimeDir) -> Result<(), NotAdopted> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("selvedge").args(["service", "start"]).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SELVEDGE_"))
        {
            command.env_remove(name);
        }
        command.env("SELVEDGE_RUNTIME_DIR", runtime.base_path());
        let cannot = |error: std::io::Error| NotAdopted::Yet(format!("cannot start the service: {error}"));
        let mut starter = command.spawn().map_err(cannot)?;
        let deadline = Instant::now() + START;
        loop {
            match starter.try_wait().map_err(cannot)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    return Err(NotAdopted::Yet(format!("the service cannot be started: {status}")));
                }
                None if Instant::now() >= deadline => {
                    // Not reaped yet, so the number is still its own.
                    let _ = starter.kill();
                    let _ = starter.wait();
                    return Err(NotAdopted::Yet("starting the service takes too long".to_owned()));
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    }
}

fn yet(error: impl Into<CliError>) -> NotAdopted {
    NotAdopted::Yet(error.into().to_string())
}

/// Whether asking again would not help.
const fn is_final(error: &CliError) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Usage)
}
