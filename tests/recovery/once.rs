//! Workers die over every single change, before it is committed, when it is and nobody has been told, and again when
//! it is found to have been carried out: each is done once.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use rustix::fs::{
    CWD, FallocateFlags, FileType, RenameFlags, XattrFlags, copy_file_range, fallocate, getxattr, mknodat,
    removexattr, renameat_with, setxattr,
};

use crate::application::{Application, Talk};
use crate::scene::{mounting, repo};

/// Has the first worker die at `first` and its successors, each in its turn, at `then`; tells how many died while an
/// application played `role`, and how many changes that made.
fn die_over_every_change(role: &'static str, first: &str, then: &str) -> (u64, u64) {
    let repo = repo();
    let mount = mounting(&repo)
        .env("SELVEDGE_FUSE_WORKER_CRASH_AT", first)
        .env("SELVEDGE_FUSE_WORKER_SUCCESSOR_CRASH_AT", then)
        .start();
    let changes = Application::start(role, mount.path(), 0).serve(&mount);
    let deaths = u64::from(mount.restarts());
    eprintln!("{first}, {then}: {deaths} deaths over {changes} changes");
    mount.stop();
    (deaths, changes)
}

/// A successor that carries a change out dies of the next one.
#[test]
fn every_change_is_made_once_when_the_worker_dies_before_its_commit() {
    let point = "kill@commit.before/request";
    let (deaths, changes) = die_over_every_change("changes", point, &format!("{point}:2"));
    assert!(deaths >= changes, "{deaths} deaths, {changes} changes");
}

#[test]
fn every_change_is_made_once_when_the_worker_dies_after_its_commit() {
    let point = "kill@commit.after/request";
    let (deaths, changes) = die_over_every_change("unrepeatable changes", point, point);
    assert_eq!(deaths, changes);
    // What may be repeated commits again, and dies of the next.
    let (deaths, changes) = die_over_every_change("changes", point, &format!("{point}:2"));
    assert!(deaths >= changes / 2, "{deaths} deaths, {changes} changes");
}

#[test]
fn every_change_is_made_once_when_the_successor_dies_as_well() {
    let after = "kill@commit.after/request";
    let (deaths, changes) =
        die_over_every_change("unrepeatable changes", after, &format!("kill@commit.again,{after}"));
    assert_eq!(deaths, 2 * changes);
}

/// Makes changes one by one, and counts them.
struct Changes<'a> {
    talk: &'a Talk,
    dir: PathBuf,
    made: u64,
}

impl Changes<'_> {
    /// One change, which must succeed.
    fn make<T, E: std::fmt::Debug>(&mut self, what: &str, change: impl FnOnce() -> Result<T, E>) -> T {
        let made = change().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        self.made += 1;
        self.talk.tell(self.made);
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn rename(&mut self, from: &str, to: &str, flags: RenameFlags) {
        let (from, to) = (self.at(from), self.at(to));
        let what = format!("rename {} {} with {flags:?}", from.display(), to.display());
        self.make(&what, || renameat_with(CWD, &from, CWD, &to, flags));
    }

    /// What fails when it is done twice.
    fn unrepeatable(&mut self) {
        let (one, two) = (self.at("one"), self.at("two"));
        let new = || OpenOptions::new().write(true).create_new(true).open(&one);
        drop(self.make("create with O_EXCL", new));
        self.make("mkdir", || fs::create_dir(&two));
        let fifo = self.at("fifo");
        self.make("mknod", || mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0));
        let link = self.at("link");
        self.make("symlink", || symlink("target", &link));
        let other = two.join("other");
        self.make("link", || fs::hard_link(&one, &other));
        self.names();
        self.attributes();
        self.make("unlink a symlink", || fs::remove_file(&link));
        self.make("rmdir", || fs::remove_dir(&two));
        assert_eq!(fs::read_dir(&self.dir).unwrap().count(), 0);
    }

    /// Renaming in all its modes; in the end there are a directory `two` and a link.
    fn names(&mut self) {
        self.rename("one", "three", RenameFlags::NOREPLACE);
        self.rename("fifo", "three", RenameFlags::EXCHANGE);
        self.rename("two/other", "moved", RenameFlags::empty());
        assert_eq!(fs::metadata(self.at("moved")).unwrap().nlink(), 2);
        self.rename("three", "moved", RenameFlags::empty());
        assert_eq!(fs::metadata(self.at("fifo")).unwrap().nlink(), 1);
        self.rename("moved", "two", RenameFlags::EXCHANGE);
        self.rename("fifo", "moved/in", RenameFlags::empty());
        self.rename("moved/in", "in", RenameFlags::WHITEOUT);
        let covered = fs::symlink_metadata(self.at("moved/in")).unwrap();
        assert_eq!((covered.rdev(), covered.mode() & libc::S_IFMT), (0, libc::S_IFCHR));
        for name in ["moved/in", "in", "two"] {
            let path = self.at(name);
            self.make("unlink", || fs::remove_file(path));
        }
        self.rename("moved", "two", RenameFlags::empty());
    }

    /// Extended attributes that must be new, must be there, and go.
    fn attributes(&mut self) {
        let two = self.at("two");
        let value = |expected: &[u8]| {
            let mut room = [0; 16];
            let length = getxattr(&two, "user.a", &mut room[..]).unwrap();
            assert_eq!(&room[..length], expected);
        };
        self.make("setxattr, new", || setxattr(&two, "user.a", b"1", XattrFlags::CREATE));
        value(b"1");
        self.make("setxattr, old", || setxattr(&two, "user.a", b"22", XattrFlags::REPLACE));
        value(b"22");
        self.make("removexattr", || removexattr(&two, "user.a"));
        self.make("setxattr, new again", || setxattr(&two, "user.a", b"3", XattrFlags::CREATE));
        value(b"3");
    }

    /// What may be done twice, and each with what it comes to.
    fn repeatable(&mut self) {
        let path = self.at("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let mut expected = vec![7; 5000];
        file.write_all_at(&expected, 0).unwrap();
        self.make("chmod", || fs::set_permissions(&path, Permissions::from_mode(0o640)));
        self.make("chown", || chown(&path, Some(3), Some(4)));
        let found = file.metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o640, 3, 4));
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        self.make("utimens", || file.set_modified(time));
        assert_eq!(file.metadata().unwrap().mtime(), 1_000_000);
        // Lengths are the working file's, and no commit's.
        file.set_len(3000).unwrap();
        file.set_len(9000).unwrap();
        expected.resize(3000, 0);
        expected.resize(9000, 0);
        assert_eq!(fs::read(&path).unwrap(), expected);
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 100).unwrap();
        fallocate(&file, FallocateFlags::empty(), 8000, 4000).unwrap();
        expected[100..200].fill(0);
        expected.resize(12_000, 0);
        let (mut from, mut to) = (0, 12_000);
        while from < 3000 {
            let left = usize::try_from(3000 - from).unwrap();
            copy_file_range(&file, Some(&mut from), &file, Some(&mut to), left).unwrap();
        }
        expected.extend_from_within(..3000);
        assert_eq!(fs::read(&path).unwrap(), expected);
        let mut append = OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut append, b"end").unwrap();
        expected.extend(b"end");
        assert_eq!(fs::read(&path).unwrap(), expected);
        drop(File::create(&path).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 0);
        drop((file, append));
        self.make("unlink", || fs::remove_file(&path));
        self.of_the_base();
    }

    /// Files that the thread has had from its beginning are copied when they are changed first.
    fn of_the_base(&mut self) {
        let (large, path) = (self.talk.dir.join("large"), self.talk.dir.join("w0/f1"));
        let mut expected = fs::read(&large).unwrap();
        let file = File::options().write(true).open(&large).unwrap();
        self.make("write to a file of the base", || file.write_all_at(b"new", 5000));
        expected[5000..5003].copy_from_slice(b"new");
        assert!(fs::read(&large).unwrap() == expected);
        self.make("truncate a file of the base", || File::options().write(true).open(&path)?.set_len(10));
        assert_eq!(fs::metadata(&path).unwrap().len(), 10);
        let directory = self.talk.dir.join("many");
        for name in ["7", "8"] {
            self.make("unlink a file of the base", || fs::remove_file(directory.join(name)));
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 498);
    }
}

fn begin(talk: &Talk) -> Changes<'_> {
    let dir = talk.dir.join("w1/sub");
    fs::remove_file(dir.join("f0")).unwrap();
    Changes { talk, dir, made: 1 }
}

pub(crate) fn unrepeatable_changes(talk: &Talk) {
    begin(talk).unrepeatable();
}

pub(crate) fn changes(talk: &Talk) {
    let mut changes = begin(talk);
    changes.unrepeatable();
    changes.repeatable();
}
