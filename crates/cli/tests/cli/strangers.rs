//! Numbers of processes that are others' by now, and directories that nobody needs any more.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, Stray, eventually, runs};

/// A process that has nothing to do with us, and that any signal would end.
fn stranger(sandbox: &Sandbox) -> Stray {
    let mut sleep = sandbox.program("sleep");
    // It must not count as the sandbox's.
    Stray::start(sleep.arg("60").env_remove("SELVEDGE_RUNTIME_DIR"))
}

#[test]
fn a_pid_that_has_passed_to_a_stranger_is_never_signalled_nor_taken_for_ours() {
    let sandbox = Sandbox::new();
    let (service, worker) = (stranger(&sandbox), stranger(&sandbox));
    sandbox.background("main", "m");
    let path =
        sandbox.records().into_iter().find(|path| path.extension().is_some_and(|e| e == "json")).unwrap();
    let record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    sandbox.run(["service", "stop"]).ok();
    // As after a boot in which nothing was cleaned up: everything names living processes of other start times.
    let process = |stray: &Stray| json!({ "pid": stray.pid(), "start": 1 });
    for holder in ["service", "foreground"] {
        let mut record = record.clone();
        record["supervisor"] = process(&service);
        record["worker"] = process(&worker);
        record["mount"]["worker"] = process(&worker);
        record["holder"] = json!(holder);
        fs::write(&path, record.to_string()).unwrap();
        fs::write(sandbox.instance().join("service.lock"), format!("{}\n", service.pid())).unwrap();
        fs::write(sandbox.instance().join("clean.lock"), format!("{}\n", service.pid())).unwrap();
        for lock in fs::read_dir(sandbox.repo().join(".selvedge/locks")).into_iter().flatten().flatten() {
            fs::write(lock.path(), format!("{}\n", worker.pid())).unwrap();
        }
        let status = sandbox.run(["--json", "service", "status"]).ok();
        assert_eq!(status.document()["running"], json!(false), "{status:?}");
        let told = format!("process {}, which held it, is gone", service.pid());
        let list = sandbox.run(["list", "--json"]).ok();
        assert!(status.stderr.contains(&told) || list.stderr.contains(&told), "{status:?} {list:?}");
        assert!(!list.stderr.contains("ended its worker"), "{list:?}");
        assert_eq!(list.document(), json!([]), "{list:?}");
        assert!(sandbox.records().is_empty());
        sandbox.run(["unmount", "main"]).ok();
        sandbox.run(["service", "stop"]).ok();
        // The thread and the place of the service are free.
        sandbox.background("main", "m");
        assert_ne!(sandbox.service_pid(), service.pid());
        sandbox.run(["service", "stop"]).ok();
        assert!(runs(service.pid()) && runs(worker.pid()), "strangers live");
    }
}

/// Makes everything below `directory`, and it, as old as `age`.
fn age(directory: &Path, age: Duration) {
    let then = SystemTime::now() - age;
    for entry in fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            self::age(&entry.path(), age);
        }
        fs::File::open(entry.path()).unwrap().set_modified(then).unwrap();
    }
}

/// A directory of another boot or namespace, as a service leaves it.
fn left(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let path = sandbox.runtime().join(name);
    for part in ["mounts", "wanted", "logs", "runs/0123456789abcdef"] {
        fs::create_dir_all(path.join(part)).unwrap();
    }
    for file in ["service.lock", "start.lock", "service.log", "service.log.1", "logs/main-01234567.log"] {
        fs::write(path.join(file), "1\n").unwrap();
    }
    path
}

#[test]
fn directories_of_earlier_boots_and_dead_namespaces_go_when_nobody_needs_them() {
    let sandbox = Sandbox::new();
    sandbox.run(["list"]).ok();
    let own = sandbox.instance();
    let boot = own.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0.to_owned();
    let days = Duration::from_hours(25);
    let gone = ["0000000000000001-1".to_owned(), "0000000000000003-1".to_owned(), format!("{boot}-1")];
    let gone = gone.map(|name| left(&sandbox, &name));
    // Records of an earlier boot are of nobody any more.
    fs::write(gone[1].join("mounts/0123456789abcdef.json"), "{}").unwrap();
    let wanted = left(&sandbox, "0000000000000002-1");
    fs::write(wanted.join("wanted/0123456789abcdef.json"), "{}").unwrap();
    let held = left(&sandbox, "0000000000000004-1");
    let lock = fs::File::options().write(true).open(held.join("service.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let strange = left(&sandbox, "0000000000000005-1");
    fs::create_dir(strange.join("mounts/deep")).unwrap();
    let foreign = sandbox.runtime().join("notes");
    fs::create_dir(&foreign).unwrap();
    // Somebody lives in this one.
    let namespace = {
        let mut unshare = sandbox.program("unshare");
        let stray = Stray::start(unshare.args(["--mount", "--propagation", "private", "sleep", "60"]));
        let link = format!("/proc/{}/ns/mnt", stray.pid());
        let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        eventually("a namespace", || inode(&link) != inode("/proc/self/ns/mnt"));
        (inode(&link), stray)
    };
    let living = left(&sandbox, &format!("{boot}-{}", namespace.0));
    for path in gone.iter().chain([&wanted, &held, &strange, &living]) {
        age(path, days);
    }
    let young = left(&sandbox, "0000000000000006-1");
    sandbox.run(["service", "start"]).ok();
    eventually("what nobody needs is gone", || gone.iter().all(|path| !path.exists()));
    for path in [wanted, held, strange, living, young, foreign, own.clone()] {
        assert!(path.exists(), "{}", path.display());
    }
    // It says so afterwards.
    let log = || fs::read_to_string(own.join("service.log")).unwrap_or_default();
    eventually("it is said", || log().contains("removed 0000000000000001-1 from the runtime directory"));
}
