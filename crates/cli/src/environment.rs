//! The environment variables that matter to the command line, read once.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{CliError, Result};
use crate::settings::KNOBS;
use crate::ui::show_os;

/// The variable that says, in milliseconds, how long a worker may take to obey.
pub const STOP_GRACE: &str = "SELVEDGE_FUSE_WORKER_STOP_GRACE_MS";

/// A variable that stands for a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Which setting.
    pub key: String,
    /// The variable's name.
    pub name: String,
    /// What it says.
    pub value: OsString,
}

/// What the caller set. An empty variable counts as one that is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `SELVEDGE_REPO`: the repository, when `--repo` is not given.
    pub repo: Option<PathBuf>,
    /// `SELVEDGE_LOG`: a tracing filter.
    pub log: Option<OsString>,
    /// `SELVEDGE_LOG_FILE`: where log lines go instead of standard error.
    pub log_file: Option<PathBuf>,
    /// `SELVEDGE_RUNTIME_DIR`: where records and sockets of running mounts live.
    pub runtime_dir: Option<PathBuf>,
    /// `SELVEDGE_RUNTIME_NAMESPACE`: which directory in there is meant by a command inside `run`, whose mount namespace
    /// has none of its own.
    pub runtime_namespace: Option<OsString>,
    /// `SELVEDGE_FUSE_WORKER_BIN`: the worker's program.
    pub worker_bin: Option<PathBuf>,
    /// `SELVEDGE_FUSE_WORKER_STOP_GRACE_MS`.
    pub stop_grace: Option<OsString>,
    /// `XDG_STATE_HOME`, when absolute.
    pub state_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, when absolute: where the user's service manager has its sockets.
    pub user_runtime: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, when absolute.
    pub config_home: Option<PathBuf>,
    /// `HOME`, when absolute.
    pub home: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// What stands for settings.
    pub settings: Vec<Variable>,
    /// What a worker reads, and hence what a caller sets for the mount that is about to be made.
    pub for_worker: Vec<(OsString, OsString)>,
}

/// Whether a worker reads the variable `name`.
fn is_for_worker(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let families: [&[u8]; 2] = [b"SELVEDGE_FUSE_WORKER_", b"SELVEDGE_TEST_"];
    name == b"SELVEDGE_LOG" || families.iter().any(|family| name.starts_with(family))
}

impl Environment {
    /// Reads the process's environment.
    pub fn read() -> Self {
        let for_worker = std::env::vars_os().filter(|(name, _)| is_for_worker(name)).collect();
        Self { for_worker, ..Self::from(|name| std::env::var_os(name)) }
    }

    /// As [`Self::read`], from the variables that `get` knows.
    pub fn from(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        // The XDG specification says to ignore relative values.
        let absolute = |name: &str| path(name).filter(|value| value.is_absolute());
        let settings = KNOBS.iter().filter_map(|knob| {
            let name = knob.variable()?;
            Some(Variable { key: knob.key(), value: get(&name)?, name })
        });
        let log_filter = get("SELVEDGE_LOG").map(|value| Variable {
            key: "service.log_filter".to_owned(),
            name: "SELVEDGE_LOG".to_owned(),
            value,
        });
        Self {
            settings: settings.chain(log_filter).collect(),
            repo: path("SELVEDGE_REPO"),
            log: get("SELVEDGE_LOG"),
            log_file: path("SELVEDGE_LOG_FILE"),
            runtime_dir: path("SELVEDGE_RUNTIME_DIR"),
            runtime_namespace: get("SELVEDGE_RUNTIME_NAMESPACE"),
            worker_bin: path("SELVEDGE_FUSE_WORKER_BIN"),
            stop_grace: get(STOP_GRACE),
            state_home: absolute("XDG_STATE_HOME"),
            user_runtime: absolute("XDG_RUNTIME_DIR"),
            config_home: absolute("XDG_CONFIG_HOME"),
            home: absolute("HOME"),
            path: get("PATH"),
            for_worker: Vec::new(),
        }
    }

    /// The user's configuration file, if there is a home for it.
    pub fn user_config(&self) -> Option<PathBuf> {
        let base =
            self.config_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")))?;
        Some(base.join("selvedge/config.toml"))
    }

    /// How long a worker may take to obey before the next, harder step, if the caller says so.
    pub fn stop_grace(&self) -> Result<Option<Duration>> {
        let Some(text) = &self.stop_grace else { return Ok(None) };
        let millis = text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
            CliError::usage(format!("{STOP_GRACE} is {}, not a number of milliseconds", show_os(text)))
                .hint("give a whole number, for instance 2000, or unset it")
        })?;
        Ok(Some(Duration::from_millis(millis)))
    }

    /// The first executable file called `name` in `PATH`.
    pub fn find_program(&self, name: impl AsRef<OsStr>) -> Option<PathBuf> {
        let name = name.as_ref();
        std::env::split_paths(self.path.as_ref()?)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .find(|program| is_executable(program))
    }
}

/// Whether `program` is a file that the caller may execute.
pub fn is_executable(program: &std::path::Path) -> bool {
    program.is_file() && rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_relative_values_count_as_unset() {
        let environment = Environment::from(|name| match name {
            "SELVEDGE_REPO" => Some(OsString::new()),
            "XDG_CONFIG_HOME" => Some("relative".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        });
        assert_eq!(environment.repo, None);
        assert_eq!(environment.user_config(), Some("/home/u/.config/selvedge/config.toml".into()));
    }

    #[test]
    fn a_grace_that_is_no_number_is_a_usage_error() {
        let environment = Environment { stop_grace: Some("soon".into()), ..Environment::default() };
        assert_eq!(environment.stop_grace().unwrap_err().exit_code(), 2);
    }
}
