//! A mount that ends for good frees everybody who waits for it: whoever holds it, whatever its worker does, and
//! wherever else it is mounted.

use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use selvedge_test_support::wait_until;

use crate::sandbox::{Sandbox, eventually, finish, runs, signal};
use crate::scene::{AS_NOBODY, ELSEWHERE, SOON};

/// What callers do that wait for an answer.
const CALLS: [&str; 4] =
    ["cat file", "mkdir new", "stat -f .", "dd if=/dev/zero of=large bs=1M count=4 conv=fsync"];

/// How a mount ends for good.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// No successor gets as far as serving.
    Budget,
    /// Somebody wants it to end at any price, and its worker is stopped.
    Force,
}

/// A program in the mount, which waits for leave to make its call.
struct Caller {
    child: Child,
    call: &'static str,
}

impl Caller {
    fn start(sandbox: &Sandbox, user: bool, elsewhere: bool, call: &'static str) -> Self {
        let mut words: Vec<&str> = Vec::new();
        if elsewhere {
            words.extend(ELSEWHERE);
        }
        if user {
            words.extend(["setpriv"].into_iter().chain(AS_NOBODY));
        }
        let script = "cd m && : > ../at-$$ && until [ -e ../go ]; do sleep 0.02; done; exec $1";
        words.extend(["sh", "-c", script, "sh", call]);
        let child = Command::new(words[0])
            .args(&words[1..])
            .current_dir(sandbox.root())
            .env("SELVEDGE_TEST_DIR", sandbox.path("m"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let caller = Self { child, call };
        eventually("the caller is in the mount", || {
            sandbox.path(format!("at-{}", caller.child.id())).exists()
        });
        caller
    }

    /// Whether it waits in its call: for an answer of the worker, or for somebody who does and has locked the directory.
    fn waits(&self) -> bool {
        let read = |what: &str| {
            std::fs::read_to_string(format!("/proc/{}/{what}", self.child.id())).unwrap_or_default()
        };
        let begun = !["sh\n", "setpriv\n", ""].contains(&&*read("comm"));
        begun && !["0", ""].contains(&&*read("wchan"))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn frees_every_caller(user: bool, way: Way, elsewhere: bool) {
    let sandbox = if user { Sandbox::unprivileged() } else { Sandbox::new() };
    let mut command = sandbox.command();
    command.args(["--json", "mount", "main"]).arg(sandbox.path("m"));
    if matches!(way, Way::Budget) {
        command.env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", "resume.opened");
    }
    let mount = finish(&mut command).ok().document();
    let worker = u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap();
    let mut callers: Vec<Caller> =
        CALLS.iter().map(|call| Caller::start(&sandbox, user, elsewhere, call)).collect();
    // A copy of the mount keeps the connection alive, whoever is in it.
    let _keeper = elsewhere.then(|| Caller::start(&sandbox, user, true, "sleep 60"));
    signal(worker, Signal::STOP);
    std::fs::write(sandbox.path("go"), "").unwrap();
    eventually("all wait", || callers.iter().all(Caller::waits));
    match way {
        Way::Budget => signal(worker, Signal::KILL),
        Way::Force => drop(sandbox.run(["unmount", "main", "--force"]).ok()),
    }
    for caller in &mut callers {
        let mut status = None;
        wait_until(caller.call, SOON, || {
            status = caller.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(!status.unwrap().success(), "{} had an answer", caller.call);
    }
    eventually("the mount and its worker are gone", || sandbox.mounts().is_empty() && !runs(worker));
    if matches!(way, Way::Budget) {
        let why = "5 in a row failed before they served anything";
        eventually("it is said why", || {
            let list = sandbox.json(["list"]);
            let said = list[0]["last_crash"].as_str().unwrap_or_default();
            list[0]["state"] == "failed" && said.contains(why) && logs(&sandbox).contains(why)
        });
    }
    assert!(sandbox.processes().len() <= 1, "the service alone is left");
}

/// Everything in the log files.
fn logs(sandbox: &Sandbox) -> String {
    let mut text = String::new();
    let mut places = vec![sandbox.runtime(), sandbox.path("home")];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                places.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                text += &std::fs::read_to_string(path).unwrap_or_default();
            }
        }
    }
    text
}

fn all_ways(user: bool) {
    for elsewhere in [false, true] {
        for way in [Way::Budget, Way::Force] {
            eprintln!("{way:?}, in another mount namespace: {elsewhere}");
            frees_every_caller(user, way, elsewhere);
        }
    }
}

#[test]
fn a_mount_that_ends_for_good_frees_every_caller() {
    all_ways(false);
}

#[test]
fn an_ordinary_users_mount_that_ends_for_good_frees_every_caller() {
    all_ways(true);
}
