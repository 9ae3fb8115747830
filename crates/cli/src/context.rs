//! What every command needs: where to print, what the caller set, which repository is meant.

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use selvedge_mountpoint::{FS_TYPE, mountinfo};
use selvedge_store::{DIRECTORY_NAME, Discovery, ObjectHold, OpenOptions, Repository, RepositoryError};

use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::runtime::{RuntimeDir, file_system_type};
use crate::service::log::Log;
use crate::settings::{Override, Settings};
use crate::ui::{Ui, show};

/// What a command runs in.
#[derive(Debug)]
pub struct Context {
    /// Where it prints.
    pub ui: Ui,
    /// What the caller set.
    pub environment: Environment,
    /// The log of mounts that this process holds, other than as the service.
    pub(crate) log: Option<Log>,
    repo_option: Option<PathBuf>,
    settings: OnceCell<Settings>,
}

impl Context {
    /// A context; `repo_option` is `--repo`.
    pub(crate) fn new(
        ui: Ui,
        environment: Environment,
        repo_option: Option<PathBuf>,
        log: Option<Log>,
    ) -> Result<Self> {
        if repo_option.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(CliError::usage("--repo is empty")
                .hint("name the directory that holds .selvedge, or leave --repo out"));
        }
        Ok(Self { ui, environment, log, repo_option, settings: OnceCell::new() })
    }

    /// What the user's file and the environment set.
    pub fn settings(&self) -> Result<&Settings> {
        if let Some(settings) = self.settings.get() {
            return Ok(settings);
        }
        let settings = Settings::load(&self.environment, &[])?;
        Ok(self.settings.get_or_init(|| settings))
    }

    /// What is set for `repository`, which has been opened, by its own file and the command line too.
    pub fn settings_for(&self, repository: &Repository, overrides: &[Override]) -> Result<Settings> {
        Settings::load(&self.environment, overrides)?.with_repository(repository.dir())
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
        let advice = "make a repository with selvedge init, or name one with --repo or SELVEDGE_REPO";
        match discover()? {
            Discovery::Found(directory) => Ok(directory),
            Discovery::Nowhere => Err(CliError::not_found(
                "there is no .selvedge at or above the current directory",
            )
            .hint(advice)),
            Discovery::StoppedAt { directory, owner } => Err(CliError::not_found(format!(
                "there is no .selvedge from the current directory up to {}, where the search stops: it belongs to user {owner}",
                show(&directory)
            ))
            .hint(advice)),
        }
    }

    /// The repository at or above the current directory.
    pub fn found_repository(&self) -> Result<Option<PathBuf>> {
        Ok(match discover()? {
            Discovery::Found(directory) => Some(directory),
            Discovery::Nowhere | Discovery::StoppedAt { .. } => None,
        })
    }

    /// Opens the repository.
    pub fn repository(&self) -> Result<Repository> {
        self.open_repository(&self.repository_directory()?)
    }

    /// Opens the repository for a command that needs objects which perhaps no thread reaches: none is removed as long
    /// as the second value is kept.
    pub fn held_repository(&self) -> Result<(Repository, ObjectHold)> {
        let repository = self.repository()?;
        let objects = repository.hold_objects()?;
        Ok((repository, objects))
    }

    /// Opens the repository in `directory`, as the user's settings allow.
    pub fn open_repository(&self, directory: &Path) -> Result<Repository> {
        let settings = self.settings()?;
        let safe = &settings.sections().safe.repositories;
        let usual = settings.sections().store.large_blob;
        let repository = Repository::open(directory, &OpenOptions { safe, large_blob: usual })?;
        // Its own settings count only now that it has been found to be trustworthy.
        let large_blob = self.settings_for(&repository, &[])?.sections().store.large_blob;
        if large_blob == usual {
            return Ok(repository);
        }
        drop(repository);
        Ok(Repository::open(directory, &OpenOptions { safe, large_blob })?)
    }
}

/// Looks for a repository at or above the current directory, unless that lies on a FUSE mount: asking a hung one
/// would hang this process for good.
fn discover() -> Result<Discovery> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let here = rustix::fs::open(".", flags, Mode::empty())
        .map_err(|errno| CliError::io("cannot open the current directory", &errno.into()))?;
    if file_system_type(here.as_fd()).is_some_and(|kind| kind == FS_TYPE) {
        return Ok(Discovery::Nowhere);
    }
    Ok(Repository::discover(&std::env::current_dir().map_err(|error| no_current_directory(&error))?))
}

fn no_current_directory(error: &std::io::Error) -> CliError {
    let tried = CliError::io("cannot tell the current directory", error);
    match error.kind() {
        std::io::ErrorKind::NotFound => tried.hint("it was deleted: go to a directory that exists (cd)"),
        _ => tried,
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
    std::path::absolute(path).map_err(|error| no_current_directory(&error))
}

/// The type of the file system that the absolute `path` would lie on if no component were a symbolic link: by
/// the mount table alone, so that nothing is asked.
pub fn lexical_file_system(path: &Path) -> Option<std::ffi::OsString> {
    let path = folded(path);
    let mounts = mountinfo::read().ok()?;
    let nearest = mounts
        .into_iter()
        .filter(|entry| path.starts_with(&entry.mount_point))
        // The last of several at one place is the uppermost.
        .max_by_key(|entry| entry.mount_point.components().count())?;
    Some(nearest.fs_type)
}

/// The absolute `path` without `.` and `..`, as it would be if no component were a symbolic link.
fn folded(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut so_far, part| {
        match part {
            Component::ParentDir => {
                so_far.pop();
            }
            Component::CurDir => {}
            part => so_far.push(part),
        }
        so_far
    })
}

/// Refuses the absolute `path` if it lies on a Selvedge mount, by the mount table alone: a mount whose worker is
/// stopped would not answer. What cannot be opened is left to whoever uses it next to report.
pub fn refuse_selvedge_mount(path: &Path) -> Result<()> {
    let refused = || {
        CliError::conflict("it lies on a Selvedge mount")
            .hint("choose a place that lies on no Selvedge mount")
    };
    // First by name, because resolving a path beneath a mount asks its worker; then as the kernel resolves it.
    if lexical_file_system(path).is_some_and(|kind| kind == FS_TYPE) {
        return Err(refused());
    }
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) if file_system_type(fd.as_fd()).is_some_and(|kind| kind == FS_TYPE) => Err(refused()),
        _ => Ok(()),
    }
}

/// Refuses the absolute `path`, symbolic links resolved, if it lies inside a repository's `.selvedge`: only the
/// store writes there, and a tree in it would be part of no snapshot.
pub fn refuse_repository(path: &Path) -> Result<()> {
    if path.components().any(|part| part == Component::Normal(DIRECTORY_NAME.as_ref())) {
        return Err(CliError::conflict("it lies inside a repository's .selvedge")
            .hint("choose a directory outside it"));
    }
    Ok(())
}

/// As [`refuse_repository`], for a `path` that may lead through symbolic links. What cannot be opened is left to
/// whoever uses it next to report.
pub fn refuse_way_into_repository(path: &Path) -> Result<()> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => refuse_repository(&resolved(fd.as_fd())?),
        Err(_) => Ok(()),
    }
}

/// Where a descriptor's file is, symbolic links resolved: what the kernel remembers, without asking the file
/// system.
pub fn resolved(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
        .map_err(|error| CliError::io("cannot read /proc/self/fd", &error))
}
