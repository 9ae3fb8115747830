//! The directory to mount on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use crate::covering::covering_mount;
use crate::mountinfo::{self, MountEntry};
use crate::{escape_for_print, shown};

/// A directory that something is to be mounted on: opened once, so that nobody can put another in its place.
#[derive(Debug)]
pub struct Mountpoint {
    fd: OwnedFd,
    path: PathBuf,
    parent_mount: u64,
}

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountpointError {
    /// There is nothing at the path.
    #[error("{} does not exist", shown(path))]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The last component is a symbolic link.
    #[error("{} is a symbolic link; give the directory itself", shown(path))]
    IsSymlink {
        /// The path.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{} is not a directory", shown(path))]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Mounting would hide what is in it.
    #[error("{} is not empty", shown(path))]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// It is, or lies on, a Selvedge mount.
    #[error("{} is on the Selvedge mount at {} ({what})", shown(path), shown(mount))]
    OnFuse {
        /// The path.
        path: PathBuf,
        /// Where that mount is.
        mount: PathBuf,
        /// Its source, made printable.
        what: String,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", shown(path))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Mountpoint {
    /// Opens `path` for mounting on it. It must be an empty directory that is not on a Selvedge mount.
    ///
    /// No Selvedge mount is asked anything, as far as that shows from the path as it is written; a symbolic link
    /// among the parents that leads through a hung mount can only be found out by following it. The contents of
    /// another FUSE mount are not looked at.
    pub fn open(path: &Path) -> Result<Self, MountpointError> {
        let io = |what| move |source| MountpointError::Io { what, path: path.to_owned(), source };
        let table = mountinfo::read().map_err(io("read the mount table for"))?;
        let written = std::path::absolute(path).map_err(io("resolve"))?;
        refuse_selvedge(path, &written, &table)?;
        let real = resolve(&written).map_err(|error| refusal(path, "resolve", error))?;
        refuse_selvedge(path, &real, &table)?;

        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            openat(CWD, &real, flags, Mode::empty()).map_err(|errno| refusal(path, "open", errno.into()))?;
        require_directory(path, fd.as_fd())?;
        let covering = covering_mount(&fd).map_err(|errno| io("identify the mount of")(errno.into()))?;
        let mount = table.iter().find(|entry| entry.mount_id == covering.mount_id);
        if let Some(mount) = mount.filter(|mount| mount.is_selvedge()) {
            return Err(on_fuse(path, mount));
        }
        if !mount.is_some_and(MountEntry::is_fuse) {
            require_empty(path, fd.as_fd())?;
        }
        Ok(Self { fd, path: real, parent_mount: covering.mount_id })
    }

    /// The directory, absolute and without symbolic links, at the time it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the mount that the directory is on.
    pub const fn parent_mount(&self) -> u64 {
        self.parent_mount
    }
}

impl AsFd for Mountpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path with its parent directories resolved and its last component as it is.
fn resolve(written: &Path) -> io::Result<PathBuf> {
    match (written.parent(), written.components().next_back()) {
        (Some(parent), Some(Component::Normal(name))) => Ok(parent.canonicalize()?.join(name)),
        _ => written.canonicalize(),
    }
}

/// Refuses a path whose innermost mount, going by its text, is a Selvedge mount.
fn refuse_selvedge(path: &Path, real: &Path, table: &[MountEntry]) -> Result<(), MountpointError> {
    // Of several mounts on one path the last one is on top.
    let innermost = table
        .iter()
        .filter(|entry| real.starts_with(&entry.mount_point))
        .max_by_key(|entry| entry.mount_point.components().count());
    match innermost {
        Some(mount) if mount.is_selvedge() => Err(on_fuse(path, mount)),
        _ => Ok(()),
    }
}

fn on_fuse(path: &Path, mount: &MountEntry) -> MountpointError {
    use std::os::unix::ffi::OsStrExt as _;
    MountpointError::OnFuse {
        path: path.to_owned(),
        mount: mount.mount_point.clone(),
        what: escape_for_print(mount.source.as_bytes()),
    }
}

fn refusal(path: &Path, what: &'static str, source: io::Error) -> MountpointError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => MountpointError::Missing { path },
        io::ErrorKind::NotADirectory => MountpointError::NotADirectory { path },
        _ => MountpointError::Io { what, path, source },
    }
}

fn require_directory(path: &Path, fd: BorrowedFd<'_>) -> Result<(), MountpointError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status =
        statx(fd, c"", flags, StatxFlags::TYPE).map_err(|errno| refusal(path, "examine", errno.into()))?;
    match FileType::from_raw_mode(status.stx_mode.into()) {
        FileType::Directory => Ok(()),
        FileType::Symlink => Err(MountpointError::IsSymlink { path: path.to_owned() }),
        _ => Err(MountpointError::NotADirectory { path: path.to_owned() }),
    }
}

fn require_empty(path: &Path, fd: BorrowedFd<'_>) -> Result<(), MountpointError> {
    let list = || -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in Dir::new(openat(fd, c".", flags, Mode::empty())?)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match list() {
        Ok(true) => Ok(()),
        Ok(false) => Err(MountpointError::NotEmpty { path: path.to_owned() }),
        Err(errno) => Err(refusal(path, "list", errno.into())),
    }
}
