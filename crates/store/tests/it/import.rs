//! What an import leaves out, keeps, reads again, names and refuses.

use crate::common::host::{Mounted, USER, as_user, bind, describe, hung_fuse, let_time_pass};
use crate::common::{Fixture, blob_of};
use globset::{Glob, GlobSet};
use selvedge_store::import::{ImportError, ImportOptions, import};
use selvedge_store::{Content, FIRST_NEW_INO, FileKind, Repository};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn ino(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

#[test]
fn the_repositorys_own_directory_is_left_out_and_others_are_not() {
    let fixture = Fixture::new();
    let (repository, _) = Repository::init(&fixture.source).unwrap();
    std::fs::create_dir_all(fixture.source.join("sub/.selvedge")).unwrap();
    std::fs::write(fixture.source.join("sub/.selvedge/file"), b"ordinary").unwrap();
    let options =
        ImportOptions { source: &fixture.source, exclude: &GlobSet::empty(), message: b"", previous: None };
    let report = import(&repository, &options, &|_| ()).unwrap();
    assert_eq!(report.files, 3);
    let Content::Directory { tree, .. } = repository.store().snapshot(&report.snapshot).unwrap().root.content
    else {
        panic!("the root is a directory")
    };
    let names: Vec<_> =
        repository.store().tree(&tree).unwrap().iter_names().map(|(name, ..)| name.to_vec()).collect();
    assert_eq!(names, [b"sub"]);
}

#[test]
fn excluded_paths_are_left_out() {
    let fixture = Fixture::new();
    for name in ["target/debug/x", "src/target", "src/a.o", "src/b.c"] {
        let path = fixture.source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let mut globs = GlobSet::builder();
    globs.add(Glob::new("target").unwrap()).add(Glob::new("**/*.o").unwrap());
    let report = fixture.import_with(None, &globs.build().unwrap()).unwrap();
    assert_eq!(report.files, 3);
    assert!(fixture.entry(&report.snapshot, "src/target").is_some());
    assert!(fixture.entry(&report.snapshot, "src/a.o").is_none());
    assert!(fixture.entry(&report.snapshot, "target").is_none());
}

#[test]
fn source_numbers_times_and_links_are_kept() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.source.join("a"), fixture.source.join("b"));
    std::fs::create_dir_all(fixture.source.join("d/e")).unwrap();
    std::fs::write(&a, b"linked").unwrap();
    std::fs::hard_link(&a, &b).unwrap();
    // A name outside the source is no name of this tree.
    std::fs::hard_link(&a, fixture.dir.path().join("outside")).unwrap();
    let report = fixture.import();
    for name in ["", "a", "b", "d", "d/e"] {
        let stat = fixture.source.join(name).symlink_metadata().unwrap();
        let meta = fixture.entry(&report.snapshot, name).unwrap().meta;
        assert_eq!(meta.ino.0, stat.ino(), "{name}");
        assert_eq!((meta.mtime.sec, i64::from(meta.mtime.nsec)), (stat.mtime(), stat.mtime_nsec()));
        assert_eq!((meta.ctime.sec, i64::from(meta.ctime.nsec)), (stat.ctime(), stat.ctime_nsec()));
    }
    let nlink = |name| fixture.entry(&report.snapshot, name).unwrap().meta.nlink;
    assert_eq!((nlink("a"), nlink("b"), nlink(""), nlink("d"), nlink("d/e")), (2, 2, 3, 3, 2));
    assert_eq!((report.files, report.bytes), (4, 6));
}

#[test]
fn unchanged_files_are_not_read_again() {
    let fixture = Fixture::new();
    for (name, bytes) in [("same", blob_of(100)), ("touched", blob_of(200)), ("changed", blob_of(300))] {
        std::fs::write(fixture.source.join(name), bytes).unwrap();
    }
    let_time_pass();
    let first = fixture.import();
    std::fs::write(fixture.source.join("changed"), blob_of(301)).unwrap();
    let touched = File::options().write(true).open(fixture.source.join("touched")).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    // Losing the bytes shows who reads the file again: then they are new.
    let lost = |name: &str| match fixture.entry(&first.snapshot, name).unwrap().content {
        Content::Regular { blob, .. } => *blob.as_bytes(),
        other => panic!("{other:?}"),
    };
    let database = rusqlite::Connection::open(fixture.repository.path().join("objects.db")).unwrap();
    for name in ["same", "touched"] {
        assert_eq!(database.execute("DELETE FROM objects WHERE id = ?1", [lost(name)]).unwrap(), 1);
    }
    let second = fixture.import_after(Some(first.snapshot)).unwrap();
    assert_eq!(second.new_bytes, 200 + 301);
    assert_eq!(second.bytes, 100 + 200 + 301);
    let same = |id| fixture.entry(id, "same").unwrap();
    assert_eq!(same(&second.snapshot), same(&first.snapshot));
    assert_eq!(fixture.store().snapshot(&second.snapshot).unwrap().parents, [first.snapshot]);
}

#[test]
fn a_file_changed_within_the_clocks_grain_is_read_again() {
    let fixture = Fixture::new();
    let path = fixture.source.join("file");
    std::fs::write(&path, b"first").unwrap();
    let first = fixture.import();
    // The times of a file this young prove nothing, so its bytes are looked at.
    let Content::Regular { blob, .. } = fixture.entry(&first.snapshot, "file").unwrap().content else {
        panic!("a file")
    };
    let database = rusqlite::Connection::open(fixture.repository.path().join("objects.db")).unwrap();
    assert_eq!(database.execute("DELETE FROM objects WHERE id = ?1", [*blob.as_bytes()]).unwrap(), 1);
    assert_eq!(fixture.import_after(Some(first.snapshot)).unwrap().new_bytes, 5);
}

#[test]
fn a_number_that_another_file_had_is_not_used_again() {
    let fixture = Fixture::new();
    let path = fixture.source.join("a");
    std::fs::write(&path, b"first").unwrap();
    let_time_pass();
    let first = fixture.import();
    let number = fixture.entry(&first.snapshot, "a").unwrap().meta.ino;
    // The same file under another name keeps its number.
    std::fs::rename(&path, fixture.source.join("b")).unwrap();
    let second = fixture.import_after(Some(first.snapshot)).unwrap();
    assert_eq!(fixture.entry(&second.snapshot, "b").unwrap().meta.ino, number);
    // Another file that got the host's number does not.
    std::fs::write(fixture.source.join("b"), b"other content").unwrap();
    std::fs::rename(fixture.source.join("b"), fixture.source.join("c")).unwrap();
    let third = fixture.import_after(Some(second.snapshot)).unwrap();
    let fresh = fixture.entry(&third.snapshot, "c").unwrap().meta.ino;
    assert!(fresh.0 >= FIRST_NEW_INO, "{fresh}");
    assert_eq!(ino(&fixture.source.join("c")), number.0);
    // And it keeps the one it was given.
    let_time_pass();
    let fourth = fixture.import_after(Some(third.snapshot)).unwrap();
    assert_eq!(fixture.entry(&fourth.snapshot, "c").unwrap().meta.ino, fresh);
}

#[test]
fn a_number_that_a_file_of_an_older_snapshot_had_is_not_used_again() {
    let fixture = Fixture::new();
    let (path, away) = (fixture.source.join("a"), fixture.dir.path().join("away"));
    std::fs::write(&path, b"first").unwrap();
    let_time_pass();
    let first = fixture.import();
    let number = fixture.entry(&first.snapshot, "a").unwrap().meta.ino;
    std::fs::rename(&path, &away).unwrap();
    let without = fixture.import_after(Some(first.snapshot)).unwrap();
    // The same file again: it has its number again.
    std::fs::rename(&away, fixture.source.join("b")).unwrap();
    let again = fixture.import_after(Some(without.snapshot)).unwrap();
    assert_eq!(fixture.entry(&again.snapshot, "b").unwrap().meta.ino, number);
    // Another file that got the host's number.
    std::fs::rename(fixture.source.join("b"), &away).unwrap();
    let without = fixture.import_after(Some(again.snapshot)).unwrap();
    std::fs::write(&away, b"other content").unwrap();
    std::fs::rename(&away, fixture.source.join("c")).unwrap();
    let other = fixture.import_after(Some(without.snapshot)).unwrap();
    assert_eq!(ino(&fixture.source.join("c")), number.0);
    assert!(fixture.entry(&other.snapshot, "c").unwrap().meta.ino.0 >= FIRST_NEW_INO);
}

#[test]
fn other_mounts_are_not_entered_and_are_named() {
    let fixture = Fixture::new();
    let elsewhere = fixture.dest("elsewhere");
    std::fs::write(elsewhere.join("secret"), b"not ours").unwrap();
    std::fs::write(fixture.dir.path().join("file"), b"not ours").unwrap();
    for name in ["bound", "x/hung"] {
        std::fs::create_dir_all(fixture.source.join(name)).unwrap();
    }
    std::fs::write(fixture.source.join("bound file"), b"covered").unwrap();
    std::fs::write(fixture.source.join("x/beside"), b"read").unwrap();
    let _bound = bind(&elsewhere, &fixture.source.join("bound"));
    let _file = bind(&fixture.dir.path().join("file"), &fixture.source.join("bound file"));
    let (hung, device) = hung_fuse(&fixture.source.join("x/hung"));
    let (send, receive) = std::sync::mpsc::channel();
    let report = std::thread::scope(|scope| {
        scope.spawn(|| send.send(fixture.import_after(None)).unwrap());
        let report = receive.recv_timeout(Duration::from_secs(20));
        // Frees whoever did ask the mount something.
        drop(device);
        report.expect("a hung mount beneath the source is never asked").unwrap()
    });
    drop::<Mounted>(hung);
    let named: [PathBuf; 3] = ["bound".into(), "bound file".into(), "x/hung".into()];
    assert_eq!(report.skipped_mounts, named);
    assert_eq!(report.files, 5);
    let entry = |name| fixture.entry(&report.snapshot, name).unwrap();
    for name in ["bound", "x/hung"] {
        assert_eq!((entry(name).kind(), entry(name).meta.nlink), (FileKind::Directory, 2), "{name}");
    }
    assert!(fixture.entry(&report.snapshot, "bound/secret").is_none());
    assert_eq!((entry("bound file").kind(), entry("bound file").size()), (FileKind::Regular, 0));
    assert_eq!(entry("x/beside").size(), 4);
}

#[test]
fn a_file_that_keeps_changing_is_named() {
    let fixture = Fixture::new();
    std::fs::write(fixture.source.join("steady"), b"steady").unwrap();
    let path = fixture.source.join("restless");
    std::fs::write(&path, vec![1; 24 << 20]).unwrap();
    let done = AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(&path).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all_at(b"x", 5).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let report = fixture.import();
        done.store(true, Ordering::Relaxed);
        report
    });
    assert_eq!(report.changed, [PathBuf::from("restless")]);
    assert_eq!(report.files, 2);
}

#[test]
fn a_source_that_vanishes_is_an_error_and_names_that_vanish_are_not() {
    let fixture = Fixture::new();
    // Hashing this takes long enough for the rest to vanish meanwhile.
    File::create(fixture.source.join("slow")).unwrap().set_len(1 << 30).unwrap();
    let error = std::thread::scope(|scope| {
        let import = scope.spawn(|| fixture.import_after(None));
        std::thread::sleep(Duration::from_millis(20));
        std::fs::remove_dir_all(&fixture.source).unwrap();
        import.join().unwrap().unwrap_err()
    });
    assert!(matches!(&error, ImportError::Vanished { path } if *path == fixture.source), "{error}");
    let error = fixture.import_after(None).unwrap_err();
    assert!(matches!(error, ImportError::Source { .. }), "{error}");
    std::fs::write(&fixture.source, b"a file").unwrap();
    assert!(matches!(fixture.import_after(None), Err(ImportError::Source { .. })));
    std::fs::remove_file(&fixture.source).unwrap();
    std::fs::create_dir(&fixture.source).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for i in 0..50 {
                    std::fs::create_dir(fixture.source.join(format!("d{i}"))).unwrap();
                    std::fs::write(fixture.source.join(format!("d{i}/f")), b"x").unwrap();
                }
                for i in 0..50 {
                    std::fs::remove_dir_all(fixture.source.join(format!("d{i}"))).unwrap();
                }
            }
        });
        for _ in 0..30 {
            let imported = fixture.import_after(None);
            let report = imported.as_ref();
            if let Ok(report) = report {
                for path in &report.vanished {
                    assert!(fixture.entry(&report.snapshot, path.to_str().unwrap()).is_none());
                }
            }
            if let Err(error) = report {
                done.store(true, Ordering::Relaxed);
                panic!("{error}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_cannot_be_read_is_named() {
    if !as_user("import::what_cannot_be_read_is_named") {
        return;
    }
    let fixture = Fixture::new();
    let path = fixture.source.join("locked");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let error = fixture.import_after(None).unwrap_err();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().uid(), USER);
    assert!(matches!(&error, ImportError::Unreadable { path: named, .. } if *named == path), "{error}");
    // Left out, it is in nobody's way.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let mut globs = GlobSet::builder();
    globs.add(Glob::new("locked").unwrap());
    let report = fixture.import_with(None, &globs.build().unwrap());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(report.unwrap().files, 0);
}

#[test]
fn an_import_changes_nothing_in_its_source() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.source.join("d")).unwrap();
    std::fs::write(fixture.source.join("d/f"), b"x").unwrap();
    let before = describe(&fixture.source);
    fixture.import();
    assert_eq!(describe(&fixture.source), before);
    assert!(fixture.repository.refs().threads().unwrap().is_empty());
}

#[test]
fn many_files_are_captured_and_progress_is_told() {
    let fixture = Fixture::new();
    for i in 0..1500 {
        std::fs::write(fixture.source.join(format!("f{i}")), format!("{i}")).unwrap();
    }
    let last = std::sync::Mutex::new(None);
    let options =
        ImportOptions { source: &fixture.source, exclude: &GlobSet::empty(), message: b"m", previous: None };
    let report =
        import(&fixture.repository, &options, &|progress| *last.lock().unwrap() = Some(progress)).unwrap();
    assert_eq!(report.files, 1500);
    let last = last.into_inner().unwrap().unwrap();
    assert_eq!((last.found, last.files, last.bytes), (1501, 1501, report.bytes));
}
