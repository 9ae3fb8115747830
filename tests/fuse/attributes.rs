//! Modes, owners, times, numbers.

use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, utimensat};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{WORKER, mounted};
use selvedge_test_support::Repo;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Numbers, owners, modes, sizes and times as `stat` shows them, links included.
fn shown(path: &Path) -> (u64, u64, u32, u32, u32, u64, i64, i64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let (ino, nlink, size) = (meta.ino(), meta.nlink(), meta.size());
    (ino, nlink, meta.mode(), meta.uid(), meta.gid(), size, times.0, times.1, times.2, times.3)
}

#[test]
fn stat_shows_what_was_imported() {
    let repo = Repo::with_tree(|source| {
        fs::create_dir_all(source.join("dir/sub")).unwrap();
        fs::write(source.join("dir/file"), b"12345").unwrap();
        fs::set_permissions(source.join("dir/file"), Permissions::from_mode(0o4751)).unwrap();
        chown(source.join("dir/sub"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::symlink("dir/file", source.join("link")).unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    for name in ["dir", "dir/sub", "dir/file", "link"] {
        let (there, here) = (shown(&repo.source().join(name)), shown(&mount.path().join(name)));
        if fs::symlink_metadata(repo.source().join(name)).unwrap().is_dir() {
            // A directory's size is its file system's own affair.
            assert_eq!(
                (there.0, there.1, there.2, there.6, there.9),
                (here.0, here.1, here.2, here.6, here.9)
            );
        } else {
            assert_eq!(there, here, "{name}");
        }
    }
    let before = shown(&mount.path().join("dir/file"));
    mount.stop();
    let mount = repo.mounting(WORKER).start();
    assert_eq!(shown(&mount.path().join("dir/file")), before);
    mount.stop();
}

#[test]
fn times_are_set_to_the_nanosecond_before_1970_too() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    let file = File::create_new(&path).unwrap();
    let times = [
        (UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789), UNIX_EPOCH - Duration::new(3, 300_000_001)),
        (UNIX_EPOCH - Duration::new(0, 1), UNIX_EPOCH + Duration::new(1 << 33, 999_999_999)),
    ];
    for (accessed, modified) in times {
        file.set_times(FileTimes::new().set_accessed(accessed).set_modified(modified)).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.accessed().unwrap(), meta.modified().unwrap()), (accessed, modified));
    }
    drop(file);
    mount.stop();
}

#[test]
fn the_farthest_times_do_no_harm() {
    let (_repo, mount) = mounted();
    let (path, file) = (mount.path().join("directory"), mount.path().join("file"));
    fs::create_dir(&path).unwrap();
    File::create_new(&file).unwrap();
    for tv_sec in [i64::MIN, i64::MIN + 1, i64::MAX] {
        let time = Timespec { tv_sec, tv_nsec: 999_999_999 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        // The kernel takes the nanoseconds off the first and the last second there is.
        assert_eq!(fs::metadata(&path).unwrap().mtime(), tv_sec);
        // A file whose bytes the disk has, has the time to which the disk brings it.
        utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mtime() < 0, tv_sec < 0);
    }
    mount.stop();
}

#[test]
fn utimensat_knows_now_and_omit() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    File::create_new(&path).unwrap();
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let past = Timespec { tv_sec: 1000, tv_nsec: 5 };
    let set = |last_access, last_modification| {
        utimensat(CWD, &path, &Timestamps { last_access, last_modification }, AtFlags::empty()).unwrap();
        fs::metadata(&path).unwrap()
    };
    let meta = set(past, past);
    assert_eq!((meta.atime(), meta.mtime(), meta.mtime_nsec()), (1000, 1000, 5));
    let start = SystemTime::now() - Duration::from_secs(1);
    let meta = set(omit, Timespec { tv_sec: 0, tv_nsec: UTIME_NOW });
    assert_eq!(meta.atime(), 1000);
    assert!(meta.modified().unwrap() >= start);
    mount.stop();
}

#[test]
fn changes_move_the_right_times() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    fs::write(&path, b"x").unwrap();
    let past = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(5));
    File::open(&path).unwrap().set_times(past).unwrap();
    let before = fs::metadata(&path).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let chmodded = fs::metadata(&path).unwrap();
    assert_eq!(chmodded.modified().unwrap(), before.modified().unwrap());
    assert!((chmodded.ctime(), chmodded.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"y").unwrap();
    assert!(fs::metadata(&path).unwrap().modified().unwrap() > before.modified().unwrap());
    let directory = fs::metadata(mount.path()).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    fs::remove_file(&path).unwrap();
    assert!(fs::metadata(mount.path()).unwrap().modified().unwrap() > directory);
    mount.stop();
}

#[test]
fn the_umask_applies() {
    let (_repo, mount) = mounted();
    let script = "umask 027; cd \"$1\"; mkdir dir; touch file; mkfifo fifo";
    assert!(Command::new("sh").args(["-c", script, "sh"]).arg(mount.path()).status().unwrap().success());
    assert_eq!(mode(&mount.path().join("dir")), 0o750);
    assert_eq!(mode(&mount.path().join("file")), 0o640);
    assert_eq!(mode(&mount.path().join("fifo")), 0o640);
    mount.stop();
}

#[test]
fn directories_hand_down_their_group() {
    let (_repo, mount) = mounted();
    let dir = mount.path().join("dir");
    fs::create_dir(&dir).unwrap();
    chown(&dir, None, Some(4321)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o2775)).unwrap();
    fs::write(dir.join("file"), b"").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 4321);
    assert_eq!(fs::metadata(dir.join("sub")).unwrap().gid(), 4321);
    assert_eq!(mode(&dir.join("sub")) & 0o2000, 0o2000);
    mount.stop();
}

#[test]
fn a_directory_counts_its_subdirectories() {
    let (_repo, mount) = mounted();
    let links = || fs::metadata(mount.path()).unwrap().nlink();
    assert_eq!(links(), 2);
    fs::create_dir(mount.path().join("one")).unwrap();
    fs::create_dir(mount.path().join("two")).unwrap();
    assert_eq!(links(), 4);
    fs::rename(mount.path().join("one"), mount.path().join("two/one")).unwrap();
    assert_eq!(links(), 3);
    fs::remove_dir(mount.path().join("two/one")).unwrap();
    fs::remove_dir(mount.path().join("two")).unwrap();
    assert_eq!(links(), 2);
    mount.stop();
}

/// Runs `script` with `$1` set to `path`, as a user without privileges.
fn as_nobody(script: &str, path: &Path) {
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let status =
        Command::new("setpriv").args(ids).args(["sh", "-c", script, "sh"]).arg(path).status().unwrap();
    assert!(status.success(), "{script}: {status}");
}

#[test]
fn set_id_bits_go_when_somebody_else_writes() {
    assert_set_id_bits_go_with_a_write(&[]);
}

/// On a mount with these options, too.
pub(crate) fn assert_set_id_bits_go_with_a_write(options: &[&str]) {
    let repo = Repo::with_tree(|source| {
        for name in ["write", "truncate", "direct"] {
            fs::write(source.join(name), b"program").unwrap();
            fs::set_permissions(source.join(name), Permissions::from_mode(0o6777)).unwrap();
        }
    });
    // Where the temporary directory is another user's, the way to the mount must be open to this one.
    fs::set_permissions(repo.dir(), Permissions::from_mode(0o755)).unwrap();
    let mounting = repo.mounting(WORKER).option("--allow-other");
    let mount = options.iter().fold(mounting, |mounting, option| mounting.option(option)).start();
    let path = |name: &str| mount.path().join(name);
    assert_eq!(mode(&path("write")), 0o6777);
    as_nobody("printf x >>\"$1\"", &path("write"));
    assert_eq!(mode(&path("write")), 0o777);
    as_nobody("truncate -s 2 \"$1\"", &path("truncate"));
    assert_eq!(mode(&path("truncate")), 0o777);
    as_nobody(
        "dd if=/dev/zero of=\"$1\" bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null",
        &path("direct"),
    );
    assert_eq!(mode(&path("direct")), 0o777);
    // Whoever is allowed to set them keeps them.
    fs::set_permissions(path("write"), Permissions::from_mode(0o6777)).unwrap();
    OpenOptions::new().append(true).open(path("write")).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&path("write")), 0o6777);
    mount.stop();
}

#[test]
fn set_id_bits_go_with_the_owner() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    fs::write(&path, b"program").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
    chown(&path, Some(65534), None).unwrap();
    assert_eq!((mode(&path), fs::metadata(&path).unwrap().uid()), (0o755, 65534));
    mount.stop();
}

/// Only the calling thread becomes another user, and stays it.
fn chown_to_nobody_as_nobody(path: &Path) -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(None, Gid::from_raw(65534), None)?;
    set_thread_res_uid(None, Uid::from_raw(65534), None)?;
    rustix::fs::chown(path, None, None)
}

#[test]
fn chown_to_nobody_takes_set_id_bits_from_files_of_the_caller_alone() {
    let tree = |root: &Path| {
        for (name, bits) in [("user", 0o4777), ("group", 0o2777), ("locked", 0o2767)] {
            fs::write(root.join(name), b"program").unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(bits)).unwrap();
        }
        fs::create_dir(root.join("directory")).unwrap();
        fs::set_permissions(root.join("directory"), Permissions::from_mode(0o2777)).unwrap();
        fs::write(root.join("own"), b"program").unwrap();
        chown(root.join("own"), Some(65534), Some(65534)).unwrap();
        fs::set_permissions(root.join("own"), Permissions::from_mode(0o6777)).unwrap();
    };
    for option in ["--allow-other", "--writeback"] {
        let repo = Repo::with_tree(tree);
        fs::set_permissions(repo.dir(), Permissions::from_mode(0o755)).unwrap();
        let host = repo.dir().join("host");
        fs::create_dir(&host).unwrap();
        tree(&host);
        let mount = repo.mounting(WORKER).option("--allow-other").option(option).start();
        for name in ["user", "group", "locked", "directory", "own"] {
            let outcome = |root: &Path| {
                let path = root.join(name);
                let asked =
                    thread::scope(|scope| scope.spawn(|| chown_to_nobody_as_nobody(&path)).join().unwrap());
                (asked, mode(&path))
            };
            assert_eq!(outcome(mount.path()), outcome(&host), "{name} {option}");
        }
        mount.stop();
    }
}

#[test]
fn permissions_hold_for_other_users() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("secret"), b"x").unwrap();
        fs::set_permissions(source.join("secret"), Permissions::from_mode(0o600)).unwrap();
        fs::write(source.join("open"), b"x").unwrap();
    });
    fs::set_permissions(repo.dir(), Permissions::from_mode(0o755)).unwrap();
    let mount = repo.mounting(WORKER).option("--allow-other").start();
    as_nobody("! cat \"$1\" 2>/dev/null", &mount.path().join("secret"));
    as_nobody("cat \"$1\" >/dev/null", &mount.path().join("open"));
    as_nobody("! rm -f \"$1\" 2>/dev/null", &mount.path().join("open"));
    mount.stop();
}

#[test]
fn the_disk_is_the_one_that_holds_the_repository() {
    let (repo, mount) = mounted();
    let (here, there) =
        (rustix::fs::statvfs(mount.path()).unwrap(), rustix::fs::statvfs(repo.path()).unwrap());
    assert_eq!((here.f_blocks * here.f_frsize, here.f_namemax), (there.f_blocks * there.f_frsize, 255));
    mount.stop();
}
