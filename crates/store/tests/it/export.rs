//! What an export refuses, leaves alone, replaces, and cannot keep.

use crate::common::Fixture;
use crate::common::host::{USER, as_user, bind, describe, let_time_pass};
use selvedge_store::export::ExportError;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn ino(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

#[test]
fn a_destination_that_is_not_empty_is_refused_without_delete() {
    let fixture = Fixture::new();
    std::fs::write(fixture.source.join("new"), b"new").unwrap();
    let report = fixture.import();
    let dest = fixture.dest("dest");
    std::fs::write(dest.join("old"), b"old").unwrap();
    let before = describe(&dest);
    assert!(matches!(fixture.export(&report.snapshot, &dest, false), Err(ExportError::NotEmpty)));
    assert_eq!(describe(&dest), before);
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(describe(&dest), describe(&fixture.source));
}

#[test]
fn unchanged_files_are_not_rewritten() {
    let fixture = Fixture::new();
    for name in ["same", "other", "shorter"] {
        std::fs::write(fixture.source.join(name), vec![b'x'; 1000]).unwrap();
    }
    symlink("same", fixture.source.join("link")).unwrap();
    std::fs::create_dir(fixture.source.join("sub")).unwrap();
    std::fs::write(fixture.source.join("sub/file"), b"x").unwrap();
    let report = fixture.import();
    let dest = fixture.dest("dest");
    fixture.export(&report.snapshot, &dest, false).unwrap();
    let before = ["same", "other", "shorter", "link"].map(|name| ino(&dest.join(name)));
    let ctime = |name: &str| {
        let stat = dest.join(name).symlink_metadata().unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    let untouched = [ctime("link"), ctime("sub"), ctime("sub/file")];
    let_time_pass();
    std::fs::write(dest.join("other"), vec![b'y'; 1000]).unwrap();
    std::fs::write(dest.join("shorter"), b"x").unwrap();
    std::fs::set_permissions(dest.join("same"), PermissionsExt::from_mode(0o777)).unwrap();
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(describe(&dest), describe(&fixture.source));
    let after = ["same", "other", "shorter", "link"].map(|name| ino(&dest.join(name)));
    assert_eq!([ctime("link"), ctime("sub"), ctime("sub/file")], untouched);
    assert_eq!([before[0], before[3]], [after[0], after[3]]);
    assert_ne!(before[1], after[1]);
    assert_ne!(before[2], after[2]);
}

#[test]
fn wrong_hard_links_are_broken_and_outsiders_are_not_changed() {
    let fixture = Fixture::new();
    for name in ["a", "b", "c"] {
        std::fs::write(fixture.source.join(name), b"same bytes").unwrap();
    }
    std::fs::hard_link(fixture.source.join("a"), fixture.source.join("a2")).unwrap();
    let report = fixture.import();
    let dest = fixture.dest("dest");
    let outside = fixture.dir.path().join("outside");
    std::fs::write(&outside, b"same bytes").unwrap();
    let mode = outside.symlink_metadata().unwrap().mode();
    for name in ["a", "b", "c"] {
        std::fs::hard_link(&outside, dest.join(name)).unwrap();
    }
    std::fs::set_permissions(fixture.source.join("a"), PermissionsExt::from_mode(0o600)).unwrap();
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(ino(&dest.join("a")), ino(&dest.join("a2")));
    assert_ne!(ino(&dest.join("a")), ino(&dest.join("b")));
    assert_ne!(ino(&dest.join("b")), ino(&dest.join("c")));
    let stat = outside.symlink_metadata().unwrap();
    assert_eq!((stat.nlink(), stat.mode()), (1, mode));
}

#[test]
fn the_destinations_own_repository_and_mounts_stay_and_are_named() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.source.join("kept")).unwrap();
    std::fs::write(fixture.source.join("kept/file"), b"x").unwrap();
    std::fs::create_dir(fixture.source.join("mounted")).unwrap();
    std::fs::write(fixture.source.join("mounted/file"), b"never written").unwrap();
    let report = fixture.import();
    let elsewhere = fixture.dest("elsewhere");
    std::fs::write(elsewhere.join("precious"), b"precious").unwrap();
    let dest = fixture.dest("dest");
    for name in [".selvedge", "kept/.selvedge", "mounted", "gone/deep/mounted", "gone/deep/rest"] {
        std::fs::create_dir_all(dest.join(name)).unwrap();
    }
    std::fs::write(dest.join(".selvedge/objects.db"), b"precious").unwrap();
    std::fs::write(dest.join("gone/deep/file"), b"gone").unwrap();
    let _a = bind(&elsewhere, &dest.join("mounted"));
    let _b = bind(&elsewhere, &dest.join("gone/deep/mounted"));
    let exported = fixture.export(&report.snapshot, &dest, true).unwrap();
    let skipped: Vec<PathBuf> = [".selvedge", "gone/deep/mounted", "mounted"].map(PathBuf::from).into();
    assert_eq!(exported.skipped, skipped);
    assert_eq!(std::fs::read(dest.join(".selvedge/objects.db")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 1);
    assert_eq!(std::fs::read(elsewhere.join("precious")).unwrap(), b"precious");
    // Only the repository at the top is the destination's own.
    assert!(!dest.join("kept/.selvedge").exists());
    assert!(dest.join("kept/file").exists());
    let left: Vec<_> =
        std::fs::read_dir(dest.join("gone/deep")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mounted"]);
}

#[test]
fn kinds_replace_each_other_and_no_symlink_is_followed() {
    let fixture = Fixture::new();
    let outside = fixture.dest("outside");
    std::fs::write(outside.join("file"), b"outside").unwrap();
    let kept = describe(&outside);
    for (here, there) in [("source", "dest"), ("dest", "source")] {
        let _ = std::fs::create_dir(fixture.dir.path().join("dest"));
        let at = |side: &str, name: &str| fixture.dir.path().join(side).join(name);
        std::fs::create_dir_all(at(here, &format!("dir in {here}/file"))).unwrap();
        std::fs::write(at(there, &format!("dir in {here}")), b"a file").unwrap();
        symlink(&outside, at(here, &format!("link in {here}"))).unwrap();
        std::fs::create_dir(at(there, &format!("link in {here}"))).unwrap();
        std::fs::write(at(there, &format!("link in {here}/file")), b"inside").unwrap();
    }
    std::fs::write(fixture.source.join("f"), b"inside").unwrap();
    symlink(outside.join("file"), fixture.dir.path().join("dest/f")).unwrap();
    let dest = fixture.dir.path().join("dest");
    let report = fixture.import();
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(describe(&dest), describe(&fixture.source));
    assert_eq!(describe(&outside), kept);
}

#[test]
fn holes_in_the_wrong_place_are_made_right() {
    let fixture = Fixture::new();
    let file = std::fs::File::create(fixture.source.join("sparse")).unwrap();
    file.set_len(1 << 20).unwrap();
    std::fs::write(fixture.source.join("full"), vec![0; 1 << 20]).unwrap();
    let report = fixture.import();
    let dest = fixture.dest("dest");
    std::fs::write(dest.join("sparse"), vec![0; 1 << 20]).unwrap();
    std::fs::File::create(dest.join("full")).unwrap().set_len(1 << 20).unwrap();
    fixture.export(&report.snapshot, &dest, true).unwrap();
    assert_eq!(describe(&dest), describe(&fixture.source));
}

#[test]
fn what_an_ordinary_user_may_not_set_is_named() {
    // What root imports, with owners and attributes that others may not set.
    if !as_user("export::what_an_ordinary_user_may_not_set_is_named") {
        return;
    }
    let fixture = Fixture::new();
    for name in ["theirs", "setid", "mine"] {
        std::fs::write(fixture.source.join(name), name).unwrap();
    }
    std::fs::create_dir(fixture.source.join("sealed")).unwrap();
    std::fs::write(fixture.source.join("sealed/file"), b"x").unwrap();
    std::fs::set_permissions(fixture.source.join("sealed"), PermissionsExt::from_mode(0o500)).unwrap();
    let report = fixture.import();
    let snapshot = rewrite(&fixture, &report.snapshot);
    let dest = fixture.dest("dest");
    let exported = fixture.export(&snapshot, &dest, false).unwrap();
    let named = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    assert_eq!(exported.owner_lost, named(&["setid", "theirs"]));
    assert_eq!(exported.xattrs_lost, named(&["theirs"]));
    let stat = |name: &str| dest.join(name).symlink_metadata().unwrap();
    assert_eq!(stat("theirs").uid(), USER);
    assert_eq!(stat("setid").mode() & 0o7777, 0o755, "nobody's program becomes the caller's");
    // A directory that its owner may not write is no obstacle the second time either.
    let_time_pass();
    fixture.export(&snapshot, &dest, true).unwrap();
    assert_eq!(stat("sealed").mode() & 0o7777, 0o500);
    for root in [&dest, &fixture.source] {
        std::fs::set_permissions(root.join("sealed"), PermissionsExt::from_mode(0o700)).unwrap();
    }
}

/// The snapshot with another owner for some of its files, as root would have imported it.
fn rewrite(fixture: &Fixture, id: &selvedge_store::ObjectId) -> selvedge_store::ObjectId {
    use selvedge_store::{Content, TreeBuilder};
    let store = fixture.store();
    let mut snapshot = store.snapshot(id).unwrap();
    let Content::Directory { tree, .. } = snapshot.root.content else { panic!("the root is a directory") };
    let mut builder = TreeBuilder::new();
    for (name, mut entry) in store.tree(&tree).unwrap().iter() {
        if name == b"theirs" {
            entry.meta.uid = USER + 1;
            entry.meta.xattrs.insert(b"trusted.x".to_vec(), b"y".to_vec());
        } else if name == b"setid" {
            entry.meta.uid = 0;
            entry.meta.mode = 0o4755;
        }
        builder.push(name, entry);
    }
    let tree = builder.finish().unwrap();
    store.put_tree(&tree).unwrap();
    snapshot.root.content = Content::Directory { tree: tree.id, digest: tree.digest };
    store.put_snapshot(&snapshot).unwrap()
}
