//! What is imported and exported again is the same tree, byte for byte.

use crate::common::host::{describe, mknod, path, set_mtime};
use crate::common::{Fixture, blob_of};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, XattrFlags};
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn every_kind_of_file_comes_back_byte_for_byte() {
    let fixture = Fixture::new();
    let at = |name: &str| fixture.source.join(name);
    std::fs::create_dir_all(at("a/b/empty")).unwrap();
    std::fs::write(at("a/small"), b"small").unwrap();
    std::fs::write(at("a/large"), blob_of(3_000_000)).unwrap();
    std::fs::write(at("empty"), b"").unwrap();
    std::fs::write(fixture.source.join(path(b"not \xff\xfe utf-8\n")), b"x").unwrap();
    std::fs::write(fixture.source.join(path(&[b'n'; 255])), b"long").unwrap();
    symlink("a/b/../small", at("link")).unwrap();
    symlink(path(b"dangling \xff"), at("a/dangling")).unwrap();
    std::fs::hard_link(at("a/small"), at("a/b/second name")).unwrap();
    std::fs::hard_link(at("link"), at("second link")).unwrap();
    mknod(&at("pipe"), FileType::Fifo, 0);
    mknod(&at("socket"), FileType::Socket, 0);
    mknod(&at("char"), FileType::CharacterDevice, rustix::fs::makedev(1, 7));
    mknod(&at("block"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    sparse.write_all_at(b"data", 4 << 20).unwrap();
    drop(sparse);
    File::create(at("all hole")).unwrap().set_len(5000).unwrap();
    for (name, mode) in
        [("a/small", 0o4755), ("empty", 0o000), ("a/b", 0o3771), ("pipe", 0o604), ("a/large", 0o444)]
    {
        set_mode(&at(name), mode);
    }
    chown(at("empty"), Some(1234), Some(5678)).expect("this test runs as root");
    lchown(at("link"), Some(99), Some(98)).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("a/small", "user.note", b"\0\xff");
    set("a/b", "user.empty", b"");
    set("link", "trusted.of a link", b"t");
    // An access list: the owner, user 7, the group, the mask and others.
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x07\0\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    set("a/large", "system.posix_acl_access", acl);
    set("a/b", "system.posix_acl_default", acl);
    for (name, sec, nsec) in [
        ("a/small", -5, 1),
        ("link", 1_000_000_000, 999_999_999),
        ("a/b/empty", 0, 0),
        ("pipe", 7, 8),
        ("a/b", 1, 2),
        ("a", 3, 4),
        ("", 4_000_000_000, 5),
    ] {
        set_mtime(&at(name), sec, nsec);
    }
    let before = describe(&fixture.source);
    let report = fixture.import();
    assert_eq!(report.files, before.len() as u64 - 1);
    assert_eq!((report.changed.len(), report.vanished.len(), report.skipped_mounts.len()), (0, 0, 0));
    let bytes = 5 + 3_000_000 + 1 + 4 + (10 << 20) + 5000;
    assert_eq!((report.bytes, report.new_bytes), (bytes, bytes));
    let dest = fixture.dest("dest");
    let exported = fixture.export(&report.snapshot, &dest, false).unwrap();
    assert_eq!((exported.files, exported.bytes), (report.files, report.bytes));
    assert!(exported.skipped.is_empty() && exported.owner_lost.is_empty() && exported.xattrs_lost.is_empty());
    let after = describe(&dest);
    for (name, description) in &before {
        assert_eq!(after.get(name), Some(description), "{}", name.display());
    }
    assert_eq!(after.len(), before.len());
    // Once more into the same place: nothing changes.
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(describe(&dest), before);
}

#[test]
fn a_tree_deeper_than_any_path_comes_back() {
    let fixture = Fixture::new();
    let name = "d".repeat(200);
    let mut at =
        rustix::fs::openat(CWD, &fixture.source, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .unwrap();
    let depth = 60;
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
        at =
            rustix::fs::openat(&at, &name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    let bottom = rustix::fs::openat(
        &at,
        "bottom",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        rustix::fs::Mode::RUSR,
    )
    .unwrap();
    rustix::io::write(&bottom, b"deep").unwrap();
    let report = fixture.import();
    assert_eq!((report.files, report.bytes), (depth + 1, 4));
    let deep = vec![&*name; 60].join("/");
    assert_eq!(fixture.entry(&report.snapshot, &format!("{deep}/bottom")).unwrap().size(), 4);
    let dest = fixture.dest("dest");
    assert_eq!(fixture.export(&report.snapshot, &dest, false).unwrap().files, depth + 1);
    assert_eq!(fixture.export(&report.snapshot, &dest, true).unwrap().files, depth + 1);
    // Removing it is as deep.
    std::fs::create_dir(fixture.dir.path().join("nothing")).unwrap();
    let empty = Fixture { source: fixture.dir.path().join("nothing"), ..fixture };
    let nothing = empty.import();
    empty.export(&nothing.snapshot, &dest, true).unwrap();
    assert_eq!(std::fs::read_dir(&dest).unwrap().count(), 0);
}

/// One step in the making of a random tree.
#[derive(Debug, Clone)]
enum Step {
    Directory(u8),
    File { name: u8, size: u32, hole: Option<u32> },
    Symlink(u8),
    Link(u8),
    Fifo(u8),
    Xattr(u8),
    Mode(u16),
    Time(i32, u32),
    Up,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u8>().prop_map(Step::Directory),
        (any::<u8>(), 0..200_000_u32, proptest::option::of(0..300_000_u32))
            .prop_map(|(name, size, hole)| Step::File { name, size, hole }),
        any::<u8>().prop_map(Step::Symlink),
        any::<u8>().prop_map(Step::Link),
        any::<u8>().prop_map(Step::Fifo),
        any::<u8>().prop_map(Step::Xattr),
        any::<u16>().prop_map(Step::Mode),
        (any::<i32>(), 0..1_000_000_000_u32).prop_map(|(sec, nsec)| Step::Time(sec, nsec)),
        Just(Step::Up),
    ]
}

fn build(root: &Path, steps: &[Step]) {
    let mut at = root.to_owned();
    let mut last = root.to_owned();
    for step in steps {
        // Names are any byte that can be one, and thus often not UTF-8.
        let named = |name: &u8| at.join(path(&[b'n', *name | 0x80]));
        // What is taken already, or cannot be linked, is let be: any tree will do.
        match step {
            Step::Directory(name) => {
                if std::fs::create_dir(named(name)).is_ok() {
                    at = named(name);
                    last.clone_from(&at);
                }
            }
            Step::File { name, size, hole } => {
                let Ok(file) = File::create_new(named(name)) else { continue };
                file.write_all_at(&blob_of(*size as usize), hole.unwrap_or(0).into()).unwrap();
                if let Some(hole) = hole {
                    file.set_len(u64::from(*size) + 2 * u64::from(*hole)).unwrap();
                }
                last = named(name);
            }
            Step::Symlink(name) => {
                let _ = symlink(path(&[*name | 1, 0xff]), named(name));
            }
            Step::Link(name) => {
                let _ = std::fs::hard_link(&last, named(name));
            }
            Step::Fifo(name) => {
                let _ = rustix::fs::mknodat(CWD, named(name), FileType::Fifo, rustix::fs::Mode::RWXU, 0);
            }
            Step::Xattr(name) => {
                let key = format!("user.{name}");
                rustix::fs::lsetxattr(&last, key, &[*name; 40], XattrFlags::empty()).unwrap();
            }
            Step::Mode(mode) => set_mode(&last, u32::from(mode & 0o7777)),
            Step::Time(sec, nsec) => set_mtime(&last, (*sec).into(), (*nsec).into()),
            Step::Up => {
                if at != root {
                    at.pop();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_and_replaces_any_other(
        first in proptest::collection::vec(step(), 0..40),
        second in proptest::collection::vec(step(), 0..40),
    ) {
        let fixture = Fixture::new();
        let other = fixture.dest("other");
        build(&fixture.source, &first);
        build(&other, &second);
        let dest = fixture.dest("dest");
        let one = fixture.import();
        fixture.export(&one.snapshot, &dest, false).unwrap();
        let before = describe(&fixture.source);
        prop_assert_eq!(&describe(&dest), &before);
        // Importing the copy gives equal content, whatever its numbers and times of change.
        let copy = Fixture { source: dest, ..fixture };
        let again = copy.import();
        let digest = |id| copy.entry(id, "").map(|root| root.content);
        let digests = [digest(&one.snapshot), digest(&again.snapshot)].map(|content| match content {
            Some(selvedge_store::Content::Directory { digest, .. }) => digest,
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(digests[0], digests[1]);
        prop_assert_eq!(again.new_bytes, 0);
        copy.export(&again.snapshot, &other, true).unwrap();
        prop_assert_eq!(&describe(&other), &before);
    }
}
