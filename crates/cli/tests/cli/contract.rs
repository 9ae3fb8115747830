//! Commands that need no mount: names, documents, exit codes.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::sandbox::{SELVEDGE, Sandbox, fields, finish};

fn is_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[test]
fn init_makes_a_repository_and_again_changes_nothing() {
    let sandbox = Sandbox::empty();
    let document = sandbox.json(["init"]);
    assert_eq!(document, json!({ "repo": sandbox.repo() }));
    let repository = sandbox.repo().join(".selvedge");
    assert_eq!(fs::read_to_string(repository.join(".gitignore")).unwrap().trim(), "*");
    assert_eq!(fs::metadata(&repository).unwrap().mode() & 0o777, 0o700);
    let before = fs::read(repository.join("format")).unwrap();
    let again = sandbox.run(["init"]).ok();
    assert!(again.stdout.contains("already"), "{again:?}");
    assert_eq!(fs::read(repository.join("format")).unwrap(), before);
    assert_eq!(sandbox.json(["thread", "list"]), json!([]), "init makes no thread");
}

#[test]
fn init_takes_a_directory_that_exists() {
    let sandbox = Sandbox::empty();
    fs::create_dir(sandbox.path("other")).unwrap();
    let other = sandbox.path("other");
    assert_eq!(sandbox.json(["init", "../other"]), json!({ "repo": other }));
    sandbox.run(["init", "missing"]).fails(3).saying("there is no such directory");
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.run(["init", "../file"]).fails(4).saying("not a directory");
    assert!(!sandbox.repo().join(".selvedge").exists());
}

#[test]
fn import_makes_main_and_tells_what_it_stored() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init"]).ok();
    fs::write(sandbox.repo().join("a"), "twelve bytes").unwrap();
    fs::write(sandbox.repo().join("b"), "twelve bytes").unwrap();
    let first = sandbox.json(["import", "-m", "one"]);
    assert_eq!(fields(&first), ["bytes", "files", "new_bytes", "snapshot", "thread"]);
    assert_eq!((&first["thread"], &first["files"], &first["bytes"]), (&json!("main"), &json!(2), &json!(24)));
    assert_eq!(first["new_bytes"], json!(12), "identical content is stored once");
    assert!(is_id(&first["snapshot"]));
    let again = sandbox.json(["import"]);
    assert_eq!(again["new_bytes"], json!(0));
    let other = sandbox.json(["import", "--thread", "other"]);
    assert_eq!(other["thread"], json!("other"));
}

#[test]
fn import_leaves_out_what_it_is_told() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init"]).ok();
    for directory in ["target", "sub/target"] {
        fs::create_dir_all(sandbox.repo().join(directory)).unwrap();
    }
    for file in ["keep", "drop.o", "target/x", "sub/target/y"] {
        fs::write(sandbox.repo().join(file), "x").unwrap();
    }
    sandbox.run(["import", "--exclude", "*.o", "--exclude", "/target"]).ok();
    sandbox.run(["export", "main", "../out"]).ok();
    let out = sandbox.path("out");
    let there = |name: &str| out.join(name).exists();
    assert!(there("keep") && there("sub/target/y") && !there("drop.o") && !there("target"));
}

#[test]
fn long_work_shows_its_progress_on_a_terminal_and_nowhere_else() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.repo().join("many")).unwrap();
    for number in 0..3000 {
        fs::write(sandbox.repo().join(format!("many/{number}")), format!("{number}")).unwrap();
    }
    // script(1) gives its command a terminal; standard output is still ours.
    let on_terminal = |words: &str| {
        let mut script = sandbox.program("script");
        script.args(["-qec", &format!("{SELVEDGE} {words} > out"), "/dev/null"]).env("TERM", "xterm");
        finish(&mut script).ok().stdout
    };
    let import = on_terminal("import --thread t");
    assert!(import.contains("importing") && import.contains(" files, "), "{import:?}");
    let export = on_terminal("export t ../out-t");
    assert!(export.contains("exporting"), "{export:?}");
    assert!(!on_terminal("-q export t ../out-q").contains("exporting"));
    let plain = sandbox.run(["import", "--thread", "u"]).ok();
    assert_eq!(plain.stderr, "");
}

#[test]
fn import_of_a_source_elsewhere_needs_a_repository_by_name() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("src")).unwrap();
    fs::write(sandbox.path("src/only"), "1").unwrap();
    let mut command = sandbox.command();
    command.current_dir(sandbox.root()).args(["--repo", "repo", "import", "src", "--thread", "t"]);
    finish(&mut command).ok();
    sandbox.run(["export", "t", "../out"]).ok();
    assert!(sandbox.path("out/only").exists() && !sandbox.path("out/file").exists());
}

#[test]
fn export_writes_a_thread_or_a_snapshot() {
    let sandbox = Sandbox::new();
    let snapshot = sandbox.json(["thread", "show", "main"])["snapshot"].as_str().unwrap().to_owned();
    for (number, what) in ["main", &snapshot, &snapshot[..8]].into_iter().enumerate() {
        let destination = format!("../out{number}");
        let document = sandbox.json(["export", what, &destination]);
        assert_eq!(fields(&document), ["bytes", "files"]);
        assert_eq!(document["bytes"], json!("content\n".len() + "inner\n".len()));
        let out = sandbox.path(format!("out{number}"));
        assert_eq!(fs::read_to_string(out.join("dir/inner")).unwrap(), "inner\n");
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("file"));
    }
}

#[test]
fn export_refuses_what_it_would_spoil() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/mine"), "").unwrap();
    sandbox.run(["export", "main", "../full"]).fails(4).saying("not empty").saying("--delete");
    assert_eq!(fs::read_dir(sandbox.path("full")).unwrap().count(), 1);
    sandbox.run(["export", "main", ".selvedge/out"]).fails(4).saying(".selvedge");
    sandbox.run(["export", "main", ".selvedge/tmp", "--delete"]).fails(4).saying(".selvedge");
    fs::write(sandbox.path("plain"), "").unwrap();
    sandbox.run(["export", "main", "../plain"]).fails(4).saying("not a directory");
    sandbox.run(["export", "nothing", "../out"]).fails(3).saying("no thread named nothing");
    sandbox.run(["export", "00000000", "../out"]).fails(3).saying("00000000");
    assert!(!sandbox.path("out").exists());
}

#[test]
fn export_with_delete_makes_the_destination_equal() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("out/surplus/deep")).unwrap();
    fs::write(sandbox.path("out/file"), "other").unwrap();
    sandbox.run(["export", "main", "../out", "--delete"]).ok();
    assert!(!sandbox.path("out/surplus").exists());
    assert_eq!(fs::read_to_string(sandbox.path("out/file")).unwrap(), "content\n");
}

#[test]
fn export_delete_onto_the_imported_tree_leaves_its_selvedge() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join("surplus"), "").unwrap();
    sandbox.run(["export", "main", ".", "--delete"]).ok().saying(".selvedge");
    assert!(!sandbox.repo().join("surplus").exists());
    assert!(sandbox.repo().join("file").exists());
    assert_eq!(sandbox.json(["thread", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn threads_are_made_listed_renamed_and_deleted() {
    let sandbox = Sandbox::new();
    let main = sandbox.json(["thread", "show", "main"]);
    let made = sandbox.json(["thread", "create", "a"]);
    assert_eq!(made, json!({ "name": "a", "snapshot": main["snapshot"] }));
    let from_snapshot = main["snapshot"].as_str().unwrap();
    assert_eq!(sandbox.json(["thread", "create", "b", "--from", &from_snapshot[..8]])["name"], json!("b"));
    let list = sandbox.json(["thread", "list"]);
    let names: Vec<_> = list.as_array().unwrap().iter().map(|thread| &thread["name"]).collect();
    assert_eq!(names, ["a", "b", "main"]);
    for thread in list.as_array().unwrap() {
        assert_eq!(fields(thread), ["dirty", "mountpoint", "name", "own_bytes", "snapshot"]);
        assert_eq!((&thread["dirty"], &thread["mountpoint"]), (&json!(false), &Value::Null));
    }
    assert_eq!(sandbox.json(["thread", "rename", "a", "c"]), json!({ "name": "c" }));
    sandbox.run(["thread", "show", "a"]).fails(3);
    let locks = || std::fs::read_dir(sandbox.repo().join(".selvedge/locks")).unwrap().count();
    let before = locks();
    let deleted = sandbox.json(["thread", "delete", "c"]);
    assert_eq!(deleted, json!({ "name": "c", "snapshot": main["snapshot"] }));
    assert!(locks() < before.max(1), "its lock file is left");
    sandbox.run(["thread", "delete", "c"]).fails(3);
}

#[test]
fn threads_that_collide_or_are_missing_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "main"]).fails(4).saying("exists");
    sandbox.run(["thread", "create", "x", "--from", "nothing"]).fails(3);
    sandbox.run(["thread", "create", "x", "--from", "a b"]).fails(2);
    sandbox.run(["thread", "create", "a"]).ok();
    sandbox.run(["thread", "rename", "a", "main"]).fails(4).saying("exists");
    sandbox.run(["thread", "rename", "nothing", "x"]).fails(3);
    sandbox.run(["thread", "show", "nothing"]).fails(3);
    assert_eq!(sandbox.json(["thread", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn main_is_missing_until_the_first_import() {
    let sandbox = Sandbox::empty();
    sandbox.run(["init"]).ok();
    sandbox.run(["thread", "create", "a"]).fails(3).saying("selvedge import");
}

#[test]
fn the_repository_is_named_or_found_upwards() {
    let sandbox = Sandbox::new();
    let list = |mut command: std::process::Command| finish(command.args(["thread", "list", "--json"])).code();
    let mut deep = sandbox.command();
    deep.current_dir(sandbox.repo().join("dir"));
    assert_eq!(list(deep), 0);
    let mut outside = sandbox.command();
    outside.current_dir(sandbox.root());
    assert_eq!(list(outside), 3);
    let mut environment = sandbox.command();
    environment.current_dir(sandbox.root()).env("SELVEDGE_REPO", sandbox.repo());
    assert_eq!(list(environment), 0);
    let mut option = sandbox.command();
    option.current_dir(sandbox.root()).env("SELVEDGE_REPO", "/nonexistent").args(["--repo", "repo"]);
    assert_eq!(list(option), 0, "--repo goes before SELVEDGE_REPO");
}

#[test]
fn usage_errors_are_2_and_documents_under_json() {
    let sandbox = Sandbox::empty();
    let wrong: [&[&str]; 6] =
        [&[], &["nonsense"], &["thread"], &["mount", "main"], &["list", "--nonsense"], &["-q", "-v", "list"]];
    for words in wrong {
        sandbox.run(words).fails(2);
        let outcome = finish(sandbox.command().arg("--json").args(words)).fails(2);
        let error = outcome.error();
        assert_eq!(fields(&error), ["hint", "kind", "message"]);
        assert_eq!(error["kind"], json!("usage"), "{words:?}");
    }
    assert!(!sandbox.repo().join(".selvedge").exists());
}

#[test]
fn errors_under_json_are_documents_with_kind_message_and_hint() {
    let sandbox = Sandbox::new();
    let kinds: [(&[&str], &str); 3] = [
        (&["thread", "show", "nothing"], "not_found"),
        (&["thread", "create", "main"], "conflict"),
        (&["thread", "create", "-", "--from", "main"], "usage"),
    ];
    for (words, kind) in kinds {
        let outcome = finish(sandbox.command().args(words).arg("--json"));
        assert!(outcome.stdout.is_empty(), "{outcome:?}");
        assert_eq!(outcome.error()["kind"], json!(kind), "{words:?}");
    }
}

#[test]
fn list_is_empty_without_mounts_and_needs_no_repository() {
    let sandbox = Sandbox::empty();
    assert_eq!(sandbox.json(["list"]), json!([]));
    assert_eq!(sandbox.json(["mounts"]), json!([]));
    assert_eq!(sandbox.run(["list"]).ok().stdout, "");
}

#[test]
fn unmounting_what_is_known_but_not_mounted_is_no_error() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.json(["unmount", "main"]), json!({ "mountpoint": null }));
    assert_eq!(sandbox.json(["umount", "./dir"]), json!({ "mountpoint": sandbox.repo().join("dir") }));
    sandbox.run(["unmount", "nothing"]).fails(3);
    sandbox.run(["unmount", "./nothing"]).fails(3);
    sandbox.run(["unmount", "/proc"]).fails(3).saying("none of yours");
    sandbox.run(["unmount", "a b"]).fails(2);
}

#[test]
fn paths_that_are_not_utf8_appear_as_bytes() {
    let sandbox = Sandbox::empty();
    let odd = sandbox.root().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::create_dir(&odd).unwrap();
    let document = finish(sandbox.command().args(["--json", "init"]).arg(&odd)).ok().document();
    let bytes = document["repo"]["bytes"].as_str().expect("bytes");
    assert!(bytes.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)), "{bytes}");
    let text = finish(sandbox.command().arg("init").arg(&odd)).ok();
    assert!(text.stdout.contains("odd\\xff"), "{text:?}");
}

#[test]
fn completions_come_for_every_shell() {
    let sandbox = Sandbox::empty();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = sandbox.run(["completions", shell]).ok();
        assert!(outcome.stdout.contains("unmount"), "{shell}");
    }
    sandbox.run(["completions", "command.com"]).fails(2);
}

#[test]
fn help_and_version_are_results() {
    let sandbox = Sandbox::empty();
    assert!(sandbox.run(["--version"]).ok().stdout.starts_with("selvedge "));
    let commands =
        ["init", "import", "export", "thread", "mount", "unmount", "list", "doctor", "completions"];
    let help = sandbox.run(["--help"]).ok().stdout;
    for command in commands {
        assert!(help.contains(command), "{command}");
        assert!(sandbox.run([command, "--help"]).ok().stdout.contains("Usage: selvedge"), "{command}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let sandbox = Sandbox::empty();
    let mut shell = sandbox.program("sh");
    // The pipe's other end is closed before anything is written.
    shell.args(["-c", "{ sleep 0.2; \"$0\" completions bash; echo \"code $?\" >&2; } | true"]).arg(SELVEDGE);
    let outcome = finish(&mut shell);
    assert_eq!(outcome.stderr, "code 0\n");
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let sandbox = Sandbox::empty();
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "\"$0\" completions bash > /dev/full"]).arg(SELVEDGE);
    finish(&mut shell).fails(1).saying("cannot write to standard output: No space left on device");
}

#[test]
fn quiet_prints_results_only() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.repo().join("surplus"), "").unwrap();
    let outcome = sandbox.run(["-q", "export", "main", ".", "--delete"]).ok();
    assert_eq!(outcome.stderr, "");
    assert!(outcome.stdout.starts_with("exported "));
}

#[test]
fn the_runtime_directory_is_private_or_refused() {
    let sandbox = Sandbox::empty();
    sandbox.run(["list"]).ok();
    assert_eq!(fs::metadata(sandbox.runtime()).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o770)).unwrap();
    sandbox.run(["list"]).fails(5).saying("chmod 700");
    fs::remove_dir_all(sandbox.runtime()).unwrap();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(sandbox.path("elsewhere"), sandbox.runtime()).unwrap();
    sandbox.run(["list"]).fails(5).saying("symbolic link");
}

#[test]
fn without_a_word_of_the_caller_state_lies_in_the_home() {
    let sandbox = Sandbox::empty();
    let list = |state: Option<&Path>| {
        let mut command = sandbox.command();
        command.arg("list").env_remove("SELVEDGE_RUNTIME_DIR");
        state.map(|state| command.env("XDG_STATE_HOME", state));
        finish(&mut command).ok();
    };
    list(None);
    assert!(sandbox.path("home/.local/state/selvedge/run").is_dir());
    fs::create_dir(sandbox.path("state")).unwrap();
    list(Some(&sandbox.path("state")));
    assert!(sandbox.path("state/selvedge/run").is_dir());
}

#[test]
fn a_log_filter_or_file_that_cannot_be_is_an_error() {
    let sandbox = Sandbox::empty();
    finish(sandbox.command().arg("list").env("SELVEDGE_LOG", "a=b=c")).fails(2).saying("SELVEDGE_LOG");
    finish(sandbox.command().arg("list").env("SELVEDGE_LOG_FILE", "/nonexistent/x"))
        .fails(1)
        .saying("log file");
    finish(sandbox.command().arg("list").env("SELVEDGE_LOG_FILE", sandbox.path("log"))).ok();
    assert!(sandbox.path("log").is_file());
}
