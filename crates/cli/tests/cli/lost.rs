//! What is left when everything was killed: cleaned up by the next command, and mounted again where it was wanted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sandbox::{Sandbox, WORKER, eventually, finish, runs, signal, wait};
use crate::upgrade::install;

fn states(sandbox: &Sandbox) -> Vec<(Value, Value)> {
    let list = sandbox.json(["list"]);
    list.as_array().unwrap().iter().map(|mount| (mount["thread"].clone(), mount["state"].clone())).collect()
}

#[test]
fn what_was_killed_all_at_once_is_cleaned_up_after_and_lost() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    let pid = sandbox.service_pid();
    sandbox.kill_all();
    let list = sandbox.run(["list", "--json"]).ok();
    assert!(list.stderr.contains("cleaned up the mount of thread main"), "{list:?}");
    assert!(list.stderr.contains(&format!("process {pid}")), "{list:?}");
    assert!(list.stderr.contains("removed the socket"), "{list:?}");
    let document = list.document();
    assert_eq!(
        (&document[0]["state"], &document[0]["mountpoint"]),
        (&json!("lost"), &json!(sandbox.path("m")))
    );
    assert_eq!((&document[0]["worker_pid"], &document[0]["supervisor_pid"]), (&Value::Null, &Value::Null));
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    assert!(sandbox.run(["service", "status"]).ok().stderr.contains("lost: 1"));
    assert!(sandbox.processes().is_empty(), "looking starts nothing");

    let again = sandbox.json(["mount", "--restore"]);
    assert_eq!(again[0]["mountpoint"], json!(sandbox.path("m")));
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
    assert_eq!(states(&sandbox), [(json!("main"), json!("ready"))]);
    assert_eq!(sandbox.json(["mount", "--restore"]), json!([]), "nothing is lost any more");
}

#[test]
fn a_starting_service_mounts_again_what_was_lost() {
    let sandbox = Sandbox::new();
    for name in ["a", "b"] {
        sandbox.run(["thread", "create", name]).ok();
        sandbox.background(name, name);
    }
    sandbox.kill_all();
    // Somebody wants something else; that starts the service.
    sandbox.background("main", "m");
    eventually("all are there", || {
        states(&sandbox) == ["a", "b", "main"].map(|name| (json!(name), json!("ready")))
    });
    assert_eq!(fs::read_to_string(sandbox.path("a/file")).unwrap(), "content\n");
}

#[test]
fn unmounting_what_is_lost_forgets_it() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    for what in ["main", "../m"] {
        sandbox.background("main", "m");
        sandbox.kill_all();
        assert_eq!(sandbox.json(["unmount", what]), json!({ "mountpoint": sandbox.path("m") }));
        assert_eq!(sandbox.json(["list"]), json!([]));
        sandbox.background("try", "n");
        thread::sleep(Duration::from_millis(300));
        assert_eq!(states(&sandbox), [(json!("try"), json!("ready"))]);
        sandbox.run(["service", "stop"]).ok();
    }
}

#[test]
fn a_mount_takes_the_place_of_what_was_lost_of_its_thread_or_directory() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    sandbox.background("main", "m");
    sandbox.kill_all();
    sandbox.background("main", "elsewhere");
    assert_eq!(states(&sandbox), [(json!("main"), json!("ready"))]);
    sandbox.kill_all();
    sandbox.background("try", "elsewhere");
    assert_eq!(states(&sandbox), [(json!("try"), json!("ready"))]);
    sandbox.kill_all();
    // One that does not come to be leaves it as it was.
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/file"), "").unwrap();
    sandbox.run(["mount", "try", "../full"]).fails(4);
    assert_eq!(states(&sandbox), [(json!("try"), json!("lost"))]);
}

#[test]
fn after_a_restart_of_the_machine_only_restore_mounts_again() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    sandbox.kill_all();
    sandbox.run(["list"]).ok();
    // What a restart comes to: another boot's directory.
    fs::rename(sandbox.instance(), sandbox.runtime().join("0123456789abcdef-4026531841")).unwrap();
    sandbox.run(["service", "start"]).ok();
    thread::sleep(Duration::from_millis(300));
    let list = sandbox.run(["list", "--json"]).ok();
    assert_eq!(list.document(), json!([]));
    assert!(list.stderr.contains("before the machine was restarted: 1"), "{list:?}");
    assert!(sandbox.mounts().is_empty());
    assert_eq!(sandbox.json(["mount", "--restore"])[0]["thread"], json!("main"));
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
    assert_eq!(sandbox.run(["list"]).ok().stderr, "");
}

#[test]
fn what_cannot_be_mounted_again_stays_lost_and_says_why() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.background("main", "m");
    sandbox.kill_all();
    // Which takes down what a worker that was killed has left.
    sandbox.run(["list"]).ok();
    fs::write(sandbox.path("m/in the way"), "").unwrap();
    let outcome = sandbox.run(["mount", "--restore"]);
    assert_eq!(outcome.code(), 4, "{outcome:?}");
    assert!(outcome.stderr.contains("is not empty"), "{outcome:?}");
    assert_eq!(states(&sandbox), [(json!("main"), json!("lost"))]);
    fs::remove_file(sandbox.path("m/in the way")).unwrap();
    sandbox.run(["mount", "--restore"]).ok();
    assert_eq!(states(&sandbox), [(json!("main"), json!("ready"))]);
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.path("m").is_dir(), "it was there before the mount");
}

#[test]
fn a_renamed_thread_is_mounted_again_under_its_new_name() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    sandbox.kill_all();
    sandbox.run(["thread", "rename", "main", "other"]).ok();
    sandbox.run(["mount", "--restore"]).ok();
    assert_eq!(states(&sandbox), [(json!("other"), json!("ready"))]);
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn a_background_worker_that_dies_is_replaced() {
    let sandbox = Sandbox::new();
    let mount = sandbox.background("main", "m");
    signal(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    let list = sandbox.json(["list"]);
    assert_eq!((&list[0]["state"], &list[0]["restarts"]), (&json!("ready"), &json!(1)), "{list}");
    sandbox.run(["unmount", "main"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn without_recovery_a_background_worker_that_dies_leaves_its_mount_lost_and_others_alone() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let place = sandbox.path("m").into_os_string().into_string().unwrap();
    let mount = sandbox.json(["mount", "main", &place, "--on-crash", "unmount"]);
    sandbox.background("try", "n");
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    signal(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    let expected = [(json!("try"), json!("ready")), (json!("main"), json!("lost"))];
    eventually("it is lost", || states(&sandbox) == expected);
    assert_eq!(fs::read_to_string(sandbox.path("n/file")).unwrap(), "content\n");
    assert_eq!(sandbox.mounts().len(), 1);
    sandbox.background("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
    assert_eq!(states(&sandbox).len(), 2);
}

#[test]
fn unmounted_by_another_program_is_not_lost() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    eventually("it is not busy", || finish(sandbox.program("umount").arg(sandbox.path("m"))).code() == 0);
    eventually("it is gone", || sandbox.json(["list"]) == json!([]));
    assert!(sandbox.records().is_empty());
    eventually("the directory is removed", || !sandbox.path("m").exists());
}

#[test]
fn sigterm_leaves_what_was_wanted_to_the_next_service() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let pid = sandbox.service_pid();
    signal(pid, Signal::TERM);
    eventually("the service ends", || !runs(pid));
    assert_eq!(states(&sandbox), [(json!("main"), json!("lost"))]);
    sandbox.run(["service", "start"]).ok();
    eventually("it is back", || states(&sandbox) == [(json!("main"), json!("ready"))]);
}

#[test]
fn service_and_workers_killed_together_are_cleaned_up_by_the_next_command() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let mounts = [sandbox.background("main", "m"), sandbox.background("try", "n")];
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    let pid = sandbox.service_pid();
    signal(pid, Signal::STOP);
    for mount in &mounts {
        signal(u32::try_from(mount["worker_pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    }
    signal(pid, Signal::KILL);
    eventually("all have ended", || sandbox.processes().is_empty());
    assert_eq!(sandbox.mounts().len(), 2, "mounts without a server are there");
    let list = sandbox.run(["list", "--json"]).ok();
    assert_eq!(list.stderr.matches("cleaned up the mount").count(), 2, "{list:?}");
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    sandbox.run(["mount", "--restore"]).ok();
    assert_eq!(states(&sandbox), ["main", "try"].map(|name| (json!(name), json!("ready"))));
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn a_record_of_a_pid_that_is_another_process_by_now_ends_nobody() {
    let sandbox = Sandbox::new();
    sandbox.background("main", "m");
    let path = sandbox.records().pop().unwrap();
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    sandbox.run(["service", "stop"]).ok();
    // This very process has the numbers, but not the start times, of the ones that are gone.
    for process in ["supervisor", "worker"] {
        record[process] = json!({ "pid": std::process::id(), "start": 1 });
    }
    record["mount"]["worker"] = record["worker"].clone();
    record["made_directory"] = json!(false);
    fs::write(&path, record.to_string()).unwrap();
    let outcome = sandbox.run(["list"]).ok();
    assert!(outcome.stderr.contains("cleaned up"), "{outcome:?}");
    assert!(sandbox.records().is_empty());
}

#[test]
fn a_command_that_is_interrupted_leaves_no_mount() {
    let sandbox = Sandbox::new();
    sandbox.run(["service", "start"]).ok();
    let slow = sandbox.path("slow-worker");
    fs::write(&slow, format!("#!/bin/sh\nsleep 1\nexec {WORKER} \"$@\"\n")).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sandbox.command();
    command.args(["mount", "main", "../m"]).env("SELVEDGE_FUSE_WORKER_BIN", &slow);
    let mut child = command.spawn().unwrap();
    thread::sleep(Duration::from_millis(400));
    signal(child.id(), Signal::INT);
    assert!(!wait(&mut child, Duration::from_secs(10)).expect("an end").success());
    eventually("the service gives it up", || {
        sandbox.json(["list"]) == json!([]) && sandbox.mounts().is_empty() && sandbox.records().is_empty()
    });
    thread::sleep(Duration::from_millis(1500));
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    assert_eq!(sandbox.json(["list"]), json!([]));
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let runtime = sandbox.runtime();
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let mut tmpfs = sandbox.program("mount");
    finish(tmpfs.args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none"]).arg(&runtime)).ok();
    sandbox.run(["service", "status"]).ok();
    let filler = runtime.join("filler");
    // Everything but a page or none.
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    let refused = sandbox.run(["mount", "main", "../m"]).fails(1);
    refused.saying("No space left on device").saying("hint: ");
    assert!(!sandbox.path("m").exists() && sandbox.processes().is_empty());
    assert_eq!(sandbox.mounts().len(), 1, "the disk itself");
    fs::remove_file(&filler).unwrap();
    sandbox.background("main", "m");
    sandbox.run(["service", "stop"]).ok();
    finish(sandbox.program("umount").arg(&runtime)).ok();
}

/// A number from `from` up to `below`, other than the last one.
fn random(state: &mut u64, from: u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    from + *state % (below - from)
}

#[test]
fn killing_the_service_at_any_instant_leaves_nothing() {
    let rounds: u64 =
        std::env::var("SELVEDGE_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let sandbox = Sandbox::new();
    let program = install(&sandbox, "new");
    let mut seed = 0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id());
    for round in 0..rounds {
        let (unmounting, upgrading) = (round % 4 == 1, round % 4 == 3);
        sandbox.run(["service", "start"]).ok();
        if unmounting || upgrading {
            sandbox.background("main", "m");
        }
        let pid = sandbox.service_pid();
        let mut command = if upgrading { sandbox.program(&program) } else { sandbox.command() };
        if upgrading {
            command.args(["service", "upgrade"]);
        } else if unmounting {
            command.args(["unmount", "main"]);
        } else {
            command.args(["mount", "main", "../m"]);
        }
        let mut child = command.spawn().unwrap();
        let longest = if upgrading { 120_000 } else { 40_000 };
        thread::sleep(Duration::from_micros(random(&mut seed, 0, longest)));
        signal(pid, Signal::KILL);
        let status = wait(&mut child, Duration::from_secs(30)).expect("an end of the command");
        if upgrading {
            // One service or the next one, and one worker or the other, has it.
            assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n", "round {round}");
        }
        // A mount comes to be by the next service, or says why not; an unmount has what it wants either way.
        assert!(!unmounting || status.success(), "round {round}: {status}");
        sandbox.run(["list"]).ok();
        sandbox.run(["service", "stop"]).ok();
        sandbox.run(["unmount", "main"]).ok();
        eventually("no process is left", || sandbox.processes().is_empty());
        assert_eq!(sandbox.json(["list"]), json!([]), "round {round}");
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty(), "round {round}");
        assert!(!sandbox.path("m").exists(), "round {round}");
        assert_eq!(fs::read_dir(sandbox.instance().join("wanted")).unwrap().count(), 0, "round {round}");
        assert!(!sandbox.instance().join("service.sock").exists());
    }
}
