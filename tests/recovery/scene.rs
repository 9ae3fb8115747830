//! A repository with something in it, mounted so that it recovers.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::State;
use selvedge_test_support::{Mounted, Mounting, Repo, wait_until};

use crate::WORKER;
use crate::random::Random;

/// How long a successor may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A repository whose thread has some directories with files.
pub(crate) fn repo() -> Repo {
    Repo::with_tree(|source| {
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
    })
}

/// A mount of it whose workers have successors.
pub(crate) fn mounting(repo: &Repo) -> Mounting {
    repo.mounting(WORKER).recovering()
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
