//! An ordinary user, through the set-user-id helper.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::Signal;
use serde_json::json;

use crate::sandbox::{SELVEDGE, Sandbox, finish};

#[test]
fn an_ordinary_user_mounts_changes_lists_and_unmounts() {
    let sandbox = Sandbox::unprivileged();
    let held = sandbox.mount("main", "m");
    let mount = &sandbox.mounts()[0];
    assert_eq!(mount.user_id(), Some(65_534));
    assert!(!mount.has_option("allow_other") && mount.has_option("nosuid") && mount.has_option("nodev"));
    // Root is another user to this mount, so the test acts as its owner.
    let inside =
        |script: &str| finish(sandbox.program("sh").args(["-ec", script]).current_dir(sandbox.root()));
    let device = inside("stat -c %d m").ok().stdout;
    let expected = rustix::fs::makedev(mount.device.major, mount.device.minor);
    assert_eq!(device.trim(), expected.to_string());
    inside("echo mine > m/new; mkdir m/d; mv m/file m/d/; chmod 600 m/new").ok();
    assert!(fs::metadata(sandbox.path("m/new")).is_err(), "root is kept out");
    let list = sandbox.json(["list"]);
    assert_eq!((&list[0]["state"], &list[0]["thread"]), (&json!("ready"), &json!("main")));
    sandbox.run(["export", "main", "../out"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path("out/new")).unwrap(), "mine\n");
    assert_eq!(fs::metadata(sandbox.path("out/d/file")).unwrap().uid(), 65_534);
    sandbox.run(["unmount", "main"]).ok();
    held.end().ok();
    assert!(sandbox.mounts().is_empty() && !sandbox.path("m").exists());
    let held = sandbox.mount("main", "m");
    assert_eq!(inside("cat m/new").ok().stdout, "mine\n");
    held.stop(Signal::INT).ok();
}

#[test]
fn an_ordinary_users_busy_mount_ends_by_force() {
    let sandbox = Sandbox::unprivileged();
    let held = sandbox.mount("main", "m");
    let mut holder = sandbox.program("sh");
    // The shell goes there itself, as its user: root is kept out.
    holder.args(["-c", "cd m && exec sleep 60"]).current_dir(sandbox.root());
    let holder = crate::sandbox::Stray::start(&mut holder);
    crate::sandbox::eventually("the holder is inside", || {
        fs::read_link(format!("/proc/{}/cwd", holder.pid())).is_ok_and(|cwd| cwd == sandbox.path("m"))
    });
    sandbox.run(["unmount", "main"]).fails(4).saying("sleep");
    sandbox.run(["unmount", "main", "--force"]).ok();
    held.end().ok();
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn an_ordinary_users_worker_that_dies_is_replaced() {
    let sandbox = Sandbox::unprivileged();
    let held = sandbox.mount("main", "m");
    crate::sandbox::signal(held.worker(), Signal::KILL);
    finish(sandbox.program("cat").arg(sandbox.path("m/file"))).ok();
    assert_eq!(sandbox.json(["list"])[0]["restarts"], 1);
    held.stop(Signal::INT).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn an_ordinary_users_worker_that_dies_without_recovery_leaves_no_mount() {
    let sandbox = Sandbox::unprivileged();
    let held = sandbox.mount_with("main", "m", &["--on-crash", "unmount"]);
    crate::sandbox::signal(held.worker(), Signal::KILL);
    assert_eq!(held.end().code(), 1);
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn without_the_helper_an_ordinary_user_is_told_so() {
    let sandbox = Sandbox::unprivileged();
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m", "--foreground"]).env("PATH", sandbox.path("home"));
    let outcome = finish(&mut command);
    assert!([1, 5].contains(&outcome.code()), "{outcome:?}");
    assert!(outcome.stderr.contains("fusermount3"), "{outcome:?}");
    assert!(!sandbox.path("m").exists() && sandbox.mounts().is_empty());
}

#[test]
fn owners_that_an_export_could_not_keep_are_said_mounted_or_not() {
    let sandbox = Sandbox::unprivileged();
    // Of root, and readable.
    fs::write(sandbox.repo().join("roots"), "root\n").unwrap();
    sandbox.run(["import"]).ok();
    let held = sandbox.mount("main", "m");
    for destination in ["../mounted", "../unmounted"] {
        let said = sandbox.run(["export", "main", destination]).ok().stderr;
        let place = sandbox.path("repo").join(destination).join("roots").canonicalize().unwrap();
        let warning = format!("warning: {} belongs to you now", place.display());
        assert!(said.contains(&warning), "{warning:?} is not in {said:?}");
        if destination == "../mounted" {
            sandbox.run(["unmount", "main"]).ok();
        }
    }
    held.end().ok();
}

#[test]
fn what_the_helper_refuses_comes_with_what_to_do() {
    let sandbox = Sandbox::unprivileged();
    let mount = ["mount", "main", "../m", "--foreground"];
    let allow_other = sandbox.run(mount.iter().chain(&["--allow-other"]));
    if allow_other.code() != 0 {
        allow_other.fails(5).saying("user_allow_other").saying("hint: mount without --allow-other");
    }
    let mut powerless = sandbox.program("setpriv");
    powerless.args(["--no-new-privs", SELVEDGE]).args(mount);
    finish(&mut powerless).fails(5).saying("no_new_privs").saying("hint: start selvedge without");
    fs::create_dir(sandbox.path("theirs")).unwrap();
    sandbox
        .run(["mount", "main", "../theirs", "--foreground"])
        .fails(5)
        .saying("hint: choose a directory that");
    sandbox.run(["mount", "main", "../theirs/m", "--foreground"]).fails(5).saying("hint: ");
    let nameless = Sandbox::of_user(54_321);
    nameless.run(mount).fails(5).saying("hint: give this user an entry");
    for sandbox in [&sandbox, &nameless] {
        assert!(!sandbox.path("m").exists() && sandbox.mounts().is_empty() && sandbox.records().is_empty());
    }
}
