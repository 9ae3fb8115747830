//! How many requests the kernel makes of what programs do, by operation: counted, so that no machine is too slow or too
//! busy for it. What costs time on a mount is requests; one more for each small file is a regression, one less is not.
//!
//! Some are the kernel's habit, whoever serves it: it looks the target of a rename and of an exclusive creation up although
//! it knows it, asks for a directory's attributes again after each change of its names, because it checks permissions
//! itself, for a file's `security.capability` at its first write, and for times of access after what was not in its cache.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::WORKER;
use selvedge_test_support::{Mounted, Repo, wait_until};

/// Requests by operation, but for those that come whenever the kernel pleases.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What has been asked so far, as soon as nothing is in flight. Of a descriptor's end the kernel tells when it has been
/// closed for everybody else, so `ends` have to have been told before anything counts.
fn asked(mount: &Mounted, ends: Option<(&str, u64)>) -> Counts {
    let mut counts = Counts::new();
    wait_until("an idle worker", Duration::from_secs(10), || {
        let status = mount.status(Duration::from_secs(5)).unwrap();
        counts = status.operations;
        let told = |(name, count): (&str, u64)| counts.get(name).copied().unwrap_or(0) >= count;
        status.oldest_request_ms.is_none() && ends.is_none_or(told)
    });
    // Sent whenever memory is wanted back.
    counts.remove("forget");
    counts
}

/// Requests that `work` causes, of which `closed` are the ends of files.
pub(crate) fn requests(mount: &Mounted, closed: u64, work: impl FnOnce()) -> Counts {
    let before = asked(mount, None);
    work();
    let released = before.get("release").copied().unwrap_or(0) + closed;
    let mut counts = asked(mount, Some(("release", released)));
    for (name, count) in before {
        if let Some(now) = counts.get_mut(&name) {
            *now -= count;
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}

pub(crate) fn counts(expected: &[(&str, u64)]) -> Counts {
    expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

pub(crate) const FILES: u64 = 200;

pub(crate) fn name(number: u64) -> String {
    format!("f{number}")
}

/// A mount of a tree with a directory `d` of small files, of which nothing has been asked yet.
fn small_files() -> (Repo, Mounted) {
    // What is passed through asks for less, depending on who has it open.
    small_files_mounted(|repo| repo.mounting(WORKER).option("--passthrough").option("off").start())
}

/// As [`small_files`], mounted in another way.
pub(crate) fn small_files_mounted(mount: impl FnOnce(&Repo) -> Mounted) -> (Repo, Mounted) {
    let repo = Repo::with_tree(|source| {
        fs::create_dir(source.join("d")).unwrap();
        for number in 0..FILES {
            fs::write(source.join("d").join(name(number)), format!("file {number}\n")).unwrap();
        }
    });
    let mount = mount(&repo);
    // One file is opened and closed and one directory listed: what is asked once for each mount has been asked.
    let _ = fs::write(mount.path().join("first"), b"first");
    assert!(fs::read_dir(mount.path()).unwrap().count() > 0);
    (repo, mount)
}

pub(crate) fn list(directory: &Path) {
    let seen = fs::read_dir(directory).unwrap().filter(|entry| entry.as_ref().unwrap().metadata().is_ok());
    assert_eq!(seen.count() as u64, FILES);
}

#[test]
fn each_operation_asks_no_more_than_it_must() {
    let (_repo, mount) = small_files();
    let dir = mount.path().join("d");
    let each = |work: &dyn Fn(&Path)| (0..FILES).for_each(|number| work(&dir.join(name(number))));
    let wrong = RefCell::new(Vec::new());
    let expect = |what: &str, closed: u64, expected: &[(&str, u64)], work: &dyn Fn()| {
        let (asked, expected) = (requests(&mount, closed, work), counts(expected));
        if asked.iter().any(|(name, count)| expected.get(name).is_none_or(|most| count > most)) {
            wrong.borrow_mut().push(format!("{what}: {asked:?} instead of {expected:?}"));
        }
    };

    // A reply to a listing has 32 KiB of the program's buffer, and so 140 entries with their attributes.
    expect("a walk, first", 0, &[("readdirplus", 2)], &|| list(&dir));
    expect("a walk, again", 0, &[("getattr", 1)], &|| list(&dir));
    expect("a walk, a third time", 0, &[], &|| list(&dir));
    expect("stat of what was listed", 0, &[], &|| each(&|path| assert!(fs::metadata(path).is_ok())));
    expect("open, read, close", FILES, &[("open", FILES), ("read", FILES), ("release", FILES)], &|| {
        each(&|path| assert!(fs::read(path).unwrap().starts_with(b"file")));
    });
    let opened = ("open", FILES);
    let closed = ("release", FILES);
    expect("open, read, close again", FILES, &[("getattr", FILES), opened, closed], &|| {
        each(&|path| assert!(fs::read(path).unwrap().starts_with(b"file")));
    });
    expect("open, read, close a third time", FILES, &[opened, closed], &|| {
        each(&|path| assert!(fs::read(path).unwrap().starts_with(b"file")));
    });
    expect("read what is open", 1, &[("open", 1), ("release", 1)], &|| {
        let mut file = File::open(dir.join(name(0))).unwrap();
        let mut bytes = Vec::new();
        assert!(file.read_to_end(&mut bytes).unwrap() > 0);
    });
    expect(
        "create, write, close",
        FILES,
        &[
            ("lookup", FILES),
            ("create", FILES),
            ("getxattr", FILES),
            ("write", FILES),
            ("getattr", FILES),
            closed,
        ],
        &|| {
            each(&|path| File::create_new(path.with_extension("new")).unwrap().write_all(b"new").unwrap());
        },
    );
    expect(
        "overwrite a changed file",
        1,
        &[("open", 1), ("write", 1), ("getattr", 1), ("release", 1)],
        &|| {
            let path = dir.join("f0.new");
            OpenOptions::new().write(true).open(path).unwrap().write_all(b"old").unwrap();
        },
    );
    expect("rename to a new name", 0, &[("lookup", FILES), ("rename", FILES), ("getattr", FILES)], &|| {
        each(&|path| fs::rename(path.with_extension("new"), path.with_extension("moved")).unwrap());
    });
    expect("rename over a file", 0, &[("lookup", FILES), ("rename", FILES), ("getattr", FILES)], &|| {
        each(&|path| fs::rename(path.with_extension("moved"), path).unwrap());
    });
    expect("chmod", 0, &[("setattr", FILES), ("getattr", 1)], &|| {
        each(&|path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap());
    });
    expect("unlink", 0, &[("unlink", FILES), ("getattr", FILES)], &|| {
        each(&|path| fs::remove_file(path).unwrap());
    });
    expect("mkdir and rmdir", 0, &[("lookup", 1), ("mkdir", 1), ("rmdir", 1), ("getattr", 2)], &|| {
        fs::create_dir(dir.join("sub")).unwrap();
        fs::remove_dir(dir.join("sub")).unwrap();
    });
    mount.stop();
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_listing_of_ten_thousand_names_takes_few_requests() {
    const NAMES: usize = 10_000;
    let (_repo, mount) = small_files();
    let dir = mount.path().join("many");
    fs::create_dir(&dir).unwrap();
    (0..NAMES).for_each(|number| drop(File::create_new(dir.join(name(number as u64))).unwrap()));
    let listing = || assert_eq!(fs::read_dir(&dir).unwrap().count(), NAMES);
    let first = requests(&mount, 0, listing);
    let replies: u64 =
        first.iter().filter(|(name, _)| name.starts_with("readdir")).map(|(_, count)| count).sum();
    assert!(replies <= 20, "{first:?}");
    // The times of the directory itself, once.
    requests(&mount, 0, listing);
    assert_eq!(requests(&mount, 0, listing), Counts::new());
    mount.stop();
}

#[test]
fn git_status_asks_little_the_second_time() {
    let (_repo, mount) = small_files();
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(mount.path()).args(["-c", "user.name=T", "-c", "user.email=t@example.invalid"]);
        git.args(["-c", "gc.auto=0", "-c", "safe.directory=*", "-c", "core.untrackedCache=false"])
            .args(words);
        let output = git.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "all"]);
    // The first one writes down what it saw.
    std::thread::sleep(Duration::from_millis(1100));
    git(&["status", "--porcelain"]);
    git(&["status", "--porcelain"]);
    let asked = requests(&mount, 0, || assert!(git(&["status", "--porcelain"]).is_empty()));
    // Nothing for each file: what git opens are its own files, a handful whatever the tree's size.
    let sum: u64 = asked.values().sum();
    assert!(sum <= 60, "{sum} requests: {asked:?}");
    mount.stop();
}
