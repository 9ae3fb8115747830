//! What can be set of a mount, by what it makes of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::time::Duration;

use selvedge_test_support::{Mounted, Mounting, Repo};

use crate::caches::requests;
use crate::sys::Mapping;
use crate::{WORKER, errno};

fn set(mounting: Mounting, option: &str, value: &str) -> Mounting {
    mounting.option(option).option(value)
}

/// Requests that each of ten rounds of `work` causes after the first, rounded up.
fn each(mount: &Mounted, mut work: impl FnMut()) -> u64 {
    work();
    requests(mount, || (0..10).for_each(|_| work())).div_ceil(10)
}

fn small() -> Repo {
    Repo::with_tree(|source| fs::write(source.join("file"), b"content").unwrap())
}

#[test]
fn names_are_asked_for_again_when_their_time_is_up() {
    let repo = small();
    let mount = set(repo.mounting(WORKER), "--entry-ttl-ms", "0").start();
    let file = mount.path().join("file");
    assert!(each(&mount, || assert!(fs::symlink_metadata(&file).is_ok())) >= 1);
    mount.stop();
    let mount = set(repo.mounting(WORKER), "--entry-ttl-ms", "60000").start();
    assert_eq!(each(&mount, || assert!(fs::symlink_metadata(&file).is_ok())), 0);
    mount.stop();
}

#[test]
fn attributes_are_asked_for_again_when_their_time_is_up() {
    let repo = small();
    let mount = set(repo.mounting(WORKER), "--attr-ttl-ms", "0").start();
    let file = File::open(mount.path().join("file")).unwrap();
    assert_eq!(each(&mount, || assert!(file.metadata().is_ok())), 1);
    drop(file);
    mount.stop();
    let mount = set(repo.mounting(WORKER), "--attr-ttl-ms", "60000").start();
    let file = File::open(mount.path().join("file")).unwrap();
    assert_eq!(each(&mount, || assert!(file.metadata().is_ok())), 0);
    drop(file);
    mount.stop();
}

#[test]
fn absent_names_are_asked_for_again_when_their_time_is_up() {
    let repo = small();
    let mount = set(repo.mounting(WORKER), "--negative-ttl-ms", "0").start();
    let absent = mount.path().join("absent");
    assert_eq!(each(&mount, || assert_eq!(errno(fs::metadata(&absent)), libc::ENOENT)), 1);
    mount.stop();
}

#[test]
fn direct_io_reads_again_what_was_read_and_files_can_be_mapped_and_run() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("file"), vec![b'x'; 64 * 1024]).unwrap();
        fs::copy("/bin/true", source.join("true")).unwrap();
    });
    let mut room = vec![0; 64 * 1024];
    let mut counted = |mount: &Mounted| {
        let file = File::options().read(true).write(true).open(mount.path().join("file")).unwrap();
        each(mount, || file.read_exact_at(&mut room, 0).unwrap())
    };
    let usual = repo.mounting(WORKER).start();
    assert_eq!(counted(&usual), 0);
    usual.stop();
    let mount = repo.mounting(WORKER).option("--direct-io").start();
    assert!(counted(&mount) >= 1);
    let path = mount.path().join("file");
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut mapping = Mapping::shared(&file, 4096);
    mapping[0] = b'y';
    mapping.sync();
    drop(mapping);
    let mut first = [0];
    File::open(&path).unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, *b"y");
    drop(file);
    assert!(Command::new(mount.path().join("true")).status().unwrap().success());
    mount.stop();
}

#[test]
fn writes_are_cut_at_the_size_that_is_set() {
    let repo = small();
    let mut counted = Vec::new();
    for size in ["1048576", "65536"] {
        let mounting = set(repo.mounting(WORKER), "--passthrough", "off");
        let mount = set(mounting, "--max-write", size).start();
        let mut file = File::create(mount.path().join(size)).unwrap();
        counted.push(requests(&mount, || file.write_all(&vec![b'x'; 1 << 20]).unwrap()));
        drop(file);
        assert_eq!(fs::metadata(mount.path().join(size)).unwrap().len(), 1 << 20);
        mount.stop();
    }
    assert!((1..4).contains(&counted[0]) && (16..20).contains(&counted[1]), "{counted:?}");
}

#[test]
fn the_kernel_is_told_how_many_requests_it_may_have_in_the_background() {
    let repo = small();
    let mount = set(repo.mounting(WORKER), "--max-background", "7").start();
    // In a mount namespace of its own, because not every machine has this file system in its place.
    let number = mount.identity().device.minor;
    let look = "mount -t fusectl none /sys/fs/fuse/connections && cat \"/sys/fs/fuse/connections/$0/max_background\"";
    let said = Command::new("unshare").args(["-m", "sh", "-ec", look, &number.to_string()]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "7\n", "{said:?}");
    mount.stop();
}

#[test]
fn files_are_shown_to_belong_to_whom_is_set_and_keep_their_owners() {
    let repo = small();
    let mount = repo.mounting(WORKER).start();
    fs::write(mount.path().join("made"), b"").unwrap();
    let owners = |mount: &Mounted, name: &str| {
        let metadata = fs::metadata(mount.path().join(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    let own = owners(&mount, "made");
    mount.stop();
    let mount = set(set(repo.mounting(WORKER), "--uid", "1234"), "--gid", "4321").start();
    for name in ["file", "made", "."] {
        assert_eq!(owners(&mount, name), (1234, 4321), "{name}");
    }
    fs::create_dir(mount.path().join("later")).unwrap();
    assert_eq!(owners(&mount, "later"), (1234, 4321));
    let listed = fs::read_dir(mount.path()).unwrap().next().unwrap().unwrap().metadata().unwrap();
    assert_eq!((listed.uid(), listed.gid()), (1234, 4321));
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert_eq!((owners(&mount, "made"), owners(&mount, "later")), (own, own));
    mount.stop();
}

#[test]
fn as_many_threads_serve_as_are_set_and_a_successor_is_set_as_the_worker_before() {
    let repo = small();
    let mount = set(set(repo.mounting(WORKER), "--threads", "7"), "--max-write", "8192");
    let mount = mount.recovering().start();
    let serving = |pid: u32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.map(name).filter(|name| name.starts_with("fuser-")).count()
    };
    // It serves as soon as it has one of them.
    let all = || serving(mount.pid()) == 7;
    selvedge_test_support::wait_until("all threads", Duration::from_secs(10), all);
    let before = mount.pid();
    let worker = rustix::process::Pid::from_raw(before.cast_signed()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    // A successor that had come to another agreement with the kernel would not take over.
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"content");
    selvedge_test_support::wait_until("a successor", Duration::from_secs(10), || mount.pid() != before);
    fs::write(mount.path().join("new"), vec![b'x'; 100_000]).unwrap();
    selvedge_test_support::wait_until("all threads", Duration::from_secs(10), all);
    assert_eq!(mount.restarts(), 1);
    mount.stop();
}
