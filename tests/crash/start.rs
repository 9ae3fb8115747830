//! Deaths before the mount is ready.

use std::fs;
use std::time::{Duration, Instant};

use selvedge_supervisor::{ExitStatus, SpawnError};
use selvedge_test_support::{Repo, assert_gone, assert_no_mount};

use crate::WORKER;

#[test]
fn a_panic_before_ready_is_part_of_the_message() {
    let repo = Repo::empty();
    let error = repo.mounting(WORKER).env("SELVEDGE_FUSE_WORKER_PANIC_ON_INIT", "1").try_start();
    let Err(SpawnError::Died { exit }) = error else { panic!("{error:?}") };
    assert_eq!(exit.status, ExitStatus::Signaled { signal: libc::SIGABRT, core: false });
    assert!(exit.stderr_tail.contains("crash point fuse.init.enter"), "{exit:?}");
    assert_gone(exit.pid);
    assert_no_mount(&repo.mountpoint());
    // Nothing is in the way of the next.
    repo.mounting(WORKER).start().stop();
}

#[test]
fn a_worker_stopped_before_ready_is_ended_at_the_deadline() {
    let repo = Repo::empty();
    let stopped = ["-c", "kill -STOP $$; exec \"$@\"", "sh"];
    let deadline = Duration::from_millis(500);
    let start = Instant::now();
    let error = repo.mounting(WORKER).through("sh", &stopped).handshake_within(deadline).try_start();
    let Err(SpawnError::TimedOut { waited, exit }) = error else { panic!("{error:?}") };
    assert!(waited >= deadline && start.elapsed() < Duration::from_secs(10));
    assert_eq!(exit.status, ExitStatus::Signaled { signal: libc::SIGKILL, core: false });
    assert_gone(exit.pid);
    assert_no_mount(&repo.mountpoint());
    repo.mounting(WORKER).start().stop();
}

#[test]
fn a_missing_worker_is_named() {
    let repo = Repo::empty();
    let missing = repo.dir().join("no-such-worker");
    let error = repo.mounting(missing.to_str().unwrap()).try_start();
    let Err(SpawnError::Missing { program }) = error else { panic!("{error:?}") };
    assert_eq!(program, missing);
    assert_no_mount(&repo.mountpoint());
}

#[test]
fn a_worker_that_cannot_be_executed_is_named() {
    let repo = Repo::empty();
    let text = repo.dir().join("text");
    fs::write(&text, "not a program").unwrap();
    let error = repo.mounting(text.to_str().unwrap()).try_start();
    let Err(SpawnError::NotExecutable { program, .. }) = error else { panic!("{error:?}") };
    assert_eq!(program, text);
    assert_no_mount(&repo.mountpoint());
}
