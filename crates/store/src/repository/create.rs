//! Making a repository, whole or not at all.

use super::check::open_parent;
use super::sweep::{LEFTOVER_AGE, is_abandoned};
use super::{Created, DIRECTORY_NAME, FORMAT_VERSION, RepositoryError};
use crate::backend::LocalBackend;
use crate::{LayerId, Refs};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a repository is called until it is whole.
const UNFINISHED: &str = ".selvedge.new-";

/// Makes `dir/.selvedge` unless there is something of that name already.
pub(super) fn create(dir: &Path) -> Result<Created, RepositoryError> {
    let (parent_fd, parent) = open_parent(dir)?;
    let target = parent.join(DIRECTORY_NAME);
    sweep_unfinished(&parent);
    match rustix::fs::statat(&parent_fd, DIRECTORY_NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(Created::Existing),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(failed(&target, "cannot look for a repository")(error.into())),
    }
    let unfinished = Unfinished::begin(&parent)?;
    unfinished.fill()?;
    let created = match rename_if_absent(&unfinished.path, &target) {
        Ok(()) => Created::New,
        // Somebody else was faster; theirs is as good as ours.
        Err(Errno::EXIST | Errno::NOTEMPTY) => Created::Existing,
        Err(error) => return Err(failed(&target, "cannot rename the repository into place")(error.into())),
    };
    sync_directory(&parent)?;
    Ok(created)
}

/// A repository being made: removed when dropped, unless it got its name.
struct Unfinished {
    path: PathBuf,
    /// Locked, so that nobody takes it for what a dead process left behind.
    _directory: File,
}

impl Unfinished {
    fn begin(parent: &Path) -> Result<Self, RepositoryError> {
        let id = LayerId::random().map_err(failed(parent, "cannot name a new repository"))?;
        let path = parent.join(format!("{UNFINISHED}{id}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                RepositoryError::Unwritable { path: parent.to_owned(), source }
            }
            _ => failed(&path, "cannot make the repository's directory")(source),
        })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty())
            .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::LockExclusive).map(|()| fd))
            .map_err(|error| failed(&path, "cannot lock the repository's directory")(error.into()))?;
        Ok(Self { path, _directory: directory.into() })
    }

    fn fill(&self) -> Result<(), RepositoryError> {
        LocalBackend::create(&self.path)?;
        Refs::create(&self.path.join("refs.db"))?;
        for name in ["layers", "locks"] {
            let path = self.path.join(name);
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(failed(&path, "cannot make the directory"))?;
        }
        write_file(&self.path.join(".gitignore"), b"*\n")?;
        // A directory without this file is no repository.
        write_file(&self.path.join("format"), format!("{FORMAT_VERSION}\n").as_bytes())?;
        sync_directory(&self.path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Nothing bears this name once the repository has its own. What cannot be removed now is
        // removed by the next `init` here.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn write_file(path: &Path, text: &[u8]) -> Result<(), RepositoryError> {
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text)?;
        file.sync_all()
    };
    write().map_err(failed(path, "cannot write the file"))
}

fn sync_directory(path: &Path) -> Result<(), RepositoryError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed(path, "cannot sync the directory"))
}

fn rename_if_absent(from: &Path, to: &Path) -> Result<(), Errno> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // Not every file system can: a plain rename replaces an empty directory at most.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(from, to),
        answer => answer,
    }
}

/// Removes what processes that died while making a repository here left behind.
fn sweep_unfinished(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.as_bytes().strip_prefix(UNFINISHED.as_bytes()) else { continue };
        let ours = std::str::from_utf8(id).is_ok_and(|id| id.parse::<LayerId>().is_ok());
        if ours && is_abandoned(&entry.path(), LEFTOVER_AGE) {
            let removed = std::fs::remove_dir_all(entry.path());
            tracing::info!(path = %entry.path().display(), ?removed, "swept a half-made repository");
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> RepositoryError {
    move |source| RepositoryError::Io { path: path.to_owned(), what, source }
}
