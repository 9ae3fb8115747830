//! Two commands on one thread at once, and commands that are killed at any moment: nothing half done is visible.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::sandbox::{Sandbox, Stray, signal, wait};

/// A sandbox whose thread `work` has changes.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "work"]).ok();
    let held = sandbox.mount("work", "m");
    fs::write(sandbox.path("m/new"), "new\n").unwrap();
    held.stop(Signal::TERM).ok();
    sandbox
}

#[test]
fn two_commands_on_one_thread_at_once_leave_it_whole() {
    let commands: [&[&str]; 8] = [
        &["import", "--thread", "work"],
        &["thread", "rename", "work", "other"],
        &["thread", "rename", "other", "work"],
        &["thread", "delete", "work", "--force"],
        &["thread", "create", "work"],
        &["snapshot", "work", "-m", "at once"],
        &["thread", "create", "fork", "--from", "work"],
        &["gc"],
    ];
    let sandbox = &sandbox();
    let mut round = 0;
    for first in 0..commands.len() {
        for second in first..commands.len() {
            // Whatever the rounds before left of it.
            let _ = sandbox.run(["thread", "create", "work"]);
            let _ = sandbox.run(["thread", "delete", "fork", "--force"]);
            let _ = sandbox.run(["thread", "delete", "other", "--force"]);
            fs::write(sandbox.repo().join("file"), format!("{round}\n")).unwrap();
            round += 1;
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let both = [commands[first], commands[second]];
                let running: Vec<_> =
                    both.map(|words| scope.spawn(move || (words, sandbox.run(words)))).into();
                running.into_iter().map(|running| running.join().unwrap()).collect()
            });
            for (words, outcome) in outcomes {
                // Done; or there is no such thread any more; or the other was there first.
                assert!([0, 3, 4].contains(&outcome.code()), "{words:?}: {outcome:?}");
            }
            let sound = sandbox.run(["fsck"]);
            assert_eq!(sound.code(), 0, "{:?} and {:?}: {sound:?}", commands[first], commands[second]);
        }
    }
}

/// Runs `words` and kills it after `delay`; says whether it had ended by itself.
fn killed_after(sandbox: &Sandbox, words: &[&str], delay: Duration) -> bool {
    let mut command = sandbox.command();
    let mut running = Stray::start(command.args(words));
    let ended = wait(&mut running.0, delay).is_some();
    if !ended {
        signal(running.pid(), Signal::KILL);
        running.0.wait().unwrap();
    }
    ended
}

/// How long `words` takes undisturbed.
fn duration(sandbox: &Sandbox, words: &[&str]) -> Duration {
    let started = Instant::now();
    sandbox.run(words).ok();
    started.elapsed()
}

fn left_in(sandbox: &Sandbox, directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.repo().join(".selvedge").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_import_killed_at_any_moment_changes_nothing_or_everything() {
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..400 {
        fs::write(source.join(format!("{number}")), format!("file {number}\n").repeat(50)).unwrap();
    }
    fs::write(source.join("large"), vec![b'l'; 3 << 20]).unwrap();
    let whole = duration(&sandbox, &["import", "--thread", "first", "../source"]);
    for round in 0..20 {
        // What is stored already is quick, so each round has something of its own.
        fs::write(source.join("large"), vec![u8::try_from(round).unwrap(); 3 << 20]).unwrap();
        let thread = format!("t{round}");
        let words = ["import", "--thread", thread.as_str(), "../source"];
        let done = killed_after(&sandbox, &words, whole * round / 20);
        let shown = sandbox.run(["thread", "show", thread.as_str()]);
        assert!(if done { shown.code() == 0 } else { [0, 3].contains(&shown.code()) }, "{shown:?}");
        // What is a minute old, and nobody's, is swept by the next command.
        for left in left_in(&sandbox, "tmp") {
            let file = fs::File::options().write(true).open(left).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_mins(2)).unwrap();
        }
        sandbox.run(["thread", "list"]).ok();
        assert_eq!(left_in(&sandbox, "tmp"), [] as [PathBuf; 0]);
        sandbox.run(["fsck"]).ok();
        sandbox.run(words).ok();
        sandbox.run(["export", thread.as_str(), "../out", "--delete"]).ok();
        assert_eq!(fs::read(sandbox.path("out/large")).unwrap(), fs::read(source.join("large")).unwrap());
        assert_eq!(fs::read_dir(sandbox.path("out")).unwrap().count(), 401);
    }
}

#[test]
fn a_deletion_killed_at_any_moment_leaves_the_thread_whole_or_gone() {
    let sandbox = sandbox();
    sandbox.run(["thread", "create", "first", "--from", "work"]).ok();
    let whole = duration(&sandbox, &["thread", "delete", "first", "--force"]);
    for round in 0..20 {
        let held = sandbox.mount("work", "m");
        fs::write(sandbox.path("m/new"), format!("{round}\n")).unwrap();
        held.stop(Signal::TERM).ok();
        killed_after(&sandbox, &["thread", "delete", "work", "--force"], whole * round / 20);
        let shown = sandbox.run(["thread", "show", "work"]);
        match shown.code() {
            0 => {
                sandbox.run(["export", "work", "../out", "--delete"]).ok();
                assert_eq!(fs::read_to_string(sandbox.path("out/new")).unwrap(), format!("{round}\n"));
            }
            3 => drop(sandbox.run(["thread", "create", "work"]).ok()),
            _ => panic!("{shown:?}"),
        }
        sandbox.run(["gc"]).ok();
        let wanted = sandbox.run(["export", "work", "../out", "--delete"]).ok();
        assert!(wanted.stderr.is_empty(), "{wanted:?}");
        sandbox.run(["fsck"]).ok();
    }
}
