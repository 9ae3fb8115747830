//! The runtime directory: records and sockets of running mounts.
//!
//! It is the caller's alone (0700), because who may write there decides which processes our commands signal and
//! which mounts they take down. Inside it is one directory for each boot and mount namespace, so that a home
//! shared between machines or containers mixes nothing.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, mkdirat, openat, statx};
use rustix::io::Errno;
use selvedge_mountpoint::{FS_TYPE, mountinfo};

use crate::context::lexical_file_system;
use crate::environment::Environment;
use crate::error::{CliError, Problem, Result};
use crate::sys;
use crate::ui::show;

/// File systems that other machines may see or that wait for a network.
const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "ncpfs",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "glusterfs",
    "9p",
    "fuse.glusterfs",
    "fuse.sshfs",
    "fuse.ceph",
    "fuse.s3fs",
    "fuse.rclone",
    "beegfs",
    "orangefs",
    "ocfs2",
    "gfs2",
];

/// The name of the directory of mounts that shall be made again, in each boot's and namespace's directory.
pub const WANTED: &str = "wanted";

/// The name of the directory of mounts that are made to be lent to processes, in the same.
pub const RUNS: &str = "runs";

/// The longest path a Unix socket's address holds, without the final NUL.
pub const MAX_SOCKET_PATH: usize = 107;

/// An open, checked runtime directory of this boot and mount namespace.
#[derive(Debug)]
pub struct RuntimeDir {
    base_path: PathBuf,
    path: PathBuf,
    is_own: bool,
    base: OwnedFd,
    instance: OwnedFd,
    mounts: OwnedFd,
    wanted: OwnedFd,
}

impl RuntimeDir {
    /// Opens the directory, making what is missing.
    pub fn open(environment: &Environment) -> Result<Self> {
        let base = base(environment)?;
        // First by name alone, so that nothing is made on a mount, nor asked of one that does not answer.
        if lexical_file_system(&base).is_some_and(|kind| kind == FS_TYPE) {
            return Err(on_selvedge_mount(&base));
        }
        let base_fd = open_private(&base, Missing::Make)?.ok_or_else(|| {
            CliError::failed(format!("the runtime directory {} vanished", show(&base))).hint("try again")
        })?;
        refuse_selvedge_mount(base_fd.as_fd(), &base)?;
        let own = namespace_name()?;
        let name = outer_name(environment, &own).unwrap_or_else(|| own.clone());
        let is_own = name == own;
        let path = base.join(&name);
        let instance = private_child(base_fd.as_fd(), Path::new(&name), &path)?;
        let child = |name: &str| private_child(instance.as_fd(), Path::new(name), &path.join(name));
        let (mounts, wanted) = (child("mounts")?, child(WANTED)?);
        Ok(Self { base_path: base, path, is_own, base: base_fd, instance, mounts, wanted })
    }

    /// Puts `anew`, which has been made in the place of this one after somebody removed it, into its place for everybody
    /// who uses it.
    pub fn replace(&self, anew: &Self) -> Result<()> {
        let pairs = [
            (&self.base, &anew.base),
            (&self.instance, &anew.instance),
            (&self.mounts, &anew.mounts),
            (&self.wanted, &anew.wanted),
        ];
        for (old, new) in pairs {
            sys::replace(old.as_fd(), new.as_fd()).map_err(|error| {
                CliError::io(format!("cannot go over to the new {}", show(&self.path)), &error)
            })?;
        }
        Ok(())
    }

    /// Whether the directory is that of this process's own mount namespace. In `run` it is that of the namespace
    /// around it: what is recorded there is mounted there, and cannot be seen, made or removed from here.
    pub const fn is_own(&self) -> bool {
        self.is_own
    }

    /// A command inside `run` cannot do what concerns the mounts of the namespace around it.
    pub fn require_own(&self, tried: &str) -> Result<()> {
        if self.is_own {
            return Ok(());
        }
        Err(CliError::conflict(format!("cannot {tried} inside selvedge run, which sees other mounts"))
            .hint("do it outside; selvedge run works inside too"))
    }

    /// The directory itself, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of mounts that are made to be lent to processes, made if need be.
    pub fn make_runs(&self) -> Result<PathBuf> {
        let path = self.path.join(RUNS);
        private_child(self.instance.as_fd(), Path::new(RUNS), &path).map(|_| path)
    }

    /// Whether `mountpoint` is that of a mount that was made to be lent.
    pub fn is_of_a_run(&self, mountpoint: &Path) -> bool {
        mountpoint.parent() == Some(&self.path.join(RUNS))
    }

    /// Where the directory of all boots and namespaces is: what `SELVEDGE_RUNTIME_DIR` would have to say.
    pub fn base_path(&self) -> &Path {
        &self.base_path
    }

    /// The directory that holds one directory for each boot and mount namespace.
    pub fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// The directory of this boot and mount namespace: the service's socket and locks.
    pub fn instance(&self) -> BorrowedFd<'_> {
        self.instance.as_fd()
    }

    /// The directory of mounts that shall be made again when they are lost.
    pub fn wanted(&self) -> BorrowedFd<'_> {
        self.wanted.as_fd()
    }

    /// The directory of records and sockets.
    pub fn mounts(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    /// A path to `name` among records and sockets that fits a socket's address whatever the directory's own
    /// length. It goes through this process's descriptor: valid while `self` lives, and in no other process.
    pub fn socket_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.mounts.as_raw_fd()))
    }

    /// A path to `name` in the directory itself, for a socket's address, as [`Self::socket_path`].
    pub fn instance_socket_path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.instance.as_raw_fd()))
    }
}

/// Where the directory is: the caller's word, else the state directory of a home that is the caller's and local,
/// else `/tmp/selvedge-UID`. Not `$XDG_RUNTIME_DIR`, which is deleted at log-out while mounts live on.
fn base(environment: &Environment) -> Result<PathBuf> {
    if let Some(chosen) = &environment.runtime_dir {
        // Every command must find the same directory, wherever it is called.
        return if chosen.is_absolute() {
            Ok(chosen.clone())
        } else {
            Err(CliError::usage(format!("SELVEDGE_RUNTIME_DIR is {}, not an absolute path", show(chosen)))
                .hint("write the path from / on"))
        };
    }
    let state =
        environment.state_home.clone().or_else(|| environment.home.as_ref().map(|h| h.join(".local/state")));
    let root = environment.state_home.as_ref().or(environment.home.as_ref());
    match (state, root) {
        (Some(state), Some(root)) if is_own_local_directory(root) => Ok(state.join("selvedge/run")),
        _ => Ok(PathBuf::from(format!("/tmp/selvedge-{}", rustix::process::geteuid().as_raw()))),
    }
}

/// Whether `directory`, or its nearest existing ancestor, is the caller's and on a local file system. A home of
/// another user (as `sudo` may leave it) must not fill up with directories that its owner cannot use.
fn is_own_local_directory(directory: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Some(fd) = directory.ancestors().find_map(|path| rustix::fs::open(path, flags, Mode::empty()).ok())
    else {
        return false;
    };
    let Ok(status) = statx(&fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::UID) else {
        return false;
    };
    status.stx_uid == rustix::process::geteuid().as_raw()
        && file_system_type(fd.as_fd()).is_some_and(|kind| !NETWORK.iter().any(|name| kind == *name))
}

/// The type of the file system that `fd` is on, by the mount table alone: the file system itself is not asked,
/// because it may not answer.
pub fn file_system_type(fd: BorrowedFd<'_>) -> Option<OsString> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(fd, "", flags, StatxFlags::MNT_ID).ok()?;
    let mounts = mountinfo::read().ok()?;
    mounts.into_iter().find(|entry| entry.mount_id == status.stx_mnt_id).map(|entry| entry.fs_type)
}

fn refuse_selvedge_mount(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    match file_system_type(fd) {
        Some(kind) if kind == FS_TYPE => Err(on_selvedge_mount(path)),
        _ => Ok(()),
    }
}

fn on_selvedge_mount(path: &Path) -> CliError {
    CliError::conflict(format!(
        "the runtime directory {} lies on a Selvedge mount, whose worker would then wait for itself",
        show(path)
    ))
    .hint("set SELVEDGE_RUNTIME_DIR to a directory elsewhere")
}

/// What tells this boot and mount namespace from all others.
fn namespace_name() -> Result<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| CliError::io("cannot read the boot id", &error))?;
    let namespace = std::fs::metadata("/proc/self/ns/mnt")
        .map_err(|error| CliError::io("cannot tell the mount namespace", &error))?;
    let boot: String = boot.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    Ok(format!("{boot}-{}", namespace.ino()))
}

/// The name that `run` hands to its command, if it is one of this boot.
fn outer_name(environment: &Environment, own: &str) -> Option<String> {
    let name = environment.runtime_namespace.as_ref()?.to_str()?;
    let (boot, namespace) = name.split_once('-')?;
    let is_name = !namespace.is_empty() && namespace.bytes().all(|byte| byte.is_ascii_digit());
    (is_name && own.split_once('-').is_some_and(|(this, _)| this == boot)).then(|| name.to_owned())
}

/// What to do when a directory does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Fail,
}

/// Opens `path` as a directory of the caller's alone. Its parents are made as needed; only the last component
/// must not be a symbolic link, since a home may well be reached through one.
fn open_private(path: &Path, missing: Missing) -> Result<Option<OwnedFd>> {
    let tried = || format!("cannot open the runtime directory {}", show(path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => check_private(fd, path).map(Some),
        Err(Errno::NOENT) if missing == Missing::Make => {
            if let Some(parent) = path.parent() {
                make_parents(parent)?;
            }
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => open_private(path, Missing::Fail),
                Err(errno) => Err(CliError::io(
                    format!("cannot make the runtime directory {}", show(path)),
                    &errno.into(),
                )
                .hint(ANOTHER)),
            }
        }
        Err(Errno::LOOP | Errno::NOTDIR) => Err(no_directory(path)),
        Err(errno) => Err(CliError::io(tried(), &errno.into()).hint(ANOTHER)),
    }
}

fn make_parents(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        CliError::io(format!("cannot make {} for the runtime directory", show(path)), &error).hint(ANOTHER)
    })
}

fn private_child(parent: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => {
            return Err(CliError::io(format!("cannot make {}", show(path)), &errno.into()).hint(ANOTHER));
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => check_private(fd, path),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(no_directory(path)),
        Err(errno) => Err(CliError::io(format!("cannot open {}", show(path)), &errno.into())),
    }
}

fn check_private(fd: OwnedFd, path: &Path) -> Result<OwnedFd> {
    let status = rustix::fs::fstat(&fd)
        .map_err(|errno| CliError::io(format!("cannot examine {}", show(path)), &errno.into()))?;
    let caller = rustix::process::geteuid().as_raw();
    if status.st_uid != caller {
        let why = format!("it belongs to user {}, not to {caller}", status.st_uid);
        return Err(refused(path, &why).hint(ANOTHER));
    }
    if status.st_mode & 0o077 != 0 {
        let why = format!("others may enter it (mode {:03o})", status.st_mode & 0o777);
        let close = format!("close it to others (chmod 700 {}), or {ANOTHER}", show(path));
        return Err(refused(path, &why).hint(close));
    }
    Ok(fd)
}

/// What to do about a runtime directory that cannot be used.
const ANOTHER: &str =
    "set SELVEDGE_RUNTIME_DIR to a directory that is yours alone, or to one that does not exist yet";

fn refused(path: &Path, why: &str) -> Problem {
    CliError::not_permitted(format!("cannot use the runtime directory {}: {why}", show(path)))
}

fn no_directory(path: &Path) -> CliError {
    refused(path, "it is not a directory, or a symbolic link").hint(ANOTHER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn environment(runtime: &Path) -> Environment {
        Environment { runtime_dir: Some(runtime.to_owned()), ..Environment::default() }
    }

    #[test]
    fn what_is_missing_is_made_private() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().join("a/b/run");
        let runtime = RuntimeDir::open(&environment(&base)).unwrap();
        for path in [base.as_path(), runtime.path(), &runtime.path().join("mounts")] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().join("run");
        std::fs::create_dir(&base).unwrap();
        std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(RuntimeDir::open(&environment(&base)).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let (real, base) = (scratch.path().join("real"), scratch.path().join("run"));
        std::fs::create_dir(&real).unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&real, &base).unwrap();
        assert_eq!(RuntimeDir::open(&environment(&base)).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn a_home_of_ones_own_holds_it_and_another_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let home = |home: PathBuf| base(&Environment { home: Some(home), ..Environment::default() }).unwrap();
        assert_eq!(home(scratch.path().into()), scratch.path().join(".local/state/selvedge/run"));
        let fallback = PathBuf::from(format!("/tmp/selvedge-{}", rustix::process::geteuid().as_raw()));
        assert_eq!(base(&Environment::default()).unwrap(), fallback);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(scratch.path(), Some(65534), None).unwrap();
            assert_eq!(home(scratch.path().into()), fallback);
        }
    }
}
