//! Host directories: describing, mounting in them, and being another user.

use rustix::fs::{AtFlags, CWD, SeekFrom};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// All that a tree must keep about one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) links: Vec<PathBuf>,
    pub(crate) rdev: u64,
    pub(crate) target: Option<PathBuf>,
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) holes: Vec<(u64, u64)>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything beneath `root`, and `root` itself as the empty path.
pub(crate) fn describe(root: &Path) -> BTreeMap<PathBuf, Description> {
    let mut paths = vec![PathBuf::new()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        if root.join(&path).symlink_metadata().unwrap().is_dir() {
            for entry in std::fs::read_dir(root.join(&path)).unwrap() {
                paths.push(path.join(entry.unwrap().file_name()));
            }
        }
    }
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for path in &paths {
        let stat = root.join(path).symlink_metadata().unwrap();
        names.entry(stat.ino()).or_default().push(path.clone());
    }
    for paths in names.values_mut() {
        paths.sort();
    }
    paths.into_iter().map(|path| (path.clone(), describe_one(root, &path, &names))).collect()
}

fn describe_one(root: &Path, path: &Path, names: &BTreeMap<u64, Vec<PathBuf>>) -> Description {
    let full = root.join(path);
    let stat = full.symlink_metadata().unwrap();
    let kind = stat.file_type();
    let kind = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "char",
        () => "block",
    };
    Description {
        kind,
        mode: stat.mode() & 0o7777,
        owner: (stat.uid(), stat.gid()),
        mtime: (stat.mtime(), stat.mtime_nsec()),
        links: names[&stat.ino()].clone(),
        rdev: stat.rdev(),
        target: (kind == "symlink").then(|| std::fs::read_link(&full).unwrap()),
        bytes: (kind == "file").then(|| std::fs::read(&full).unwrap()),
        holes: if kind == "file" { holes(&full, stat.size()) } else { Vec::new() },
        xattrs: xattrs(&full),
    }
}

fn holes(path: &Path, size: u64) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let (mut at, mut holes) = (0, Vec::new());
    while at < size {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(at)).unwrap();
        if hole >= size {
            break;
        }
        let data = rustix::fs::seek(&file, SeekFrom::Data(hole)).unwrap_or(size);
        holes.push((hole, data - hole));
        at = data;
    }
    holes
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let get = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        value
    };
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| (name.to_vec(), get(name))).collect()
}

/// Sets the time of last modification, of the symlink itself if it is one.
pub(crate) fn set_mtime(path: &Path, sec: i64, nsec: i64) {
    let time = rustix::fs::Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Lets the clock move past the grain within which a change could go unseen.
pub(crate) fn let_time_pass() {
    std::thread::sleep(std::time::Duration::from_millis(80));
}

/// A mount that is gone when the test is.
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Makes `from` appear at `at` too.
pub(crate) fn bind(from: &Path, at: &Path) -> Mounted {
    rustix::mount::mount_bind(from, at).expect("bind mounts need root");
    Mounted(at.to_owned())
}

/// An empty disk of `bytes`.
pub(crate) fn small_disk(at: &Path, bytes: u64) -> Mounted {
    let options = CString::new(format!("size={bytes}")).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("small", at, "tmpfs", flags, &*options).expect("mounts need root");
    Mounted(at.to_owned())
}

/// A FUSE mount whose server never answers: whoever asks it anything hangs until the descriptor is
/// closed.
pub(crate) fn hung_fuse(at: &Path) -> (Mounted, OwnedFd) {
    let device = OwnedFd::from(File::options().read(true).write(true).open("/dev/fuse").unwrap());
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("hung", at, "fuse", flags, &*data).expect("FUSE mounts need root");
    (Mounted(at.to_owned()), device)
}

/// The user that [`as_user`] becomes.
pub(crate) const USER: u32 = 12_345;

/// Runs the test `name` again in a process of another user and checks that it passes; tells
/// whether this is that process.
pub(crate) fn as_user(name: &str) -> bool {
    const MARK: &str = "SELVEDGE_TEST_AS_USER";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    // Root's, so that it can be removed whatever the other user left in it.
    let tmp = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(tmp.path(), Some(USER), Some(USER)).expect("giving files away needs root");
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .env("TMPDIR", tmp.path())
        .uid(USER)
        .gid(USER)
        .current_dir("/")
        .output()
        .expect("becoming another user needs root");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Makes `name` in `directory` a named pipe, socket or device.
pub(crate) fn mknod(path: &Path, kind: rustix::fs::FileType, rdev: u64) {
    let mode = rustix::fs::Mode::from_bits_retain(0o640);
    rustix::fs::mknodat(CWD, path, kind, mode, rdev).expect("devices need root");
}

/// A path from bytes that need not be UTF-8.
pub(crate) fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsStr::from_bytes(bytes).into()
}
