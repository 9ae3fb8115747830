//! A worker that hangs is replaced, and its mount's log says where it hung.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::adoption::number;
use crate::sandbox::{Sandbox, eventually, finish, signal};

/// The log of every mount.
fn logs(sandbox: &Sandbox) -> String {
    let files = fs::read_dir(sandbox.instance().join("logs")).unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

/// Hangs a worker at its first mkdir; `how` is the prefix of the crash point.
fn hang(how: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), "[service]\nhang_limit = 1\n").unwrap();
    let mut command = sandbox.command();
    command.env("SELVEDGE_FUSE_WORKER_CRASH_AT", format!("{how}@commit.before"));
    finish(command.args(["mount", "main"]).arg(sandbox.path("m"))).ok();
    fs::create_dir(sandbox.path("m/made")).unwrap();
    let list = sandbox.json(["list"]);
    assert_eq!(list[0]["restarts"], json!(1), "{list}");
    let said = logs(&sandbox);
    (sandbox, said)
}

#[test]
fn the_log_says_where_a_request_slept_for_ever() {
    let (_sandbox, said) = hang("hang");
    for words in
        ["a request hung", ", at mkdir):", "View>::mkdir", "end of stacks", "(selvedge-fuse-w): state"]
    {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[test]
fn the_log_says_where_a_request_spun_for_ever() {
    let (_sandbox, said) = hang("spin");
    for words in ["a request hung", ", at mkdir):", "View>::mkdir", "end of stacks"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

#[test]
fn the_log_says_where_a_worker_was_stopped() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), "[service]\nhang_limit = 1\n").unwrap();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    signal(worker, Signal::STOP);
    eventually("a successor", || sandbox.json(["list"])[0]["restarts"] == json!(1));
    let said = logs(&sandbox);
    for words in ["it answered nothing", "state T", "stack of thread", "end of stacks"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}
