//! Bad input: a clear error, the right exit code, and nothing changed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::process::Signal;

use crate::sandbox::{DEADLINE, SELVEDGE, Sandbox, Stray, eventually, finish, runs, signal, wait};

#[test]
fn bad_thread_names_are_refused() {
    let sandbox = Sandbox::new();
    let long = "n".repeat(101);
    for name in ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\n", long.as_str()] {
        sandbox.run(["thread", "create", name]).fails(2);
        sandbox.run(["import", "--thread", name]).fails(2);
        sandbox.run(["thread", "rename", "main", name]).fails(2);
        sandbox.run(["mount", name, "../m", "--foreground"]).fails(2);
    }
    sandbox.run(["thread", "create", "--", "-a"]).fails(2);
    assert_eq!(sandbox.json(["thread", "list"]).as_array().unwrap().len(), 1);
    assert!(!sandbox.path("m").exists());
}

#[test]
fn a_repository_of_an_unknown_format_version_is_refused() {
    let sandbox = Sandbox::new();
    let format = sandbox.repo().join(".selvedge/format");
    let known = fs::read_to_string(&format).unwrap();
    fs::write(&format, known.replace('1', "999")).unwrap();
    for words in [&["thread", "list"][..], &["import"], &["mount", "main", "../m", "--foreground"], &["init"]]
    {
        sandbox.run(words).fails(1).saying("999").saying("hint: ");
    }
    assert_eq!(fs::read_to_string(&format).unwrap(), known.replace('1', "999"));
    assert!(!sandbox.path("m").exists());
}

#[test]
fn an_unwritable_repository_is_refused() {
    let sandbox = Sandbox::unprivileged();
    let repository = sandbox.repo().join(".selvedge");
    fs::set_permissions(&repository, fs::Permissions::from_mode(0o500)).unwrap();
    let refused = sandbox.run(["import"]);
    fs::set_permissions(&repository, fs::Permissions::from_mode(0o700)).unwrap();
    refused.fails(5).saying("cannot be written");
}

#[test]
fn a_repository_of_another_owner_is_refused_unless_vouched_for() {
    let sandbox = Sandbox::new();
    let repository = sandbox.repo().join(".selvedge");
    chown(&repository, Some(65_534), None).unwrap();
    let refused = sandbox.run(["--repo", ".", "thread", "list"]).fails(5);
    refused.saying("uid 65534").saying("[safe] repositories");
    vouch(&sandbox, &sandbox.repo());
    sandbox.run(["--repo", ".", "thread", "list"]).ok();
}

#[test]
fn a_repository_that_others_may_write_is_refused_unless_vouched_for() {
    let sandbox = Sandbox::new();
    let repository = sandbox.repo().join(".selvedge");
    fs::set_permissions(&repository, fs::Permissions::from_mode(0o770)).unwrap();
    sandbox.run(["thread", "list"]).fails(5).saying("writable by others");
    vouch(&sandbox, &sandbox.repo());
    sandbox.run(["thread", "list"]).ok();
}

fn vouch(sandbox: &Sandbox, repository: &Path) {
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    let text = format!("[safe]\nrepositories = [{:?}]\n", repository.to_str().unwrap());
    fs::write(directory.join("config.toml"), text).unwrap();
}

#[test]
fn unknown_settings_are_errors_that_name_file_and_line() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path("home/.config/selvedge");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("config.toml"), "[safe]\nrepositories = []\n\n[mounts]\nthreads = 2\n").unwrap();
    sandbox.run(["thread", "list"]).fails(2).saying("config.toml line 4: there is no section [mounts]");
    fs::remove_file(directory.join("config.toml")).unwrap();
    fs::write(sandbox.repo().join(".selvedge/config.toml"), "allow_other = true\n").unwrap();
    sandbox
        .run(["thread", "list"])
        .fails(2)
        .saying(".selvedge/config.toml line 1: there is no section [allow_other]");
}

#[test]
fn settings_of_another_user_vouch_for_nothing() {
    let sandbox = Sandbox::new();
    vouch(&sandbox, &sandbox.repo());
    chown(sandbox.path("home/.config/selvedge/config.toml"), Some(65_534), None).unwrap();
    sandbox.run(["thread", "list"]).fails(5).saying("belongs to another user");
}

#[test]
fn a_missing_source_is_refused() {
    let sandbox = Sandbox::new();
    let before = sandbox.json(["thread", "show", "main"]);
    sandbox.run(["import", "../missing"]).fails(3).saying("missing");
    sandbox.run(["import", "file"]).fails(4).saying("file").saying("name the directory");
    assert_eq!(sandbox.json(["thread", "show", "main"]), before);
}

#[test]
fn every_refusal_says_what_to_do_next() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.repo().join("no-repository")).unwrap();
    fs::create_dir(sandbox.repo().join("no-repository/.selvedge")).unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["import", "/nosuch"], 3, "name a directory that exists"),
        (&["import", "file"], 4, "name the directory that holds it"),
        (&["import", "--exclude", "a["], 2, "patterns are like a shell's"),
        (&["--repo", "/nonexistent", "thread", "list"], 3, "does not exist"),
        (&["--repo", "no-repository", "thread", "list"], 1, "selvedge init"),
        (&["thread", "create", "a", "--from", "0123456789"], 3, "selvedge thread list"),
        (&["thread", "create", "a", "--from", "x/y"], 2, "hexadecimal"),
        (&["export", "main", "file"], 4, "choose an empty directory"),
        (&["export", "main", "/nosuch/x"], 3, "make it first"),
        (&["export", "main", "/proc/x"], 1, "look at how it is written"),
        (&["mount", "main", "/proc/x", "--foreground"], 1, "look at how it is written"),
        (&["mount", "main", "file/x", "--foreground"], 4, "choose an empty directory"),
        (&["mount", "main", "../m", "--foreground", "--allow-other", "--no-allow-other"], 2, "Usage: "),
    ];
    for (words, code, hint) in cases {
        let refused = sandbox.run(*words).fails(*code);
        let said = refused.stderr.split_once("hint: ").expect("a hint").1;
        assert!(said.contains(hint), "{hint:?} is not in {refused:?}");
    }
    let environment: &[(&str, &str, i32, &str)] = &[
        ("SELVEDGE_FUSE_WORKER_STOP_GRACE_MS", "soon", 2, "give a whole number"),
        ("SELVEDGE_FUSE_WORKER_CRASH_AT", "nowhere", 2, "name a point that exists"),
        ("SELVEDGE_LOG", "=[", 2, "use a level"),
        ("SELVEDGE_LOG_FILE", "/nosuch/log", 1, "SELVEDGE_LOG_FILE"),
        ("SELVEDGE_RUNTIME_DIR", "relative", 2, "write the path from / on"),
        ("SELVEDGE_RUNTIME_DIR", "/dev/null", 5, "set SELVEDGE_RUNTIME_DIR"),
    ];
    for (name, value, code, hint) in environment {
        let mut command = sandbox.command();
        command.args(["mount", "main", "../m", "--foreground"]).env(name, value);
        let refused = finish(&mut command).fails(*code);
        let said = refused.stderr.split_once("hint: ").expect("a hint").1;
        assert!(said.contains(hint) && !said.contains("chmod"), "{hint:?} is not in {refused:?}");
    }
    assert!(!sandbox.path("m").exists() && sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_full_standard_output_and_a_deleted_current_directory_are_said() {
    let sandbox = Sandbox::new();
    let run = |script: &str| {
        let mut shell = sandbox.program("sh");
        finish(shell.args(["-ec", script, SELVEDGE]))
    };
    let refused = run("\"$0\" thread list > /dev/full").fails(1);
    refused.saying("No space left").saying("hint: send the output");
    let refused = run("mkdir ../gone; cd ../gone; rmdir ../gone; \"$0\" thread list").fails(1);
    refused.saying("hint: it was deleted");
}

#[test]
fn of_two_first_imports_at_once_one_makes_the_thread_and_the_other_says_so() {
    let sandbox = Sandbox::new();
    for number in 0..300 {
        fs::write(sandbox.repo().join(format!("{number}")), vec![b'x'; number]).unwrap();
    }
    for round in 0..10 {
        let thread = format!("new{round}");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let imports: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| sandbox.run(["import", "--thread", thread.as_str()])))
                .collect();
            imports.into_iter().map(|import| import.join().unwrap()).collect()
        });
        let refused: Vec<_> = outcomes.into_iter().filter(|outcome| outcome.code() != 0).collect();
        assert!(refused.len() < 2, "{refused:?}");
        if let Some(refused) = refused.into_iter().next() {
            // It came while the other had locked the thread already, or it came too late to make it.
            refused.fails(4).saying("hint: ");
            return;
        }
    }
}

#[test]
fn an_unreadable_source_names_what_and_how_to_leave_it_out() {
    let sandbox = Sandbox::unprivileged();
    let before = sandbox.json(["thread", "show", "main"]);
    let secret = sandbox.repo().join("secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    sandbox.run(["import"]).fails(5).saying("secret").saying("--exclude");
    assert_eq!(sandbox.json(["thread", "show", "main"]), before);
    sandbox.run(["import", "--exclude", "/secret"]).ok();
}

#[test]
fn a_mountpoint_that_cannot_be_is_refused() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/mine"), "").unwrap();
    fs::write(sandbox.path("plain"), "").unwrap();
    fs::create_dir(sandbox.path("real")).unwrap();
    std::os::unix::fs::symlink("real", sandbox.path("to-real")).unwrap();
    let mount = |place: &str| sandbox.run(["mount", "main", place, "--foreground"]);
    mount("../full").fails(4).saying("not empty");
    mount("../plain").fails(4).saying("not a directory");
    mount("../to-real").fails(4).saying("symbolic link");
    mount("../no/such").fails(3).saying("there is no directory");
    mount(".selvedge/m").fails(4).saying(".selvedge");
    mount(".selvedge/tmp").fails(4).saying(".selvedge");
    assert!(!sandbox.path("no").exists() && !sandbox.repo().join(".selvedge/m").exists());
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_mount_that_fails_removes_the_directory_it_made() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command();
    command.args(["mount", "main", "../made", "--foreground"]).env("SELVEDGE_FUSE_WORKER_PANIC_ON_INIT", "1");
    let outcome = finish(&mut command);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    // The worker's last words are part of the message.
    outcome.saying("cannot mount thread main").saying("signal 6").saying("panicked");
    assert!(!sandbox.path("made").exists());
    assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty());
}

#[test]
fn a_directory_made_for_a_mount_goes_even_if_its_maker_is_killed_at_once() {
    let sandbox = Sandbox::new();
    // Never ready, and gone with its supervisor.
    let worker = sandbox.script("worker", "exec cat");
    let made = sandbox.path("made");
    for _ in 0..5 {
        let mut command = sandbox.command();
        command.args(["mount", "main", "../made", "--foreground"]).env("SELVEDGE_FUSE_WORKER_BIN", &worker);
        let mut mount = Stray::start(&mut command);
        let started = Instant::now();
        while !made.exists() {
            assert!(started.elapsed() < DEADLINE && mount.0.try_wait().unwrap().is_none(), "no directory");
        }
        drop(mount);
        sandbox.run(["list"]).ok();
        assert!(!made.exists() && sandbox.records().is_empty());
    }
}

#[test]
fn a_mount_and_its_directory_go_if_their_maker_is_killed_before_it_wrote_the_mount_down() {
    let sandbox = Sandbox::new();
    let made = sandbox.path("made");
    for kills_worker in [false, true] {
        // It hangs in its first answer: is there, and nobody knows of it.
        let mut command = sandbox.command();
        command
            .args(["mount", "main", "../made", "--foreground"])
            .env("SELVEDGE_FUSE_WORKER_CRASH_AT", "hang@fuse.init.reply");
        let mut mount = Stray::start(&mut command);
        eventually("the mount is there", || !sandbox.mounts().is_empty());
        let record = sandbox.records().into_iter().find(|path| path.extension().is_some_and(|e| e == "json"));
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record.unwrap()).unwrap()).unwrap();
        let worker = u32::try_from(record["worker"]["pid"].as_u64().unwrap()).unwrap();
        signal(mount.pid(), Signal::KILL);
        mount.0.wait().unwrap();
        if kills_worker {
            signal(worker, Signal::KILL);
        }
        sandbox.run(["list"]).ok().saying("cleaned up");
        assert!(sandbox.mounts().is_empty() && sandbox.records().is_empty() && !made.exists());
        assert!(!runs(worker));
    }
    sandbox.mount("main", "made");
}

#[test]
fn a_worker_that_is_missing_or_no_program_is_named() {
    let sandbox = Sandbox::new();
    let mount = |worker: &Path| {
        let mut command = sandbox.command();
        command.args(["mount", "main", "../m", "--foreground"]).env("SELVEDGE_FUSE_WORKER_BIN", worker);
        finish(&mut command)
    };
    mount(Path::new("/nonexistent/worker")).fails(1).saying("/nonexistent/worker").saying("hint: ");
    fs::write(sandbox.path("text"), "no program").unwrap();
    mount(&sandbox.path("text")).fails(5).saying("text");
    assert!(!sandbox.path("m").exists() && sandbox.records().is_empty());
}

#[test]
fn a_source_that_vanishes_while_it_is_imported_changes_nothing() {
    let sandbox = Sandbox::new();
    let before = sandbox.json(["thread", "show", "main"]);
    let source = sandbox.path("source");
    for round in 0..10 {
        fs::create_dir(&source).unwrap();
        for number in 0..2000 {
            fs::write(source.join(format!("{round}-{number}")), format!("{round} {number}")).unwrap();
        }
        let mut command = sandbox.command();
        let mut import = Stray::start(command.args(["import", "../source"]));
        // The race is between two processes, so the delay grows from round to round; one of them meets it.
        std::thread::sleep(std::time::Duration::from_millis(2 * round));
        fs::remove_dir_all(&source).unwrap();
        match wait(&mut import.0, DEADLINE).expect("an end").code() {
            // The source was gone before, or while.
            Some(1 | 3) => assert_eq!(sandbox.json(["thread", "show", "main"]), before),
            // It was complete, or files in it vanished and were named.
            Some(0) => return,
            other => panic!("exit code {other:?}"),
        }
    }
}

#[test]
fn a_repository_a_log_or_a_program_on_a_mount_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "other"]).ok();
    let held = sandbox.mount("main", "m");
    let inside = sandbox.path("m/dir");
    sandbox.run(["--repo", "../m", "thread", "list"]).fails(4).saying("Selvedge mount");
    finish(sandbox.command().arg("init").arg(&inside)).fails(4).saying("Selvedge mount");
    let logging = finish(sandbox.command().arg("list").env("SELVEDGE_LOG_FILE", inside.join("log")));
    logging.fails(4).saying("Selvedge mount");
    fs::copy(crate::sandbox::WORKER, inside.join("worker")).unwrap();
    let mut command = sandbox.command();
    command
        .args(["mount", "other", "../n", "--foreground"])
        .env("SELVEDGE_FUSE_WORKER_BIN", inside.join("worker"));
    finish(&mut command).fails(4).saying("Selvedge mount");
    let runtime = finish(sandbox.command().arg("list").env("SELVEDGE_RUNTIME_DIR", inside.join("run")));
    runtime.fails(4).saying("Selvedge mount");
    sandbox.run(["export", "other", "../m/out"]).fails(4).saying("Selvedge mount");
    sandbox.run(["import", "../m"]).fails(4).saying("Selvedge mount").saying("selvedge export");
    finish(sandbox.command().args(["import", "--thread", "new"]).arg(&inside))
        .fails(4)
        .saying("Selvedge mount");
    assert!(!inside.join("run").exists() && !inside.join(".selvedge").exists());
    drop(held);
}

#[test]
fn a_place_on_a_mount_that_hangs_is_refused_at_once() {
    let sandbox = Sandbox::new();
    let held = sandbox.mount("main", "m");
    signal(held.worker(), Signal::STOP);
    let mut outcomes = Vec::new();
    for place in [sandbox.path("m"), sandbox.path("m/dir"), "../m".into(), "../m/dir".into()] {
        outcomes.push(finish(sandbox.command().arg("init").arg(&place)));
        outcomes.push(finish(sandbox.command().args(["import", "--thread", "new"]).arg(&place)));
    }
    signal(held.worker(), Signal::CONT);
    for outcome in outcomes {
        outcome.fails(4).saying("Selvedge mount");
    }
}

#[test]
fn a_repository_or_a_source_inside_a_repository_is_refused() {
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink(".selvedge", sandbox.repo().join("way-in")).unwrap();
    for place in [".selvedge", ".selvedge/tmp", "way-in/tmp"] {
        sandbox.run(["init", place]).fails(4).saying("inside a repository's .selvedge");
        sandbox.run(["import", "--thread", "new", place]).fails(4).saying("inside a repository's .selvedge");
    }
    assert!(!sandbox.repo().join(".selvedge/.selvedge").exists());
    assert!(!sandbox.repo().join(".selvedge/tmp/.selvedge").exists());
    sandbox.run(["thread", "show", "new"]).fails(3);
}

#[test]
fn a_mountpoint_in_a_mount_of_the_same_thread_is_refused() {
    let sandbox = Sandbox::new();
    let _held = sandbox.mount("main", "m");
    sandbox.run(["mount", "main", "../m/dir", "--foreground"]).fails(4);
    sandbox.run(["thread", "create", "other"]).ok();
    sandbox.run(["mount", "other", "../m/dir", "--foreground"]).fails(4).saying("Selvedge mount");
    sandbox.run(["mount", "other", "../m", "--foreground"]).fails(4);
    assert_eq!(sandbox.mounts().len(), 1);
}

#[test]
fn a_mountpoint_that_is_swapped_for_a_symbolic_link_is_not_followed() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("victim")).unwrap();
    let place = sandbox.path("place");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Swapped back and forth while mounts are tried.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = fs::create_dir(&place);
                if fs::remove_dir(&place).is_ok() {
                    let _ = std::os::unix::fs::symlink("victim", &place);
                }
                let _ = fs::remove_file(&place);
            }
        });
        // Ends the swapping when the test fails, too.
        let _done = SetOnDrop(&done);
        for _ in 0..20 {
            let mut command = sandbox.command();
            command.args(["--json", "mount", "main"]).arg(&place).arg("--foreground");
            match crate::sandbox::Held::start(command) {
                Ok(held) => {
                    assert_eq!(held.ready["mountpoint"].as_str(), place.to_str());
                    drop(held);
                }
                Err(outcome) => assert!([1, 3, 4].contains(&outcome.code()), "{outcome:?}"),
            }
            let on_victim: Vec<_> = sandbox
                .mounts()
                .into_iter()
                .filter(|entry| entry.mount_point == sandbox.path("victim"))
                .collect();
            assert!(on_victim.is_empty(), "{on_victim:?}");
        }
    });
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn only_root_asks_for_suid_and_dev() {
    let sandbox = Sandbox::unprivileged();
    for option in ["--suid", "--dev"] {
        sandbox.run(["mount", "main", "../m", "--foreground", option]).fails(5).saying("only root");
    }
    assert!(!sandbox.path("m").exists());
}

#[test]
fn the_search_for_a_repository_stops_at_another_owners_directory() {
    let sandbox = Sandbox::new();
    let theirs = sandbox.repo().join("theirs");
    fs::create_dir_all(theirs.join("mine")).unwrap();
    chown(&theirs, Some(65_534), None).unwrap();
    let mut command = sandbox.command();
    command.current_dir(theirs.join("mine")).args(["thread", "list"]);
    finish(&mut command).fails(3).saying("no .selvedge").saying("where the search stops");
    assert_eq!(fs::metadata(SELVEDGE).unwrap().mode() & 0o111, 0o111);
}
