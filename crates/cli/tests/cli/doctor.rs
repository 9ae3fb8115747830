//! `doctor`: each check is broken once, and seen to say so.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sandbox::{Outcome, SELVEDGE, Sandbox, eventually, fields, finish, kill_both, signal};

fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document.as_array().expect("an array");
    checks
        .iter()
        .find(|check| check["check"] == json!(name))
        .unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// The check failed, says these words, and says how to fix it.
#[track_caller]
fn assert_bad(outcome: &Outcome, name: &str, words: &str) {
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let document = outcome.document();
    let check = check(&document, name);
    assert_eq!(check["ok"], json!(false), "{check}");
    assert!(check["detail"].as_str().unwrap().contains(words), "{check}");
    assert!(check["fix"].is_string(), "{check}");
}

/// Runs doctor in a mount namespace of its own, after `preparation` in it.
fn in_namespace(sandbox: &Sandbox, preparation: &str) -> Outcome {
    let mut command = sandbox.program("unshare");
    let script = format!("{preparation}; exec \"$0\" --json doctor");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]).arg(SELVEDGE);
    finish(&mut command)
}

#[test]
fn a_machine_that_can_mount_is_well() {
    let sandbox = Sandbox::new();
    let document = sandbox.json(["doctor"]);
    for check in document.as_array().unwrap() {
        assert_eq!(fields(check), ["check", "detail", "fix", "ok"]);
        assert_eq!(check["ok"], json!(true), "{check}");
    }
    for name in [
        "device",
        "helper",
        "permission",
        "worker",
        "runtime_dir",
        "stale_mounts",
        "service",
        "mounts",
        "lost_mounts",
        "limits",
        "inotify",
        "request_timeouts",
        "user_namespaces",
        "log_out",
        "repository",
    ] {
        check(&document, name);
    }
    assert!(sandbox.run(["doctor"]).ok().stdout.ends_with("nothing to do\n"));
}

#[test]
fn restarts_and_their_cause_are_said_of_each_mount_within_a_second_whoever_is_stopped() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mount = sandbox.background("main", "m");
    let other = sandbox.background("try", "t");
    let worker = |mount: &Value| u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap();
    signal(worker(&mount), Signal::KILL);
    eventually("a successor", || sandbox.json(["list"])[0]["restarts"] == json!(1));
    let document = sandbox.json(["doctor"]);
    let said = check(&document, "mounts")["detail"].as_str().unwrap().to_owned();
    assert!(said.contains(": ready, restarts: 1, the last after signal 9; thread try on "), "{said}");
    signal(worker(&other), Signal::STOP);
    let outcome = sandbox.run(["--json", "doctor"]);
    signal(worker(&other), Signal::CONT);
    assert_bad(&outcome, "mounts", "stuck");
    assert!(outcome.took < std::time::Duration::from_secs(1), "{outcome:?}");
}

#[test]
fn a_system_that_forbids_namespaces_is_said_and_what_to_do_ends_the_text() {
    let sandbox = Sandbox::new();
    // The limit holds in a user namespace of its own, so that nobody else notices.
    let script = "echo 0 > /proc/sys/user/max_mnt_namespaces; exec \"$0\" doctor";
    let mut command = sandbox.program("unshare");
    command.args(["--user", "--map-root-user", "sh", "-ec", script]).arg(SELVEDGE);
    let outcome = finish(&mut command);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let (_, to_do) = outcome.stdout.split_once("to do:\n").expect("what to do");
    assert!(to_do.contains("user_namespaces: allow them"), "{outcome:?}");
}

#[test]
fn a_missing_device_is_said() {
    let sandbox = Sandbox::new();
    // An empty /dev hides the device.
    let outcome = in_namespace(&sandbox, "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3");
    assert_bad(&outcome, "device", "/dev/fuse does not exist");
}

#[test]
fn a_device_that_is_closed_to_the_caller_is_said() {
    let sandbox = Sandbox::unprivileged();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; mknod -m 600 /dev/fuse c 10 229; \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" --json doctor";
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]).arg(SELVEDGE);
    command.env("HOME", sandbox.path("home")).env("SELVEDGE_RUNTIME_DIR", sandbox.runtime());
    let outcome = finish(command.current_dir(sandbox.repo()));
    assert_bad(&outcome, "device", "you may not open /dev/fuse");
}

#[test]
fn a_missing_helper_is_said_to_those_who_need_it() {
    let sandbox = Sandbox::unprivileged();
    let empty = sandbox.path("home");
    let outcome = finish(sandbox.command().args(["--json", "doctor"]).env("PATH", &empty));
    assert_bad(&outcome, "helper", "neither fusermount3 nor fusermount");
    assert_bad(&outcome, "permission", "there is no helper");
    let root = Sandbox::new();
    finish(root.command().args(["--json", "doctor"]).env("PATH", root.path("home"))).ok();
}

#[test]
fn a_user_without_a_name_is_told_that_the_helper_refuses_them() {
    let sandbox = Sandbox::of_user(54_321);
    let outcome = finish(sandbox.command().args(["--json", "doctor"]));
    assert_bad(&outcome, "permission", "user 54321 has no name");
}

#[test]
fn a_helper_without_its_set_user_id_bit_is_said() {
    let sandbox = Sandbox::unprivileged();
    let programs = sandbox.path("home");
    fs::write(programs.join("fusermount3"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(programs.join("fusermount3"), fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = finish(sandbox.command().args(["--json", "doctor"]).env("PATH", &programs));
    assert_bad(&outcome, "helper", "not set-user-id root");
}

#[test]
fn no_new_privs_is_said_by_name() {
    let sandbox = Sandbox::unprivileged();
    let mut command = sandbox.program("setpriv");
    command.args(["--no-new-privs", SELVEDGE, "--json", "doctor"]);
    assert_bad(&finish(&mut command), "permission", "no_new_privs");
}

#[test]
fn root_without_the_capability_is_said() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.program("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", SELVEDGE, "--json", "doctor"]);
    assert_bad(&finish(&mut command), "permission", "without CAP_SYS_ADMIN");
}

#[test]
fn a_missing_worker_is_said() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["--json", "doctor"]).env("SELVEDGE_FUSE_WORKER_BIN", "/nonexistent");
    assert_bad(&finish(&mut command), "worker", "/nonexistent");
}

#[test]
fn a_runtime_directory_that_others_may_enter_is_said() {
    let sandbox = Sandbox::new();
    sandbox.run(["list"]).ok();
    fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = sandbox.run(["--json", "doctor"]);
    assert_bad(&outcome, "runtime_dir", "others may enter");
    assert_bad(&outcome, "stale_mounts", "cannot tell");
}

#[test]
fn a_stale_mount_is_said_and_left_for_list_to_clean() {
    let sandbox = Sandbox::new();
    kill_both(sandbox.mount("main", "m"));
    let place = sandbox.path("m");
    let outcome = sandbox.run(["--json", "doctor"]);
    assert_bad(&outcome, "stale_mounts", &format!("thread main on {} (still mounted", place.display()));
    assert_eq!(sandbox.mounts().len(), 1, "doctor changes nothing");
    sandbox.run(["list"]).ok();
    assert!(sandbox.mounts().is_empty());
    sandbox.run(["doctor"]).ok();
}

#[test]
fn a_repository_that_does_not_open_is_said() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join(".selvedge/format"), "selvedge repository format 999\n").unwrap();
    assert_bad(&sandbox.run(["--json", "doctor"]), "repository", "999");
    let mut command = sandbox.command();
    command.args(["--json", "--repo", "/nonexistent", "doctor"]);
    let outcome = finish(&mut command);
    assert_eq!(check(&outcome.document(), "repository")["ok"], json!(false));
}

#[test]
fn a_strangers_mount_of_our_type_is_left_alone_and_printed_escaped() {
    let sandbox = Sandbox::new();
    // Made and seen in a mount namespace of its own, with a source that would act on a terminal.
    let script = "exec 9<>/dev/fuse; mkdir \"$1\"; \
                  mount -i -t fuse.selvedge -o fd=9,rootmode=40000,user_id=0,group_id=0 \
                  \"$(printf 'selvedge:\\033[2Jx')\" \"$1\"; \"$0\" --json list; \"$0\" doctor; umount -l \"$1\"; rmdir \"$1\"";
    let mut command = sandbox.program("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .arg(SELVEDGE)
        .arg(sandbox.path("m"));
    let outcome = finish(&mut command).ok();
    assert!(outcome.stdout.starts_with("[]\n"), "{outcome:?}");
    assert!(outcome.stdout.contains("does not know") && !outcome.stdout.contains('\u{1b}'), "{outcome:?}");
}

#[test]
fn a_lost_mount_and_a_service_that_hangs_are_said() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let pid = sandbox.service_pid();
    let document = sandbox.json(["doctor"]);
    assert!(check(&document, "service")["detail"].as_str().unwrap().contains(&pid.to_string()));
    signal(pid, Signal::STOP);
    let outcome = finish(sandbox.command().args(["--json", "doctor"]));
    assert_bad(&outcome, "service", "did not answer");
    for worker in sandbox.processes().into_iter().filter(|other| *other != pid) {
        signal(worker, Signal::KILL);
    }
    signal(pid, Signal::KILL);
    eventually("everything has ended", || sandbox.processes().is_empty());
    sandbox.run(["list"]).ok();
    assert_bad(&finish(sandbox.command().args(["--json", "doctor"])), "lost_mounts", "thread main");
    sandbox.run(["unmount", "main"]).ok();
    sandbox.run(["doctor"]).ok();
}
