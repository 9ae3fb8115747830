//! What a mount shall be: all that is needed to make it, now or again later.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use selvedge_mount::Tuning;
use selvedge_store::{Repository, ThreadRef};
use selvedge_supervisor::{SpawnSpec, WorkerProgram};
use selvedge_worker_proto::WirePath;
use serde::{Deserialize, Serialize};

use crate::context::{absolute, is_vouched_for};
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::record::{Holder, MountId, Record};
use crate::settings::{ServiceSettings, Settings};

/// A mount that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the request: one that is sent again is carried out once.
    pub request: MountId,
    /// The directory that holds `.selvedge`.
    pub repo: WirePath,
    /// The thread's name.
    pub thread: String,
    /// The thread's identity, in hexadecimal: a name may have passed to another thread since.
    pub thread_id: String,
    /// The directory to mount on, absolute and without symbolic links.
    pub mountpoint: WirePath,
    /// Whether the directory is to be made, and goes with the mount if empty.
    pub make_directory: bool,
    /// Whether it is made to be lent to processes, and goes when nobody has it any more.
    #[serde(default)]
    pub lent: bool,
    /// How it shall be mounted.
    pub options: Options,
    /// The worker's program, where the caller chose one.
    pub worker: Option<WirePath>,
    /// The caller's environment variables for the first worker. Those that crash a worker on purpose are among
    /// them, so no later one gets them.
    #[serde(default)]
    pub environment: Vec<(WirePath, WirePath)>,
    /// The grace between two steps of ending the worker, in milliseconds, where the caller wants another than the
    /// settings say.
    pub stop_grace_ms: Option<u64>,
}

/// How a thread is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own of the worker")]
pub struct Options {
    /// Changes are refused.
    pub read_only: bool,
    /// Other users are let in, as far as permissions allow.
    pub allow_other: bool,
    /// Set-user-id and set-group-id bits take effect.
    pub suid: bool,
    /// Device files work.
    pub dev: bool,
    /// The user vouches for the repository, whoever owns it.
    pub trust_repository: bool,
    /// What happens when a worker dies.
    pub on_crash: OnCrash,
    /// What else can be set: as it was when somebody asked for the mount, for as long as that is wanted.
    #[serde(default)]
    pub tuning: Tuning,
}

/// What happens when a worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    /// A successor takes over: programs that use the mount wait a moment and notice nothing
    Recover,
    /// The mount is taken down; every change made is kept
    Unmount,
}

impl From<OnCrash> for selvedge_supervisor::OnCrash {
    fn from(wanted: OnCrash) -> Self {
        match wanted {
            OnCrash::Recover => Self::Recover,
            OnCrash::Unmount => Self::Unmount,
        }
    }
}

impl Plan {
    /// A mount of `thread` as it is made when nobody asks for anything special.
    pub fn new(
        environment: &Environment,
        settings: &Settings,
        repository: &Repository,
        thread: &ThreadRef,
        mountpoint: PathBuf,
        make_directory: bool,
    ) -> Result<Self> {
        let tuning = settings.tuning();
        tuning.check().map_err(|clash| {
            let origin = settings.get(clash.setting()).map(|setting| setting.origin.to_string());
            CliError::usage(format!("{clash}, which is set by {}", origin.unwrap_or_default()))
                .hint(clash.hint())
        })?;
        Ok(Self {
            request: MountId::random()?,
            repo: repository.dir().into(),
            thread: thread.name.to_string(),
            thread_id: thread.id.to_string(),
            mountpoint: mountpoint.into(),
            make_directory,
            lent: false,
            options: Options {
                read_only: settings.sections().mount.read_only,
                allow_other: settings.sections().mount.allow_other,
                suid: false,
                dev: false,
                trust_repository: is_vouched_for(repository.dir()),
                on_crash: OnCrash::Recover,
                tuning,
            },
            worker: environment
                .worker_bin
                .as_ref()
                .map(|program| absolute(program))
                .transpose()?
                .map(WirePath),
            environment: wire_environment(&environment.for_worker),
            stop_grace_ms: environment
                .stop_grace()?
                .map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        })
    }

    /// The plan for later: what was for its first worker only is left out.
    #[must_use]
    pub fn without_environment(&self) -> Self {
        Self { environment: Vec::new(), ..self.clone() }
    }

    /// The record of a mount that this process is about to make.
    pub fn record(&self, holder: Holder) -> Result<Record> {
        let (repo, mountpoint) = (self.repo.clone(), self.mountpoint.clone());
        let record = Record::new(repo, &*self.thread, &*self.thread_id, mountpoint, self.make_directory)?;
        let of_the_service = holder == Holder::Service;
        let request = of_the_service.then(|| self.request.clone());
        let plan = of_the_service.then(|| Box::new(self.without_environment()));
        Ok(Record { holder, request, plan, ..record })
    }

    /// What to start: a worker of the program `worker`, supervised as `settings` say.
    pub fn spec(&self, worker: WorkerProgram, settings: &ServiceSettings) -> SpawnSpec {
        let mut spec = SpawnSpec::new(worker, self.mountpoint.as_path().to_owned());
        settings.apply(&mut spec);
        spec.args = self.arguments();
        // The caller's word after that of the settings.
        spec.env.extend(self.environment.iter().map(|(name, value)| (os(name), os(value))));
        spec.on_crash = self.options.on_crash.into();
        spec.stop_grace = self.stop_grace_ms.map_or(spec.stop_grace, Duration::from_millis);
        spec
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![
            "--repo".into(),
            os(&self.repo),
            "--thread".into(),
            self.thread.as_str().into(),
            "--mountpoint".into(),
            os(&self.mountpoint),
        ];
        let switches = [
            ("--read-only", self.options.read_only),
            ("--allow-other", self.options.allow_other),
            ("--suid", self.options.suid),
            ("--dev", self.options.dev),
            ("--trust-repository", self.options.trust_repository),
        ];
        words.extend(switches.into_iter().filter(|(_, on)| *on).map(|(word, _)| word.into()));
        words.extend(self.options.tuning.arguments());
        words
    }

    /// Whether both mean the same thread.
    pub fn is_of_thread(&self, repo: &Path, thread_id: &str) -> bool {
        self.thread_id == thread_id && self.repo.as_path() == repo
    }
}

fn os(path: &WirePath) -> OsString {
    path.as_path().as_os_str().to_owned()
}

/// Environment variables as they travel: any bytes.
fn wire_environment(variables: &[(OsString, OsString)]) -> Vec<(WirePath, WirePath)> {
    let wire = |text: &OsString| WirePath(PathBuf::from(text));
    variables.iter().map(|(name, value)| (wire(name), wire(value))).collect()
}
