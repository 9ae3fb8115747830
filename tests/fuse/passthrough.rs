//! Files that the kernel reads and writes itself.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use selvedge_test_support::{Mounted, Repo, wait_until};

use crate::WORKER;
use crate::caches::requests;
use crate::snapshots::{assert_snapshots_are_of_one_instant, content, snapshot};
use crate::sys::{Mapping, aligned};

const LENGTH: usize = 8192;
const SOON: Duration = Duration::from_secs(20);

fn passing(repo: &Repo) -> Mounted {
    let mount = repo.mounting(WORKER).option("--passthrough").option("on").start();
    assert!(mount.ready().passthrough.active);
    mount
}

fn passed_opens(mount: &Mounted) -> u64 {
    mount.status(Duration::from_secs(5)).unwrap().passed_opens
}

/// Makes a file that the thread has changed, and waits until a new handle of it is passed through.
fn changed(mount: &Mounted, name: &str, bytes: &[u8]) -> PathBuf {
    let path = mount.path().join(name);
    fs::write(&path, bytes).unwrap();
    wait_until("a file to be passed through", SOON, || {
        let before = passed_opens(mount);
        drop(File::open(&path).unwrap());
        passed_opens(mount) > before
    });
    path
}

fn both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_file_that_is_passed_through_causes_no_requests() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    let path = changed(&mount, "file", &[1; LENGTH]);
    let file = both(&path);
    let mut block = [0; 4096];
    let served = requests(&mount, || {
        for round in 0..200_u8 {
            file.write_all_at(&[round; 4096], 4096).unwrap();
            file.read_exact_at(&mut block, 4096).unwrap();
            assert_eq!(block, [round; 4096]);
        }
    });
    assert_eq!(served, 0);
    let opened = passed_opens(&mount);
    let new = mount.path().join("new");
    let made = File::create_new(&new).unwrap();
    let served = requests(&mount, || (0..100).for_each(|at| made.write_all_at(b"x", at).unwrap()));
    // The kernel looks for set-id bits to take away, once.
    assert!(served <= 1, "{served} requests of a new file");
    let status = mount.status(Duration::from_secs(5)).unwrap();
    assert_eq!(status.passed_opens, opened + 1);
    assert_eq!((status.operations.get("read"), status.operations.get("write")), (None, None));
    drop((file, made));
    assert_eq!(fs::read(&new).unwrap(), [b'x'; 100]);
    mount.stop();
}

#[test]
fn without_it_a_mount_says_why() {
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).option("--passthrough").option("off").start();
    let passthrough = &mount.ready().passthrough;
    assert_eq!((passthrough.active, passthrough.reason.as_deref()), (false, Some("it is switched off")));
    fs::write(mount.path().join("file"), "x").unwrap();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"x");
    assert_eq!(passed_opens(&mount), 0);
    mount.stop();
}

#[test]
fn a_read_only_mount_passes_large_unchanged_files_through() {
    let large = vec![7; 4 << 20];
    let repo = Repo::with_tree(|source| fs::write(source.join("large"), &large).unwrap());
    let mount = repo.mounting(WORKER).option("--read-only").option("--passthrough").option("on").start();
    let file = File::open(mount.path().join("large")).unwrap();
    let mut bytes = vec![0; large.len()];
    let served = requests(&mount, || file.read_exact_at(&mut bytes, 0).unwrap());
    assert_eq!((served, passed_opens(&mount)), (0, 1));
    assert!(bytes == large);
    drop(file);
    mount.stop();
}

#[test]
fn a_large_file_that_is_used_much_is_passed_through_in_the_end() {
    const SIZE: usize = 16 << 20;
    let repo = Repo::with_tree(|source| fs::write(source.join("large"), vec![7; SIZE]).unwrap());
    let mount = passing(&repo);
    let path = mount.path().join("large");
    let mut expected = vec![7; SIZE];
    // Who changes all of it makes it whole in another way.
    let change = |expected: &mut Vec<u8>| {
        let file = both(&path);
        for at in (0..SIZE / 4).step_by(SIZE / 4 / 2500) {
            file.write_all_at(&[8; 100], at as u64).unwrap();
            expected[at..SIZE.min(at + 100)].fill(8);
        }
        file.metadata().unwrap()
    };
    let changed = change(&mut expected);
    assert_eq!(passed_opens(&mount), 0);
    wait_until("a file to become whole", SOON, || {
        drop(File::open(&path).unwrap());
        passed_opens(&mount) > 0
    });
    let whole = fs::metadata(&path).unwrap();
    assert_eq!(
        (whole.len(), whole.modified().unwrap(), whole.ctime_nsec()),
        (changed.len(), changed.modified().unwrap(), changed.ctime_nsec())
    );
    assert!(fs::read(&path).unwrap() == expected);
    let served = requests(&mount, || assert!(change(&mut expected).is_file()));
    assert!(served < 8, "{served} requests for an open, a close and what comes with them");
    assert!(fs::read(&path).unwrap() == expected);
    mount.stop();
}

/// One who has the file open.
#[derive(Debug)]
enum User {
    Reader(File),
    Writer(File),
    Direct(File),
    Mapped(Mapping),
    /// Without a handle.
    Stays(Mapping),
}

const USERS: usize = 5;

impl User {
    fn new(kind: usize, path: &Path) -> Self {
        match kind {
            0 => Self::Reader(File::open(path).unwrap()),
            1 => Self::Writer(both(path)),
            2 => Self::Direct(
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap(),
            ),
            3 => {
                let file = both(path);
                Self::Mapped(Mapping::shared(&file, LENGTH))
            }
            _ => Self::Stays(Mapping::read_only(&File::open(path).unwrap(), LENGTH)),
        }
    }

    /// Changes the first page, if this one can.
    fn write(&mut self, byte: u8) -> bool {
        match self {
            Self::Reader(_) | Self::Stays(_) => return false,
            Self::Writer(file) => file.write_all_at(&[byte; 100], 0).unwrap(),
            Self::Direct(file) => {
                let mut page = aligned(4096);
                page.fill(byte);
                file.write_all_at(&page, 0).unwrap();
            }
            Self::Mapped(mapping) => {
                mapping[..100].fill(byte);
                mapping.sync();
            }
        }
        true
    }

    fn see(&self) -> u8 {
        match self {
            Self::Reader(file) | Self::Writer(file) => {
                let mut bytes = [0; 100];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes[99]
            }
            Self::Direct(file) => {
                let mut page = aligned(4096);
                file.read_exact_at(&mut page, 0).unwrap();
                page[99]
            }
            Self::Mapped(mapping) | Self::Stays(mapping) => mapping[99],
        }
    }
}

/// Opens a file in three ways one after the other, changes it whenever somebody new can, and looks who sees what.
fn mix(mount: &Mounted, name: &str, kinds: [usize; 3], snapshots: bool) {
    let path = mount.path().join(name);
    let mut users: Vec<User> = Vec::new();
    let mut byte = b'a';
    for kind in kinds {
        users.push(User::new(kind, &path));
        for at in 0..users.len() {
            byte += 1;
            if users[at].write(byte) {
                for (seen, user) in users.iter().enumerate() {
                    assert_eq!(user.see(), byte, "{name} {kinds:?}: {user:?}, number {seen}, after {at}");
                }
                assert_eq!(fs::read(&path).unwrap()[99], byte, "{name} {kinds:?}");
            }
        }
        if snapshots {
            mount.freeze(SOON).unwrap();
        }
    }
    // The first goes while the others stay.
    users.remove(0);
    for at in 0..users.len() {
        byte += 1;
        if users[at].write(byte) {
            assert!(users.iter().all(|user| user.see() == byte), "{name} {kinds:?}");
        }
    }
    let last = users.iter().map(User::see).next_back().unwrap();
    drop(users);
    assert_eq!(fs::read(&path).unwrap()[99], last, "{name} {kinds:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64);
}

fn mixes() -> impl Iterator<Item = [usize; 3]> {
    (0..USERS.pow(3)).map(|mix| [mix % USERS, mix / USERS % USERS, mix / USERS / USERS])
}

#[test]
fn every_mix_of_opens_of_an_unchanged_file_shows_the_newest_bytes() {
    let repo = Repo::with_tree(|source| {
        for at in 0..USERS.pow(3) {
            fs::write(source.join(format!("f{at}")), [b'.'; LENGTH]).unwrap();
        }
    });
    let mount = passing(&repo);
    mixes().enumerate().for_each(|(at, kinds)| mix(&mount, &format!("f{at}"), kinds, false));
    mount.stop();
}

#[test]
fn every_mix_of_opens_of_a_changed_file_shows_the_newest_bytes() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    for (at, kinds) in mixes().enumerate() {
        let name = format!("f{at}");
        fs::write(mount.path().join(&name), [b'.'; LENGTH]).unwrap();
        mix(&mount, &name, kinds, false);
    }
    assert!(passed_opens(&mount) > 300);
    mount.stop();
}

#[test]
fn every_mix_of_opens_goes_on_through_freezes() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    for (at, kinds) in mixes().enumerate().filter(|(at, _)| at % 4 == 0) {
        let name = format!("f{at}");
        fs::write(mount.path().join(&name), [b'.'; LENGTH]).unwrap();
        mix(&mount, &name, kinds, true);
    }
    mount.stop();
}

#[test]
fn snapshots_hold_nothing_that_was_stored_later_through_a_mapping_whose_handle_is_closed() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    let path = changed(&mount, "file", &[b'.'; LENGTH]);
    let mut mapping = Mapping::shared(&both(&path), LENGTH);
    mapping[0] = b'1';
    let first = snapshot(&mount);
    mapping[0] = b'2';
    assert_eq!(fs::read(&path).unwrap()[0], b'2', "the file is still the one that is mapped");
    let before = fs::metadata(&path).unwrap();
    let second = snapshot(&mount);
    let after = fs::metadata(&path).unwrap();
    let times = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    assert_eq!((before.ino(), times(&before)), (after.ino(), times(&after)), "a snapshot is no change");
    mapping[0] = b'3';
    drop(mapping);
    assert_eq!(content(&repo, &first, "file")[0], b'1');
    assert_eq!(content(&repo, &second, "file")[0], b'2');
    assert_eq!(fs::read(&path).unwrap()[0], b'3');
    assert_eq!((first.moving.len(), second.moving.len()), (0, 0));
    mount.stop();
}

#[test]
fn a_snapshot_beside_writers_past_the_worker_is_one_instant_of_each() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    let paths = [0, 1, 2, 3].map(|writer| changed(&mount, &format!("w{writer}"), &[0; 8]));
    assert_snapshots_are_of_one_instant(&repo, &mount, &paths);
    mount.stop();
}

#[test]
fn size_and_times_are_those_of_the_file_however_it_was_changed() {
    let repo = Repo::empty();
    let mount = passing(&repo);
    let path = changed(&mount, "file", &[b'.'; LENGTH]);
    let file = both(&path);
    let old = fs::metadata(&path).unwrap();
    file.write_all_at(b"more", LENGTH as u64).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64 + 4);
    file.set_len(100).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    file.set_len(LENGTH as u64).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert!((before.mtime(), before.mtime_nsec()) > (old.mtime(), old.mtime_nsec()));
    std::thread::sleep(Duration::from_millis(30));
    let mut mapping = Mapping::shared(&file, LENGTH);
    drop(file);
    mapping[5000] = 1;
    mapping.sync();
    let after = fs::metadata(&path).unwrap();
    assert!(
        (after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()),
        "a store is a change"
    );
    drop(mapping);
    let mut append = OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut append, b"end").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), LENGTH as u64 + 3);
    drop(append);
    let last = fs::metadata(&path).unwrap();
    mount.stop();
    let mount = passing(&repo);
    let again = fs::metadata(mount.path().join("file")).unwrap();
    let shown = |meta: &fs::Metadata| (meta.ino(), meta.len(), meta.mtime_nsec(), meta.ctime_nsec());
    assert_eq!(shown(&again), shown(&last));
    mount.stop();
}

#[test]
fn a_write_by_somebody_else_takes_set_id_bits_away() {
    let repo = Repo::empty();
    let mount = repo
        .mounting(WORKER)
        .option("--allow-other")
        .option("--suid")
        .option("--passthrough")
        .option("on")
        .start();
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = changed(&mount, "file", b"program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    let opened = passed_opens(&mount);
    let written = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "printf more >>\"$1\"", "sh"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(written.success());
    assert_eq!(passed_opens(&mount), opened + 1);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(fs::read(&path).unwrap(), b"programmore");
    mount.stop();
}
