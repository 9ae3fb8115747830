//! A thread mounted by a real worker.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge_mountpoint::{Device, MountIdentity};
use selvedge_supervisor::{
    OnCrash, SpawnError, SpawnSpec, StopError, StopMode, StopReport, Supervisor, WorkerProgram,
};

use crate::watchdog::Watchdog;
use crate::{THREAD, assert_inside};

/// How long a mount may be busy by accident: a child that another test is just starting has copies of this process's
/// descriptors until it executes, and one in a mount namespace of its own has copies of all mounts.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long a mount of a test may live, unless the test says otherwise.
const LIFETIME: Duration = Duration::from_mins(3);

/// Further options for every worker, so that somebody can have all tests run with a setting, for instance `--writeback`.
const OPTIONS: &str = "SELVEDGE_TEST_WORKER_OPTIONS";

/// How long until it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// A mount to be started.
#[derive(Debug)]
pub struct Mounting {
    program: PathBuf,
    before: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    mountpoint: PathBuf,
    handshake: Duration,
    grace: Duration,
    on_crash: OnCrash,
    restart_budget: Option<u32>,
    hang_limit: Option<Duration>,
    lifetime: Duration,
}

impl Mounting {
    /// A mount of the repository in `repo` on `mountpoint` by the program `worker`.
    pub fn new(worker: &str, repo: &Path, mountpoint: &Path) -> Self {
        let args = [
            OsString::from("--repo"),
            repo.into(),
            "--thread".into(),
            THREAD.into(),
            "--mountpoint".into(),
            mountpoint.into(),
        ];
        Self {
            program: worker.into(),
            before: Vec::new(),
            args: args.into(),
            env: Vec::new(),
            mountpoint: mountpoint.to_owned(),
            handshake: Duration::from_secs(20),
            grace: Duration::from_secs(2),
            on_crash: OnCrash::Unmount,
            restart_budget: None,
            hang_limit: None,
            lifetime: LIFETIME,
        }
    }

    /// With one more option.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.args.push(option.into());
        self
    }

    /// On another directory.
    #[must_use]
    pub fn at(mut self, mountpoint: &Path) -> Self {
        self.args.extend(["--mountpoint".into(), mountpoint.into()]);
        mountpoint.clone_into(&mut self.mountpoint);
        self
    }

    /// Another thread, or none that exists.
    #[must_use]
    pub fn thread(mut self, name: &str) -> Self {
        self.args.extend(["--thread".into(), name.into()]);
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Started by `program` with `args` in front of the worker's path and arguments.
    #[must_use]
    pub fn through(mut self, program: &str, args: &[&str]) -> Self {
        let worker = std::mem::replace(&mut self.program, program.into());
        self.before.splice(0..0, args.iter().map(OsString::from).chain([worker.into_os_string()]));
        self
    }

    /// With less patience.
    #[must_use]
    pub fn handshake_within(mut self, deadline: Duration) -> Self {
        self.handshake = deadline;
        self
    }

    /// With a successor for a worker that dies.
    #[must_use]
    pub fn recovering(mut self) -> Self {
        self.on_crash = OnCrash::Recover;
        self
    }

    /// With so many successors in a row that may die before they have served anything.
    #[must_use]
    pub fn restart_budget(mut self, budget: u32) -> Self {
        self.restart_budget = Some(budget);
        self
    }

    /// With a successor for a worker that hangs so long.
    #[must_use]
    pub fn hang_limit(mut self, limit: Duration) -> Self {
        self.hang_limit = Some(limit);
        self
    }

    /// To live longer than a test usually takes.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// With less patience at the end.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the worker and waits for the mount.
    pub fn try_start(self) -> Result<Mounted, SpawnError> {
        let mut spec = SpawnSpec::new(WorkerProgram::Path(self.program), self.mountpoint);
        let further = std::env::var(OPTIONS).unwrap_or_default();
        let further = further.split_whitespace().map(OsString::from);
        spec.args = self.before.into_iter().chain(self.args).chain(further).collect();
        spec.env = self.env;
        spec.handshake_deadline = self.handshake;
        spec.stop_grace = self.grace;
        spec.on_crash = self.on_crash;
        spec.hang_limit = self.hang_limit.or(spec.hang_limit);
        spec.restart_budget = self.restart_budget.unwrap_or(spec.restart_budget);
        let supervisor = Arc::new(Supervisor::spawn(&spec)?);
        let ready = supervisor.ready();
        let identity = MountIdentity {
            mount_id: ready.mount_id,
            unique_id: ready.unique_mount_id,
            device: Device { major: ready.device.major, minor: ready.device.minor },
            path: ready.mount_path.as_path().to_owned(),
        };
        let watchdog = Watchdog::over(identity.clone(), self.lifetime);
        assert_inside(&identity.path);
        Ok(Mounted { identity, supervisor, _watchdog: watchdog })
    }

    /// Starts the worker and waits for the mount.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn start(self) -> Mounted {
        self.try_start().unwrap_or_else(|error| panic!("no mount: {error}"))
    }
}

/// A mount and its supervisor, which is this process. It is ended by force when the value goes.
#[derive(Debug)]
pub struct Mounted {
    identity: MountIdentity,
    supervisor: Arc<Supervisor>,
    _watchdog: Watchdog,
}

impl Mounted {
    /// The mounted directory.
    pub fn path(&self) -> &Path {
        &self.identity.path
    }

    /// Which mount it is.
    pub const fn identity(&self) -> &MountIdentity {
        &self.identity
    }

    /// The supervisor, for another thread.
    pub fn supervisor(&self) -> Arc<Supervisor> {
        Arc::clone(&self.supervisor)
    }

    /// Ends it in order.
    ///
    /// # Panics
    /// When it does not end, or not well.
    #[track_caller]
    pub fn stop(self) -> StopReport {
        let deadline = Instant::now() + PATIENCE;
        let report = loop {
            match self.supervisor.stop(StopMode::Orderly) {
                Err(StopError::Busy(_)) if Instant::now() < deadline => {
                    // A detached mount ends by itself when it is let go.
                    self.supervisor.wait(Some(Instant::now() + PAUSE));
                }
                other => break other.expect("an orderly end"),
            }
        };
        assert!(report.exit.is_clean(), "{report:?}");
        report
    }
}

impl Deref for Mounted {
    type Target = Supervisor;

    fn deref(&self) -> &Supervisor {
        &self.supervisor
    }
}
