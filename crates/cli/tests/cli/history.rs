//! What became of a thread: `log`, `status`, `diff`.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use rustix::fs::XattrFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, fields, finish, signal};

#[test]
fn log_shows_where_a_thread_came_from_newest_first() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join("file"), "changed\n").unwrap();
    sandbox.run(["import", "-m", "second\nline"]).ok();
    let log = sandbox.json(["log", "main"]);
    let log = log.as_array().unwrap();
    assert_eq!(log.len(), 2);
    assert_eq!(fields(&log[0]), ["message", "parents", "snapshot", "time"]);
    assert_eq!((&log[0]["message"], &log[1]["message"]), (&json!("second\nline"), &json!("first")));
    assert_eq!((&log[0]["parents"], &log[1]["parents"]), (&json!([log[1]["snapshot"]]), &json!([])));
    let time = log[0]["time"].as_str().unwrap();
    assert!(time.len() == 30 && time.ends_with('Z') && time > log[1]["time"].as_str().unwrap(), "{time}");
    let first = log[1]["snapshot"].as_str().unwrap();
    assert_eq!(sandbox.json(["log", &first[..8]]), json!([log[1]]), "of a snapshot, too");
    let text = sandbox.run(["log", "main"]).ok().stdout;
    assert!(
        text.starts_with(&format!(
            "snapshot {}\ntime     {time}\n\n    second\n    line\n",
            log[0]["snapshot"].as_str().unwrap()
        )),
        "{text}"
    );
    sandbox.run(["log", "nothing"]).fails(3).saying("no thread named nothing");
}

/// Changes of every kind in a directory that holds the sandbox's tree and what [`with_more`] adds.
fn change_everything(tree: &Path) {
    let write = |name: &str, text: &str| fs::write(tree.join(name), text).unwrap();
    write("file", "changed\n");
    write("added", "new\n");
    fs::remove_file(tree.join("dir/inner")).unwrap();
    fs::rename(tree.join("moved"), tree.join("dir/moved here")).unwrap();
    fs::rename(tree.join("subtree"), tree.join("subtree2")).unwrap();
    fs::set_permissions(tree.join("mode"), Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    symlink("elsewhere", tree.join("link")).unwrap();
    fs::remove_file(tree.join("type")).unwrap();
    symlink("x", tree.join("type")).unwrap();
    fs::create_dir(tree.join("made")).unwrap();
    rustix::fs::setxattr(tree.join("attribute"), "user.color", b"red", XattrFlags::empty()).unwrap();
    // Neither a time alone nor the same bytes written again are changes.
    File::options()
        .write(true)
        .open(tree.join("touched"))
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    write("same", "same\n");
    // Nor is what went as it came.
    write("passing", "");
    fs::remove_file(tree.join("passing")).unwrap();
}

fn with_more(sandbox: &Sandbox) {
    for name in ["moved", "mode", "type", "attribute", "touched", "same", "subtree/deep/a", "subtree/b"] {
        let path = sandbox.repo().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{}\n", name.rsplit('/').next().unwrap())).unwrap();
    }
    sandbox.run(["import"]).ok();
    sandbox.run(["thread", "create", "t"]).ok();
}

fn all_changes() -> Value {
    let change = |status: &str, path: &str| json!({ "status": status, "path": path, "from": null });
    let renamed = |from: &str, path: &str| json!({ "status": "R", "path": path, "from": from });
    json!([
        change("A", "added"),
        change("M", "attribute"),
        change("D", "dir/inner"),
        renamed("moved", "dir/moved here"),
        change("M", "file"),
        change("M", "link"),
        change("A", "made"),
        change("M", "mode"),
        renamed("subtree", "subtree2"),
        renamed("subtree/b", "subtree2/b"),
        renamed("subtree/deep", "subtree2/deep"),
        renamed("subtree/deep/a", "subtree2/deep/a"),
        change("T", "type"),
    ])
}

#[test]
fn status_tells_every_change_of_a_thread_mounted_or_not() {
    let sandbox = Sandbox::new();
    with_more(&sandbox);
    assert_eq!(sandbox.json(["status", "t"]), json!([]));
    let held = sandbox.mount("t", "mnt");
    assert_eq!(sandbox.json(["status", "t"]), json!([]), "mounted, and as it was");
    change_everything(&sandbox.path("mnt"));
    assert_eq!(sandbox.json(["status", "t"]), all_changes());
    let text = sandbox.run(["status", "t"]).ok().stdout;
    held.stop(Signal::TERM).ok();
    assert_eq!(sandbox.json(["status", "t"]), all_changes(), "after the mount's end");
    assert_eq!(sandbox.run(["status", "t"]).ok().stdout, text);
    assert!(
        text.starts_with("A added\nM attribute\nD dir/inner\nR moved -> dir/moved here\nM file\n"),
        "{text}"
    );
    sandbox.run(["status", "t", "--exit-code"]).answers(1);
    sandbox.run(["status", "main", "--exit-code"]).answers(0);
    sandbox.run(["status", "nothing"]).fails(3).saying("no thread");
}

#[test]
fn status_and_diff_tell_what_the_kernel_holds_back() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount_with("main", "mnt", &["--set", "mount.writeback=true"]);
    assert_eq!(held.ready["writeback"], json!(true));
    assert_eq!(sandbox.json(["list"])[0]["writeback"], json!(true));
    // Another process, since this one starts others, which close its files as they start.
    let script = "exec 3>>file; printf 'held back\\n' >&3; echo; read line || true";
    let mut writer = sandbox.program("sh");
    writer.current_dir(sandbox.path("mnt")).args(["-c", script]);
    let mut writer = writer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0];
    writer.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(sandbox.json(["status", "main"]), json!([{ "status": "M", "path": "file", "from": null }]));
    let diff = sandbox.run(["diff", "main"]).ok().stdout;
    assert!(diff.ends_with("+held back\n"), "{diff}");
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    held.stop(Signal::TERM).ok();
}

/// What git prints for exports of two targets.
fn git_diff(sandbox: &Sandbox, old: &str, new: &str) -> String {
    let (a, b) = (format!("{old}-OLD-TREE"), format!("{new}-NEW-TREE"));
    sandbox.run(["export", old, &format!("../{a}")]).ok();
    sandbox.run(["export", new, &format!("../{b}")]).ok();
    let mut git = sandbox.program("git");
    git.current_dir(sandbox.root()).args(["diff", "--no-index", "-M100%", &a, &b]);
    let mut text = finish(&mut git).stdout;
    for tree in [&a, &b] {
        for before in ["a/", "b/", "from ", "to "] {
            text = text.replace(&format!("{before}{tree}/"), before);
        }
    }
    for tree in [a, b] {
        fs::remove_dir_all(sandbox.path(tree)).unwrap();
    }
    text
}

#[test]
fn diff_is_what_git_shows_of_exports_mounted_or_not() {
    let sandbox = Sandbox::new();
    with_more(&sandbox);
    let held = sandbox.mount("t", "mnt");
    change_everything(&sandbox.path("mnt"));
    let expected = git_diff(&sandbox, "main", "t");
    assert!(expected.contains("rename from subtree/deep/a\n"), "{expected}");
    let mounted = sandbox.run(["diff", "main", "t"]).ok();
    assert_eq!(mounted.stdout, expected);
    assert!(mounted.stderr.contains("4 paths more differ in what a patch does not show"), "{mounted:?}");
    assert_eq!(sandbox.run(["diff", "t"]).ok().stdout, expected, "one argument: with its snapshot");
    let backwards = git_diff(&sandbox, "t", "main");
    assert_eq!(sandbox.run(["diff", "t", "main"]).ok().stdout, backwards);
    held.stop(Signal::TERM).ok();
    assert_eq!(sandbox.run(["diff", "t"]).ok().stdout, expected, "after the mount's end");
    assert_eq!(sandbox.json(["diff", "t"]), all_changes());
}

#[test]
fn diff_limits_names_and_counts_what_it_shows() {
    let sandbox = Sandbox::new();
    with_more(&sandbox);
    let held = sandbox.mount("t", "mnt");
    change_everything(&sandbox.path("mnt"));
    let names = sandbox.run(["diff", "t", "--name-only", "--", "dir", "./file", "subtree2/deep"]).ok().stdout;
    assert_eq!(names, "dir/inner\ndir/moved here\nfile\nsubtree2/deep\nsubtree2/deep/a\n");
    let stat = sandbox.run(["diff", "t", "--stat", "--", "file", "added"]).ok().stdout;
    assert_eq!(stat, " added | 1 +\n file  | 2 +-\n 2 files changed, 2 insertions(+), 1 deletion(-)\n");
    sandbox.run(["diff", "t", "--exit-code", "--", "file"]).answers(1);
    sandbox.run(["diff", "t", "--exit-code", "--", "same"]).answers(0);
    sandbox.run(["diff", "t", "t", "--exit-code"]).answers(0);
    sandbox.run(["diff", "t", "--", "../x"]).fails(2).saying("no path inside a tree");
    sandbox.run(["diff", "t", "--stat", "--name-only"]).fails(2);
    let first = sandbox.json(["log", "main"])[1]["snapshot"].as_str().unwrap().to_owned();
    sandbox.run(["diff", &first]).fails(2).saying("came from no other");
    drop(held);
}

#[test]
fn two_mounted_threads_are_compared_as_they_are() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "t"]).ok();
    sandbox.run(["thread", "create", "u"]).ok();
    let (one, other) = (sandbox.mount("t", "mnt-t"), sandbox.mount("u", "mnt-u"));
    for (mount, text) in [("mnt-t", "one\nsame\n"), ("mnt-u", "two\nsame\n")] {
        fs::write(sandbox.path(mount).join("file"), text).unwrap();
        fs::write(sandbox.path(mount).join("both"), "the same in both\n").unwrap();
        fs::create_dir(sandbox.path(mount).join("new")).unwrap();
        fs::write(sandbox.path(mount).join("new/empty"), "").unwrap();
    }
    let changes = sandbox.json(["diff", "t", "u"]);
    assert_eq!(changes, json!([{ "status": "M", "path": "file", "from": null }]));
    let patch = sandbox.run(["diff", "t", "u"]).ok().stdout;
    assert!(patch.ends_with("@@ -1,2 +1,2 @@\n-one\n+two\n same\n"), "{patch}");
    drop((one, other));
}

#[test]
fn a_worker_that_does_not_answer_keeps_nobody_waiting() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    fs::write(sandbox.path("mnt").join("file"), "changed\n").unwrap();
    signal(held.worker(), Signal::STOP);
    let outcome = sandbox.run(["status", "t"]).fails(6).saying("did not answer");
    assert!(outcome.took < Duration::from_secs(30), "{outcome:?}");
    signal(held.worker(), Signal::CONT);
    assert_eq!(sandbox.json(["status", "t"])[0]["path"], "file");
    drop(held);
}

#[test]
fn the_death_of_a_worker_is_a_pause_to_who_compares() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    fs::write(sandbox.path("mnt").join("file"), "changed\n").unwrap();
    for _ in 0..5 {
        let listed = sandbox.json(["list"]);
        let Some(worker) = listed[0]["worker_pid"].as_u64() else { continue };
        // It may be gone already: the list is a moment old.
        let _ = kill_process(Pid::from_raw(i32::try_from(worker).unwrap()).unwrap(), Signal::KILL);
        assert_eq!(sandbox.json(["status", "t"])[0]["path"], json!("file"));
    }
    drop(held);
}

#[test]
fn a_large_file_that_changed_in_part_is_compared_as_it_is_mounted_or_not() {
    let sandbox = Sandbox::new();
    let original: Vec<u8> = (0..20_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
    fs::write(sandbox.repo().join("large"), &original).unwrap();
    sandbox.run(["import"]).ok();
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    let path = sandbox.path("mnt").join("large");
    let large = File::options().read(true).write(true).open(path).unwrap();
    let change = |byte: u8| std::os::unix::fs::FileExt::write_all_at(&large, &[byte], 9 << 20).unwrap();
    let modified = json!([{ "status": "M", "path": "large", "from": null }]);
    change(255);
    assert_eq!(sandbox.json(["status", "t"]), modified);
    let own = sandbox.json(["thread", "show", "t"])["own_bytes"].as_u64().unwrap();
    assert!(own < 4 << 20, "{own} bytes for one that changed");
    // Not the same file, but the same bytes.
    change(original[9 << 20]);
    assert_eq!(sandbox.json(["status", "t"]), json!([]));
    change(254);
    drop(large);
    held.stop(Signal::TERM).ok();
    assert_eq!(sandbox.json(["status", "t"]), modified);
    let snapshot = sandbox.json(["snapshot", "t"])["snapshot"].as_str().unwrap().to_owned();
    let exported = sandbox.path("exported");
    sandbox.run(["export", &snapshot, exported.to_str().unwrap()]).ok();
    let mut expected = original;
    expected[9 << 20] = 254;
    assert!(fs::read(exported.join("large")).unwrap() == expected);
}
