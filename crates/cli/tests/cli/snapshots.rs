//! `snapshot` and forks of changed threads, mounted and not.

use std::fs;

use serde_json::json;

use crate::sandbox::{Sandbox, fields};

/// A repository whose thread has the files `a` and `dir/b`.
fn imported() -> Sandbox {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.repo().join("dir")).unwrap();
    fs::write(sandbox.repo().join("a"), "a").unwrap();
    fs::write(sandbox.repo().join("dir/b"), "b").unwrap();
    sandbox.run(["init"]).ok();
    sandbox.run(["import"]).ok();
    sandbox
}

fn exported(sandbox: &Sandbox, what: &str, file: &str) -> String {
    let out = sandbox.path(format!("out-{what}"));
    sandbox.run(["export", what, out.to_str().unwrap(), "--delete"]).ok();
    fs::read_to_string(out.join(file)).unwrap_or_else(|error| format!("{file}: {error}"))
}

#[test]
fn a_snapshot_of_a_mounted_thread_has_nothing_that_was_written_later() {
    let sandbox = imported();
    let mount = sandbox.mount("main", "mnt");
    let file = sandbox.path("mnt/dir/b");
    fs::write(&file, "first").unwrap();
    fs::write(sandbox.path("mnt/new"), "new").unwrap();
    let first = sandbox.json(["snapshot", "main", "-m", "one"]);
    assert_eq!(fields(&first), ["changed", "moving", "snapshot"]);
    assert_eq!(first["changed"], json!(2));
    fs::write(&file, "second").unwrap();
    let second = sandbox.json(["snapshot", "main"]);
    assert_eq!(second["changed"], json!(1));
    let again = sandbox.json(["snapshot", "main"]);
    assert_eq!(
        again,
        json!({ "snapshot": second["snapshot"], "changed": 0, "moving": [] }),
        "nothing changed since"
    );
    for (snapshot, content) in [(&first, "first"), (&second, "second")] {
        assert_eq!(exported(&sandbox, snapshot["snapshot"].as_str().unwrap(), "dir/b"), content);
    }
    mount.stop(rustix::process::Signal::TERM).ok();
    let thread = sandbox.json(["thread", "show", "main"]);
    assert_eq!((&thread["snapshot"], &thread["dirty"]), (&second["snapshot"], &json!(false)));
    let layers = fs::read_dir(sandbox.repo().join(".selvedge/layers")).unwrap();
    assert_eq!(layers.count(), 0, "layers that a snapshot has are not kept");
}

#[test]
fn a_snapshot_of_a_thread_that_nobody_has_mounted_has_all_its_changes() {
    let sandbox = imported();
    let unchanged = sandbox.json(["snapshot", "main"]);
    assert_eq!(unchanged["changed"], json!(0));
    let mount = sandbox.mount("main", "mnt");
    fs::remove_file(sandbox.path("mnt/a")).unwrap();
    mount.stop(rustix::process::Signal::TERM).ok();
    let made = sandbox.json(["snapshot", "main"]);
    assert_eq!(made["changed"], json!(1));
    assert_ne!(made["snapshot"], unchanged["snapshot"]);
    assert!(exported(&sandbox, "main", "a").contains("No such file"));
    assert_eq!(sandbox.json(["thread", "show", "main"])["dirty"], json!(false));
}

#[test]
fn a_fork_takes_changes_along_and_shares_them() {
    let sandbox = imported();
    let mount = sandbox.mount("main", "mnt");
    fs::write(sandbox.path("mnt/a"), "changed").unwrap();
    sandbox.run(["thread", "create", "mounted"]).ok();
    fs::write(sandbox.path("mnt/a"), "later").unwrap();
    mount.stop(rustix::process::Signal::TERM).ok();
    sandbox.run(["thread", "create", "unmounted"]).ok();
    assert_eq!(exported(&sandbox, "mounted", "a"), "changed");
    assert_eq!(exported(&sandbox, "unmounted", "a"), "later");
    sandbox.run(["thread", "delete", "main", "--force"]).ok();
    assert_eq!(exported(&sandbox, "mounted", "a"), "changed", "the layers it shares are kept");
    sandbox.run(["snapshot", "unmounted"]).ok();
    sandbox.run(["thread", "delete", "mounted", "--force"]).ok();
    let layers = fs::read_dir(sandbox.repo().join(".selvedge/layers")).unwrap();
    assert_eq!(layers.count(), 0, "layers go with the last thread that needs them");
    assert_eq!(exported(&sandbox, "unmounted", "a"), "later");
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_reason() {
    let sandbox = imported();
    sandbox.run(["snapshot", "nothing"]).fails(3).saying("nothing");
    sandbox.run(["snapshot", "not/a/name"]).fails(2);
    let long = "x".repeat(8193);
    sandbox.run(["snapshot", "main", "-m", &long]).fails(2).saying("fewer words");
    sandbox.run(["thread", "create", "main"]).fails(4).saying("exists");
    let mount = sandbox.mount("main", "mnt");
    fs::write(sandbox.path("mnt/a"), "changed").unwrap();
    mount.stop(rustix::process::Signal::TERM).ok();
    let mount = sandbox.mount_with("main", "mnt", &["--read-only"]);
    sandbox.run(["snapshot", "main"]).fails(4).saying("read-only");
    sandbox.run(["thread", "create", "fork"]).fails(4).saying("read-only");
    mount.stop(rustix::process::Signal::TERM).ok();
}
