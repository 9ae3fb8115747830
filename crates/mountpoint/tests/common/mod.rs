//! What the mounting tests share. Nothing here asks a mount anything: nobody serves them.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use selvedge_mountpoint::{MountEntry, MountOptions, UnmountMode, mountinfo, unmount};

/// The ordinary user that tests become.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(crate) fn options(thread: &str) -> MountOptions {
    MountOptions { thread: thread.to_owned(), ..MountOptions::default() }
}

/// A directory for mounts; what is still mounted beneath it goes when the test ends, however it ends.
pub(crate) struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let dir = tempfile::tempdir().unwrap();
        // Other users have to get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    pub(crate) fn mounts(&self) -> Vec<MountEntry> {
        let root = self.path();
        mountinfo::read().unwrap().into_iter().filter(|entry| entry.mount_point.starts_with(&root)).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for entry in self.mounts().into_iter().rev() {
            if entry.is_fuse() {
                let _ = unmount(&entry.identity(), UnmountMode::Force, soon());
            } else {
                let _ = rustix::mount::unmount(&entry.mount_point, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// Whether this test program has been started again as the ordinary user.
pub(crate) fn role() -> Option<PathBuf> {
    std::env::var_os("SELVEDGE_TEST_ROLE").map(PathBuf::from)
}

/// Runs the test `name` of this program again as an ordinary user, in `dir`, which that user owns.
/// `/dev/fuse` is made accessible to all first, as udev does it; here it may not be.
pub(crate) fn again_as_nobody(name: &str, dir: &Path) -> Output {
    again_as_nobody_with_path(name, dir, "/usr/local/bin:/usr/bin:/bin")
}

/// The same, with programs from `path`.
pub(crate) fn again_as_nobody_with_path(name: &str, dir: &Path, path: impl AsRef<OsStr>) -> Output {
    assert!(rustix::process::geteuid().is_root(), "these tests start as root and become an ordinary user");
    let device = Path::new("/dev/fuse");
    if fs::metadata(device).unwrap().permissions().mode() & 0o777 != 0o666 {
        fs::set_permissions(device, fs::Permissions::from_mode(0o666)).unwrap();
    }
    std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    // By this name the program can be executed wherever it lies.
    Command::new("/proc/self/exe")
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("SELVEDGE_TEST_ROLE", dir)
        .env("PATH", path)
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap()
}

/// Fails with the other run's output unless it passed.
pub(crate) fn passed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}
