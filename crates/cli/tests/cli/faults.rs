//! A disk that fails at any one call: it is said, nothing half done is visible, and the next try succeeds.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use selvedge_test_support::{Fault, FaultyDisk};

use crate::sandbox::{Held, Outcome, Sandbox, finish};

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

/// Works in a mount until something fails; says how many steps were acknowledged.
fn work(mount: &Path) -> usize {
    let steps: [&dyn Fn() -> std::io::Result<()>; 8] = [
        &|| fs::write(mount.join("new"), "new\n"),
        &|| fs::File::open(mount.join("new"))?.sync_all(),
        &|| fs::create_dir(mount.join("directory")),
        &|| fs::rename(mount.join("new"), mount.join("directory/moved")),
        &|| fs::write(mount.join("file"), "changed\n"),
        &|| fs::File::open(mount.join("file"))?.sync_all(),
        &|| std::os::unix::fs::symlink("file", mount.join("link")),
        &|| fs::remove_file(mount.join("link")),
    ];
    steps.iter().take_while(|step| step().is_ok()).count()
}

/// Fails unless the first `done` steps of [`work`] are there. The one after them may be, for it was not answered.
fn assert_worked(mount: &Path, done: usize, told: &str) {
    let read = |name: &str| fs::read_to_string(mount.join(name)).ok();
    match done {
        0 => {}
        1..=3 => {
            assert!([read("new"), read("directory/moved")].contains(&Some("new\n".to_owned())), "{told}");
        }
        _ => assert_eq!(read("directory/moved").as_deref(), Some("new\n"), "{told}"),
    }
    assert!(done < 3 || mount.join("directory").is_dir(), "{told}");
    let file = read("file").unwrap_or_else(|| panic!("{told}: no file"));
    match done {
        // Truncated, and then not written.
        4 => assert!(["old\n", "changed\n", ""].contains(&&*file), "{told}: {file:?}"),
        0..4 => assert_eq!(file, "old\n", "{told}"),
        _ => assert_eq!(file, "changed\n", "{told}"),
    }
    assert!(done < 8 || mount.join("link").symlink_metadata().is_err(), "{told}");
}

#[test]
fn a_mount_on_a_disk_that_fails_at_any_odd_call_keeps_what_it_acknowledged() {
    fail_under_a_mount(1);
}

#[test]
fn a_mount_on_a_disk_that_fails_at_any_even_call_keeps_what_it_acknowledged() {
    fail_under_a_mount(2);
}

/// Every second call fails from the one numbered `first` on, each in a mount of its own.
fn fail_under_a_mount(first: u64) {
    let bench = Bench::new();
    let place = bench.sandbox.path("m");
    let mount = |repository: &Path| {
        let mut command = bench.sandbox.command();
        command.current_dir("/").arg("--repo").arg(repository);
        command.args(["--json", "mount", "main"]).arg(&place).arg("--foreground");
        Held::start(command)
    };
    for nth in (first..ENDLESS).step_by(2) {
        let repository = bench.repository();
        bench.disk.fail_at(nth, Fault::Io);
        let (done, told) = match mount(&repository) {
            Ok(held) => {
                let done = work(&place);
                (done, format!("{done} steps, {:?}", held.stop(Signal::TERM)))
            }
            Err(outcome) => (0, format!("no mount, {:?}", outcome.fails(1))),
        };
        let Some(fired) = bench.disk.heal() else {
            assert!(nth > 40 && done == 8, "{nth} calls: {told}");
            return;
        };
        let told = format!("call {nth}, {fired}: {told}");
        assert!(bench.sandbox.mounts().is_empty() && bench.sandbox.records().is_empty(), "{told}");
        let held = mount(&repository).unwrap_or_else(|outcome| panic!("{told}: {outcome:?}"));
        assert_worked(&place, done, &told);
        fs::write(place.join("later"), "later\n").unwrap();
        held.stop(Signal::TERM).ok();
    }
    panic!("no end of calls");
}

#[test]
fn a_quota_that_is_used_up_is_said_as_such_and_work_goes_on_when_there_is_room() {
    let bench = Bench::new();
    let (repository, place) = (bench.repository(), bench.sandbox.path("m"));
    let mount = || {
        let mut command = bench.sandbox.command();
        command.current_dir("/").arg("--repo").arg(&repository);
        command.args(["--json", "mount", "main"]).arg(&place).arg("--foreground");
        Held::start(command).unwrap_or_else(|outcome| panic!("no mount: {outcome:?}"))
    };
    let held = mount();
    fs::write(place.join("first"), "first\n").unwrap();
    let mut refused = 0;
    for nth in 1..8 {
        let path = place.join(format!("file{nth}"));
        bench.disk.fail_at(nth, Fault::Quota);
        let outcome = fs::write(&path, "no room\n");
        let struck = bench.disk.heal();
        if let Err(error) = outcome {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::DQUOT.raw_os_error()), "{struck:?}");
            refused += 1;
        }
        fs::write(&path, "room again\n").unwrap_or_else(|error| panic!("after {struck:?}: {error}"));
    }
    assert!(refused > 1, "only {refused} calls were refused");
    held.stop(Signal::TERM).ok();
    let held = mount();
    for nth in 1..8 {
        assert_eq!(fs::read_to_string(place.join(format!("file{nth}"))).unwrap(), "room again\n");
    }
    held.stop(Signal::TERM).ok();
}
