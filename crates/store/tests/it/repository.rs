//! A repository is made whole, and opened only when it may be.

use crate::common::host::{as_user, bind};
use selvedge_store::{
    Created, Discovery, FORMAT_VERSION, LockError, OpenOptions, Repository, RepositoryError, ThreadId,
    ThreadLock,
};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn open(dir: &Path) -> Result<Repository, RepositoryError> {
    Repository::open(dir, &OpenOptions::default())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn init_makes_a_repository_and_then_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, created) = Repository::init(dir.path()).unwrap();
    assert_eq!(created, Created::New);
    assert_eq!(repository.path(), dir.path().canonicalize().unwrap().join(".selvedge"));
    for name in ["", "blobs", "tmp", "layers", "locks"] {
        assert_eq!(mode(&repository.path().join(name)), 0o700, "{name}");
    }
    assert_eq!(std::fs::read(repository.path().join(".gitignore")).unwrap(), b"*\n");
    assert_eq!(
        std::fs::read_to_string(repository.path().join("format")).unwrap(),
        format!("{FORMAT_VERSION}\n")
    );
    repository.refs().create_thread(&"t".parse().unwrap(), &[0; 32].into_id(), &[]).unwrap();
    let before = std::fs::metadata(repository.path()).unwrap().ino();
    let (again, created) = Repository::init(dir.path()).unwrap();
    assert_eq!(created, Created::Existing);
    assert_eq!(std::fs::metadata(again.path()).unwrap().ino(), before);
    assert_eq!(again.refs().threads().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

trait IntoId {
    fn into_id(self) -> selvedge_store::ObjectId;
}

impl IntoId for [u8; 32] {
    fn into_id(self) -> selvedge_store::ObjectId {
        selvedge_store::ObjectId::from_bytes(self)
    }
}

#[test]
fn racing_inits_make_one_repository() {
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| Repository::init(dir.path()).unwrap().1)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|created| **created == Created::New).count(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no half-made one is left");
    }
}

#[test]
fn what_a_dead_init_left_is_swept_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let old = SystemTime::now() - Duration::from_hours(1);
    let leftover = |letter: &str| {
        let path = dir.path().join(format!(".selvedge.new-{}", letter.repeat(32)));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("objects.db"), b"half").unwrap();
        std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
        path
    };
    let (dead, living) = (leftover("a"), leftover("b"));
    let held = std::fs::File::open(&living).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let users_own = dir.path().join(".selvedge.new-stuff");
    std::fs::create_dir(&users_own).unwrap();
    Repository::init(dir.path()).unwrap();
    assert!(!dead.exists());
    assert!(living.exists());
    assert!(users_own.exists());
}

#[test]
fn abandoned_blobs_are_swept_and_unfinished_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = Repository::init(dir.path()).unwrap();
    let mut writer = repository.store().blob_writer();
    writer.write(&vec![1; 1 << 20]).unwrap();
    let tmp = repository.tmp_dir();
    let abandoned = tmp.join("blob-dead");
    std::fs::write(&abandoned, b"half").unwrap();
    for entry in std::fs::read_dir(&tmp).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    }
    open(dir.path()).unwrap();
    assert!(!abandoned.exists());
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 1);
    writer.finish().unwrap();
}

#[test]
fn what_is_no_repository_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(open(dir.path()), Err(RepositoryError::NotFound { .. })));
    assert!(matches!(open(&dir.path().join("missing")), Err(RepositoryError::Io { .. })));
    let path = dir.path().join(".selvedge");
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(open(dir.path()), Err(RepositoryError::Invalid { .. })));
    std::fs::remove_file(&path).unwrap();
    symlink(dir.path(), &path).unwrap();
    assert!(matches!(open(dir.path()), Err(RepositoryError::Invalid { .. })));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    assert!(matches!(open(dir.path()), Err(RepositoryError::Invalid { .. })));
    assert!(matches!(Repository::init(dir.path()), Err(RepositoryError::Invalid { .. })));
}

#[test]
fn an_unknown_format_version_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    Repository::init(dir.path()).unwrap();
    for (text, shown) in [("999\n", "999"), ("", ""), ("1\x1b[2J", "1\\x1b[2J"), ("01\n", "01")] {
        std::fs::write(dir.path().join(".selvedge/format"), text).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(
            matches!(&error, RepositoryError::Format { found, known: 1, .. } if found == shown),
            "{error}"
        );
    }
}

#[test]
fn a_repository_of_another_owner_or_writable_by_others_is_refused_unless_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = Repository::init(dir.path()).unwrap();
    let path = repository.path().to_owned();
    let listed: [PathBuf; 1] = [dir.path().to_owned()];
    for bits in [0o720, 0o702] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
        assert!(matches!(open(dir.path()), Err(RepositoryError::WritableByOthers { .. })));
        Repository::open(dir.path(), &OpenOptions { safe: &listed, ..OpenOptions::default() }).unwrap();
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    chown(&path, Some(12345), None).expect("this test runs as root");
    let error = open(dir.path()).err().unwrap();
    assert!(matches!(error, RepositoryError::ForeignOwner { owner: 12345, .. }), "{error}");
    Repository::open(dir.path(), &OpenOptions { safe: &listed, ..OpenOptions::default() }).unwrap();
    let other: [PathBuf; 1] = ["/nowhere".into()];
    assert!(Repository::open(dir.path(), &OpenOptions { safe: &other, ..OpenOptions::default() }).is_err());
}

#[test]
fn an_unwritable_repository_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = Repository::init(dir.path()).unwrap();
    drop(repository);
    // As on a read-only disk: not even root may write.
    let here = dir.path();
    let mounted = bind(here, here);
    let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount_remount(here, flags, c"").unwrap();
    let opened = open(here);
    std::fs::create_dir(here.join("new")).expect_err("the mount is read-only");
    drop(mounted);
    assert!(matches!(opened.err(), Some(RepositoryError::Unwritable { .. })));
    open(here).unwrap();
}

#[test]
fn a_place_that_may_not_be_written_gets_no_repository() {
    if !as_user("repository::a_place_that_may_not_be_written_gets_no_repository") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o500)).unwrap();
    let made = Repository::init(dir.path());
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    assert!(matches!(made.err(), Some(RepositoryError::Unwritable { .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    Repository::init(dir.path()).unwrap();
    let inner = dir.path().join(".selvedge");
    std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o500)).unwrap();
    let opened = open(dir.path());
    std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o700)).unwrap();
    assert!(matches!(opened.err(), Some(RepositoryError::Unwritable { .. })));
}

#[test]
fn the_nearest_repository_is_found_up_to_another_owners_directory() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    Repository::init(&top).unwrap();
    let deep = top.join("a/b/c");
    std::fs::create_dir_all(&deep).unwrap();
    assert_eq!(Repository::discover(&deep), Discovery::Found(top.clone()));
    assert_eq!(Repository::discover(&top), Discovery::Found(top.clone()));
    Repository::init(&top.join("a/b")).unwrap();
    assert_eq!(Repository::discover(&deep), Discovery::Found(top.join("a/b")));
    std::fs::remove_dir_all(top.join("a/b/.selvedge")).unwrap();
    chown(top.join("a/b"), Some(12345), None).expect("this test runs as root");
    let stopped = Discovery::StoppedAt { directory: top.join("a/b"), owner: 12345 };
    assert_eq!(Repository::discover(&deep), stopped);
    assert_eq!(Repository::discover(&top.join("a")), Discovery::Found(top));
}

#[test]
fn a_thread_is_locked_once_and_the_holder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = Repository::init(dir.path()).unwrap();
    let (a, b) = (ThreadId::random().unwrap(), ThreadId::random().unwrap());
    let lock = ThreadLock::try_acquire(&repository, &a).unwrap();
    let other = ThreadLock::try_acquire(&repository, &b).unwrap();
    match ThreadLock::try_acquire(&repository, &a) {
        Err(LockError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    // A duplicate keeps the lock when its taker is gone.
    let duplicate = lock.as_fd().try_clone_to_owned().unwrap();
    drop(lock);
    assert!(matches!(ThreadLock::try_acquire(&repository, &a), Err(LockError::Held { .. })));
    drop(duplicate);
    let lock = ThreadLock::try_acquire(&repository, &a).unwrap();
    lock.remove(&repository, &a).unwrap();
    drop(other);
    assert_eq!(std::fs::read_dir(repository.locks_dir()).unwrap().count(), 1);
}
