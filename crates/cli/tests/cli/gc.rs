//! `gc`: beside mounts and imports, and killed at any time.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::sandbox::{Sandbox, Stray, fields};

/// Bytes that no other file has.
fn content(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Fills the source with files that no other round has.
fn fill(sandbox: &Sandbox, directory: &str, round: usize) {
    let directory = sandbox.path(directory);
    fs::create_dir_all(directory.join("sub")).unwrap();
    for file in 0..40 {
        let bytes = content(round * 1000 + file, if file % 20 == 0 { 100_000 } else { 500 + file });
        fs::write(directory.join(format!("sub/{file}")), bytes).unwrap();
    }
    fs::write(directory.join("same"), "the same in every round\n").unwrap();
}

fn import(sandbox: &Sandbox, directory: &str, thread: &str) {
    let source = sandbox.path(directory);
    sandbox.run(["import".as_ref(), source.as_os_str(), "--thread".as_ref(), thread.as_ref()]).ok();
}

#[test]
fn gc_removes_what_a_deleted_thread_left_and_mounts_go_on() {
    let sandbox = Sandbox::new();
    fill(&sandbox, "other", 1);
    import(&sandbox, "other", "gone");
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    fs::write(sandbox.path("mnt").join("file"), "changed\n").unwrap();
    assert_eq!(sandbox.json(["gc"]), json!({ "removed": 0, "bytes": 0 }));
    sandbox.run(["thread", "delete", "gone"]).ok();
    let removed = sandbox.json(["gc"]);
    assert_eq!(fields(&removed), ["bytes", "removed"]);
    // A snapshot, two trees, and the files.
    assert_eq!(removed["removed"], json!(44));
    assert!(removed["bytes"].as_u64().unwrap() > 200_000, "{removed}");
    assert_eq!(fs::read_to_string(sandbox.path("mnt").join("dir/inner")).unwrap(), "inner\n");
    assert_eq!(fs::read_to_string(sandbox.path("mnt").join("file")).unwrap(), "changed\n");
    sandbox.run(["fsck"]).ok();
    assert_eq!(sandbox.run(["gc"]).ok().stdout, "everything there is is needed\n");
    held.stop(Signal::TERM).ok();
    sandbox.run(["export", "t", "../out"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path("out/file")).unwrap(), "changed\n");
}

#[test]
fn gc_beside_imports_takes_nothing_that_they_need() {
    let sandbox = Sandbox::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let sandbox = &sandbox;
                scope.spawn(move || {
                    let directory = format!("source-{worker}");
                    for round in 0..6 {
                        // The same content comes, goes and comes again: what gc has marked is found there.
                        fill(sandbox, &directory, round % 2);
                        let thread = format!("thread-{worker}-{round}");
                        import(sandbox, &directory, &thread);
                        sandbox.run(["export", &thread, &format!("../out-{worker}-{round}")]).ok();
                        if round % 3 != 2 {
                            sandbox.run(["thread", "delete", &thread]).ok();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                sandbox.run(["gc"]).ok();
            }
        });
        for worker in workers {
            let outcome = worker.join();
            if outcome.is_err() {
                done.store(true, Ordering::Release);
            }
            outcome.unwrap();
        }
        done.store(true, Ordering::Release);
    });
    sandbox.run(["fsck"]).ok();
    for thread in ["thread-0-2", "thread-0-5", "thread-1-2", "thread-1-5"] {
        sandbox.run(["export", thread, &format!("../again-{thread}")]).ok();
    }
}

#[test]
fn a_killed_gc_leaves_nothing_half_done() {
    let sandbox = Sandbox::new();
    for round in 0..8_u64 {
        fill(&sandbox, "source", 1);
        import(&sandbox, "source", "gone");
        sandbox.run(["thread", "delete", "gone"]).ok();
        let gc = sandbox.command().arg("gc").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(5 + 4 * round));
        // Killed when dropped.
        drop(Stray(gc));
        sandbox.run(["fsck"]).ok();
        // What is left of the thread is found by the next import, and is whole with what it brings.
        import(&sandbox, "source", "back");
        sandbox.run(["fsck"]).ok();
        sandbox.run(["thread", "delete", "back"]).ok();
    }
    sandbox.run(["gc"]).ok();
    assert_eq!(sandbox.json(["gc"]), json!({ "removed": 0, "bytes": 0 }));
    sandbox.run(["fsck"]).ok();
}

#[test]
fn gc_gives_up_on_those_who_keep_objects_and_says_so() {
    let sandbox = Sandbox::new();
    let repository =
        selvedge_store::Repository::open(&sandbox.repo(), &selvedge_store::OpenOptions::default()).unwrap();
    let hold = repository.hold_objects().unwrap();
    let outcome = sandbox.run(["gc"]).fails(6).saying("another process is reading or writing objects");
    assert!(outcome.took >= Duration::from_secs(29), "{outcome:?}");
    drop(hold);
    sandbox.run(["gc"]).ok();
}

#[test]
fn gc_beside_snapshots_of_a_mounted_thread_keeps_them_all() {
    let sandbox = Sandbox::new();
    sandbox.run(["thread", "create", "t"]).ok();
    let held = sandbox.mount("t", "mnt");
    let done = AtomicBool::new(false);
    let mut snapshots = Vec::new();
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                sandbox.run(["gc"]).ok();
            }
        });
        for round in 0..6 {
            fs::write(sandbox.path("mnt").join("file"), format!("round {round}\n")).unwrap();
            fs::write(sandbox.path("mnt").join("large"), content(round, 100_000)).unwrap();
            let snapshot = sandbox.json(["snapshot", "t"])["snapshot"].as_str().unwrap().to_owned();
            snapshots.push((snapshot, round));
            let shown = sandbox.json(["thread", "show", "t"]);
            assert_eq!(shown["dirty"], json!(false), "right after a snapshot: {shown}");
            fs::write(sandbox.path("mnt").join("dir/inner"), format!("after {round}\n")).unwrap();
            assert_eq!(sandbox.json(["thread", "show", "t"])["dirty"], json!(true));
            assert_eq!(sandbox.json(["status", "t"])[0]["path"], json!("dir/inner"));
        }
        done.store(true, Ordering::Release);
        collector.join().unwrap();
    });
    held.stop(Signal::TERM).ok();
    sandbox.run(["gc"]).ok();
    sandbox.run(["fsck"]).ok();
    let log = sandbox.json(["log", "t"]);
    let logged: Vec<&str> =
        log.as_array().unwrap().iter().map(|one| one["snapshot"].as_str().unwrap()).collect();
    for (snapshot, round) in snapshots {
        assert!(logged.contains(&snapshot.as_str()), "{round}");
        let out = format!("../out-{round}");
        sandbox.run(["export", &snapshot, &out]).ok();
        let read = |name: &str| fs::read(sandbox.repo().join(&out).join(name)).unwrap();
        assert_eq!(read("file"), format!("round {round}\n").into_bytes());
        assert_eq!(read("large"), content(round, 100_000));
    }
}
