//! Mounts on which the kernel holds back what programs write.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate, syncfs};
use selvedge_store::{OpenOptions as RepositoryOptions, Repository};
use selvedge_supervisor::StopMode;
use selvedge_test_support::{Mounted, Repo, wait_until};
use selvedge_view::{Request, RequestKey, View, ViewOptions};
use tempfile::TempDir;

use crate::attributes::assert_set_id_bits_go_with_a_write;
use crate::caches::requests;
use crate::snapshots::{assert_snapshots_are_of_one_instant, content, snapshot};
use crate::sys::Mapping;
use crate::{WORKER, errno};

const SOON: Duration = Duration::from_secs(30);
const PAGE: u64 = 4096;

fn holding_back(repo: &Repo) -> Mounted {
    let mount = repo.mounting(WORKER).option("--writeback").start();
    assert!(mount.ready().writeback);
    mount
}

fn writes(mount: &Mounted) -> u64 {
    let status = mount.status(Duration::from_secs(5)).unwrap();
    status.operations.get("write").copied().unwrap_or(0)
}

pub(crate) fn both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

pub(crate) fn with_file(bytes: &[u8]) -> Repo {
    Repo::with_tree(|source| fs::write(source.join("file"), bytes).unwrap())
}

/// What the thread has in `name`, once nothing is held back any more.
pub(crate) fn mounted_again(repo: &Repo, name: &str) -> Vec<u8> {
    let mount = repo.mounting(WORKER).start();
    assert!(!mount.ready().writeback);
    let bytes = fs::read(mount.path().join(name)).unwrap();
    mount.stop();
    bytes
}

#[test]
fn what_programs_write_is_held_back_until_the_file_is_closed_and_seen_by_all() {
    let repo = Repo::empty();
    let mount = holding_back(&repo);
    let why = mount.ready().passthrough.reason.clone();
    assert!(!mount.ready().passthrough.active && why.is_some(), "{why:?}");
    let path = mount.path().join("file");
    let file = both(&path);
    let before = writes(&mount);
    let served = requests(&mount, || {
        (0..1000)
            .for_each(|at| file.write_all_at(&[u8::try_from(at % 251).unwrap(); 100], at * 100).unwrap());
    });
    // It may send some of it earlier, where much is dirty on the machine.
    assert!(served < 100, "{served} requests for 1000 writes");
    let expected: Vec<u8> = (0..1000).flat_map(|at| [u8::try_from(at % 251).unwrap(); 100]).collect();
    assert!(fs::read(&path).unwrap() == expected, "through another descriptor");
    assert_eq!(fs::metadata(&path).unwrap().len(), 100_000);
    drop(file);
    let sent = writes(&mount) - before;
    assert!((1..100).contains(&sent), "closing it sends everything, in {sent} requests");
    mount.stop();
    assert!(mounted_again(&repo, "file") == expected);
}

#[test]
fn parts_of_pages_are_written_through_files_that_are_open_for_writing_only() {
    let old: Vec<u8> = (0..20_000_u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
    let repo = with_file(&old);
    let mount = holding_back(&repo);
    let path = mount.path().join("file");
    let mut expected = old;
    let writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all_at(b"in the middle", 5000).unwrap();
    expected[5000..5013].copy_from_slice(b"in the middle");
    let mut appending = OpenOptions::new().append(true).open(&path).unwrap();
    for number in 0..100 {
        let line = format!("line {number}\n");
        appending.write_all(line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
    }
    drop((writer, appending));
    assert!(fs::read(&path).unwrap() == expected);
    mount.stop();
    assert!(mounted_again(&repo, "file") == expected);
}

#[test]
fn lengths_holes_and_mappings_are_as_on_the_host_whatever_is_held_back() {
    let old = vec![7; 40_000];
    let repo = with_file(&old);
    let mount = holding_back(&repo);
    assert_lengths_holes_and_mappings_are_as_on_the_host(&repo, &mount, &old);
    let expected = fs::read(mount.path().join("file")).unwrap();
    mount.stop();
    assert!(mounted_again(&repo, "file") == expected);
}

/// Of the file `file`, which has the bytes `old`.
pub(crate) fn assert_lengths_holes_and_mappings_are_as_on_the_host(repo: &Repo, mount: &Mounted, old: &[u8]) {
    let host = repo.dir().join("host");
    fs::write(&host, old).unwrap();
    let (path, keep) = (mount.path().join("file"), FallocateFlags::KEEP_SIZE);
    let steps: [&dyn Fn(&File); 12] = [
        &|file| file.write_all_at(&[1; 10_000], 35_000).unwrap(),
        &|file| file.set_len(36_001).unwrap(),
        &|file| file.set_len(50_000).unwrap(),
        &|file| file.write_all_at(&[2; 5000], 10_001).unwrap(),
        &|file| fallocate(file, FallocateFlags::PUNCH_HOLE | keep, 9000, 3000).unwrap(),
        &|file| file.write_all_at(&[3; 100], 60_000).unwrap(),
        &|file| fallocate(file, FallocateFlags::ZERO_RANGE, 60_050, 10_000).unwrap(),
        &|file| fallocate(file, FallocateFlags::empty(), 65_000, 10_000).unwrap(),
        &|file| {
            let mut mapping = Mapping::shared(file, 20_000);
            mapping[9500] = 4;
            mapping[19_999] = 5;
        },
        &|file| file.write_all_at(&[6; 3 * 4096], PAGE).unwrap(),
        &|file| file.set_len(PAGE + 17).unwrap(),
        &|file| file.write_all_at(&[8; 3], 3 * PAGE).unwrap(),
    ];
    let (here, there) = (both(&path), both(&host));
    for (number, step) in steps.iter().enumerate() {
        step(&here);
        step(&there);
        assert_eq!(here.metadata().unwrap().len(), there.metadata().unwrap().len(), "step {number}");
        assert!(fs::read(&path).unwrap() == fs::read(&host).unwrap(), "step {number}");
    }
    drop((here, there));
    assert!(fs::read(&path).unwrap() == fs::read(&host).unwrap());
}

/// Length, mode, times to the nanosecond.
fn shown(path: &Path) -> (u64, u32, (i64, i64), (i64, i64)) {
    let meta = fs::metadata(path).unwrap();
    (meta.len(), meta.mode(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
}

#[test]
fn times_are_those_of_the_writes_and_not_of_their_arrival() {
    let names = ["slow", "set", "mode", "cut", "renamed", "linked", "made"];
    let repo = Repo::with_tree(|source| {
        for name in names {
            fs::write(source.join(name), vec![1; 100_000]).unwrap();
        }
    });
    let mount = holding_back(&repo);
    let at = |name: &str| mount.path().join(name);
    // The kernel tells times beside the writes, when it begins them by itself.
    let slow = both(&at("slow"));
    for round in 0..3 {
        slow.write_all_at(&vec![round; 12 << 20], 0).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        syncfs(File::open(mount.path()).unwrap().as_fd()).unwrap();
    }
    wait_until("all writes", SOON, || writes(&mount) >= 36 && requests(&mount, || ()) == 0);
    let set = both(&at("set"));
    set.write_all_at(b"x", 50_000).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    set.set_times(FileTimes::new().set_modified(time)).unwrap();
    let mode = both(&at("mode"));
    mode.write_all_at(b"x", 50_000).unwrap();
    mode.set_permissions(Permissions::from_mode(0o640)).unwrap();
    both(&at("cut")).set_len(70_000).unwrap();
    fs::rename(at("renamed"), at("other")).unwrap();
    fs::rename(at("other"), at("renamed")).unwrap();
    fs::hard_link(at("linked"), at("second")).unwrap();
    // Made and written in one tick of the kernel's clock, so that there is nothing to tell; closed later.
    fs::remove_file(at("made")).unwrap();
    let mut made = File::create_new(at("made")).unwrap();
    made.write_all(b"new").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let before = names.map(|name| shown(&at(name)));
    drop((slow, set, mode, made));
    assert_eq!(names.map(|name| shown(&at(name))), before, "closing a file is no change");
    mount.stop();
    for writeback in [true, false] {
        let mounting = repo.mounting(WORKER);
        let mount = if writeback { mounting.option("--writeback") } else { mounting }.start();
        let again = names.map(|name| shown(&mount.path().join(name)));
        assert_eq!(again, before);
        mount.stop();
    }
}

#[test]
fn set_id_bits_go_when_somebody_else_writes_what_is_held_back() {
    assert_set_id_bits_go_with_a_write(&["--writeback"]);
}

#[test]
fn a_snapshot_has_what_was_written_before_it_and_held_back() {
    let repo = with_file(&[b'.'; 10_000]);
    let mount = holding_back(&repo);
    let path = mount.path().join("file");
    let file = both(&path);
    let new = both(&mount.path().join("new"));
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| u8::try_from(at % 255).unwrap()).collect();
    file.write_all_at(b"first", 5000).unwrap();
    new.write_all_at(&large, 0).unwrap();
    let first = snapshot(&mount);
    file.write_all_at(b"later", 5000).unwrap();
    let second = snapshot(&mount);
    file.write_all_at(b"never", 5000).unwrap();
    assert_eq!((first.mapped, second.mapped), (0, 0), "the kernel wrote everything");
    assert_eq!(&content(&repo, &first, "file")[5000..5005], b"first");
    assert!(content(&repo, &first, "new") == large);
    assert_eq!(&content(&repo, &second, "file")[5000..5005], b"later");
    assert_eq!(&fs::read(&path).unwrap()[5000..5005], b"never");
    drop((file, new));
    mount.stop();
}

#[test]
fn a_snapshot_beside_four_writers_that_are_held_back_is_one_instant_of_each() {
    let repo = Repo::with_tree(|source| {
        (0..4).for_each(|writer| fs::write(source.join(format!("w{writer}")), [0; 8]).unwrap());
    });
    let mount = holding_back(&repo);
    let paths = [0, 1, 2, 3].map(|writer| mount.path().join(format!("w{writer}")));
    assert_snapshots_are_of_one_instant(&repo, &mount, &paths);
    mount.stop();
}

#[test]
fn a_fork_and_an_export_have_what_was_held_back() {
    let repo = with_file(b"base");
    let mount = holding_back(&repo);
    let path = mount.path().join("file");
    let file = both(&path);
    file.write_all_at(b"exported", 0).unwrap();
    let times = shown(&path);
    let dest = repo.dir().join("dest");
    fs::create_dir(&dest).unwrap();
    let fd = File::open(&dest).unwrap().into();
    mount.export(fd, false, SOON, &mut |_| ()).unwrap();
    assert_eq!(fs::read(dest.join("file")).unwrap(), b"exported");
    assert_eq!(shown(&dest.join("file")).2, times.2);
    file.write_all_at(b"frozen!!", 0).unwrap();
    let times = shown(&path);
    mount.freeze(SOON).unwrap();
    file.write_all_at(b"after...", 0).unwrap();
    let repository = Repository::open(&repo.path(), &RepositoryOptions::default()).unwrap();
    let thread = repository.refs().thread(&"main".parse().unwrap()).unwrap();
    let frozen =
        View::open_frozen(repository, &thread.snapshot, &thread.layers, ViewOptions::default()).unwrap();
    let there = frozen.lookup(frozen.root(), b"file").unwrap();
    assert_eq!((there.mtime.sec, i64::from(there.mtime.nsec)), times.2);
    assert_eq!((there.ctime.sec, i64::from(there.ctime.nsec)), times.3);
    let key = RequestKey { epoch: 1, unique: 2 };
    let request = Request { key, resent: false, uid: 0, gid: 0, umask: 0 };
    let flags = selvedge_view::OpenFlags { read: true, ..Default::default() };
    let handle = frozen.open_file(&request, there.ino, flags).unwrap();
    assert_eq!(frozen.read(handle, 0, 100).unwrap(), b"frozen!!");
    drop((frozen, file));
    mount.stop();
    assert_eq!(mounted_again(&repo, "file"), b"after...");
}

#[test]
fn an_unmount_by_force_saves_what_was_held_back() {
    let repo = with_file(b"base");
    let mount = holding_back(&repo);
    let file = both(&mount.path().join("file"));
    file.write_all_at(b"written", 0).unwrap();
    mount.supervisor().stop(StopMode::Force).unwrap();
    drop((file, mount));
    assert_eq!(mounted_again(&repo, "file"), b"written");
}

/// A disk that is soon full.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(room: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let size = format!("size={room}");
        let words = ["-t", "tmpfs", "-o", &size, "none"];
        assert!(Command::new("mount").args(words).arg(directory.path()).status().unwrap().success());
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_when_the_file_is_synced() {
    const ROOM: u64 = 24 << 20;
    let disk = SmallDisk::new(ROOM);
    let repo = Repo::with_tree_in(disk.0.path(), |_| ());
    let mount = holding_back(&repo);
    let file = both(&mount.path().join("file"));
    let chunk = vec![1; 1 << 20];
    let outcome = (0..2 * ROOM).step_by(chunk.len()).try_for_each(|at| file.write_all_at(&chunk, at));
    let outcome = outcome.and_then(|()| file.sync_all());
    assert_eq!(errno(outcome), libc::ENOSPC);
    drop(file);
    fs::remove_file(mount.path().join("file")).unwrap();
    mount.stop();
}
