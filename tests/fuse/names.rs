//! Creating, linking, renaming, removing.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{WORKER, errno, mounted};
use selvedge_test_support::Repo;

#[test]
fn files_are_created_written_read_renamed_and_removed() {
    let (_repo, mount) = mounted();
    let (one, two) = (mount.path().join("one"), mount.path().join("two"));
    fs::write(&one, b"content").unwrap();
    assert_eq!(fs::read(&one).unwrap(), b"content");
    fs::rename(&one, &two).unwrap();
    assert_eq!(errno(fs::metadata(&one)), libc::ENOENT);
    assert_eq!(fs::read(&two).unwrap(), b"content");
    fs::remove_file(&two).unwrap();
    assert_eq!(errno(fs::read(&two)), libc::ENOENT);
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    mount.stop();
}

#[test]
fn an_existing_name_is_not_created_again() {
    let (_repo, mount) = mounted();
    let path = mount.path().join("file");
    File::create_new(&path).unwrap();
    assert_eq!(errno(File::create_new(&path)), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(&path)), libc::EEXIST);
    assert_eq!(errno(symlink("x", &path)), libc::EEXIST);
    mount.stop();
}

#[test]
fn what_is_done_survives_a_remount() {
    let repo = Repo::with_tree(|source| {
        fs::create_dir(source.join("base")).unwrap();
        fs::write(source.join("base/kept"), b"kept").unwrap();
        fs::write(source.join("base/changed"), b"before").unwrap();
        fs::write(source.join("base/removed"), b"gone").unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    let base = mount.path().join("base");
    fs::write(base.join("changed"), b"after").unwrap();
    fs::remove_file(base.join("removed")).unwrap();
    fs::rename(&base, mount.path().join("moved")).unwrap();
    symlink("moved/kept", mount.path().join("link")).unwrap();
    mount.stop();

    let mount = repo.mounting(WORKER).start();
    let moved = mount.path().join("moved");
    assert_eq!(fs::read(moved.join("changed")).unwrap(), b"after");
    assert_eq!(fs::read(mount.path().join("link")).unwrap(), b"kept");
    let mut names: Vec<_> = fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["changed", "kept"]);
    mount.stop();
    assert_eq!(fs::read(repo.source().join("base/changed")).unwrap(), b"before");
}

#[test]
fn names_are_bytes_up_to_255() {
    let (_repo, mount) = mounted();
    let longest = OsString::from_vec([&[0xff, 0xfe, b'\n', b'\\'][..], &[0xe4; 251]].concat());
    assert_eq!(longest.len(), 255);
    fs::write(mount.path().join(&longest), b"x").unwrap();
    let listed: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, std::slice::from_ref(&longest));
    assert_eq!(fs::read(mount.path().join(&longest)).unwrap(), b"x");
    let mut longer = longest.into_vec();
    longer.push(b'x');
    assert_eq!(errno(fs::write(mount.path().join(OsString::from_vec(longer)), b"")), libc::ENAMETOOLONG);
    mount.stop();
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let (_repo, mount) = mounted();
    let (one, two) = (mount.path().join("one"), mount.path().join("two"));
    fs::write(&one, b"1").unwrap();
    fs::write(&two, b"2").unwrap();
    let kept = renameat_with(CWD, &one, CWD, &two, RenameFlags::NOREPLACE);
    assert_eq!(kept, Err(rustix::io::Errno::EXIST));
    renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&one).unwrap(), fs::read(&two).unwrap()), (b"2".to_vec(), b"1".to_vec()));
    renameat_with(CWD, &one, CWD, &two, RenameFlags::WHITEOUT).unwrap();
    assert_eq!(fs::read(&two).unwrap(), b"2");
    let whiteout = fs::symlink_metadata(&one).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!((whiteout.rdev(), whiteout.mode() & 0o7777), (0, 0));
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::create_dir(mount.path().join("dir/beneath")).unwrap();
    let beneath = fs::rename(mount.path().join("dir"), mount.path().join("dir/beneath/dir"));
    assert_eq!(errno(beneath), libc::EINVAL);
    assert_eq!(errno(fs::rename(&two, mount.path().join("dir"))), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(mount.path().join("dir"))), libc::ENOTEMPTY);
    mount.stop();
}

#[test]
fn hard_links_are_one_file() {
    let repo = Repo::with_tree(|source| {
        fs::write(source.join("a"), b"linked").unwrap();
        fs::hard_link(source.join("a"), source.join("b")).unwrap();
    });
    let mount = repo.mounting(WORKER).start();
    let [a, b, c] = ["a", "b", "c"].map(|name| mount.path().join(name));
    assert_eq!(fs::metadata(&a).unwrap().nlink(), 2);
    fs::hard_link(&a, &c).unwrap();
    OpenOptions::new().append(true).open(&b).unwrap().write_all(b" and changed").unwrap();
    for path in [&a, &b, &c] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.nlink(), meta.ino()), (3, fs::metadata(&a).unwrap().ino()));
        assert_eq!(fs::read(path).unwrap(), b"linked and changed");
    }
    fs::remove_file(&a).unwrap();
    assert_eq!(fs::metadata(&c).unwrap().nlink(), 2);
    assert_eq!(fs::read(&c).unwrap(), b"linked and changed");
    mount.stop();
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    let repo = Repo::with_tree(|source| fs::write(source.join("base"), b"of the base").unwrap());
    let mount = repo.mounting(WORKER).start();
    for (name, content) in [("base", &b"of the base"[..]), ("new", b"of today")] {
        let path = mount.path().join(name);
        if name == "new" {
            fs::write(&path, content).unwrap();
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        file.write_all(b", more").unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), content.len() as u64 + 6);
    }
    mount.stop();
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let repo = Repo::with_tree(|source| fs::write(source.join("file"), b"kept").unwrap());
    let mount = repo.mounting(WORKER).option("--read-only").start();
    let file = mount.path().join("file");
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    assert_eq!(errno(fs::write(&file, b"changed")), libc::EROFS);
    assert_eq!(errno(fs::remove_file(&file)), libc::EROFS);
    assert_eq!(errno(File::create_new(mount.path().join("new"))), libc::EROFS);
    assert_eq!(errno(fs::rename(&file, mount.path().join("new"))), libc::EROFS);
    assert!(mount.status(std::time::Duration::from_secs(5)).unwrap().read_only);
    mount.stop();
}
