//! Settings: from the user's `config.toml`, the repository's, the environment, and the command line; each of these
//! counts more than those before it.

mod file;
mod knob;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use selvedge_mount::{Passing, Profile, Tuning};
use selvedge_supervisor::SpawnSpec;
use serde::{Deserialize, Deserializer};

pub use knob::{Fallback, KNOBS, Knob, Scope};
pub use value::{Kind, Value};

use crate::environment::{Environment, STOP_GRACE, Variable};
use crate::error::{CliError, Result};
use crate::hygiene;
use crate::ui::{show, show_os};

/// What is logged unless somebody wants something else.
const USUAL_FILTER: &str = "info";

/// Everything that can be set, with where each value comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    list: Vec<Setting>,
    sections: Sections,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Which.
    pub knob: &'static Knob,
    /// What it is.
    pub value: Value,
    /// Where that was said.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody has said anything.
    Default,
    /// The user's file.
    User(PathBuf, usize),
    /// The repository's file.
    Repository(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// An option of the command line.
    Flag(String),
}

impl Origin {
    /// Who counts more.
    const fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::User(..) => 1,
            Self::Repository(..) => 2,
            Self::Environment(_) => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::User(path, line) | Self::Repository(path, line) => write!(f, "{}:{line}", show(path)),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What the command line sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Which setting.
    pub key: String,
    /// To what.
    pub value: String,
    /// By which option.
    pub flag: String,
}

impl Override {
    /// What `flag` sets.
    pub fn new(key: &str, value: &str, flag: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), flag: flag.to_owned() }
    }

    /// What `--set KEY=VALUE` sets.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("it has to be KEY=VALUE, for instance mount.threads=2")?;
        if Knob::find(key.trim()).is_none() {
            return Err(format!("there is no setting {}; selvedge config lists all", key.trim()));
        }
        Ok(Self::new(key.trim(), value, "--set"))
    }
}

/// The values of all sections.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sections {
    /// `[mount]`: how threads are mounted.
    pub mount: MountSettings,
    /// `[service]`: the background process that holds mounts, and how it treats workers.
    pub service: ServiceSettings,
    /// `[store]`: how contents are kept.
    pub store: StoreSettings,
    /// `[safe]`: what is trusted although the rules of ownership speak against it.
    pub safe: SafeSettings,
}

/// `[mount]`: how threads are mounted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of settings says what each does")]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct MountSettings {
    pub threads: u64,
    #[serde(deserialize_with = "seconds")]
    pub entry_ttl: Duration,
    #[serde(deserialize_with = "seconds")]
    pub attr_ttl: Duration,
    #[serde(deserialize_with = "seconds")]
    pub negative_ttl: Duration,
    pub profile: Profile,
    pub passthrough: Passing,
    pub writeback: bool,
    pub direct_io: bool,
    pub max_write: u64,
    pub max_background: u16,
    pub read_only: bool,
    pub allow_other: bool,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub trace_writes: bool,
}

/// `[service]`: the background process that holds mounts, and how it treats workers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of settings says what each does")]
pub struct ServiceSettings {
    #[serde(deserialize_with = "seconds")]
    pub grace: Duration,
    #[serde(deserialize_with = "seconds")]
    pub mount_deadline: Duration,
    #[serde(deserialize_with = "seconds")]
    pub flush_deadline: Duration,
    #[serde(deserialize_with = "seconds")]
    pub hang_limit: Duration,
    pub restart_budget: u32,
    #[serde(deserialize_with = "seconds")]
    pub idle: Duration,
    pub core: bool,
    pub log: String,
    pub log_size: u64,
    pub log_files: u64,
    pub log_filter: String,
}

/// `[store]`: how contents are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of settings says what each does")]
pub struct StoreSettings {
    pub large_blob: u64,
}

/// `[safe]`: what is trusted although the rules of ownership speak against it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the table of settings says what each does")]
pub struct SafeSettings {
    pub repositories: Vec<PathBuf>,
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(serde::de::Error::custom)
}

impl Settings {
    /// What the user's file, the environment and the command line say.
    pub fn load(environment: &Environment, overrides: &[Override]) -> Result<Self> {
        let mut list = defaults()?;
        if let Some(path) = environment.user_config() {
            for line in file::read(&path, Scope::User)? {
                set(&mut list, line.knob, line.value, Origin::User(path.clone(), line.number));
            }
        }
        for Variable { key, name, value: text } in &environment.settings {
            let knob = known(key)?;
            let value = text.to_str().ok_or_else(|| knob.kind.describe()).and_then(|t| knob.kind.read(t));
            let value = value.map_err(|wanted| {
                CliError::usage(format!("{name} is {}, but {} wants {wanted}", show_os(text), knob.key()))
                    .hint("correct the variable, or unset it")
            })?;
            set(&mut list, knob, value, Origin::Environment(name.clone()));
        }
        if let Some(grace) = environment.stop_grace()? {
            set(
                &mut list,
                known("service.grace")?,
                Value::Seconds(grace),
                Origin::Environment(STOP_GRACE.into()),
            );
        }
        for Override { key, value, flag } in overrides {
            let knob = known(key)?;
            let value = knob.kind.read(value).map_err(|wanted| {
                CliError::usage(format!("{flag}: {} wants {wanted}, not {value:?}", knob.key()))
                    .hint("selvedge config lists all settings and their values")
            })?;
            set(&mut list, knob, value, Origin::Flag(flag.clone()));
        }
        Self::of(list)
    }

    /// These, and what the repository in `directory` says, which has been found to be trustworthy.
    pub fn with_repository(mut self, directory: &Path) -> Result<Self> {
        let path = directory.join(".selvedge/config.toml");
        let lines = file::read(&path, Scope::Repository)?;
        if lines.is_empty() {
            return Ok(self);
        }
        for line in lines {
            set(&mut self.list, line.knob, line.value, Origin::Repository(path.clone(), line.number));
        }
        Self::of(self.list)
    }

    fn of(list: Vec<Setting>) -> Result<Self> {
        let mut document = toml::Table::new();
        for Setting { knob, value, .. } in &list {
            let section = document.entry(knob.section).or_insert_with(|| toml::Table::new().into());
            if let (Some(section), Some(value)) = (section.as_table_mut(), value.to_toml()) {
                section.insert(knob.name.to_owned(), value);
            }
        }
        let sections = document.try_into().map_err(|error: toml::de::Error| {
            CliError::failed(format!("the settings make no sense: {}", error.message())).hint("report this")
        })?;
        Ok(Self { list, sections })
    }

    /// All of them, in the order in which they are documented.
    pub fn list(&self) -> &[Setting] {
        &self.list
    }

    /// Their values.
    pub const fn sections(&self) -> &Sections {
        &self.sections
    }

    /// The one that is called so.
    pub fn get(&self, key: &str) -> Result<&Setting> {
        let knob = known(key)?;
        let found = self.list.iter().find(|setting| std::ptr::eq(setting.knob, knob));
        found.ok_or_else(|| CliError::failed(format!("{key} has no value")).hint("report this"))
    }

    /// What of a mount the worker is told.
    pub fn tuning(&self) -> Tuning {
        let mount = &self.sections.mount;
        Tuning {
            threads: mount.threads,
            entry_ttl_ms: millis(mount.entry_ttl),
            attr_ttl_ms: millis(mount.attr_ttl),
            negative_ttl_ms: millis(mount.negative_ttl),
            profile: mount.profile,
            passthrough: mount.passthrough,
            // Where nobody writes, nothing is held back.
            writeback: mount.writeback && !mount.read_only,
            direct_io: mount.direct_io,
            max_write: mount.max_write,
            max_background: mount.max_background,
            uid: mount.uid,
            gid: mount.gid,
            trace_writes: mount.trace_writes,
            large_blob: self.sections.store.large_blob,
        }
    }
}

impl ServiceSettings {
    /// Has the supervisor of a mount heed them.
    pub(crate) fn apply(&self, spec: &mut SpawnSpec) {
        spec.stop_grace = self.grace;
        spec.handshake_deadline = self.mount_deadline;
        spec.flush_deadline = self.flush_deadline;
        spec.hang_limit = Some(self.hang_limit).filter(|limit| !limit.is_zero());
        spec.restart_budget = self.restart_budget;
        if self.core {
            spec.env.push((hygiene::CORE.into(), "1".into()));
        }
        if self.log_filter != USUAL_FILTER {
            // What the worker's own default leaves out stays so, unless somebody asks for it.
            let unless = if self.log_filter.contains("fuser") { "" } else { ",fuser=off" };
            spec.env.push(("SELVEDGE_LOG".into(), format!("{}{unless}", self.log_filter).into()));
        }
    }
}

fn known(key: &str) -> Result<&'static Knob> {
    let unknown = || CliError::usage(format!("there is no setting {key}")).hint("selvedge config lists all");
    Knob::find(key).ok_or_else(unknown)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn defaults() -> Result<Vec<Setting>> {
    let setting = |knob: &'static Knob| {
        let value = match knob.default {
            Fallback::Text(text) => knob.kind.read(text).map_err(|wanted| {
                CliError::failed(format!("the default of {} is not {wanted}", knob.key())).hint("report this")
            })?,
            Fallback::ForRoot => Value::Switch(rustix::process::geteuid().is_root()),
            Fallback::Unset => Value::Unset,
        };
        Ok(Setting { knob, value, origin: Origin::Default })
    };
    KNOBS.iter().map(setting).collect()
}

fn set(list: &mut [Setting], knob: &'static Knob, value: Value, origin: Origin) {
    let same = list.iter_mut().find(|setting| std::ptr::eq(setting.knob, knob));
    if let Some(setting) = same.filter(|setting| setting.origin.rank() <= origin.rank()) {
        (setting.value, setting.origin) = (value, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn load(environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings> {
        let environment = Environment::from(|name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        });
        let overrides: Vec<_> = flags.iter().map(|flag| Override::parse(flag).unwrap()).collect();
        Settings::load(&environment, &overrides)
    }

    #[test]
    fn the_defaults_are_those_of_the_parts_that_heed_them() {
        let settings = load(&[], &[]).unwrap();
        assert_eq!(settings.tuning(), Tuning::default());
        let worker = selvedge_supervisor::WorkerProgram::Path("/w".into());
        let usual = SpawnSpec::new(worker, "/m".into());
        let worker = selvedge_supervisor::WorkerProgram::Path("/w".into());
        let mut spec = SpawnSpec::new(worker, "/m".into());
        settings.sections().service.apply(&mut spec);
        assert_eq!(format!("{spec:?}"), format!("{usual:?}"));
        assert!(settings.list().iter().all(|setting| setting.origin == Origin::Default));
    }

    #[test]
    fn whatever_is_set_for_the_service_reaches_supervisors() {
        let flags = [
            "service.grace=0.1",
            "service.mount_deadline=0.2",
            "service.flush_deadline=0.3",
            "service.hang_limit=0.4",
            "service.restart_budget=6",
            "service.log_filter=debug",
            "service.core=yes",
        ];
        let applied = |settings: &Settings| {
            let worker = selvedge_supervisor::WorkerProgram::Path("/w".into());
            let mut spec = SpawnSpec::new(worker, "/m".into());
            settings.sections().service.apply(&mut spec);
            spec
        };
        let spec = applied(&load(&[], &flags).unwrap());
        let times = [spec.stop_grace, spec.handshake_deadline, spec.flush_deadline];
        assert_eq!(times, [100, 200, 300].map(Duration::from_millis));
        assert_eq!((spec.hang_limit, spec.restart_budget), (Some(Duration::from_millis(400)), 6));
        let env = [(hygiene::CORE, "1"), ("SELVEDGE_LOG", "debug,fuser=off")];
        assert_eq!(spec.env, env.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(applied(&load(&[], &["service.hang_limit=0"]).unwrap()).hang_limit, None);
    }

    #[test]
    fn each_place_counts_more_than_those_before_it() {
        let scratch = tempfile::tempdir().unwrap();
        let user = scratch.path().join("selvedge/config.toml");
        std::fs::create_dir_all(user.parent().unwrap()).unwrap();
        std::fs::create_dir(scratch.path().join(".selvedge")).unwrap();
        let lines = "[mount]\nthreads = 1\nmax_write = 8192\nmax_background = 1\nattr_ttl = 1\n";
        std::fs::write(&user, lines).unwrap();
        let repository = scratch.path().join(".selvedge/config.toml");
        std::fs::write(&repository, "[mount]\nmax_write = 16384\nmax_background = 2\nattr_ttl = 2\n")
            .unwrap();
        let home = scratch.path().to_str().unwrap();
        let variables = [
            ("XDG_CONFIG_HOME", home),
            ("SELVEDGE_MOUNT_MAX_BACKGROUND", "3"),
            ("SELVEDGE_MOUNT_ATTR_TTL", "3"),
        ];
        let settings =
            load(&variables, &["mount.attr_ttl=4"]).unwrap().with_repository(scratch.path()).unwrap();
        let at = |key: &str| {
            let setting = settings.get(key).unwrap();
            (setting.value.show(), setting.origin.clone())
        };
        assert_eq!(at("mount.threads"), ("1".to_owned(), Origin::User(user, 2)));
        assert_eq!(at("mount.max_write"), ("16384".to_owned(), Origin::Repository(repository, 2)));
        let variable = "SELVEDGE_MOUNT_MAX_BACKGROUND".to_owned();
        assert_eq!(at("mount.max_background"), ("3".to_owned(), Origin::Environment(variable)));
        assert_eq!(at("mount.attr_ttl"), ("4".to_owned(), Origin::Flag("--set".to_owned())));
        assert_eq!(settings.tuning().attr_ttl_ms, 4000);
    }

    #[test]
    fn bad_words_are_named_with_what_they_should_be() {
        let error = load(&[("SELVEDGE_MOUNT_THREADS", "many")], &[]).unwrap_err();
        assert!(error.message.contains("SELVEDGE_MOUNT_THREADS is many"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let error = load(&[], &["mount.read_only=maybe"]).unwrap_err();
        assert!(error.message.starts_with("--set: mount.read_only wants true or false"), "{error}");
        assert!(Override::parse("mount.reed_only=1").unwrap_err().contains("no setting mount.reed_only"));
        assert!(Override::parse("mount.read_only").is_err());
    }

    #[test]
    fn the_grace_of_workers_has_a_variable_in_milliseconds() {
        let settings = load(&[("SELVEDGE_FUSE_WORKER_STOP_GRACE_MS", "150")], &[]).unwrap();
        assert_eq!(settings.sections().service.grace, Duration::from_millis(150));
        let error = load(&[("SELVEDGE_FUSE_WORKER_STOP_GRACE_MS", "soon")], &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
