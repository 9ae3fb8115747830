//! Whether a directory is a repository that may be used.

use super::{DIRECTORY_NAME, FORMAT_VERSION, OpenOptions, RepositoryError};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use selvedge_mountpoint::{MountEntry, covering_mount, mountinfo};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File systems on which locks, or memory shared between processes, stop at the machine's border.
const NETWORK: [&str; 18] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "afs",
    "coda",
    "ncpfs",
    "lustre",
    "gfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.ceph",
    "fuse.juicefs",
];

/// A repository that passed all checks.
pub(super) struct Place {
    pub(super) parent: PathBuf,
    pub(super) path: PathBuf,
}

/// Checks without changing anything. Ownership comes before any byte of the repository is read.
pub(super) fn check(dir: &Path, options: &OpenOptions<'_>) -> Result<Place, RepositoryError> {
    let (parent_fd, parent) = open_parent(dir)?;
    let path = parent.join(DIRECTORY_NAME);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(&parent_fd, DIRECTORY_NAME, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(RepositoryError::NotFound { path: parent }),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(RepositoryError::Invalid { path, reason: "it is not a directory".to_owned() });
        }
        Err(error) => return Err(io_error(&path, "cannot open the repository", error)),
    };
    check_file_system(&fd, &path)?;
    if !is_listed(&parent, options.safe) {
        check_owner(&fd, &path)?;
    }
    check_format(&path)?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, &path, access, AtFlags::EACCESS)
        .map_err(|error| RepositoryError::Unwritable { path: path.clone(), source: error.into() })?;
    Ok(Place { parent, path })
}

/// Opens the directory that holds `.selvedge` (or will) and tells its path without symlinks.
pub(super) fn open_parent(dir: &Path) -> Result<(OwnedFd, PathBuf), RepositoryError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|error| io_error(dir, "cannot open the directory", error))?;
    // The kernel knows the path of an open directory; resolving it ourselves would ask every
    // file system on the way.
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = std::fs::read_link(link).map_err(|source| RepositoryError::Io {
        path: dir.to_owned(),
        what: "cannot find the directory's path",
        source,
    })?;
    check_file_system(&fd, &path)?;
    Ok((fd, path))
}

fn is_listed(parent: &Path, safe: &[PathBuf]) -> bool {
    safe.iter().any(|listed| listed == parent || listed.canonicalize().is_ok_and(|real| real == parent))
}

/// By the mount table, which answers even where the file system does not.
fn check_file_system(fd: impl AsFd, path: &Path) -> Result<(), RepositoryError> {
    let covering = covering_mount(fd).map_err(|error| io_error(path, "cannot tell the mount", error))?;
    if covering.device.is_of_a_disk() {
        return Ok(());
    }
    let mount = mountinfo::by_id(covering.mount_id).map_err(|source| RepositoryError::Io {
        path: PathBuf::from("/proc/self/mountinfo"),
        what: "cannot read the mount table",
        source,
    })?;
    mount.map_or(Ok(()), |mount| refuse_file_system(&mount, path))
}

fn refuse_file_system(mount: &MountEntry, path: &Path) -> Result<(), RepositoryError> {
    if mount.is_selvedge() {
        return Err(RepositoryError::OnSelvedgeMount { path: path.to_owned() });
    }
    match network(mount) {
        Some(name) => Err(RepositoryError::OnNetwork { path: path.to_owned(), file_system: name.to_owned() }),
        None => Ok(()),
    }
}

/// The name of the network file system that a mount is of, if it is of one.
pub(crate) fn network(mount: &MountEntry) -> Option<&'static str> {
    NETWORK.iter().find(|name| mount.fs_type.as_bytes() == name.as_bytes()).copied()
}

fn check_owner(fd: impl AsFd, path: &Path) -> Result<(), RepositoryError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, c"", flags, StatxFlags::UID | StatxFlags::MODE)
        .map_err(|error| io_error(path, "cannot look at the repository", error))?;
    let user = rustix::process::geteuid().as_raw();
    if stat.stx_uid != user {
        return Err(RepositoryError::ForeignOwner { path: path.to_owned(), owner: stat.stx_uid, user });
    }
    let mode = u32::from(stat.stx_mode) & 0o7777;
    if mode & 0o022 != 0 {
        return Err(RepositoryError::WritableByOthers { path: path.to_owned(), mode });
    }
    Ok(())
}

fn check_format(path: &Path) -> Result<(), RepositoryError> {
    let text = match std::fs::read(path.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let reason = "it has no file named 'format'".to_owned();
            return Err(RepositoryError::Invalid { path: path.to_owned(), reason });
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(RepositoryError::Unwritable { path: path.to_owned(), source: error });
        }
        Err(source) => {
            return Err(RepositoryError::Io {
                path: path.join("format"),
                what: "cannot read the format version",
                source,
            });
        }
    };
    if text == format!("{FORMAT_VERSION}\n").as_bytes() {
        return Ok(());
    }
    // Whoever wrote this file is not trusted with the terminal.
    let found = text.trim_ascii().escape_ascii().to_string().chars().take(32).collect();
    Err(RepositoryError::Format { path: path.to_owned(), found, known: FORMAT_VERSION })
}

fn io_error(path: &Path, what: &'static str, error: Errno) -> RepositoryError {
    RepositoryError::Io { path: path.to_owned(), what, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str) -> MountEntry {
        let line = format!("36 35 98:0 / /mnt rw,noatime - {fs_type} source rw");
        MountEntry::parse(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_repository_on_a_selvedge_mount_or_a_network_file_system_is_refused() {
        let refusal = |fs_type| refuse_file_system(&mount(fs_type), Path::new("/mnt/x"));
        assert!(matches!(refusal("fuse.selvedge"), Err(RepositoryError::OnSelvedgeMount { .. })));
        for network in ["nfs4", "cifs", "fuse.sshfs"] {
            assert!(matches!(refusal(network), Err(RepositoryError::OnNetwork { .. })), "{network}");
        }
        for local in ["ext4", "btrfs", "tmpfs", "fuseblk", "overlay"] {
            assert!(refusal(local).is_ok(), "{local}");
        }
    }
}
