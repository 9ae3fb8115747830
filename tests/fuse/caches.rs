//! What the kernel answers by itself.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::Duration;

use crate::{WORKER, errno, mounted};
use selvedge_test_support::{Mounted, Repo, wait_until};

/// Requests that `work` causes.
pub(crate) fn requests(mount: &Mounted, work: impl FnOnce()) -> u64 {
    // The kernel hears the answer to a request before the worker has counted it.
    let served = || {
        let mut count = 0;
        wait_until("an idle worker", Duration::from_secs(10), || {
            let status = mount.status(Duration::from_secs(5)).unwrap();
            count = status.requests;
            status.oldest_request_ms.is_none()
        });
        count
    };
    let before = served();
    work();
    served() - before
}

#[test]
fn known_names_and_attributes_cause_no_requests() {
    let repo = Repo::with_tree(|source| {
        fs::create_dir(source.join("dir")).unwrap();
        fs::write(source.join("dir/file"), b"x").unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    let file = mount.path().join("dir/file");
    fs::metadata(&file).unwrap();
    let again = requests(&mount, || (0..100).for_each(|_| assert!(fs::metadata(&file).is_ok())));
    assert_eq!(again, 0);
    mount.stop();
}

#[test]
fn absent_names_are_remembered_until_they_appear() {
    let (_repo, mount) = mounted();
    let absent = mount.path().join("absent");
    assert_eq!(errno(fs::metadata(&absent)), libc::ENOENT);
    let again = requests(&mount, || {
        for _ in 0..100 {
            assert_eq!(errno(fs::metadata(&absent)), libc::ENOENT);
        }
    });
    assert_eq!(again, 0);
    fs::write(&absent, b"here").unwrap();
    assert_eq!(fs::read(&absent).unwrap(), b"here");
    fs::remove_file(&absent).unwrap();
    assert_eq!(errno(fs::metadata(&absent)), libc::ENOENT);
    mount.stop();
}

#[test]
fn content_that_was_read_is_not_read_again() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("file"), vec![b'x'; 2 << 20]).unwrap();
        symlink("file", source.join("link")).unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    let file = mount.path().join("file");
    fs::read(&file).unwrap();
    fs::read_link(mount.path().join("link")).unwrap();
    // Open, flush, release, and now and then the attributes: the content itself, which takes 16 requests at the
    // kernel's pace of reading ahead, comes from the page cache.
    let again = requests(&mount, || (0..10).for_each(|_| drop(fs::read(&file).unwrap())));
    assert!(again <= 60, "{again} requests");
    let links =
        requests(&mount, || (0..100).for_each(|_| assert!(fs::read_link(mount.path().join("link")).is_ok())));
    assert!(links <= 1, "{links} requests");
    mount.stop();
}

#[test]
fn a_writer_sees_its_own_sizes_and_times_at_once() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    let file = File::create_new(&path).unwrap();
    for length in [1_u64, 4096, 100_000, 5, 0] {
        file.set_len(length).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
    }
    fs::hard_link(&path, mount.path().join("second")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.metadata().unwrap()), 2);
    drop(file);
    mount.stop();
}

#[test]
fn a_listing_brings_the_attributes_along() {
    const FILES: u64 = 500;
    let repo = Repo::with_tree(|source| {
        for number in 0..FILES {
            fs::write(source.join(number.to_string()), b"x").unwrap();
        }
    });
    let mount = repo.mounting(WORKER).start();
    fs::write(mount.path().join("new"), b"12345").unwrap();
    fs::remove_file(mount.path().join("7")).unwrap();
    fs::rename(mount.path().join("8"), mount.path().join("9")).unwrap();
    let mut seen = 0;
    let asked = requests(&mount, || {
        for entry in fs::read_dir(mount.path()).unwrap() {
            let entry = entry.unwrap();
            let length = if entry.file_name() == "new" { 5 } else { 1 };
            assert_eq!(entry.metadata().unwrap().len(), length);
            seen += 1;
        }
    });
    assert_eq!(seen, FILES + 1 - 2);
    assert!(asked < FILES / 5, "{asked} requests for {seen} files");
    // What the kernel was told of the directory is right.
    assert_eq!(errno(fs::metadata(mount.path().join("7"))), libc::ENOENT);
    assert_eq!(fs::read(mount.path().join("9")).unwrap(), b"x");
    mount.stop();
}
