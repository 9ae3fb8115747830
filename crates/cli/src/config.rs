//! Settings from `config.toml`: the user's, and the repository's.

use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::ui::show;

/// The longest configuration read, in bytes: nobody's settings are longer, and a mistaken path may be.
const MAX_CONFIG: u64 = 1 << 20;

/// The user's own settings, `$XDG_CONFIG_HOME/selvedge/config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserConfig {
    /// What the user vouches for.
    pub safe: SafeConfig,
    /// The background process that holds mounts.
    pub service: ServiceConfig,
}

/// `[service]`: the background process that holds mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// After how many seconds without a mount it ends; 0 or nothing: never.
    pub idle: Option<u64>,
}

/// `[safe]`: what is trusted although the rules of ownership speak against it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SafeConfig {
    /// Directories that hold a `.selvedge` of another owner, or one that others may write.
    pub repositories: Vec<PathBuf>,
}

/// A repository's settings, `.selvedge/config.toml`. There are none yet, so every key is an error: a key that is
/// silently ignored is a setting that its author believes in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {}

impl UserConfig {
    /// Reads the user's settings; a missing file means the defaults.
    pub fn load(environment: &Environment) -> Result<Self> {
        let Some(path) = environment.user_config() else { return Ok(Self::default()) };
        let config: Self = read(&path, Trust::Own)?.unwrap_or_default();
        match config.safe.repositories.iter().find(|listed| !listed.is_absolute()) {
            Some(relative) => Err(CliError::usage(format!(
                "{}: [safe] repositories has {}, which is not an absolute path",
                show(&path),
                show(relative)
            ))
            .hint("write the path from / on")),
            None => Ok(config),
        }
    }
}

impl RepositoryConfig {
    /// Reads the settings of the repository in `directory`; a missing file means the defaults.
    pub fn load(directory: &Path) -> Result<Self> {
        Ok(read(&directory.join(".selvedge/config.toml"), Trust::Repository)?.unwrap_or_default())
    }
}

/// Whose word a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It grants rights, so it must be the caller's own, or root's.
    Own,
    /// Its repository has been checked already, and it grants nothing.
    Repository,
}

fn read<T: DeserializeOwned>(path: &Path, trust: Trust) -> Result<Option<T>> {
    let tried = || format!("cannot read the settings in {}", show(path));
    let file = match std::fs::File::open(path) {
        Err(error) if matches!(error.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened.map_err(|error| CliError::io(tried(), &error))?,
    };
    let metadata = file.metadata().map_err(|error| CliError::io(tried(), &error))?;
    if trust == Trust::Own {
        let caller = rustix::process::geteuid().as_raw();
        if (metadata.uid() != caller && metadata.uid() != 0) || metadata.mode() & 0o002 != 0 {
            return Err(CliError::not_permitted(format!(
                "{}: the file belongs to another user or others may write it",
                tried()
            ))
            .hint("settings may vouch for repositories, so they must be your own: chown or chmod the file, or set XDG_CONFIG_HOME"));
        }
    }
    let mut text = String::new();
    file.take(MAX_CONFIG).read_to_string(&mut text).map_err(|error| CliError::io(tried(), &error))?;
    parse(path, &text).map(Some)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or(String::new(), |span| {
            let before = text.get(..span.start).unwrap_or_default();
            format!(" line {}", before.matches('\n').count() + 1)
        });
        CliError::usage(format!("{}{place}: {}", show(path), error.message().trim()))
            .hint("correct the file, or remove the line")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors_that_name_file_and_line() {
        let text = "[safe]\nrepositories = []\nrepositoires = []\n";
        let error = parse::<UserConfig>(Path::new("/c.toml"), text).unwrap_err();
        assert!(error.message.starts_with("/c.toml line 3: unknown field `repositoires`"), "{error}");
    }

    #[test]
    fn bad_values_are_errors_that_name_file_and_line() {
        let error = parse::<UserConfig>(Path::new("/c.toml"), "\n[safe]\nrepositories = 1\n").unwrap_err();
        assert!(error.message.starts_with("/c.toml line 3: "), "{error}");
    }

    #[test]
    fn a_repository_sets_nothing_yet() {
        assert!(parse::<RepositoryConfig>(Path::new("/c"), "# nothing\n").is_ok());
        assert!(parse::<RepositoryConfig>(Path::new("/c"), "[mount]\nallow_other = true\n").is_err());
    }
}
