//! A disk that fails at any one call: it is said, nothing half done is visible, and the next try succeeds.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use selvedge_test_support::{Fault, FaultyDisk};

use crate::sandbox::{Outcome, Sandbox, finish};

/// More calls than any of these commands makes.
const ENDLESS: u64 = 2_000;

/// Repositories on a faulty disk, one for each call that fails, and a tree to import.
struct Bench {
    sandbox: Sandbox,
    disk: FaultyDisk,
    source: PathBuf,
    made: AtomicU64,
}

impl Bench {
    fn new() -> Self {
        let (sandbox, disk) = (Sandbox::empty(), FaultyDisk::new());
        let source = sandbox.path("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("small"), "small\n").unwrap();
        fs::write(source.join("sub/large"), vec![b'l'; 200_000]).unwrap();
        let template = sandbox.path("template");
        fs::create_dir(&template).unwrap();
        let old = sandbox.path("old");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("file"), "old\n").unwrap();
        let bench = Self { sandbox, disk, source, made: AtomicU64::new(0) };
        bench.run(&template, &["init"]).ok();
        bench.run(&template, &["import", old.to_str().unwrap()]).ok();
        bench
    }

    fn run(&self, repository: &Path, words: &[&str]) -> Outcome {
        finish(self.sandbox.command().current_dir("/").arg("--repo").arg(repository).args(words))
    }

    /// A fresh copy of the template, with a thread `main`, on the disk.
    fn repository(&self) -> PathBuf {
        let name = format!("repo{}", self.made.fetch_add(1, Ordering::Relaxed));
        let (from, to) = (self.sandbox.path("template"), self.disk.backing().join(&name));
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
        self.disk.path().join(name)
    }

    /// An empty directory on the disk.
    fn directory(&self) -> PathBuf {
        let name = format!("empty{}", self.made.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.disk.backing().join(&name)).unwrap();
        self.disk.path().join(name)
    }

    /// Runs `words` once for each call that can fail so, each time on what `prepare` makes; `check` looks at what is
    /// left, told whether the command succeeded.
    fn each(
        &self,
        fault: Fault,
        words: &[&str],
        prepare: impl Fn(&Self) -> PathBuf,
        check: impl Fn(&Self, &Path, bool, &str),
    ) {
        for nth in 1..ENDLESS {
            let repository = prepare(self);
            self.disk.fail_at(nth, fault);
            let outcome = self.run(&repository, words);
            let Some(place) = self.disk.heal() else {
                outcome.ok();
                assert!(nth > 4, "only {} calls could fail", nth - 1);
                return;
            };
            let told = format!("{fault:?} at call {nth}, {place}: {outcome:?}");
            let done = outcome.code() == 0;
            if !done {
                let said = outcome.stderr.clone();
                assert!(said.contains("error: ") && said.contains("hint: "), "{told}");
                assert!(![2, 3, 6].contains(&outcome.code()), "{told}");
                for word in ["panicked", "os error"] {
                    assert!(!said.contains(word), "{told}");
                }
            }
            check(self, &repository, done, &told);
        }
        panic!("no end of calls");
    }

    fn import(&self, fault: Fault) {
        let source = self.source.to_str().unwrap();
        let words = ["import", "--thread", "new", source];
        self.each(fault, &words, Bench::repository, |bench, repository, done, told| {
            let shown = bench.run(repository, &["thread", "show", "new"]);
            // A command that fails at its very end may have done its work.
            assert!(
                if done { shown.code() == 0 } else { [0, 3].contains(&shown.code()) },
                "{told}: {shown:?}"
            );
            bench.run(repository, &["thread", "show", "main"]).ok();
            bench.run(repository, &words).ok();
            bench.assert_exported(repository, told);
        });
    }

    /// The thread `new` is the source, byte for byte.
    fn assert_exported(&self, repository: &Path, told: &str) {
        let out = self.sandbox.path("out");
        self.run(repository, &["export", "new", out.to_str().unwrap(), "--delete"]).ok();
        let difference = Command::new("diff").arg("-r").args([&self.source, &out]).output().unwrap();
        assert!(difference.status.success(), "{told}: {difference:?}");
    }
}

#[test]
fn an_import_that_the_disk_fails_at_any_call_changes_nothing_and_can_be_repeated() {
    Bench::new().import(Fault::Io);
}

#[test]
fn an_import_that_finds_no_room_at_any_call_changes_nothing_and_can_be_repeated() {
    Bench::new().import(Fault::Full);
}

#[test]
fn a_write_that_is_cut_short_is_completed_or_said() {
    Bench::new().import(Fault::Short);
}

#[test]
fn a_sync_that_fails_once_is_said() {
    let bench = Bench::new();
    let source = bench.source.to_str().unwrap();
    let words = ["import", "--thread", "new", source];
    let heeded = RefCell::new(Vec::new());
    bench.each(Fault::Sync, &words, Bench::repository, |bench, repository, done, told| {
        if !done {
            heeded.borrow_mut().push(told.to_owned());
        }
        bench.run(repository, &words).ok();
        bench.assert_exported(repository, told);
    });
    // What SQLite syncs again as it closes is durable already, and it looks away if that fails. Everything else
    // counts: a blob, its directory and that one's, the objects, the reference.
    let heeded = heeded.into_inner();
    for place in ["/tmp/blob-", "/blobs/", "/blobs:", "/objects.db-wal:", "/refs.db-wal:"] {
        assert!(heeded.iter().any(|told| told.contains(place)), "no sync of {place} failed: {heeded:#?}");
    }
}

#[test]
fn threads_are_made_renamed_and_deleted_whole_or_not_at_all() {
    let bench = Bench::new();
    let names = |bench: &Bench, repository: &Path| {
        let outcome = bench.run(repository, &["--json", "thread", "list"]).ok();
        let list = outcome.document();
        let names = list.as_array().unwrap().iter().map(|thread| thread["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let commands: [(&[&str], &[&str], &[&str]); 3] = [
        (&["thread", "create", "new"], &["main"], &["main", "new"]),
        (&["thread", "rename", "main", "other"], &["main"], &["other"]),
        (&["thread", "delete", "main"], &["main"], &[]),
    ];
    for (words, before, after) in commands {
        bench.each(Fault::Io, words, Bench::repository, |bench, repository, done, told| {
            let now = names(bench, repository);
            assert!(now == after || (!done && now == before), "{told}: {now:?}");
            let mut command = Command::new("rm");
            command.arg("-r").arg(bench.disk.backing().join(repository.file_name().unwrap()));
            assert!(command.status().unwrap().success());
        });
    }
}

#[test]
fn a_repository_is_made_whole_or_not_at_all() {
    let bench = Bench::new();
    bench.each(Fault::Io, &["init"], Bench::directory, |bench, repository, done, told| {
        let found = bench.run(repository, &["thread", "list"]);
        assert!(if done { found.code() == 0 } else { [0, 3].contains(&found.code()) }, "{told}: {found:?}");
        bench.run(repository, &["init"]).ok();
        bench.run(repository, &["thread", "list"]).ok();
    });
}

#[test]
fn an_export_that_cannot_read_says_so() {
    let bench = Bench::new();
    let out = bench.sandbox.path("out");
    let words = ["export", "main", out.to_str().unwrap(), "--delete"];
    bench.each(Fault::Io, &words, Bench::repository, |bench, repository, _done, told| {
        bench.run(repository, &words).ok();
        assert_eq!(fs::read(out.join("file")).unwrap(), b"old\n", "{told}");
    });
}
