//! Commands that see a thread in place of a directory, and nobody else who does.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::sandbox::{SELVEDGE, Sandbox, Stray, eventually, finish, runs, signal};

/// Nothing is left of any run but the service.
#[track_caller]
fn assert_gone(sandbox: &Sandbox) {
    eventually("nothing is mounted any more", || {
        sandbox.json(["list"]) == json!([]) && sandbox.mounts().is_empty() && sandbox.records().is_empty()
    });
    assert_eq!(fs::read_dir(sandbox.instance().join("runs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(sandbox.instance().join("wanted")).unwrap().count(), 0);
    assert_eq!(sandbox.processes(), [sandbox.service_pid()]);
}

fn shell(sandbox: &Sandbox, thread: &str, script: &str) -> Command {
    let mut command = sandbox.command();
    command.args(["run", thread, "--", "sh", "-ec", script]);
    command
}

#[test]
fn a_command_sees_the_thread_in_place_of_the_tree_and_nobody_else_does() {
    let sandbox = Sandbox::new();
    let script =
        "cat file; pwd; echo changed > file; echo new > new; rm dir/inner; stat -f -c %T .; stat -c %d .";
    let outcome = finish(&mut shell(&sandbox, "main", script)).ok();
    assert_eq!(outcome.stderr, "");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["content", sandbox.repo().to_str().unwrap(), "fuseblk"], "{outcome:?}");
    let outside = finish(sandbox.program("stat").args(["-c", "%d", "."])).ok().stdout;
    assert_ne!(lines[3], outside.trim());
    assert_eq!(fs::read_to_string(sandbox.repo().join("file")).unwrap(), "content\n");
    assert!(!sandbox.repo().join("new").exists() && sandbox.repo().join("dir/inner").exists());
    assert_gone(&sandbox);
    // What was changed is the thread's.
    let outcome = finish(&mut shell(&sandbox, "main", "cat file new; ls dir")).ok();
    assert_eq!(outcome.stdout, "changed\nnew\n");
}

#[test]
fn a_directory_beneath_the_place_is_entered_again() {
    let sandbox = Sandbox::new();
    let mut command = shell(&sandbox, "main", "pwd; echo here > here");
    finish(command.current_dir(sandbox.repo().join("dir"))).ok();
    assert!(!sandbox.repo().join("dir/here").exists());
    let outcome = finish(&mut shell(&sandbox, "main", "cat dir/here")).ok();
    assert_eq!(outcome.stdout, "here\n");
}

#[test]
fn the_exit_code_is_the_commands_and_our_own_failures_are_told_apart() {
    let sandbox = Sandbox::new();
    assert_eq!(finish(&mut shell(&sandbox, "main", "exit 42")).code(), 42);
    let run = |words: &[&str]| finish(sandbox.command().arg("run").args(words));
    run(&["main", "--", "no-such-program"]).fails(127).saying("no-such-program").saying("hint: ");
    run(&["main", "--", "/etc/passwd"]).fails(126).saying("hint: ");
    run(&["nothing", "--", "true"]).fails(125).saying("no thread is named nothing").saying("hint: ");
    run(&["main", "--at", "../missing", "--", "true"]).fails(125).saying("missing").saying("hint: ");
    run(&["main"]).fails(2);
    let killed = finish(&mut shell(&sandbox, "main", "kill -KILL $$"));
    assert_eq!(killed.status.signal(), Some(9));
    assert_gone(&sandbox);
}

#[test]
fn a_run_is_over_when_its_command_has_ended() {
    let sandbox = Sandbox::new();
    // Ordinary users' runs of other tests have copies of every mount, and keep one alive now and then.
    let mut over = 0;
    for round in 0..12 {
        finish(&mut shell(&sandbox, "main", "true")).ok();
        over += usize::from(match round % 3 {
            0 => sandbox.json(["list"]) == json!([]),
            1 => sandbox.run(["import", "--thread", "main"]).code() == 0,
            _ => sandbox.run(["thread", "rename", "main", "main2"]).code() == 0,
        });
        if round % 3 == 2 {
            sandbox.run(["thread", "rename", "main2", "main"]);
        }
        assert_gone(&sandbox);
    }
    assert!(over >= 8, "{over} of 12");
}

#[test]
fn signals_reach_the_command_itself() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    let mut stray = Stray::start(command.args(["run", "main", "--", "sleep", "60"]));
    let name = format!("/proc/{}/comm", stray.pid());
    eventually("it is the command", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    signal(stray.pid(), Signal::TERM);
    assert_eq!(stray.0.wait().unwrap().signal(), Some(15));
    assert_gone(&sandbox);
}

#[test]
fn the_command_has_everything_of_its_caller() {
    let sandbox = Sandbox::new();
    let mut caller = sandbox.program("sh");
    caller.args([
        "-c",
        "exec 7< /etc/passwd; umask 027; ulimit -S -n 99; trap '' USR1; exec \"$0\" run main -- sh -c \
         'umask; ulimit -S -n; head -c 4 <&7; echo; echo $SECRET $TERM; grep SigIgn /proc/$$/status'",
    ]);
    caller.arg(SELVEDGE).env("SECRET", "kept").env("TERM", "xterm");
    let outcome = finish(&mut caller).ok();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..4], ["0027", "99", "root", "kept xterm"], "{outcome:?}");
    let ignored = u64::from_str_radix(lines[4].split_ascii_whitespace().nth(1).unwrap(), 16).unwrap();
    // 32 and 33 are the C library's own, which nobody can ask it about.
    assert_eq!(ignored & !(0b11 << 31), 1 << (libc::SIGUSR1 - 1), "ignored signals");
}

#[test]
fn a_mount_that_is_there_is_used_and_stays() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    sandbox.background("main", "m");
    let held = sandbox.mount("try", "n");
    for (thread, place) in [("main", "m"), ("try", "n")] {
        finish(&mut shell(&sandbox, thread, "echo shared > shared")).ok();
        assert_eq!(fs::read_to_string(sandbox.path(place).join("shared")).unwrap(), "shared\n");
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(sandbox.mounts().len(), 2);
    sandbox.run(["unmount", "main"]).ok();
    held.stop(Signal::TERM).ok();
}

#[test]
fn another_thread_is_unmounted_while_a_run_goes_on_unless_it_is_used_there() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "try"]).ok();
    sandbox.background("try", "n");
    let other = sandbox.path("n");
    let mut command = sandbox.command();
    let run = Stray::start(command.args(["run", "main", "--", "sleep", "60"]));
    let name = format!("/proc/{}/comm", run.pid());
    eventually("it is the command", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    // It sees the caller's other mounts.
    let inside = format!("/proc/{}/root{}/file", run.pid(), other.display());
    assert_eq!(fs::read_to_string(inside).unwrap(), "content\n");
    let mut user = sandbox.program("nsenter");
    user.args(["--mount", "--target", &run.pid().to_string(), "sh", "-c", "cd \"$0\"; exec sleep 60"]);
    let user = Stray::start(user.arg(&other));
    let name = format!("/proc/{}/comm", user.pid());
    eventually("it is used", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    sandbox.run(["unmount", "try"]).fails(4).saying("sleep");
    drop(user);
    sandbox.run(["unmount", "try"]).ok();
    sandbox.background("try", "n");
    sandbox.run(["unmount", "try"]).ok();
    sandbox.run(["unmount", "main"]).fails(4).saying("sleep");
    drop(run);
    assert_gone(&sandbox);
}

#[test]
fn what_the_command_leaves_running_keeps_the_mount_until_it_ends() {
    let sandbox = Sandbox::new();
    let mut command = shell(&sandbox, "main", "sleep 60 > /dev/null 2>&1 & echo $!");
    let child: u32 = finish(&mut command).ok().stdout.trim().parse().unwrap();
    eventually("it is kept", || sandbox.json(["list"])[0]["state"] == json!("ready"));
    thread::sleep(Duration::from_millis(300));
    assert_eq!(sandbox.mounts().len(), 1);
    assert!(Path::new(&format!("/proc/{child}/root{}/dir/inner", sandbox.repo().display())).exists());
    assert!(runs(child));
    signal(child, Signal::KILL);
    assert_gone(&sandbox);
}

#[test]
fn four_runs_inside_each_other_see_each_its_own_thread() {
    let sandbox = Sandbox::new();
    let mut words: Vec<String> = Vec::new();
    for name in ["a", "b", "c", "d"] {
        sandbox.run(["thread", "create", name]).ok();
        let place = sandbox.path(name);
        fs::create_dir(&place).unwrap();
        words.extend([SELVEDGE, "run", name, "--at", place.to_str().unwrap(), "--"].map(str::to_owned));
    }
    let root = sandbox.root().display();
    let script =
        format!("cd {root}; for t in a b c d; do cat $t/file; echo $t > $t/own; done; cat a/own d/own");
    words.extend(["sh", "-ec", &script].map(str::to_owned));
    let outcome = finish(sandbox.program(&words[0]).args(&words[1..])).ok();
    assert_eq!(outcome.stdout, "content\ncontent\ncontent\ncontent\na\nd\n");
    for name in ["a", "b", "c", "d"] {
        assert_eq!(fs::read_dir(sandbox.path(name)).unwrap().count(), 0, "nobody else sees {name}");
    }
    assert_gone(&sandbox);
}

#[test]
fn thirty_two_runs_at_once_work_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let names = ["a", "b", "c", "main"];
    for name in &names[..3] {
        sandbox.run(["thread", "create", name]).ok();
    }
    thread::scope(|scope| {
        for number in 0..32 {
            let (sandbox, name) = (&sandbox, names[number % names.len()]);
            scope.spawn(move || {
                let script = format!("echo {number} > own{number}; cat own{number} file");
                let outcome = finish(&mut shell(sandbox, name, &script)).ok();
                assert_eq!(outcome.stdout, format!("{number}\ncontent\n"));
            });
        }
    });
    assert_gone(&sandbox);
    let outcome = finish(&mut shell(&sandbox, "b", "ls")).ok();
    assert_eq!(outcome.stdout.lines().filter(|name| name.starts_with("own")).count(), 8, "{outcome:?}");
}

#[test]
fn commands_inside_speak_with_the_service_outside_and_mount_nothing_there() {
    let sandbox = Sandbox::new();
    let at = sandbox.path("at");
    fs::create_dir(&at).unwrap();
    let inside = |words: &[&str]| {
        let mut command = sandbox.command();
        command.args(["run", "main", "--at"]).arg(&at).args(["--", SELVEDGE]).args(words);
        finish(&mut command)
    };
    let list = inside(&["--json", "list"]).ok().document();
    assert_eq!((&list[0]["thread"], &list[0]["state"]), (&json!("main"), &json!("ready")));
    assert_eq!(inside(&["--json", "service", "status"]).ok().document()["pid"], json!(sandbox.service_pid()));
    inside(&["mount", "main", "../m"]).fails(4).saying("inside selvedge run");
    assert_gone(&sandbox);
}

#[test]
fn a_command_goes_on_when_the_worker_behind_it_dies() {
    let sandbox = Sandbox::new();
    let script = "exec 9> open; echo before >&9; kill -KILL $(pidof_worker); echo after >&9; cat open file";
    let script = script.replace(
        "$(pidof_worker)",
        &format!("$({SELVEDGE} --json list | sed 's/.*\"worker_pid\":\\([0-9]*\\).*/\\1/')"),
    );
    let outcome = finish(&mut shell(&sandbox, "main", &script)).ok();
    assert_eq!(outcome.stdout, "before\nafter\ncontent\n");
    assert_gone(&sandbox);
}

#[test]
fn an_ordinary_user_runs_in_a_user_namespace() {
    let sandbox = Sandbox::unprivileged();
    let script = "id -u; cat file; echo mine > new; stat -c %u new; cat /proc/self/uid_map";
    let outcome = finish(&mut shell(&sandbox, "main", script)).ok();
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["65534", "content", "65534"], "{outcome:?}");
    assert_eq!(lines[3].split_ascii_whitespace().collect::<Vec<_>>(), ["65534", "65534", "1"]);
    assert!(!sandbox.repo().join("new").exists());
    assert_gone(&sandbox);

    // The same thread again is seen inside; another is only if it was mounted before, or mounts are shared.
    sandbox.run(["thread", "create", "try"]).ok();
    let inside = |thread: &str| {
        let script = format!(
            "cd {}; exec {SELVEDGE} --repo {} run {thread} --at dir -- cat dir/file",
            sandbox.root().display(),
            sandbox.repo().display()
        );
        let place = sandbox.path("dir");
        let _ = fs::create_dir(&place);
        let mut command = sandbox.command();
        command.args(["run", "main", "--at"]).arg(sandbox.path("home")).args(["--", "sh", "-c", &script]);
        finish(&mut command)
    };
    assert_eq!(inside("main").ok().stdout, "content\n");
    let other = inside("try");
    if other.code() == 0 {
        assert_eq!(other.stdout, "content\n");
    } else {
        other.fails(125).saying("not seen in this mount namespace").saying("hint: ");
    }
    assert_gone(&sandbox);
    sandbox.run(["bind", "main", "1"]).fails(5).saying("only root");
}

#[test]
fn a_running_process_is_given_a_thread() {
    let sandbox = Sandbox::new();
    let mut other = sandbox.program("unshare");
    // Without the copies of other tests' mounts, which it would keep alive.
    let script = "findmnt -rn -t fuse.selvedge -o TARGET | xargs -r umount -l; exec sleep 60";
    let other = Stray::start(other.args(["--mount", "--propagation", "private", "sh", "-c", script]));
    let name = format!("/proc/{}/comm", other.pid());
    eventually("it is in its namespace", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
    let pid = other.pid().to_string();
    let document = sandbox.json(["bind", "main", &pid]);
    assert_eq!(document, json!({ "thread": "main", "pid": other.pid(), "at": sandbox.repo() }));
    let mut inside = sandbox.program("nsenter");
    inside.args(["--mount", "--target", &pid, "sh", "-ec"]);
    let script = format!("cd {}; cat file; echo new > new", sandbox.repo().display());
    assert_eq!(finish(inside.arg(script)).ok().stdout, "content\n");
    assert!(!sandbox.repo().join("new").exists());
    sandbox
        .run(["bind", "main", &std::process::id().to_string()])
        .fails(4)
        .saying("shares the mount namespace");
    sandbox.run(["bind", "main", "999999999"]).fails(3).saying("no such process");
    drop(other);
    assert_gone(&sandbox);
}
