//! Settings: read from everywhere they may stand, refused where they make no sense, and heeded.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use selvedge_cli::settings::KNOBS;
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, eventually, finish, signal};

/// Writes the user's settings.
fn user(sandbox: &Sandbox, text: &str) -> String {
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("config.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Writes the repository's settings.
fn repository(sandbox: &Sandbox, text: &str) -> String {
    let path = sandbox.repo().join(".selvedge/config.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn setting<'a>(list: &'a Value, key: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|setting| setting["key"] == key).expect("the setting")
}

/// The words that the worker of `mount` was started with.
fn words(mount: &Value) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", mount["worker_pid"])).unwrap();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

fn log(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.instance().join("service.log")).unwrap()
}

#[test]
fn config_shows_every_setting_with_its_value_and_origin() {
    let sandbox = Sandbox::new();
    let own = user(&sandbox, "[mount]\nthreads = 2\nattr_ttl = 0.5\n\n[service]\nidle = 3600\n");
    let its = repository(&sandbox, "# fewer\n[mount]\nmax_write = 8192\nattr_ttl = 7\n");
    let mut command = sandbox.command();
    command.args(["--json", "config", "--set", "store.large_blob=4096"]);
    let list = finish(command.env("SELVEDGE_MOUNT_MAX_BACKGROUND", "9")).ok().document();
    assert_eq!(list.as_array().unwrap().len(), KNOBS.len());
    for (key, value, origin) in [
        ("mount.threads", json!(2), format!("{own}:2")),
        ("mount.attr_ttl", json!(7), format!("{its}:4")),
        ("mount.max_write", json!(8192), format!("{its}:3")),
        ("mount.max_background", json!(9), "environment SELVEDGE_MOUNT_MAX_BACKGROUND".to_owned()),
        ("store.large_blob", json!(4096), "flag --set".to_owned()),
        ("service.idle", json!(3600), format!("{own}:6")),
        ("service.grace", json!(2), "default".to_owned()),
        ("mount.uid", Value::Null, "default".to_owned()),
    ] {
        let found = setting(&list, key);
        assert_eq!((&found["value"], &found["origin"]), (&value, &json!(origin)), "{key}");
    }
    assert_eq!(setting(&list, "service.idle")["unit"], "s");
    let text = sandbox.run(["config", "mount.threads", "service.idle"]).ok().stdout;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["SETTING", "VALUE", "UNIT", "FROM"]);
    assert_eq!(lines[1][..3], ["mount.threads", "2", "threads"]);
    assert_eq!(lines[2], ["service.idle", "3600", "s", &format!("{own}:6")]);
    sandbox.run(["config", "mount.treads"]).fails(2).saying("there is no setting mount.treads");
}

#[test]
fn what_makes_no_sense_names_file_and_line_and_nothing_is_done() {
    let sandbox = Sandbox::new();
    for (text, saying) in [
        ("[mount]\nthreds = 2\n", "line 2: there is no setting threds in [mount]"),
        ("[mount]\n\nthreads = 0\n", "line 3: mount.threads wants a whole number from 1 to 64"),
        ("[service]\nlog_filter = '=='\n", "line 2: service.log_filter wants"),
        ("[mount\n", "line 1: "),
    ] {
        let path = user(&sandbox, text);
        for command in [&["mount", "main", "../m"][..], &["config"], &["thread", "list"]] {
            let outcome = sandbox.run(command).fails(2);
            outcome.saying(&format!("{path} {saying}"));
        }
    }
    user(&sandbox, "");
    let path = repository(&sandbox, "[mount]\nread_only = true\nallow_other = true\n");
    let refused = sandbox.run(["mount", "main", "../m"]).fails(2);
    refused.saying(&format!("{path} line 3: a repository's file may not set mount.allow_other"));
    repository(&sandbox, "");
    sandbox
        .run(["mount", "main", "../m", "--set", "mount.threads=none"])
        .fails(2)
        .saying("mount.threads wants");
    sandbox.run(["mount", "main", "../m", "--set", "service.idle=1"]).fails(2).saying("config.toml");
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m"]).env("SELVEDGE_MOUNT_UID", "root");
    finish(&mut command).fails(2).saying("SELVEDGE_MOUNT_UID is root");
    assert!(sandbox.mounts().is_empty() && !sandbox.path("m").exists() && sandbox.processes().is_empty());
}

#[test]
fn a_mount_is_made_as_is_set_and_stays_so_whoever_dies() {
    let sandbox = Sandbox::new();
    user(&sandbox, "[mount]\nthreads = 2\nuid = 4711\nallow_other = false\n");
    repository(&sandbox, "[mount]\nread_only = true\nmax_write = 65536\n[store]\nlarge_blob = 4096\n");
    let mut command = sandbox.command();
    command.args(["--json", "mount", "main", "../m", "--set", "mount.negative_ttl=1.5"]);
    let mount = finish(command.env("SELVEDGE_MOUNT_DIRECT_IO", "true")).ok().document();
    let wanted = [
        "--threads 2 ",
        "--uid 4711 ",
        "--max-write 65536 ",
        "--negative-ttl-ms 1500 ",
        "--large-blob 4096 ",
        "--direct-io ",
        "--read-only ",
    ];
    let check = |mount: &Value| {
        let words = words(mount);
        assert!(wanted.iter().all(|option| words.contains(option)), "{words}");
        assert!(!words.contains("--allow-other"), "{words}");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(sandbox.path("m/file")).unwrap());
        assert_eq!(owner, 4711);
        assert_eq!(fs::write(sandbox.path("m/new"), "").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    };
    check(&mount);
    // A worker and a service later.
    user(&sandbox, "[mount]\nthreads = 3\n");
    signal(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    eventually("a successor", || sandbox.json(["list"])[0]["restarts"] == 1);
    check(&sandbox.json(["list"])[0]);
    let service = sandbox.service_pid();
    signal(service, Signal::KILL);
    eventually("another service", || sandbox.json(["service", "status"])["pid"] != json!(service));
    signal(u32::try_from(sandbox.json(["list"])[0]["worker_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    eventually("a successor of what was adopted", || sandbox.json(["list"])[0]["restarts"] == 2);
    check(&sandbox.json(["list"])[0]);
    // Mounted anew, it is as things are set now.
    sandbox.run(["unmount", "main"]).ok();
    let again = sandbox.json(["mount", "main", "../m", "--read-write"]);
    assert!(words(&again).contains("--threads 3 ") && !words(&again).contains("--uid"), "{}", words(&again));
    fs::write(sandbox.path("m/new"), "").unwrap();
}

#[test]
fn a_run_and_a_foreground_mount_heed_the_settings_too() {
    let sandbox = Sandbox::new();
    user(&sandbox, "[mount]\nread_only = true\n[service]\nmount_deadline = 0.3\n");
    let outcome = sandbox.run(["run", "main", "--", "touch", "new"]);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    sandbox.run(["service", "stop"]).ok();
    let slow = sandbox.script("slow", "exec sleep 30");
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m", "--foreground"]).env("SELVEDGE_FUSE_WORKER_BIN", slow);
    let outcome = finish(&mut command);
    assert!(outcome.took < Duration::from_secs(5), "{outcome:?}");
    outcome.fails(6).saying("was not ready after");
}

#[test]
fn a_worker_that_hangs_is_replaced_after_the_time_that_is_set() {
    let sandbox = Sandbox::new();
    user(&sandbox, "[service]\nhang_limit = 0.5\n");
    let mount = sandbox.background("main", "m");
    signal(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap(), Signal::STOP);
    eventually("a successor", || sandbox.json(["list"])[0]["restarts"] == 1);
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
}

#[test]
fn variables_of_the_service_count_for_one_that_is_started_with_them() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    finish(command.args(["service", "start"]).env("SELVEDGE_SERVICE_IDLE", "0.3")).ok();
    eventually("it ends for want of mounts", || sandbox.processes().is_empty());
}

#[test]
fn workers_dump_core_only_where_that_is_set() {
    let sandbox = Sandbox::new();
    let limit = |mount: &Value| {
        let limits = fs::read_to_string(format!("/proc/{}/limits", mount["worker_pid"])).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        line.split_whitespace().nth(4).unwrap().to_owned()
    };
    assert_eq!(limit(&sandbox.background("main", "m")), "1");
    sandbox.run(["service", "stop"]).ok();
    user(&sandbox, "[service]\ncore = true\n");
    assert_ne!(limit(&sandbox.background("main", "m")), "1");
}

#[test]
fn contents_are_stored_as_the_store_is_set() {
    let sandbox = Sandbox::new();
    let blobs = || files_below(&sandbox.repo().join(".selvedge/blobs"));
    let before = blobs();
    repository(&sandbox, "[store]\nlarge_blob = 100\n");
    fs::write(sandbox.repo().join("imported"), [b'i'; 200]).unwrap();
    sandbox.run(["import", "--thread", "other"]).ok();
    assert_eq!(blobs(), before + 1);
    sandbox.background("main", "m");
    fs::write(sandbox.path("m/changed"), [b'c'; 200]).unwrap();
    sandbox.run(["snapshot", "main"]).ok();
    assert_eq!(blobs(), before + 2);
    repository(&sandbox, "");
    sandbox.run(["fsck"]).ok();
}

fn files_below(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

#[test]
fn hanging_up_changes_what_holds_for_the_service_and_for_new_mounts() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mount = sandbox.background("main", "m");
    let service = sandbox.service_pid();
    user(&sandbox, "[service]\nmount_deadline = 0.4\nlog_filter = 'debug'\n");
    signal(service, Signal::HUP);
    eventually("the settings are read", || log(&sandbox).contains("read the settings again"));
    let slow = sandbox.script("slow", "exec sleep 30");
    let mut command = sandbox.command();
    command.args(["mount", "try", "../t"]).env("SELVEDGE_FUSE_WORKER_BIN", slow);
    let outcome = finish(&mut command).fails(6).saying("was not ready after");
    assert!(outcome.took < Duration::from_secs(5), "{outcome:?}");
    assert!(log(&sandbox).contains("DEBUG"), "{}", log(&sandbox));
    // What makes no sense changes nothing.
    user(&sandbox, "[service]\nmount_deadline = 0.4\nlog_filter = 'error'\nidel = 1\n");
    signal(service, Signal::HUP);
    eventually("it is said", || log(&sandbox).contains("line 4: there is no setting idel in [service]"));
    let length = log(&sandbox).len();
    // Commands would refuse to do anything with such settings.
    user(&sandbox, "");
    sandbox.run(["unmount", "main"]).ok();
    assert!(log(&sandbox).get(length..).unwrap().contains("INFO"), "{}", log(&sandbox));
    assert_eq!(sandbox.service_pid(), service);
    assert_eq!(mount["supervisor_pid"], json!(service));
    // Without a mount it ends when that is set.
    user(&sandbox, "[service]\nidle = 0.2\n");
    std::thread::sleep(Duration::from_millis(300));
    signal(service, Signal::HUP);
    eventually("it ends for want of mounts", || sandbox.processes().is_empty());
}

#[test]
fn settings_that_exclude_each_other_are_refused_before_anything_is_done() {
    let sandbox = Sandbox::new();
    let own = user(&sandbox, "[mount]\nwriteback = true\n");
    for (other, word) in [("mount.passthrough=on", "passes no files"), ("mount.direct_io=true", "direct_io")]
    {
        let outcome = sandbox.run(["mount", "main", "../m", "--set", other]);
        outcome.fails(2).saying(word).saying(&format!("{own}:2")).saying("mount.writeback");
        assert!(!sandbox.path("m").exists() && sandbox.records().is_empty());
    }
    let mounted = sandbox.json(["mount", "main", "../m", "--set", "mount.passthrough=auto"]);
    assert_eq!((&mounted["writeback"], &mounted["passthrough"]["active"]), (&json!(true), &json!(false)));
    assert!(mounted["passthrough"]["reason"].as_str().unwrap().contains("writeback"));
    sandbox.run(["unmount", "main"]).ok();
    let mounted = sandbox.json(["mount", "main", "../m", "--read-only"]);
    assert_eq!(mounted["writeback"], json!(false), "nobody writes");
    sandbox.run(["unmount", "main"]).ok();
    let own = user(&sandbox, "[mount]\n\nprofile = \"small-files\"\n");
    for (other, word) in
        [("passthrough=on", "passthrough"), ("direct_io=true", "direct_io"), ("writeback=true", "writeback")]
    {
        let outcome = sandbox.run(["mount", "main", "../m", "--set", &format!("mount.{other}")]);
        outcome.fails(2).saying(word).saying(&format!("{own}:3")).saying("mount.profile");
    }
    let mounted = sandbox.json(["mount", "main", "../m"]);
    assert!(mounted["passthrough"]["reason"].as_str().unwrap().contains("small-files"));
    sandbox.run(["unmount", "main"]).ok();
}
