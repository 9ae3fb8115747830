//! Deaths by a signal, from outside, and by leaving as if nothing were the matter.

use rustix::process::{Pid, Signal, kill_process};
use selvedge_supervisor::ExitStatus;
use selvedge_test_support::Mounted;

use crate::scene::Scene;

/// Writers at work when the worker dies.
const WRITERS: usize = 4;

/// Changes that are acknowledged before each death.
const CHANGES: u64 = 300;

/// Sends `signal` until the worker is dead: Rust's runtime takes the first SIGSEGV for a stack overflow to be
/// looked into, lets it pass, and dies of the next.
fn kill(mount: &Mounted, signal: Signal) {
    let pid = Pid::from_raw(mount.pid().try_into().unwrap()).unwrap();
    selvedge_test_support::wait_until("death", std::time::Duration::from_secs(10), || {
        mount.is_alive() && kill_process(pid, signal).is_ok() && !mount.is_alive() || !mount.is_alive()
    });
}

fn dies_of(signal: Signal) -> ExitStatus {
    ExitStatus::Signaled { signal: signal.as_raw(), core: false }
}

/// The worker dies of `signal` with nobody at work, then with writers at work, twice.
fn dies_by_signal(signal: Signal) {
    let mut scene = Scene::new(WRITERS);
    let mount = scene.mounting().start();
    kill(&mount, signal);
    Scene::assert_death(&mount, dies_of(signal));
    drop(mount);
    for seed in 0..2 {
        let mount = scene.mounting().start();
        let writers = scene.writers(mount.path(), seed);
        writers.wait_for(CHANGES);
        kill(&mount, signal);
        let known = writers.ended();
        Scene::assert_death(&mount, dies_of(signal));
        drop(mount);
        scene.assert_kept(&known);
    }
}

/// The worker ends at `point` with writers at work.
fn dies_at(point: &str, status: ExitStatus, said: &str) {
    let mut scene = Scene::new(WRITERS);
    let mount = scene.mounting().env("SELVEDGE_FUSE_WORKER_CRASH_AT", point).start();
    let writers = scene.writers(mount.path(), 7);
    let known = writers.ended();
    let exit = Scene::assert_death(&mount, status);
    assert!(exit.stderr_tail.contains(said), "{exit:?}");
    drop(mount);
    scene.assert_kept(&known);
}

#[test]
fn sigkill_loses_nothing_acknowledged() {
    dies_by_signal(Signal::KILL);
}

#[test]
fn sigsegv_loses_nothing_acknowledged() {
    dies_by_signal(Signal::SEGV);
}

#[test]
fn sigabrt_loses_nothing_acknowledged() {
    dies_by_signal(Signal::ABORT);
}

#[test]
fn exit_while_mounted_is_taken_down_and_reported() {
    let mut scene = Scene::new(WRITERS);
    let known = scene.known.clone();
    let mount = scene.mounting().env("SELVEDGE_FUSE_WORKER_CRASH_AT", "exit@fuse.lookup.enter").start();
    let error = std::fs::metadata(mount.path().join("anything")).expect_err("the worker is gone");
    assert!([Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&error.raw_os_error()), "{error}");
    Scene::assert_death(&mount, ExitStatus::Exited(0));
    drop(mount);
    scene.assert_kept(&known);
}

#[test]
fn exit_while_writers_are_at_work_loses_nothing_acknowledged() {
    dies_at("exit@fuse.rename.reply:30", ExitStatus::Exited(0), "");
}

#[test]
fn a_panic_in_a_callback_ends_the_worker_and_nothing_else() {
    let status = dies_of(Signal::ABORT);
    dies_at("panic@fuse.rename.reply:10", status, "crash point fuse.rename.reply");
    dies_at("panic@commit.before:100", status, "crash point commit.before");
}
