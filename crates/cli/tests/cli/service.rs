//! The background service: started once by whoever needs it first, apart from its starter, hard to disturb, and gone
//! when it is stopped.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_cli::control::{Client, Reply, Request};
use selvedge_cli::environment::Environment;
use selvedge_cli::plan::{OnCrash, Options, Plan};
use selvedge_cli::record::MountId;
use selvedge_cli::runtime::RuntimeDir;
use selvedge_mount::Tuning;
use serde_json::{Value, json};

use crate::sandbox::{DEADLINE, Outcome, SELVEDGE, Sandbox, Stray, eventually, fields, finish, runs, signal};

/// Runs `count` commands at the same time.
fn at_once(count: usize, command: impl Fn(usize) -> Command + Sync) -> Vec<Outcome> {
    thread::scope(|scope| {
        let command = &command;
        let threads: Vec<_> =
            (0..count).map(|number| scope.spawn(move || finish(&mut command(number)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn socket(sandbox: &Sandbox) -> PathBuf {
    sandbox.instance().join("service.sock")
}

#[test]
fn mount_returns_when_the_directory_is_usable_and_the_service_holds_it() {
    let sandbox = Sandbox::new();
    let mount = sandbox.background("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    let entry = &sandbox.mounts()[0];
    let device = rustix::fs::makedev(entry.device.major, entry.device.minor);
    assert_eq!(fs::metadata(sandbox.path("m/dir/inner")).unwrap().dev(), device);
    let service = sandbox.service();
    assert_eq!(fields(&service), ["mounts", "pid", "running", "socket"]);
    assert_eq!((&service["running"], &service["mounts"]), (&json!(true), &json!(1)));
    assert_eq!(service["socket"], json!(socket(&sandbox)));
    assert_eq!(mount["supervisor_pid"], service["pid"]);
    let list = sandbox.json(["list"]);
    assert_eq!(fields(&list[0]), fields(&mount));
    for field in ["id", "thread", "mountpoint", "worker_pid", "supervisor_pid", "repo", "state", "restarts"] {
        assert_eq!(list[0][field], mount[field], "{field}");
    }

    fs::write(sandbox.path("m/kept"), "1").unwrap();
    assert_eq!(sandbox.json(["unmount", "main"]), json!({ "mountpoint": sandbox.path("m") }));
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    assert!(!runs(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap()));
    assert_eq!(sandbox.service()["pid"], service["pid"], "the service stays");
    sandbox.background("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn thirty_two_first_commands_start_one_service_and_none_says_so() {
    let sandbox = Sandbox::empty();
    let outcomes = at_once(32, |_| {
        let mut command = sandbox.command();
        command.args(["--json", "service", "start"]);
        command
    });
    let pid = sandbox.service_pid();
    for outcome in outcomes {
        let outcome = outcome.ok();
        assert_eq!(outcome.document()["pid"], json!(pid));
        assert_eq!(outcome.stderr, "");
    }
    assert_eq!(sandbox.processes(), [pid]);
}

#[test]
fn first_mounts_at_once_are_all_made_by_one_service() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..12).map(|number| format!("t{number}")).collect();
    for name in &names {
        sandbox.run(["thread", "create", name]).ok();
    }
    let outcomes = at_once(names.len(), |number| {
        let mut command = sandbox.command();
        command.args(["mount", &names[number]]).arg(sandbox.path(&names[number]));
        command
    });
    for outcome in outcomes {
        outcome.ok();
    }
    for name in &names {
        fs::write(sandbox.path(name).join("own"), name).unwrap();
    }
    for name in &names {
        assert_eq!(&fs::read_to_string(sandbox.path(name).join("own")).unwrap(), name);
    }
    let list = sandbox.json(["list"]);
    assert_eq!(list.as_array().unwrap().len(), names.len());
    assert!(list.as_array().unwrap().iter().all(|mount| mount["state"] == json!("ready")), "{list}");
}

#[test]
fn a_service_that_is_down_is_no_error_and_is_not_started_by_looking() {
    let sandbox = Sandbox::new();
    for command in ["status", "stop"] {
        let said = sandbox.json(["service", command]);
        assert_eq!((&said["running"], &said["pid"]), (&json!(false), &Value::Null));
        assert_eq!(said["mounts"], json!(0));
    }
    assert_eq!(sandbox.json(["list"]), json!([]));
    assert_eq!(sandbox.json(["unmount", "main"]), json!({ "mountpoint": null }));
    sandbox.run(["doctor"]);
    assert!(sandbox.processes().is_empty());
}

#[test]
fn stopping_unmounts_everything_busy_mounts_too_and_ends_the_process() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    sandbox.background("main", "m");
    sandbox.background("try", "n");
    let mut holder = sandbox.program("sleep");
    let holder = Stray::start(holder.arg("60").current_dir(sandbox.path("n")));
    let pid = sandbox.service_pid();
    assert_eq!(sandbox.json(["service", "stop"])["running"], json!(false));
    assert!(!runs(pid) && !socket(&sandbox).exists());
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    eventually("no process is left", || sandbox.processes().iter().all(|pid| *pid == holder.pid()));
    assert_eq!(sandbox.json(["list"]), json!([]), "what was stopped on purpose is not lost");
    sandbox.background("try", "o");
}

#[test]
fn sigterm_and_sigint_unmount_and_end_the_service() {
    let sandbox = Sandbox::new();
    for with in [Signal::TERM, Signal::INT] {
        sandbox.background("main", "m");
        let pid = sandbox.service_pid();
        signal(pid, with);
        eventually("the service ends", || !runs(pid));
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !socket(&sandbox).exists());
        assert!(sandbox.processes().is_empty());
    }
    assert_eq!(sandbox.json(["list"]), json!([]));
}

#[test]
fn hanging_up_reads_the_settings_again_and_an_idle_service_ends() {
    let sandbox = Sandbox::empty();
    sandbox.run(["service", "start"]).ok();
    let pid = sandbox.service_pid();
    let settings = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&settings).unwrap();
    fs::write(settings.join("config.toml"), "[service]\nidle = 1\n").unwrap();
    signal(pid, Signal::HUP);
    eventually("it ends for want of mounts", || !runs(pid));
    assert!(!socket(&sandbox).exists());
}

#[test]
fn a_mount_that_meets_a_stop_is_made_by_the_next_service() {
    let sandbox = Sandbox::new();
    for round in 0..6 {
        sandbox.run(["service", "start"]).ok();
        let outcomes = at_once(2, |number| {
            let mut command = sandbox.command();
            if number == 0 {
                thread::sleep(Duration::from_millis(round));
                command.args(["service", "stop"]);
            } else {
                command.args(["mount", "main"]).arg(sandbox.path("m"));
            }
            command
        });
        for outcome in outcomes {
            outcome.ok();
        }
        sandbox.run(["service", "stop"]).ok();
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    }
}

#[test]
fn the_service_has_nothing_of_whoever_started_it() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.program("sh");
    // A descriptor, an ignored signal, a terminal's variables, and variables that are meant for one mount.
    command.args(["-c", "exec 7< /etc/passwd; trap '' CHLD; exec \"$0\" mount main \"$1\""]);
    command.arg(SELVEDGE).arg(sandbox.path("m"));
    command.env("TERM", "xterm").env("LD_LIBRARY_PATH", "/nonexistent").env("SELVEDGE_REPO", sandbox.repo());
    command.env("SELVEDGE_FUSE_WORKER_STOP_GRACE_MS", "1500").env("SECRET", "password");
    finish(&mut command).ok();
    let pid = sandbox.service_pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (name, rest) = stat.split_once(") ").unwrap();
    assert!(name.ends_with("(selvedge"), "{stat}");
    let numbers: Vec<i64> = rest.split(' ').skip(1).map(|field| field.parse().unwrap()).take(5).collect();
    let own = i64::from(pid);
    assert_eq!(numbers[1..4], [own, own, 0], "group, session and terminal: {stat}");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let wanted = match number {
            0 | 1 => target == Path::new("/dev/null"),
            2 => target.ends_with("service.log"),
            _ => target != Path::new("/etc/passwd"),
        };
        assert!(wanted, "descriptor {number} is {}", target.display());
    }
    let words = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let words = String::from_utf8_lossy(&words);
    for name in ["TERM", "LD_LIBRARY_PATH", "SELVEDGE_REPO", "SELVEDGE_FUSE_WORKER", "SECRET"] {
        assert!(!words.split('\0').any(|word| word.starts_with(name)), "{name} in {words}");
    }
}

#[test]
fn the_output_of_a_background_mount_can_be_captured() {
    let sandbox = Sandbox::new();
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "said=$(\"$0\" --json mount main \"$1\" 2>&1); echo \"said: $said\""]);
    let outcome = finish(shell.arg(SELVEDGE).arg(sandbox.path("m"))).ok();
    assert!(outcome.stdout.contains("\"state\":\"ready\""), "{outcome:?}");
}

#[test]
fn a_background_mount_outlives_its_terminal() {
    let sandbox = Sandbox::new();
    // A terminal of its own, which hangs up when its shell ends.
    let mut terminal = sandbox.program("script");
    let command = format!("{SELVEDGE} mount main {}; tty", sandbox.path("m").display());
    let outcome = finish(terminal.args(["-qec", &command, "/dev/null"])).ok();
    assert!(outcome.stdout.contains("/dev/pts/"), "{outcome:?}");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
}

#[test]
fn foreground_and_background_mounts_are_listed_and_unmounted_alike() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let held = sandbox.mount("main", "m");
    sandbox.background("try", "n");
    let list = sandbox.json(["list"]);
    let threads: Vec<_> = list.as_array().unwrap().iter().map(|mount| mount["thread"].clone()).collect();
    assert_eq!(threads, [json!("main"), json!("try")]);
    sandbox.run(["mount", "main", "../o"]).fails(4).saying("mounted already");
    sandbox.run(["mount", "try", "../o"]).fails(4).saying("mounted already");
    sandbox.run(["mount", "try", "../o", "--foreground"]).fails(4).saying("mounted already");
    sandbox.run(["unmount", "try"]).ok();
    sandbox.run(["unmount", "main"]).ok();
    held.end().ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_busy_background_mount_is_left_alone_and_says_who_holds_it() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let mut holder = sandbox.program("sleep");
    let holder = Stray::start(holder.arg("60").current_dir(sandbox.path("m/dir")));
    let refused = sandbox.run(["unmount", "main"]).fails(4);
    refused.saying(&format!("sleep (pid {})", holder.pid())).saying("--force");
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
    sandbox.run(["unmount", "main", "--force"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    assert_eq!(sandbox.json(["list"]), json!([]));
}

#[test]
fn a_thread_is_mounted_again_as_soon_as_it_is_unmounted() {
    let sandbox = Sandbox::new();
    for _ in 0..25 {
        sandbox.background("main", "m");
        sandbox.run(["unmount", "main"]).ok();
    }
}

#[test]
fn what_a_caller_sets_for_a_mount_reaches_its_worker_and_no_other() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m"]).env("SELVEDGE_FUSE_WORKER_PANIC_ON_INIT", "1");
    assert_eq!(finish(&mut command).code(), 1);
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m"]).env("SELVEDGE_FUSE_WORKER_BIN", "/nonexistent/worker");
    finish(&mut command).fails(1).saying("/nonexistent/worker");
    assert!(!sandbox.path("m").exists());
    sandbox.background("main", "m");
}

#[test]
fn a_request_that_is_sent_again_is_carried_out_once() {
    let sandbox = Sandbox::new();
    sandbox.run(["service", "start"]).ok();
    let runtime =
        RuntimeDir::open(&Environment { runtime_dir: Some(sandbox.runtime()), ..Environment::default() })
            .unwrap();
    // The identity of a thread stands nowhere in the documents, but in the record of a mount.
    sandbox.background("main", "m");
    let record: Value = serde_json::from_slice(&fs::read(sandbox.records().pop().unwrap()).unwrap()).unwrap();
    sandbox.run(["unmount", "main"]).ok();
    let plan = Plan {
        request: MountId::random().unwrap(),
        repo: sandbox.repo().into(),
        thread: "main".to_owned(),
        thread_id: record["thread_id"].as_str().unwrap().to_owned(),
        mountpoint: sandbox.path("m").into(),
        make_directory: true,
        lent: false,
        options: Options {
            read_only: false,
            allow_other: false,
            suid: false,
            dev: false,
            trust_repository: false,
            on_crash: OnCrash::Recover,
            tuning: Tuning::default(),
        },
        worker: None,
        environment: Vec::new(),
        stop_grace_ms: Some(2000),
    };
    let ask = || {
        let deadline = Instant::now() + DEADLINE;
        let mut client = Client::service(&runtime, deadline).unwrap();
        match client.ask(Request::Mount { plan: Box::new(plan.clone()) }, &[], deadline) {
            Ok(Reply::Mounted { mount }) => mount.id.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let ids: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(ask(), ids[0]);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_service_that_hangs_is_named_and_hangs_nobody() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    sandbox.run(["thread", "create", "try"]).ok();
    let pid = sandbox.service_pid();
    signal(pid, Signal::STOP);
    let list = sandbox.run(["list", "--json"]);
    let mount = sandbox.run(["mount", "try", "../n"]);
    let stop = sandbox.run(["service", "stop"]);
    signal(pid, Signal::CONT);
    assert_eq!(list.document()[0]["state"], json!("stuck"));
    assert!(list.took < Duration::from_secs(2), "{list:?}");
    mount.fails(6).saying(&format!("process {pid}"));
    stop.fails(6).saying(&format!("kill -9 {pid}"));
    assert!(!sandbox.path("n").exists());
    eventually("it answers again", || sandbox.json(["list"])[0]["state"] == json!("ready"));
}

/// Answers every connection to `listener` with `bytes`.
fn answer_with(listener: UnixListener, bytes: Vec<u8>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&bytes);
        }
    });
}

fn frame(json: &str) -> Vec<u8> {
    let mut frame = u32::try_from(json.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(json.bytes());
    frame
}

#[test]
fn a_service_of_another_version_is_named() {
    let sandbox = Sandbox::new();
    sandbox.run(["service", "status"]).ok();
    let lock = fs::File::create(sandbox.instance().join("service.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let listener = UnixListener::bind(socket(&sandbox)).unwrap();
    answer_with(listener, frame(r#"{"id":1,"fds":0,"msg":{"Hello":{"protocol":99,"pid":1}}}"#));
    for command in [&["service", "status"][..], &["service", "start"], &["mount", "main", "../m"]] {
        sandbox.run(command).fails(1).saying("speaks version 99");
    }
    assert!(!sandbox.path("m").exists());
}

#[test]
fn a_foreign_or_dead_socket_is_no_service_and_is_replaced() {
    let sandbox = Sandbox::empty();
    sandbox.run(["service", "status"]).ok();
    let path = socket(&sandbox);
    answer_with(UnixListener::bind(&path).unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    assert_eq!(sandbox.service()["running"], json!(false));
    sandbox.run(["service", "start"]).ok();
    assert_eq!(sandbox.service()["running"], json!(true));
    sandbox.run(["service", "stop"]).ok();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let outcome = sandbox.run(["list"]).ok();
    assert!(outcome.stderr.contains("removed the socket"), "{outcome:?}");
    assert!(!path.exists());
}

#[test]
fn a_service_that_cannot_start_ends_the_wait_and_says_why() {
    let sandbox = Sandbox::new();
    sandbox.run(["service", "status"]).ok();
    fs::create_dir(socket(&sandbox)).unwrap();
    let outcome = sandbox.run(["mount", "main", "../m"]).fails(1);
    assert!(outcome.took < Duration::from_secs(8), "{outcome:?}");
    outcome.saying("as soon as it was started").saying("cannot make the service's socket");
    assert!(sandbox.processes().is_empty() && !sandbox.path("m").exists());
    fs::remove_dir(socket(&sandbox)).unwrap();
    sandbox.background("main", "m");
}

#[test]
fn a_second_service_is_refused_and_names_the_first() {
    let sandbox = Sandbox::empty();
    sandbox.run(["service", "start"]).ok();
    let pid = sandbox.service_pid();
    sandbox.run(["service", "run"]).fails(4).saying(&format!("(process {pid})"));
    assert_eq!(sandbox.service_pid(), pid);
}

#[test]
fn a_service_in_the_terminal_ends_with_ctrl_c() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    let mut service = Stray::start(command.args(["service", "run"]));
    eventually("it runs", || sandbox.service()["pid"] == json!(service.pid()));
    sandbox.background("main", "m");
    signal(service.pid(), Signal::INT);
    assert!(service.0.wait().unwrap().success());
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_thousand_silent_clients_and_hostile_bytes_disturb_nobody() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let path = socket(&sandbox);
    let silent: Vec<_> = (0..1000).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let list = sandbox.run(["list", "--json"]).ok();
    assert_eq!(list.document()[0]["state"], json!("ready"), "{list:?}");
    assert!(list.took < Duration::from_secs(5), "{list:?}");
    let early = frame(r#"{"id":1,"fds":0,"msg":{"End":{}}}"#);
    let huge = frame(&format!(r#"{{"id":1,"msg":{{"Hello":{{"protocol":{}}}}}}}"#, "9".repeat(60_000)));
    let deep = frame(&format!(r#"{{"id":1,"msg":{{"Mount":{{"plan":{}}}}}}}"#, "[".repeat(30_000)));
    let hostile: [&[u8]; 8] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x02\0\0\0{}",
        b"\x01\0",
        &early,
        &huge,
        &deep,
    ];
    for bytes in hostile {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // An answer or none, but an end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
    drop(silent);
}

#[test]
fn another_user_is_turned_away_on_both_ends() {
    let sandbox = Sandbox::unprivileged();
    sandbox.background("main", "m");
    // Root may enter the directory, and is another user all the same.
    let mut stream = UnixStream::connect(socket(&sandbox)).unwrap();
    let _ = stream.write_all(&frame(r#"{"id":1,"fds":0,"msg":{"Hello":{"protocol":1}}}"#));
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    let mut command = Command::new(SELVEDGE);
    command.args(["service", "status"]).env("SELVEDGE_RUNTIME_DIR", sandbox.runtime()).stdin(Stdio::null());
    finish(&mut command).fails(5);
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
    sandbox.run(["unmount", "main"]).ok();
}

#[test]
fn a_runtime_directory_that_was_removed_is_made_anew() {
    let sandbox = Sandbox::new();
    let mount = sandbox.background("main", "m");
    let pid = sandbox.service_pid();
    fs::remove_dir_all(sandbox.runtime()).unwrap();
    eventually("it is found again", || sandbox.json(["list"]).as_array().is_some_and(|list| list.len() == 1));
    let list = sandbox.json(["list"]);
    for field in ["id", "state", "worker_pid", "supervisor_pid"] {
        assert_eq!(list[0][field], mount[field], "{field}");
    }
    assert_eq!(fs::read_dir(sandbox.instance().join("wanted")).unwrap().count(), 1);
    assert!(fs::read_to_string(sandbox.instance().join("service.log")).unwrap().contains("made anew"));
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.records().is_empty() && sandbox.mounts().is_empty());
    assert_eq!(sandbox.service_pid(), pid);
    sandbox.run(["service", "stop"]).ok();
    assert!(!socket(&sandbox).exists());
}

/// Writes and reads back through a mount, enough to see that it is this thread's and whole.
fn load(mount: &Path, thread: &str) {
    for number in 0..20 {
        let text = format!("{thread} {number} ").repeat(200);
        let path = mount.join(format!("file{number}"));
        fs::write(&path, &text).unwrap();
        fs::rename(&path, mount.join(format!("moved{number}"))).unwrap();
        assert_eq!(fs::read_to_string(mount.join(format!("moved{number}"))).unwrap(), text);
    }
    assert_eq!(fs::read_to_string(mount.join("file")).unwrap(), "content\n");
    assert_eq!(fs::read_dir(mount).unwrap().count(), 23);
}

#[test]
fn fifty_mounts_at_once_keep_apart_what_is_written_in_each() {
    let sandbox = Sandbox::new();
    let names: Vec<String> = (0..50).map(|number| format!("t{number}")).collect();
    for name in &names {
        sandbox.run(["thread", "create", name]).ok();
        sandbox.background(name, name);
    }
    assert_eq!(sandbox.mounts().len(), 50);
    thread::scope(|scope| {
        for name in &names {
            let mount = sandbox.path(name);
            scope.spawn(move || load(&mount, name));
        }
    });
    let list = sandbox.json(["list"]);
    assert_eq!(list.as_array().unwrap().len(), 50);
    sandbox.run(["service", "stop"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && sandbox.processes().is_empty());
    sandbox.background("t7", "t7");
    assert!(fs::read_to_string(sandbox.path("t7/moved3")).unwrap().starts_with("t7 3 t7 3"));
}
