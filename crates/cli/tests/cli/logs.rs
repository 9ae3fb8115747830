//! What is to be seen of a mount: its log, its rate of requests, the memory of its worker.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::sandbox::{Sandbox, eventually, finish, signal};

fn user(sandbox: &Sandbox, text: &str) {
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), text).unwrap();
}

/// The files of the log of the mount of `thread`, the one that is written first.
fn files(sandbox: &Sandbox, thread: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(sandbox.instance().join("logs")) else { return Vec::new() };
    let of_it = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .strip_prefix(thread)
            .is_some_and(|rest| rest.starts_with('-'))
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(of_it).collect();
    files.sort();
    files
}

fn log(sandbox: &Sandbox, thread: &str) -> String {
    files(sandbox, thread).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn own(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.instance().join("service.log")).unwrap_or_default()
}

fn worker(mount: &Value) -> u32 {
    u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn each_mount_has_a_log_of_what_its_worker_and_its_supervisor_say() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mount = sandbox.json(["mount", "main", "../m", "--set", "mount.trace_writes=true"]);
    sandbox.background("try", "t");
    fs::write(sandbox.path("m/new"), "12345").unwrap();
    fs::write(sandbox.path("t/new"), "12345").unwrap();
    eventually("the write is traced", || log(&sandbox, "main").contains("bytes=5"));
    assert!(log(&sandbox, "main").contains("offset=0") && !log(&sandbox, "main").contains("12345"));
    signal(worker(&mount), Signal::KILL);
    eventually("the death is told", || log(&sandbox, "main").contains("was replaced by"));
    assert!(own(&sandbox).contains("was replaced by"), "what happens to mounts is the service's affair, too");
    assert!(!own(&sandbox).contains("bytes=5"), "what a worker says is its mount's: {}", own(&sandbox));
    assert!(!log(&sandbox, "try").contains("bytes=5") && !log(&sandbox, "try").contains("replaced"));
    // A worker that is adopted by another service goes on with its log.
    let service = sandbox.service_pid();
    signal(service, Signal::KILL);
    eventually("another service", || sandbox.json(["service", "status"])["pid"] != service);
    fs::write(sandbox.path("m/new"), "1234567").unwrap();
    eventually("the next write is traced", || log(&sandbox, "main").contains("bytes=7"));
}

#[test]
fn a_mount_in_the_foreground_has_a_log_as_any_other() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount_with("main", "m", &["--set", "mount.trace_writes=true"]);
    fs::write(sandbox.path("m/new"), "12345").unwrap();
    eventually("the write is traced", || log(&sandbox, "main").contains("bytes=5"));
    signal(worker(&sandbox.json(["list"])[0]), Signal::KILL);
    eventually("the death is told", || log(&sandbox, "main").contains("was replaced by"));
    assert_eq!(own(&sandbox), "", "there is no service");
    let said = held.stop(Signal::INT).stderr;
    assert!(!said.contains("bytes=5") && !said.contains("log="), "the terminal is not the log: {said}");
}

#[test]
fn logs_begin_anew_when_they_are_full_and_few_are_kept() {
    let sandbox = Sandbox::new();
    user(&sandbox, "[service]\nlog_size = 4096\nlog_files = 3\n[mount]\ntrace_writes = true\n");
    sandbox.run(["list"]).ok();
    let logs = sandbox.instance().join("logs");
    fs::create_dir(&logs).unwrap();
    for number in 100..250 {
        fs::write(logs.join(format!("old-{number:08}.log")), "").unwrap();
        fs::write(logs.join(format!("old-{number:08}.log.1")), "").unwrap();
    }
    sandbox.background("main", "m");
    for number in 0..400 {
        fs::write(sandbox.path("m/new"), vec![b'x'; number]).unwrap();
    }
    eventually("the log has been filled and emptied", || files(&sandbox, "main").len() == 4);
    for path in files(&sandbox, "main") {
        assert!(fs::metadata(&path).unwrap().len() < 4096 + 512, "{}", path.display());
    }
    let old = files(&sandbox, "old");
    assert_eq!(old.len(), 2 * 99, "the logs of a hundred mounts are kept, and whole");
}

#[test]
fn the_log_goes_to_the_journal_or_to_syslog_and_to_files_when_those_take_nothing() {
    let sandbox = Sandbox::new();
    let place = sandbox.path("collector");
    let collector = UnixDatagram::bind(&place).unwrap();
    collector.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut room = [0; 8192];
    let mut hear = |wanted: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let length = collector.recv(&mut room).expect("a line");
            let said = String::from_utf8_lossy(&room[..length]).into_owned();
            if said.contains(wanted) {
                return said;
            }
            assert!(Instant::now() < deadline, "no {wanted}");
        }
    };
    user(&sandbox, "[service]\nlog = 'journal'\n");
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m"]).env("SELVEDGE_LOG_SOCKET", &place);
    finish(&mut command).ok();
    let said = hear("mounted thread main");
    assert!(said.starts_with("MESSAGE=mounted thread main on "), "{said}");
    assert!(said.contains("\nPRIORITY=6\nSYSLOG_IDENTIFIER=selvedge\nSELVEDGE_MOUNT=main-"), "{said}");
    assert!(!own(&sandbox).contains("mounted thread"));
    let service = sandbox.service_pid();
    user(&sandbox, "[service]\nlog = 'syslog'\n");
    signal(service, Signal::HUP);
    sandbox.run(["unmount", "main"]).ok();
    let said = hear(&format!("<30>selvedge[{service}]: main-"));
    assert!(said.contains("unmounted "), "{said}");
    drop(collector);
    fs::remove_file(&place).unwrap();
    sandbox.background("main", "m");
    eventually("it is in the files", || own(&sandbox).contains("mounted thread main"));
    assert!(log(&sandbox, "main").contains("mounted thread main"));
}

#[test]
fn list_tells_requests_and_memory_within_a_second_whoever_hangs() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mount = sandbox.background("main", "m");
    sandbox.background("try", "t");
    let before = Instant::now();
    while before.elapsed() < Duration::from_millis(700) {
        fs::write(sandbox.path("m/new"), "x").unwrap();
    }
    let list = sandbox.json(["list"]);
    for mount in list.as_array().unwrap() {
        let memory = mount["memory"].as_u64().unwrap();
        assert!((100 << 10..64 << 20).contains(&memory), "{mount}");
    }
    assert!(list[0]["requests_per_s"].as_u64().unwrap() > 10, "{list}");
    assert!(list[1]["requests_per_s"].as_u64().unwrap() < list[0]["requests_per_s"].as_u64().unwrap());
    signal(worker(&mount), Signal::STOP);
    let outcome = sandbox.run(["list"]).ok();
    signal(worker(&mount), Signal::CONT);
    assert!(outcome.took < Duration::from_secs(1), "{outcome:?}");
    assert!(outcome.stdout.contains("stuck") && outcome.stdout.contains("MiB"), "{outcome:?}");
}
