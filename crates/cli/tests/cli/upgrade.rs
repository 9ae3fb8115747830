//! The service becomes another program, and its workers with it; programs that use the mounts notice nothing.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use selvedge_test_support::copy_program;
use serde_json::{Value, json};

use crate::adoption::{Ending, all_go_on, mounts, number, start_work, workers};
use crate::sandbox::{SELVEDGE, Sandbox, WORKER, eventually, finish, runs, signal, wait};

/// Installs both programs in a directory of the sandbox.
pub(crate) fn install(sandbox: &Sandbox, name: &str) -> PathBuf {
    let directory = sandbox.path(name);
    fs::create_dir(&directory).unwrap();
    copy_program(SELVEDGE, &directory.join("selvedge"));
    copy_program(WORKER, &directory.join("selvedge-fuse-worker"));
    directory.join("selvedge")
}

/// Installs the command, beside a worker that is a script: `$1` is its first word, `$WORKER` the real worker.
fn install_with_script(sandbox: &Sandbox, name: &str, script: &str) -> PathBuf {
    let directory = sandbox.path(name);
    fs::create_dir(&directory).unwrap();
    copy_program(SELVEDGE, &directory.join("selvedge"));
    sandbox.script(&format!("{name}/selvedge-fuse-worker"), &format!("WORKER={WORKER}\n{script}"));
    directory.join("selvedge")
}

/// The file that a process executes.
fn program_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default()
}

/// Upgrades the service to `program`; its mounts then.
#[track_caller]
fn upgrade(sandbox: &Sandbox, program: &Path) -> Value {
    let service = sandbox.service_pid();
    let done = finish(sandbox.program(program).args(["--json", "service", "upgrade"])).ok().document();
    assert_eq!(done["pid"], json!(service), "{done}");
    assert_eq!(program_of(service), program);
    let list = sandbox.json(["list"]);
    assert_eq!(done["mounts"], json!(list.as_array().unwrap().len()), "{done}");
    list
}

#[test]
fn nobody_notices_that_the_service_is_upgraded_again_and_again() {
    let sandbox = Sandbox::new();
    let installed = [install(&sandbox, "one"), install(&sandbox, "two")];
    let directories = mounts(&sandbox, 3);
    let service = sandbox.service_pid();
    let mut before = workers(&sandbox.json(["list"]), service);
    let ended = AtomicBool::new(false);
    let done: Vec<AtomicU64> = directories.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let _ending = Ending(&ended);
        start_work(scope, &directories, &ended, &done);
        for round in 0..6 {
            all_go_on(&done);
            let program = &installed[round % 2];
            let list = upgrade(&sandbox, program);
            let after = workers(&list, service);
            for (index, worker) in after.iter().enumerate() {
                assert_ne!(*worker, before[index], "{list}");
                assert_eq!(program_of(*worker), program.with_file_name("selvedge-fuse-worker"));
                assert_eq!(list[index]["restarts"], json!(round + 1));
                assert_eq!(list[index]["last_crash"], json!("an upgrade"));
            }
            assert!(before.iter().all(|worker| !runs(*worker)));
            before = after;
        }
        all_go_on(&done);

        // What it became does what it did before.
        signal(before[1], Signal::KILL);
        eventually("a successor", || sandbox.json(["list"])[1]["restarts"] == json!(7));
        assert_eq!(sandbox.json(["list"])[1]["last_crash"], json!("signal 9"), "it is still the parent");
        all_go_on(&done);
        signal(service, Signal::KILL);
        eventually("another service", || sandbox.service()["pid"] != json!(service));
        all_go_on(&done);
    });
    sandbox.run(["unmount", "t0"]).ok();
    assert_eq!(sandbox.mounts().len(), 2);
    sandbox.run(["service", "stop"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    eventually("no process is left", || sandbox.processes().is_empty());
}

#[test]
fn an_ordinary_users_service_is_upgraded_too() {
    let sandbox = Sandbox::unprivileged();
    let program = install(&sandbox, "new");
    let before = number(&sandbox.background("main", "m")["worker_pid"]);
    fs::write(sandbox.path("m/kept"), "1").unwrap_err();
    let service = sandbox.service_pid();
    let list = upgrade(&sandbox, &program);
    assert_ne!(workers(&list, service), [before]);
    finish(sandbox.program("sh").args(["-ec", "cat ../m/file; echo 1 > ../m/kept"])).ok();
    upgrade(&sandbox, &program);
    assert_eq!(finish(sandbox.program("cat").arg("../m/kept")).ok().stdout, "1\n");
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

/// That the service and its only worker are what they were, and that an upgrade is possible.
#[track_caller]
fn nothing_changed(sandbox: &Sandbox, service: u32, worker: u32) {
    assert_eq!(sandbox.service_pid(), service);
    assert_eq!(workers(&sandbox.json(["list"]), service), [worker]);
    assert_eq!(program_of(service), Path::new(SELVEDGE));
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
}

#[test]
fn an_upgrade_to_other_formats_is_refused_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    let service = sandbox.service_pid();
    let scripts = [
        ("later", "$WORKER --formats | sed 's/^session_state .*/session_state 999/'", " here and 999 there"),
        ("more", "$WORKER --formats; echo journal 1", "journal is not known here"),
        ("less", "$WORKER --formats | grep -v '^catalog'", "catalog is not known there"),
        ("mute", "exit 0", "no answer that makes sense"),
        ("broken", "exec /nowhere", "no answer that makes sense"),
    ];
    for (name, script, why) in scripts {
        let program = install_with_script(&sandbox, name, script);
        let refused = finish(sandbox.program(program).args(["service", "upgrade"])).fails(1);
        refused.saying("cannot upgrade the service").saying(why);
        nothing_changed(&sandbox, service, worker);
    }
    upgrade(&sandbox, &install(&sandbox, "new"));
}

#[test]
fn a_program_that_cannot_be_executed_leaves_the_service_as_it_was() {
    let sandbox = Sandbox::new();
    let worker = number(&sandbox.background("main", "m")["worker_pid"]);
    let service = sandbox.service_pid();
    // It answers the question and cannot be executed any more then.
    let program = install_with_script(&sandbox, "new", "chmod 644 ${0%/*}/selvedge; $WORKER --formats");
    for _ in 0..2 {
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let refused = finish(sandbox.program(&program).args(["service", "upgrade"])).fails(5);
        refused.saying("cannot execute the new program");
        nothing_changed(&sandbox, service, worker);
    }
    signal(worker, Signal::KILL);
    eventually("a successor", || sandbox.json(["list"])[0]["restarts"] == json!(1));
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    sandbox.run(["unmount", "main"]).ok();
}

#[test]
fn a_new_worker_that_serves_nothing_is_followed_by_the_one_before() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let service = sandbox.service_pid();
    let program =
        install_with_script(&sandbox, "new", "[ $1 = --formats ] && exec $WORKER --formats; exit 1");
    let failed = finish(sandbox.program(program).args(["service", "upgrade"])).fails(1);
    failed.saying("the program before serves again");
    let worker = workers(&sandbox.json(["list"]), service)[0];
    assert_eq!(program_of(worker), Path::new(WORKER));
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    signal(worker, Signal::KILL);
    eventually("a successor", || {
        let list = sandbox.json(["list"]);
        list[0]["state"] == json!("ready") && list[0]["worker_pid"] != json!(worker)
    });
    upgrade(&sandbox, &install(&sandbox, "newer"));
}

#[test]
fn upgrades_and_mounts_that_are_being_made_do_not_meet() {
    let sandbox = Sandbox::new();
    let installed = [install(&sandbox, "one"), install(&sandbox, "two")];
    mounts(&sandbox, 1);
    for index in 1..6 {
        sandbox.run(["thread", "create", &format!("t{index}")]).ok();
    }
    thread::scope(|scope| {
        for index in 1..6 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let name = format!("t{index}");
                for _ in 0..3 {
                    sandbox.background(&name, &name);
                    assert_eq!(fs::read_to_string(sandbox.path(&name).join("file")).unwrap(), "content\n");
                    sandbox.run(["unmount", &name]).ok();
                }
                sandbox.background(&name, &name);
            });
        }
        for round in 0..6 {
            let program = &installed[round % 2];
            finish(sandbox.program(program).args(["service", "upgrade"])).ok();
        }
    });
    assert_eq!(workers(&sandbox.json(["list"]), sandbox.service_pid()).len(), 6);
}

#[test]
fn a_service_that_dies_as_it_is_upgraded_is_brought_back() {
    let sandbox = Sandbox::new();
    let directories = mounts(&sandbox, 2);
    let (service, log) = (sandbox.service_pid(), sandbox.instance().join("service.log"));
    let before = workers(&sandbox.json(["list"]), service);
    // It answers the question, and cannot write its log then.
    let script = format!("rm -f {0}; mkdir -p {0}; $WORKER --formats", log.display());
    let program = install_with_script(&sandbox, "new", &script);
    let ended = AtomicBool::new(false);
    let done: Vec<AtomicU64> = directories.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        let _ending = Ending(&ended);
        start_work(scope, &directories, &ended, &done);
        let failed = finish(sandbox.program(&program).args(["service", "upgrade"])).fails(1);
        failed.saying("its workers start another service");
        eventually("it ends", || !runs(service));
        fs::remove_dir(&log).unwrap();
        eventually("another service", || {
            let list = sandbox.json(["list"]);
            list.as_array().unwrap().iter().map(|mount| &mount["state"]).eq([&json!("ready"); 2])
        });
        assert_eq!(workers(&sandbox.json(["list"]), sandbox.service_pid()), before);
        let seen: Vec<u64> = done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
        eventually("all go on", || {
            done.iter().zip(&seen).all(|(done, seen)| done.load(Ordering::Relaxed) > *seen + 1)
        });
    });
    upgrade(&sandbox, &install(&sandbox, "newer"));
}

#[test]
fn what_cannot_be_replaced_and_what_is_lent_goes_on() {
    let sandbox = Sandbox::new();
    let program = install(&sandbox, "new");
    sandbox.run(["thread", "create", "lent"]).ok();
    let directory = sandbox.path("m");
    let mounted =
        sandbox.command().args(["--json", "mount", "main", "--on-crash", "unmount"]).arg(&directory).output();
    let worker = number(&serde_json::from_slice::<Value>(&mounted.unwrap().stdout).unwrap()["worker_pid"]);
    let mut command = sandbox.command();
    let script = "echo begun; read go; echo $go >> new; cat new";
    command.args(["run", "lent", "--", "sh", "-ec", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut begun = [0; 6];
    stdout.read_exact(&mut begun).unwrap();
    let list = upgrade(&sandbox, &program);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2, "{list:?}");
    let main = list.iter().find(|mount| mount["thread"] == "main").unwrap();
    let lent = list.iter().find(|mount| mount["thread"] == "lent").unwrap();
    assert_eq!((&main["worker_pid"], &main["restarts"]), (&json!(worker), &json!(0)));
    assert_eq!(lent["restarts"], json!(1));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"on\n").unwrap();
    assert!(wait(&mut child, Duration::from_secs(30)).expect("an end").success());
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "on\n");
    eventually("the mount goes with the command", || sandbox.json(["list"]).as_array().unwrap().len() == 1);
    signal(worker, Signal::KILL);
    eventually("it is taken down, as it was to be", || sandbox.mounts().is_empty());
}

#[test]
fn upgrading_a_service_that_is_down_says_so_and_starts_none() {
    let sandbox = Sandbox::new();
    let done = sandbox.run(["service", "upgrade"]).ok();
    assert!(done.stdout.contains("not running"), "{done:?}");
    assert!(sandbox.processes().is_empty());
}
