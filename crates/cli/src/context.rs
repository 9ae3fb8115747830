//! What every command needs: where to print, what the caller set, which repository is meant.

use std::cell::OnceCell;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use selvedge_mountpoint::mountinfo;
use selvedge_store::{OpenOptions, Repository, RepositoryError};

use crate::config::{RepositoryConfig, UserConfig};
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::runtime::{RuntimeDir, file_system_type};
use crate::ui::Ui;

/// What a command runs in.
#[derive(Debug)]
pub struct Context {
    /// Where it prints.
    pub ui: Ui,
    /// What the caller set.
    pub environment: Environment,
    repo_option: Option<PathBuf>,
    config: OnceCell<UserConfig>,
}

impl Context {
    /// A context; `repo_option` is `--repo`.
    pub fn new(ui: Ui, environment: Environment, repo_option: Option<PathBuf>) -> Result<Self> {
        if repo_option.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(CliError::usage("--repo is empty"));
        }
        Ok(Self { ui, environment, repo_option, config: OnceCell::new() })
    }

    /// The user's settings.
    pub fn config(&self) -> Result<&UserConfig> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = UserConfig::load(&self.environment)?;
        Ok(self.config.get_or_init(|| config))
    }

    /// The runtime directory, made if need be.
    pub fn runtime(&self) -> Result<RuntimeDir> {
        RuntimeDir::open(&self.environment)
    }

    /// The repository that `--repo` or `$SELVEDGE_REPO` names, absolute.
    pub fn named_repository(&self) -> Result<Option<PathBuf>> {
        self.repo_option.as_ref().or(self.environment.repo.as_ref()).map(|path| absolute(path)).transpose()
    }

    /// The directory that holds the repository: named, or found at or above the current directory.
    pub fn repository_directory(&self) -> Result<PathBuf> {
        if let Some(named) = self.named_repository()? {
            return Ok(named);
        }
        self.found_repository()?.ok_or_else(|| {
            CliError::not_found("there is no .selvedge at or above the current directory")
                .hint("make a repository with selvedge init, or name one with --repo or SELVEDGE_REPO")
        })
    }

    /// The repository at or above the current directory, unless that lies on a FUSE mount: asking a hung one
    /// would hang this process for good.
    pub fn found_repository(&self) -> Result<Option<PathBuf>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let here = rustix::fs::open(".", flags, Mode::empty())
            .map_err(|errno| CliError::io("cannot open the current directory", &errno.into()))?;
        if file_system_type(here.as_fd()).is_some_and(|kind| kind == selvedge_mountpoint::FS_TYPE) {
            return Ok(None);
        }
        let current = std::env::current_dir()
            .map_err(|error| CliError::io("cannot tell the current directory", &error))?;
        Ok(Repository::discover(&current))
    }

    /// Opens the repository.
    pub fn repository(&self) -> Result<Repository> {
        self.open_repository(&self.repository_directory()?)
    }

    /// Opens the repository in `directory`, as the user's settings allow.
    pub fn open_repository(&self, directory: &Path) -> Result<Repository> {
        let safe = &self.config()?.safe.repositories;
        let repository = Repository::open(directory, &OpenOptions { safe })?;
        RepositoryConfig::load(repository.dir())?;
        Ok(repository)
    }
}

/// Whether the repository in `directory` can be used only because the user vouches for it.
pub fn is_vouched_for(directory: &Path) -> bool {
    matches!(
        Repository::open(directory, &OpenOptions::default()),
        Err(RepositoryError::ForeignOwner { .. } | RepositoryError::WritableByOthers { .. })
    )
}

/// `path` made absolute against the current directory, without asking the file system.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| CliError::io("cannot tell the current directory", &error))
}

/// The type of the file system that the absolute `path` would lie on if no component were a symbolic link: by
/// the mount table alone, so that nothing is asked.
pub fn lexical_file_system(path: &Path) -> Option<std::ffi::OsString> {
    let mounts = mountinfo::read().ok()?;
    let nearest = mounts
        .into_iter()
        .filter(|entry| path.starts_with(&entry.mount_point))
        // The last of several at one place is the uppermost.
        .max_by_key(|entry| entry.mount_point.components().count())?;
    Some(nearest.fs_type)
}
