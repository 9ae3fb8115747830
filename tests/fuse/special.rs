//! What is neither file, directory nor link; and what the kernel does by itself.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, fcntl_lock, flock, makedev, mknodat};
use rustix::io::Errno;

use crate::{WORKER, mounted};
use selvedge_test_support::Repo;

#[test]
fn special_files_are_made_and_shown() {
    let repo = Repo::empty();
    let mount = repo.mounting(WORKER).start();
    let (fifo, device) = (mount.path().join("fifo"), mount.path().join("null"));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3)).unwrap();
    let large = makedev(0xabc, 0xf_1234);
    mknodat(CWD, mount.path().join("large"), FileType::BlockDevice, Mode::from_raw_mode(0o600), large)
        .unwrap();
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert!(fs::metadata(mount.path().join("fifo")).unwrap().file_type().is_fifo());
    let meta = fs::metadata(mount.path().join("null")).unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.rdev(), makedev(1, 3));
    assert_eq!(fs::metadata(mount.path().join("large")).unwrap().rdev(), large);
    mount.stop();
}

#[test]
fn pipes_and_sockets_connect_two_programs() {
    let (_repo, mount) = mounted();
    let socket = mount.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut client = UnixStream::connect(&socket).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    server.read_exact(&mut byte).unwrap();

    let fifo = mount.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut both = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    both.write_all(b"y").unwrap();
    both.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"y");
    drop((client, server, listener, both));
    mount.stop();
}

#[test]
fn devices_do_not_work_unless_asked_for() {
    let repo = Repo::empty();
    let make = |path: &std::path::Path| {
        mknodat(CWD, path.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3))
    };
    let mount = repo.mounting(WORKER).start();
    make(mount.path()).unwrap();
    assert_eq!(crate::errno(File::open(mount.path().join("null"))), libc::EACCES);
    mount.stop();
    let mount = repo.mounting(WORKER).option("--dev").start();
    File::open(mount.path().join("null")).unwrap();
    mount.stop();
}

#[test]
fn locks_exclude_each_other() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    let one = File::create_new(&path).unwrap();
    let two = OpenOptions::new().write(true).open(&path).unwrap();
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    flock(&one, FlockOperation::Unlock).unwrap();
    flock(&two, FlockOperation::NonBlockingLockExclusive).unwrap();
    fcntl_lock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop((one, two));
    mount.stop();
}

#[test]
fn files_are_always_ready() {
    let (_repo, mount) = mounted();
    let file = File::create_new(mount.path().join("file")).unwrap();
    for _ in 0..2 {
        let mut fds = [PollFd::new(&file, PollFlags::IN | PollFlags::OUT)];
        assert_eq!(poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 })).unwrap(), 1);
        assert!(fds[0].revents().contains(PollFlags::OUT));
    }
    drop(file);
    mount.stop();
}

#[test]
fn a_handle_opens_the_file_while_the_kernel_knows_it() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    std::fs::write(&path, b"by handle").unwrap();
    let root = File::open(mount.path()).unwrap();
    let mut again = crate::sys::reopen_by_handle(&root, &path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut content = Vec::new();
    again.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"by handle");
    drop((again, root));
    mount.stop();
}

#[test]
fn a_worker_out_of_descriptors_says_so_and_goes_on() {
    let repo = Repo::empty();
    let limited = ["-c", "ulimit -n 64 && exec \"$@\"", "sh"];
    let mount = repo.mounting(WORKER).through("sh", &limited).start();
    let mut open = Vec::new();
    let refused = loop {
        assert!(open.len() < 64, "the worker has fewer descriptors than that");
        let path = mount.path().join(format!("file{}", open.len()));
        match File::create_new(path).and_then(|mut file| file.write_all(b"x").map(|()| file)) {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    for mut file in open {
        file.write_all(b"y").unwrap();
    }
    std::fs::write(mount.path().join("again"), b"z").unwrap();
    assert_eq!(std::fs::read(mount.path().join("file3")).unwrap(), b"xy");
    mount.stop();
}
