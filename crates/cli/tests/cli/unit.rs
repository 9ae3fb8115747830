//! The service as a unit of the user's service manager, which is a script here: the system that these tests run on has
//! none.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::sandbox::{SELVEDGE, Sandbox, eventually, finish, runs, signal};

/// A manager that runs: its socket, and a `systemd-run` that does `work`.
struct Manager {
    sandbox: Sandbox,
    _socket: UnixListener,
    programs: PathBuf,
}

impl Manager {
    fn new(work: &str) -> Self {
        let sandbox = Sandbox::new();
        fs::create_dir_all(sandbox.path("user/systemd")).unwrap();
        fs::create_dir(sandbox.path("programs")).unwrap();
        let socket = UnixListener::bind(sandbox.path("user/systemd/private")).unwrap();
        sandbox.script("programs/systemd-run", work);
        let programs = sandbox.path("programs");
        Self { sandbox, _socket: socket, programs }
    }

    fn command(&self) -> Command {
        let mut command = self.sandbox.command();
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("XDG_RUNTIME_DIR", self.sandbox.path("user"));
        command
    }

    fn start(&self) -> crate::sandbox::Outcome {
        finish(self.command().args(["--json", "service", "start"])).ok()
    }
}

#[test]
fn the_service_is_started_as_a_scope_of_the_users_manager() {
    let manager = Manager::new(
        "printf '%s\\n' \"$@\" > \"$HOME/called\"; while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"",
    );
    let started = manager.start();
    assert_eq!(started.stderr, "");
    let called = fs::read_to_string(manager.sandbox.path("home/called")).unwrap();
    let words: Vec<&str> = called.lines().collect();
    assert_eq!(
        words,
        [
            "--user",
            "--scope",
            "--quiet",
            "--collect",
            "--description=Selvedge: the service that holds mounts, and their workers",
            "--property=OOMPolicy=continue",
            "--",
            SELVEDGE,
            "service",
            "run",
        ]
    );
    // It is the service, with the lock: a second one is refused, and the next command finds this one.
    let pid = manager.sandbox.service_pid();
    assert_eq!(started.document()["pid"], json!(pid));
    assert_eq!(manager.sandbox.processes(), [pid]);
    finish(manager.command().args(["service", "run"])).fails(4).saying(&pid.to_string());
    finish(manager.command().args(["mount", "main", "../m"])).ok();
    assert_eq!(manager.sandbox.service_pid(), pid);
}

#[test]
fn a_manager_that_refuses_or_hangs_is_done_without() {
    for work in ["echo 'Failed to connect to bus' >&2; exit 1", "exec sleep 60"] {
        let manager = Manager::new(work);
        let started = manager.start();
        assert_eq!(started.stderr, "", "{work}");
        assert!(started.took < Duration::from_secs(8), "{work}: {started:?}");
        let pid = manager.sandbox.service_pid();
        eventually("nothing is left of it", || manager.sandbox.processes() == [pid]);
        finish(manager.command().args(["mount", "main", "../m"])).ok();
    }
}

#[test]
fn without_a_manager_its_program_is_not_called() {
    let manager = Manager::new("touch \"$HOME/called\"; exit 1");
    fs::remove_file(manager.sandbox.path("user/systemd/private")).unwrap();
    manager.start();
    assert!(!manager.sandbox.path("home/called").exists());
}

#[test]
fn log_out_that_tells_all_processes_at_once_leaves_mounts_wanted() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mount = sandbox.background("main", "m");
    sandbox.background("try", "t");
    let service = sandbox.service_pid();
    // As a manager does that stops a scope, the worker first, which is as fast as it can be.
    let worker = u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap();
    signal(worker, Signal::TERM);
    eventually("it has unmounted", || sandbox.mounts().len() == 1);
    signal(service, Signal::TERM);
    eventually("the service ends", || !runs(service));
    let list = sandbox.json(["list"]);
    let states: Vec<_> =
        list.as_array().unwrap().iter().map(|mount| (&mount["thread"], &mount["state"])).collect();
    assert_eq!(states, [(&json!("main"), &json!("lost")), (&json!("try"), &json!("lost"))]);
}
