//! A repository with something in it, mounted so that it recovers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::State;
use selvedge_test_support::{Mounted, Mounting, Repo, copy_program, wait_until};

use crate::WORKER;
use crate::random::Random;

/// How long a successor may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// An ordinary user.
pub(crate) const NOBODY: u32 = 65_534;

/// Words with which setpriv(1) runs a program as that user.
pub(crate) const AS_NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Words that run a program in a mount namespace of its own, which has the mount of `SELVEDGE_TEST_DIR` and keeps no other
/// test's alive.
pub(crate) const ELSEWHERE: [&str; 8] = [
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "sh",
    "-c",
    r#"awk '$3 == "fuse.selvedge" && index(ENVIRON["SELVEDGE_TEST_DIR"], $2) != 1 { print $2 }' /proc/self/mounts |
xargs -r -n 1 umount -l
exec "$@""#,
    "sh",
];

/// A repository whose thread has some directories with files.
pub(crate) fn repo() -> Repo {
    Repo::with_tree(fill)
}

/// The same of an ordinary user, and a worker that they may execute.
pub(crate) fn nobodys() -> (Repo, String) {
    open_the_device();
    let repo = Repo::with_tree(|source| {
        fill(source);
        give(source);
    });
    let worker = repo.dir().join("selvedge-fuse-worker");
    copy_program(WORKER, &worker);
    give(repo.dir());
    (repo, worker.to_str().unwrap().to_owned())
}

/// Lets every user open the device, as udev does wherever it runs.
fn open_the_device() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).unwrap());
}

/// Gives everything there to that user.
pub(crate) fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Makes its tree.
pub(crate) fn fill(source: &Path) {
    let mut random = Random::new(5);
    for writer in 0..2 {
        let directory = source.join(format!("w{writer}"));
        fs::create_dir_all(directory.join("sub")).unwrap();
        for name in ["f0", "f1", "sub/f0"] {
            let length = 1 + random.below(100_000);
            fs::write(directory.join(name), random.bytes(length)).unwrap();
        }
    }
    fs::create_dir(source.join("many")).unwrap();
    for number in 0..500 {
        fs::write(source.join(format!("many/{number}")), format!("{number}")).unwrap();
    }
    fs::write(source.join("large"), random.bytes(3 << 20)).unwrap();
}

/// A mount of it whose workers have successors.
pub(crate) fn mounting(repo: &Repo) -> Mounting {
    repo.mounting(WORKER).recovering()
}

/// A mount on which the kernel opens files without asking.
pub(crate) fn unasked(mounting: Mounting) -> Mounting {
    mounting.option("--profile").option("small-files")
}

/// Sends `signal` to the present worker until it is dead: Rust's runtime takes the first SIGSEGV for a stack overflow
/// to be looked into, and dies of the next.
pub(crate) fn kill(mount: &Mounted, signal: Signal) {
    let pid = mount.pid();
    let target = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    wait_until("death", SOON, || {
        mount.worker_pid() != Some(pid) || {
            let _ = kill_process(target, signal);
            mount.worker_pid() != Some(pid)
        }
    });
}

/// Kills the worker and waits for its successor.
pub(crate) fn kill_and_replace(mount: &Mounted) {
    let before = mount.restarts();
    kill(mount, Signal::KILL);
    wait_until("a successor", SOON, || mount.restarts() > before && mount.state() == State::Ready);
}
