//! Snapshots of a mounted thread, beside programs that write.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use selvedge_store::{ObjectId, OpenOptions, Repository};
use selvedge_test_support::{Mounted, Repo};
use selvedge_view::{View, ViewOptions};
use selvedge_worker_proto::{SnapshotDone, WirePath};

use crate::WORKER;

const IDLE: Duration = Duration::from_mins(1);

pub(crate) fn snapshot(mount: &Mounted) -> SnapshotDone {
    mount.snapshot(WirePath::from("a message"), IDLE, &mut |_| ()).unwrap()
}

/// The content of a file at the root of a snapshot.
pub(crate) fn content(repo: &Repo, snapshot: &SnapshotDone, name: &str) -> Vec<u8> {
    let repository = Repository::open(&repo.path(), &OpenOptions::default()).unwrap();
    let id: ObjectId = snapshot.snapshot.parse().unwrap();
    let root = repository.store().snapshot(&id).unwrap().root;
    let selvedge_store::Content::Directory { tree, .. } = root.content else { panic!("no directory") };
    let entry = repository.store().tree(&tree).unwrap().lookup(name.as_bytes()).unwrap();
    let selvedge_store::Content::Regular { blob, size, .. } = entry.content else { panic!("no file") };
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    let reader = repository.store().open_blob(&blob, size).unwrap();
    assert_eq!(reader.read_at(&mut bytes, 0).unwrap() as u64, size);
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes growing numbers to its file until told to stop; tells which were asked and answered.
fn count(path: &Path, asked: &AtomicU64, answered: &AtomicU64, stop: &AtomicBool) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut next = 1;
    while !stop.load(Ordering::Relaxed) {
        asked.store(next, Ordering::SeqCst);
        file.write_all_at(&u64::to_le_bytes(next), 0).unwrap();
        answered.store(next, Ordering::SeqCst);
        next += 1;
    }
    let mut last = [0; 8];
    file.read_exact_at(&mut last, 0).unwrap();
    assert_eq!(u64::from_le_bytes(last), next - 1, "what was written through an open file stays");
}

/// Fails unless every snapshot that is made while four writers count in their files has of each a number between what was
/// answered before and what was asked for until then. The files are called `w0` to `w3`.
pub(crate) fn assert_snapshots_are_of_one_instant(repo: &Repo, mount: &Mounted, paths: &[PathBuf; 4]) {
    let (asked, answered) = ([const { AtomicU64::new(0) }; 4], [const { AtomicU64::new(0) }; 4]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (writer, path) in paths.iter().enumerate() {
            let (asked, answered, stop) = (&asked[writer], &answered[writer], &stop);
            scope.spawn(move || count(path, asked, answered, stop));
        }
        for _ in 0..5 {
            let before = answered.each_ref().map(|count| count.load(Ordering::SeqCst));
            let done = snapshot(mount);
            let after = asked.each_ref().map(|count| count.load(Ordering::SeqCst));
            for writer in 0..4 {
                let value = number(&content(repo, &done, &format!("w{writer}")));
                assert!((before[writer]..=after[writer]).contains(&value), "{before:?} {value} {after:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_snapshot_beside_four_writers_is_one_instant_of_each() {
    let repo = Repo::with_tree(|source| {
        for writer in 0..4 {
            fs::write(source.join(format!("w{writer}")), [0; 8]).unwrap();
        }
    });
    let mount = repo.mounting(WORKER).start();
    let paths = [0, 1, 2, 3].map(|writer| mount.path().join(format!("w{writer}")));
    assert_snapshots_are_of_one_instant(&repo, &mount, &paths);
    mount.stop();
}

#[test]
fn a_snapshot_has_what_was_stored_through_a_mapping() {
    let repo = Repo::with_tree(|source| fs::write(source.join("file"), [b'.'; 10_000]).unwrap());
    let mount = repo.mounting(WORKER).start();
    let file = File::options().read(true).write(true).open(mount.path().join("file")).unwrap();
    let mut mapping = crate::sys::Mapping::shared(&file, 10_000);
    mapping[5000] = b'1';
    let first = snapshot(&mount);
    mapping[5000] = b'2';
    let second = snapshot(&mount);
    mapping[5000] = b'3';
    drop(mapping);
    drop(file);
    assert_eq!((first.mapped, second.mapped), (0, 0), "the kernel wrote everything");
    assert_eq!(content(&repo, &first, "file")[5000], b'1');
    assert_eq!(content(&repo, &second, "file")[5000], b'2');
    assert_eq!(fs::read(mount.path().join("file")).unwrap()[5000], b'3');
    mount.stop();
}

#[test]
fn an_open_file_without_a_name_goes_on_through_snapshots() {
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).start();
    let path = mount.path().join("temp");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(mount.path().join("other"), "x").unwrap();
    assert_eq!(snapshot(&mount).changed, 1);
    file.write_all_at(b" and after", 6).unwrap();
    fs::write(mount.path().join("other"), "y").unwrap();
    assert_eq!(snapshot(&mount).changed, 1);
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"before and after");
    assert_eq!(file.metadata().unwrap().len(), 16);
    drop(file);
    mount.stop();
}

#[test]
fn a_frozen_mount_can_be_read_by_others_while_it_goes_on() {
    let repo = Repo::with_tree(|source| fs::write(source.join("file"), "base").unwrap());
    let mount = repo.mounting(WORKER).start();
    fs::write(mount.path().join("file"), "one").unwrap();
    mount.freeze(IDLE).unwrap();
    fs::write(mount.path().join("file"), "two").unwrap();
    let repository = Repository::open(&repo.path(), &OpenOptions::default()).unwrap();
    let thread = repository.refs().thread(&"main".parse().unwrap()).unwrap();
    let frozen =
        View::open_frozen(repository, &thread.snapshot, &thread.layers, ViewOptions::default()).unwrap();
    let file = frozen.lookup(frozen.root(), b"file").unwrap();
    assert_eq!(file.size, 3);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "two");
    drop(frozen);
    mount.stop();
}
