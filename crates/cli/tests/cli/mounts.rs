//! Mounting, listing, unmounting, exporting what is mounted, and cleaning up after processes that died.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use selvedge_mountpoint::mountinfo::MountEntry;
use serde_json::{Value, json};

use crate::sandbox::{
    SELVEDGE, Sandbox, Stray, eventually, fields, finish, kill_both, orphan_stopped, runs, signal,
};

const MOUNT_FIELDS: [&str; 16] = [
    "id",
    "last_crash",
    "memory",
    "mountpoint",
    "opens",
    "passed_opens",
    "passthrough",
    "repo",
    "requests_per_s",
    "restarts",
    "state",
    "supervisor_pid",
    "thread",
    "uptime_s",
    "worker_pid",
    "writeback",
];

/// The test's operations go to the mount, and not to the directory beneath it.
fn assert_inside(path: &Path, mount: &MountEntry) {
    let device = rustix::fs::makedev(mount.device.major, mount.device.minor);
    assert_eq!(fs::metadata(path).unwrap().dev(), device, "{} is not on {mount:?}", path.display());
}

#[test]
fn two_mounts_of_one_tree_diverge() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let (_a, _b) = (sandbox.mount("main", "a"), sandbox.mount("try", "b"));
    let (a, b) = (sandbox.path("a"), sandbox.path("b"));
    let mounts = sandbox.mounts();
    assert_eq!(mounts.len(), 2);
    for mount in &mounts {
        assert_inside(&mount.mount_point, mount);
        assert_inside(&mount.mount_point.join("dir/inner"), mount);
        assert_eq!(mount.fs_type, "fuse.selvedge");
        assert!(mount.has_option("nosuid") && mount.has_option("nodev"), "{mount:?}");
    }
    let mut sources: Vec<_> = mounts.iter().map(|mount| mount.source.clone()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["selvedge:main", "selvedge:try"]);

    fs::write(a.join("file"), "a's\n").unwrap();
    fs::remove_file(b.join("dir/inner")).unwrap();
    fs::create_dir(b.join("new")).unwrap();
    assert_eq!(fs::read_to_string(b.join("file")).unwrap(), "content\n");
    assert_eq!(fs::read_to_string(a.join("file")).unwrap(), "a's\n");
    assert!(a.join("dir/inner").exists() && !a.join("new").exists());
    assert_eq!(
        fs::read_to_string(sandbox.repo().join("file")).unwrap(),
        "content\n",
        "the source is untouched"
    );
}

#[test]
fn mount_prints_its_object_once_when_the_directory_is_usable() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    let ready = held.ready.clone();
    assert_eq!(fields(&ready), MOUNT_FIELDS);
    assert_eq!(ready["thread"], json!("main"));
    assert_eq!(ready["mountpoint"], json!(sandbox.path("m")));
    assert_eq!(ready["supervisor_pid"], json!(held.pid()));
    assert_eq!(fields(&ready["passthrough"]), ["active", "reason"]);
    assert!(runs(held.worker()));
    let outcome = held.stop(Signal::INT).ok();
    assert_eq!(outcome.stdout, "", "nothing is printed after the object");
}

#[test]
fn list_tells_what_mount_told_and_how_it_is() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    for words in [["list"], ["mounts"]] {
        let list = sandbox.json(words);
        let [mount] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
        assert_eq!(fields(mount), MOUNT_FIELDS);
        for field in ["id", "thread", "mountpoint", "worker_pid", "supervisor_pid", "passthrough", "repo"] {
            assert_eq!(mount[field], held.ready[field], "{field}");
        }
        assert_eq!((&mount["state"], &mount["restarts"]), (&json!("ready"), &json!(0)));
        assert_eq!(mount["repo"], json!(sandbox.repo()));
        assert!(mount["uptime_s"].is_u64());
    }
    let shown = sandbox.json(["thread", "show", "main"]);
    assert_eq!(shown["mountpoint"], json!(sandbox.path("m")));
    assert!(sandbox.run(["list"]).ok().stdout.contains("ready"));
}

#[test]
fn unmount_by_thread_or_directory_is_synchronous() {
    let sandbox = Sandbox::new();
    for what in ["main", "../m", "../m/"] {
        let held = sandbox.mount("main", "m");
        fs::write(sandbox.path("m/kept"), what).unwrap();
        let (pid, worker) = (held.pid(), held.worker());
        assert_eq!(sandbox.json(["unmount", what]), json!({ "mountpoint": sandbox.path("m") }));
        assert!(!runs(worker), "the worker has ended");
        assert!(sandbox.mounts().is_empty());
        assert!(sandbox.records().is_empty(), "{:?}", sandbox.records());
        assert!(!sandbox.path("m").exists(), "the directory that mount made is removed");
        held.end().ok();
        assert!(!runs(pid));
    }
    let _held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "../m/");
}

#[test]
fn a_directory_that_was_there_stays() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.mount("main", "m").stop(Signal::TERM).ok();
    assert!(sandbox.path("m").is_dir());
    assert_eq!(sandbox.json(["unmount", "../m"]), json!({ "mountpoint": sandbox.path("m") }));
}

#[test]
fn ctrl_c_sigterm_and_hanging_up_unmount_cleanly() {
    let sandbox = Sandbox::new();
    for with in [Signal::INT, Signal::TERM, Signal::HUP] {
        let held = sandbox.mount("main", "m");
        let worker = held.worker();
        let outcome = held.stop(with).ok();
        assert!(outcome.stderr.contains("unmounted"), "{outcome:?}");
        assert!(!runs(worker) && sandbox.mounts().is_empty() && sandbox.records().is_empty());
    }
}

#[test]
fn a_mount_that_is_being_made_ends_at_once_by_signal_and_by_unmount() {
    let sandbox = Sandbox::new();
    // Says nothing, whatever it is asked.
    let worker = sandbox.script("worker", "exec sleep 60");
    let made = sandbox.path("made");
    for way in [Some(Signal::INT), Some(Signal::TERM), Some(Signal::HUP), None] {
        let mut command = sandbox.command();
        command
            .args(["mount", "main", "../made", "--foreground"])
            .env("SELVEDGE_FUSE_WORKER_BIN", &worker)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut mount = command.spawn().unwrap();
        eventually("the directory is made", || made.exists());
        std::thread::sleep(Duration::from_millis(100));
        let asked = Instant::now();
        match way {
            Some(with) => signal(mount.id(), with),
            None => drop(sandbox.run(["unmount", "main"]).ok()),
        }
        let status = crate::sandbox::wait(&mut mount, Duration::from_secs(5)).expect("an end of the mount");
        assert!(asked.elapsed() < Duration::from_secs(3), "{way:?}: {:?}", asked.elapsed());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut mount.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("called off") && said.contains("hint: "), "{said}");
        assert!(!made.exists() && sandbox.records().is_empty() && sandbox.mounts().is_empty());
    }
    sandbox.mount("main", "made");
}

#[test]
fn a_second_mount_of_a_thread_is_refused_and_says_where_it_is() {
    let sandbox = Sandbox::new();
    let _held = sandbox.mount("main", "m");
    let place = sandbox.path("m");
    let refused = sandbox.run(["mount", "main", "../other", "--foreground"]).fails(4);
    refused.saying("mounted already").saying(place.to_str().unwrap());
    assert!(!sandbox.path("other").exists());
    // Another runtime directory knows nothing of the first mount; the thread's lock does.
    let mut command = sandbox.command();
    command
        .args(["mount", "main", "../other", "--foreground"])
        .env("SELVEDGE_RUNTIME_DIR", sandbox.path("run2"));
    finish(&mut command).fails(4).saying("in use");
    assert!(!sandbox.path("other").exists());
}

#[test]
fn a_mounted_thread_is_neither_imported_into_nor_renamed_nor_deleted() {
    let sandbox = Sandbox::new();
    let _held = sandbox.mount("main", "m");
    sandbox.run(["import"]).fails(4).saying("unmount");
    sandbox.run(["thread", "delete", "main", "--force"]).fails(4).saying("unmount");
    sandbox.run(["thread", "rename", "main", "other"]).fails(4).saying("unmount");
    assert_eq!(sandbox.json(["thread", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_thread_with_changes_is_kept_from_being_lost() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    fs::write(sandbox.path("m/change"), "1").unwrap();
    held.stop(Signal::TERM).ok();
    let shown = sandbox.json(["thread", "show", "main"]);
    assert_eq!(shown["dirty"], json!(true));
    assert!(shown["own_bytes"].as_u64().unwrap() > 0);
    sandbox.run(["import"]).fails(4).saying("has changes");
    let snapshot = shown["snapshot"].as_str().unwrap();
    sandbox.run(["thread", "delete", "main"]).fails(4).saying("has changes").saying(snapshot);
    sandbox.run(["thread", "rename", "main", "other"]).ok();
    let held = sandbox.mount("other", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/change")).unwrap(), "1");
    drop(held);
    assert_eq!(sandbox.json(["thread", "delete", "other", "--force"])["snapshot"], json!(snapshot));
    let layers = sandbox.repo().join(".selvedge/layers");
    assert_eq!(fs::read_dir(layers).unwrap().count(), 0, "what only the thread used is gone");
}

#[test]
fn a_thread_that_was_only_read_has_no_changes() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/dir/inner")).unwrap(), "inner\n");
    sandbox.run(["thread", "create", "fork"]).ok();
    held.stop(Signal::TERM).ok();
    assert_eq!(sandbox.json(["thread", "show", "main"])["dirty"], json!(false));
    sandbox.run(["import"]).ok();
}

#[test]
fn a_busy_mount_is_left_alone_and_says_who_holds_it() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let mut holder = sandbox.program("sleep");
    let holder = Stray::start(holder.arg("60").current_dir(sandbox.path("m/dir")));
    let refused = sandbox.run(["unmount", "main"]).fails(4);
    refused.saying(&format!("sleep (pid {})", holder.pid())).saying("--force");
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n", "the mount goes on");
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
    let error = finish(sandbox.command().args(["unmount", "main", "--json"])).fails(4).error();
    assert_eq!(error["kind"], json!("conflict"));

    sandbox.run(["unmount", "main", "--force"]).ok();
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    held.end().ok();
}

#[test]
fn the_first_ctrl_c_asks_and_the_second_insists() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let mut holder = sandbox.program("sleep");
    let _holder = Stray::start(holder.arg("60").current_dir(sandbox.path("m")));
    signal(held.pid(), Signal::INT);
    // Refused: it says so, and is still there.
    held.says("held by sleep");
    assert!(runs(held.pid()) && runs(held.worker()) && sandbox.mounts().len() == 1);
    held.stop(Signal::INT).ok();
    assert!(sandbox.mounts().is_empty());
}

#[test]
fn a_mount_kept_alive_elsewhere_is_detached_until_it_is_forced() {
    let sandbox = Sandbox::new();
    let ways: [&[&str]; 2] = [
        // A copy of the mount in another mount namespace.
        &["unshare", "--mount", "--propagation", "private", "sleep", "60"],
        // An open file, after somebody detached the mount.
        &["sh", "-c", "exec 9< file; umount -l \"$PWD\"; cd /; exec sleep 60"],
    ];
    for way in ways {
        let held = sandbox.mount("main", "m");
        let mut holder = sandbox.program(way[0]);
        let holder = Stray::start(holder.args(&way[1..]).current_dir(match way[0] {
            "sh" => sandbox.path("m"),
            _ => sandbox.repo(),
        }));
        eventually("the holder holds", || {
            fs::read_to_string(format!("/proc/{}/comm", holder.pid())).unwrap() == "sleep\n"
        });
        let refused = sandbox.run(["unmount", "main"]).fails(4);
        refused.saying("detached").saying(&format!("(pid {})", holder.pid()));
        assert!(sandbox.mounts().is_empty());
        assert_eq!(sandbox.json(["list"])[0]["state"], json!("detached"));
        sandbox.run(["mount", "main", "../again", "--foreground"]).fails(4);
        sandbox.run(["unmount", "main", "--force"]).ok();
        held.end().ok();
        assert!(sandbox.records().is_empty());
    }
    drop(sandbox.mount("main", "m"));
}

#[test]
fn a_mount_kept_alive_elsewhere_ends_with_whoever_keeps_it() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let mut holder = sandbox.program("sh");
    let holder = Stray::start(
        holder
            .args(["-c", "exec 9< file; umount -l \"$PWD\"; cd /; exec sleep 60"])
            .current_dir(sandbox.path("m")),
    );
    eventually("it is detached", || sandbox.mounts().is_empty());
    assert!(runs(held.pid()));
    drop(holder);
    held.end().ok();
}

#[test]
fn unmounted_by_another_program_is_a_clean_end() {
    let sandbox = Sandbox::new();
    let programs: [&[&str]; 2] = [&["umount"], &["fusermount3", "-u"]];
    for program in programs {
        let held = sandbox.mount("main", "m");
        fs::write(sandbox.path("m/kept"), program[0]).unwrap();
        // Whoever looks who holds which mount, as other tests do, keeps it busy for an instant.
        eventually("it is not busy", || {
            finish(sandbox.program(program[0]).args(&program[1..]).arg(sandbox.path("m"))).code() == 0
        });
        let outcome = held.end().ok();
        assert!(outcome.stderr.contains("by another program"), "{outcome:?}");
        assert!(sandbox.records().is_empty() && !sandbox.path("m").exists());
    }
    sandbox.run(["export", "main", "../out"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path("out/kept")).unwrap(), "fusermount3");
}

#[test]
fn a_worker_that_dies_is_replaced_and_the_replacement_is_listed() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let mut kept = fs::File::create(sandbox.path("m/kept")).unwrap();
    for round in 1..=2 {
        let worker = sandbox.json(["list"])[0]["worker_pid"].as_u64().unwrap();
        signal(u32::try_from(worker).unwrap(), Signal::KILL);
        // Nobody has to wait for anything: the file is there, and so is everything else. What is passed through does not
        // even wait for a successor.
        kept.write_all(b"1").unwrap();
        fs::create_dir(sandbox.path(format!("m/{round}"))).unwrap();
        let mount = &sandbox.json(["list"])[0];
        assert_eq!((&mount["state"], &mount["restarts"]), (&json!("ready"), &json!(round)), "{mount}");
        assert_ne!(mount["worker_pid"].as_u64(), Some(worker));
    }
    assert!(sandbox.run(["list"]).ok().stdout.contains("restarts: 2, the last after signal 9"));
    assert_eq!(sandbox.json(["list"])[0]["last_crash"], "signal 9");
    drop(kept);
    let outcome = held.stop(Signal::INT).ok();
    assert!(outcome.stderr.contains("signal 9") && outcome.stderr.contains("was replaced by"), "{outcome:?}");
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    let _held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "11");
}

#[test]
fn a_supervisor_that_dies_after_a_recovery_leaves_nothing() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    signal(held.worker(), Signal::KILL);
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    held.stop(Signal::KILL);
    assert_eq!(sandbox.json(["list"]), json!([]));
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    let _held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn without_recovery_a_worker_that_dies_is_reported_and_its_changes_are_kept() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount_with("main", "m", &["--on-crash", "unmount"]);
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    signal(held.worker(), Signal::KILL);
    let outcome = held.end();
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("signal 9"), "{outcome:?}");
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
    let _held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn a_supervisor_that_is_killed_leaves_nothing_after_the_next_command() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    fs::write(sandbox.path("m/kept"), "1").unwrap();
    let worker = held.worker();
    held.stop(Signal::KILL);
    eventually("the worker notices", || !runs(worker));
    assert!(sandbox.mounts().is_empty(), "the worker unmounts by itself");
    let list = sandbox.run(["list", "--json"]).ok();
    assert_eq!(list.document(), json!([]));
    assert!(list.stderr.contains("cleaned up the mount of thread main"), "{list:?}");
    assert!(sandbox.records().is_empty() && !sandbox.path("m").exists());
    assert_eq!(sandbox.run(["list"]).ok().stderr, "");
    let _held = sandbox.mount("main", "m");
    assert_eq!(fs::read_to_string(sandbox.path("m/kept")).unwrap(), "1");
}

#[test]
fn supervisor_and_worker_killed_together_are_cleaned_up_by_the_next_command() {
    let sandbox = Sandbox::new();
    let commands: [&[&str]; 3] =
        [&["list"], &["unmount", "main"], &["mount", "main", "../again", "--foreground"]];
    for command in commands {
        kill_both(sandbox.mount("main", "m"));
        assert_eq!(sandbox.mounts().len(), 1, "a mount without a server is there");
        if command[0] == "mount" {
            drop(sandbox.mount("main", "again"));
        } else {
            let outcome = sandbox.run(command).ok();
            assert!(outcome.stderr.contains("cleaned up"), "{outcome:?}");
        }
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !sandbox.path("m").exists());
    }
}

#[test]
fn a_hung_worker_without_a_supervisor_is_ended() {
    let sandbox = Sandbox::new();
    let worker = orphan_stopped(sandbox.mount("main", "m"));
    let outcome = sandbox.run(["list"]).ok();
    assert!(outcome.stderr.contains(&format!("ended its worker (pid {worker})")), "{outcome:?}");
    eventually("the worker is gone", || !runs(worker));
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_stopped_worker_delays_list_and_doctor_less_than_a_second() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    let (stopped, _other) = (sandbox.mount("main", "m"), sandbox.mount("try", "n"));
    signal(stopped.worker(), Signal::STOP);
    // Even from within the mount that does not answer.
    let mut list = sandbox.command();
    let list = finish(list.args(["list", "--json"]));
    let doctor = finish(sandbox.command().arg("doctor"));
    signal(stopped.worker(), Signal::CONT);
    let states: Vec<_> =
        list.document().as_array().unwrap().iter().map(|mount| mount["state"].clone()).collect();
    assert_eq!(states, [json!("stuck"), json!("ready")]);
    assert!(
        list.took < Duration::from_secs(1) && doctor.took < Duration::from_secs(1),
        "{list:?} {doctor:?}"
    );
    eventually("it answers again", || sandbox.json(["list"])[0]["state"] == json!("ready"));
}

#[test]
fn commands_answer_from_a_directory_on_a_mount_that_hangs() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    // The shell enters while the worker answers; the commands start when it no longer does.
    let mut shell = sandbox.program("sh");
    shell.args([
        "-c",
        "kill -STOP $1; \"$0\" list --json; \"$0\" doctor >&2; \"$0\" unmount nothing; kill -CONT $1",
    ]);
    shell.arg(SELVEDGE).arg(held.worker().to_string()).current_dir(sandbox.path("m/dir"));
    let started = Instant::now();
    let outcome = finish(&mut shell);
    assert!(started.elapsed() < Duration::from_secs(10), "{outcome:?}");
    let list: Value = serde_json::from_str(outcome.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(list[0]["state"], json!("stuck"));
    assert!(outcome.stderr.contains("none at or above the current directory"), "{outcome:?}");
    assert!(outcome.stderr.contains("no repository to look it up in"), "{outcome:?}");
}

#[test]
fn a_stopped_worker_is_ended_by_a_forced_unmount() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["--json", "mount", "main"]).arg(sandbox.path("m")).arg("--foreground");
    command.env("SELVEDGE_FUSE_WORKER_STOP_GRACE_MS", "200");
    let held = crate::sandbox::Held::start(command).unwrap();
    let worker = held.worker();
    signal(worker, Signal::STOP);
    sandbox.run(["unmount", "main", "--force"]).ok();
    assert!(!runs(worker) && sandbox.mounts().is_empty() && sandbox.records().is_empty());
    held.end().ok();
}

#[test]
fn threads_of_one_name_are_told_apart_by_repository_or_directory() {
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let runtime = one.runtime();
    let _a = one.mount("main", "m");
    let mut command = two.command();
    command.args(["--json", "mount", "main"]).arg(two.path("m")).arg("--foreground");
    let _b = crate::sandbox::Held::start({
        command.env("SELVEDGE_RUNTIME_DIR", &runtime);
        command
    })
    .unwrap();
    assert_eq!(one.json(["list"]).as_array().unwrap().len(), 2, "list shows every repository");
    let ambiguous = finish(one.command().current_dir("/").args(["unmount", "main"])).fails(4);
    ambiguous.saying(one.path("m").to_str().unwrap()).saying(two.path("m").to_str().unwrap());
    let document = one.json([std::ffi::OsStr::new("unmount"), two.path("m").as_os_str()]);
    assert_eq!(document, json!({ "mountpoint": two.path("m") }));
    let document = finish(one.command().current_dir("/").args(["--json", "unmount", "main"])).ok().document();
    assert_eq!(document, json!({ "mountpoint": one.path("m") }));
}

#[test]
fn a_mounted_thread_is_exported_as_it_is_now() {
    let sandbox = Sandbox::new();
    let _held = sandbox.mount("main", "m");
    let mount = sandbox.path("m");
    fs::write(mount.join("new"), "new").unwrap();
    fs::write(mount.join("file"), "changed").unwrap();
    fs::remove_file(mount.join("dir/inner")).unwrap();
    let document = sandbox.json(["export", "main", "../out"]);
    assert_eq!(fields(&document), ["bytes", "files"]);
    let difference = finish(
        sandbox.program("diff").arg("-r").arg("--no-dereference").args([&mount, &sandbox.path("out")]),
    );
    assert_eq!(difference.ok().stdout, "");
    sandbox.run(["export", "main", "../out"]).fails(4).saying("not empty");
    fs::write(sandbox.path("out/surplus"), "").unwrap();
    sandbox.run(["export", "main", "../out", "--delete"]).ok();
    assert!(!sandbox.path("out/surplus").exists());
}

#[test]
fn a_thread_with_changes_is_exported_unmounted_too() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    fs::write(sandbox.path("m/new"), "new").unwrap();
    held.stop(Signal::TERM).ok();
    sandbox.run(["export", "main", "../out"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path("out/new")).unwrap(), "new");
    assert_eq!(fs::read_to_string(sandbox.path("out/file")).unwrap(), "content\n");
    sandbox
        .run(["export", sandbox.json(["thread", "show", "main"])["snapshot"].as_str().unwrap(), "../old"])
        .ok();
    assert!(!sandbox.path("old/new").exists());
}

#[test]
fn a_read_only_mount_refuses_changes() {
    let sandbox = Sandbox::new();
    let _held = sandbox.mount_with("main", "m", &["--read-only"]);
    let error = fs::write(sandbox.path("m/new"), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert!(sandbox.mounts()[0].has_option("ro"));
}

#[test]
fn root_lets_others_in_unless_told_not_to() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    assert!(sandbox.mounts()[0].has_option("allow_other"));
    assert!(sandbox.mounts()[0].has_option("default_permissions"));
    drop(held);
    let held = sandbox.mount_with("main", "m", &["--no-allow-other"]);
    assert!(!sandbox.mounts()[0].has_option("allow_other"));
    assert!(sandbox.mounts()[0].has_option("default_permissions"));
    drop(held);
    let _held = sandbox.mount_with("main", "m", &["--suid", "--dev"]);
    assert!(!sandbox.mounts()[0].has_option("nosuid") && !sandbox.mounts()[0].has_option("nodev"));
}

#[test]
fn nohup_keeps_a_mount_through_the_end_of_its_terminal() {
    let sandbox = Sandbox::new();
    let mut shell = sandbox.program("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" --json mount main \"$1\" --foreground"]).arg(SELVEDGE);
    shell.arg(sandbox.path("m"));
    let held = crate::sandbox::Held::start(shell).unwrap();
    signal(held.pid(), Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read_to_string(sandbox.path("m/file")).unwrap(), "content\n");
    held.stop(Signal::TERM).ok();
}

#[test]
fn a_silent_client_blocks_nobody() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    let socket =
        sandbox.records().into_iter().find(|path| path.extension().is_some_and(|e| e == "sock")).unwrap();
    let silent: Vec<_> =
        (0..100).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
    // Those beyond the limit are turned away, those within it fall silent; then there is room again.
    eventually("room", || sandbox.run(["unmount", "main"]).code() == 0);
    held.end().ok();
    drop(silent);
}

#[test]
fn nonsense_on_the_control_socket_harms_nobody() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    let _held = sandbox.mount("main", "m");
    let socket =
        sandbox.records().into_iter().find(|path| path.extension().is_some_and(|e| e == "sock")).unwrap();
    let nonsense: [&[u8]; 4] = [b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\x02\0\0\0{}", b"\x01\0"];
    for bytes in nonsense {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
    }
    assert_eq!(sandbox.json(["list"])[0]["state"], json!("ready"));
}

#[test]
fn the_output_of_mount_can_be_captured() {
    let sandbox = Sandbox::new();
    // The worker must not keep the pipe open that the caller reads to its end.
    let mut shell = sandbox.program("bash");
    shell.args([
        "-c",
        "coproc \"$0\" --json mount main \"$1\" --foreground 2>/dev/null; read -r line <&${COPROC[0]}; \
         kill $COPROC_PID; wait $COPROC_PID; echo \"$line $(cat <&${COPROC[0]} 2>/dev/null)\"",
    ]);
    shell.arg(SELVEDGE).arg(sandbox.path("m")).stdout(Stdio::piped());
    let outcome = finish(&mut shell);
    assert!(outcome.stdout.contains("\"thread\":\"main\""), "{outcome:?}");
    assert!(sandbox.mounts().is_empty());
}
