//! What is open, locked, mapped or half listed when the worker is killed goes on afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Dir, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use selvedge_supervisor::State;
use selvedge_test_support::Mounted;

use crate::application::{Application, Talk};
use crate::scene::{mounting, repo, unasked};
use crate::sys::{Mapping, aligned, lock_description};

#[test]
fn what_is_open_locked_mapped_or_half_listed_goes_on_when_the_worker_is_killed() {
    let repo = repo();
    assert_open_things_go_on(mounting(&repo).start());
}

#[test]
fn what_the_kernel_opened_without_asking_goes_on_when_the_worker_is_killed() {
    let repo = repo();
    assert_open_things_go_on(unasked(mounting(&repo)).start());
}

fn assert_open_things_go_on(mount: Mounted) {
    let first = mount.pid();
    Application::start("open", mount.path(), 1).serve(&mount);
    assert_eq!((mount.restarts(), mount.state()), (3, State::Ready));
    assert_ne!(mount.pid(), first);
    assert_eq!(mount.last_cause().as_deref(), Some("signal 9"));
    mount.stop();
}

fn create(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn open_things_go_on(talk: &Talk) {
    let dir = &talk.dir;
    let mut file = create(&dir.join("new"));
    file.write_all(b"before").unwrap();
    let mut gone = create(&dir.join("gone"));
    gone.write_all(b"still here").unwrap();
    fs::remove_file(dir.join("gone")).unwrap();
    fs::create_dir(dir.join("gone too")).unwrap();
    let gone_directory = directory(&dir.join("gone too"));
    fs::remove_dir(dir.join("gone too")).unwrap();
    let base = File::open(dir.join("large")).unwrap();
    let mut append = OpenOptions::new().append(true).open(dir.join("w0/f0")).unwrap();
    let length = append.metadata().unwrap().len();

    let locked = File::open(dir.join("w0/f1")).unwrap();
    flock(&locked, FlockOperation::LockExclusive).unwrap();
    let rival = File::open(dir.join("w0/f1")).unwrap();

    let described = File::create(dir.join("described")).unwrap();
    lock_description(&described).unwrap();
    let other = File::create(dir.join("described")).unwrap();

    let mut mapping = Mapping::shared(&file, 4096);
    let mut names = BTreeSet::new();
    let mut listing = Dir::new(directory(&dir.join("many"))).unwrap();
    let inode = file.metadata().unwrap().ino();

    for round in 0..3_u8 {
        for _ in 0..100 {
            let entry = listing.read().unwrap().unwrap();
            assert!(names.insert(entry.file_name().to_owned()), "{:?} comes twice", entry.file_name());
        }
        talk.replace_worker();
        file.write_all(b", after").unwrap();
        let mut content = String::new();
        gone.seek(SeekFrom::Start(0)).unwrap();
        gone.read_to_string(&mut content).unwrap();
        assert_eq!(content, "still here");
        gone.set_len(10).unwrap();
        assert_eq!(gone.metadata().unwrap().nlink(), 0);
        assert_eq!(rustix::fs::fstat(&gone_directory).unwrap().st_nlink, 0);
        assert_eq!(Dir::read_from(&gone_directory).unwrap().filter_map(Result::ok).count(), 0);

        let direct =
            OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(dir.join("new")).unwrap();
        let mut buffer = aligned(4096);
        assert_eq!(direct.read_at(&mut buffer, 0).unwrap(), 6 + 7 * (usize::from(round) + 1));
        assert_eq!(base.read_at(&mut buffer, 1 << 20).unwrap(), 4096);
        assert_eq!(flock(&rival, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));

        assert_eq!(lock_description(&other).unwrap_err().kind(), ErrorKind::WouldBlock);

        mapping[0] = b'B' + round;
        mapping.sync();
        let mut byte = [0];
        assert_eq!(direct.read_at(&mut buffer, 0).unwrap(), 6 + 7 * (usize::from(round) + 1));
        byte[0] = buffer[0];
        assert_eq!(byte[0], b'B' + round, "what was stored through a mapping");
        append.write_all(&[round]).unwrap();
    }
    while let Some(entry) = listing.read() {
        let entry = entry.unwrap();
        assert!(names.insert(entry.file_name().to_owned()), "{:?} comes twice", entry.file_name());
    }
    // With `.` and `..`.
    assert_eq!(names.len(), 502);
    assert_eq!(append.metadata().unwrap().len(), length + 3);
    assert_eq!(fs::metadata(dir.join("new")).unwrap().ino(), inode);
    assert_eq!(fs::read(dir.join("new")).unwrap(), b"Defore, after, after, after");
}
