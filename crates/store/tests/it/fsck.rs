//! Every kind of damage is found and named, with what it affects.

use crate::common::{Fixture, blob_of};
use rusqlite::{Connection, params};
use selvedge_store::fsck::{Problem, fsck};
use selvedge_store::{Content, ObjectId, ObjectKind, Repository, ThreadName};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A repository whose thread `main` came to its snapshot from another, with `deep/er/small`, `large` and `sparse`.
struct Damaged {
    fixture: Fixture,
    first: ObjectId,
    last: ObjectId,
}

impl Damaged {
    fn new() -> Self {
        let fixture = Fixture::new();
        std::fs::create_dir_all(fixture.source.join("deep/er")).unwrap();
        std::fs::write(fixture.source.join("deep/er/small"), "small\n").unwrap();
        std::fs::write(fixture.source.join("large"), blob_of(300_000)).unwrap();
        let sparse = std::fs::File::create(fixture.source.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        let first = fixture.import().snapshot;
        std::fs::write(fixture.source.join("later"), "later\n").unwrap();
        let last = fixture.import_after(Some(first)).unwrap().snapshot;
        let main: ThreadName = "main".parse().unwrap();
        fixture.repository.refs().create_thread(&main, &last, &[]).unwrap();
        assert_eq!(problems(&fixture.repository), []);
        Self { fixture, first, last }
    }

    fn problems(&self) -> Vec<Problem> {
        problems(&self.fixture.repository)
    }

    fn database(&self) -> Connection {
        Connection::open(self.fixture.repository.path().join("objects.db")).unwrap()
    }

    /// Changes a byte in the middle of a small object.
    fn flip(&self, kind: ObjectKind, id: &ObjectId) {
        let database = self.database();
        let key = params![kind.code(), id.as_bytes()];
        let mut bytes: Vec<u8> = database
            .query_row("SELECT bytes FROM objects WHERE kind = ?1 AND id = ?2", key, |row| row.get(0))
            .unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let changed = database.execute(
            "UPDATE objects SET bytes = ?3 WHERE kind = ?1 AND id = ?2",
            params![kind.code(), id.as_bytes(), bytes],
        );
        assert_eq!(changed.unwrap(), 1);
    }

    fn delete(&self, kind: ObjectKind, id: &ObjectId) {
        let key = params![kind.code(), id.as_bytes()];
        let deleted = self.database().execute("DELETE FROM objects WHERE kind = ?1 AND id = ?2", key);
        assert_eq!(deleted.unwrap(), 1);
    }

    fn content(&self, path: &str) -> Content {
        self.fixture.entry(&self.last, path).unwrap().content
    }

    fn blob(&self, path: &str) -> ObjectId {
        let Content::Regular { blob, .. } = self.content(path) else { panic!("{path}") };
        blob
    }

    fn tree(&self, path: &str) -> ObjectId {
        let Content::Directory { tree, .. } = self.content(path) else { panic!("{path}") };
        tree
    }

    fn blob_file(&self, path: &str) -> PathBuf {
        let id = self.blob(path).to_string();
        let file = self.fixture.repository.path().join("blobs").join(&id[..2]).join(id);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    }

    /// There is one problem: this object's, with these words, and it affects the thread's path and the first
    /// snapshot's.
    #[track_caller]
    fn assert_one(&self, object: &str, words: &str, path: &str) {
        let [problem] = &self.problems()[..] else { panic!("{:?}", self.problems()) };
        assert_eq!(problem.object, object);
        assert!(problem.problem.contains(words), "{problem:?}");
        let earlier = format!("snapshot {}, from which thread main comes at {path}", self.first);
        assert_eq!(problem.affects, [format!("thread main at {path}"), earlier]);
    }
}

fn problems(repository: &Repository) -> Vec<Problem> {
    let mut told = 0;
    let report = fsck(repository, &mut |progress| told = progress.files).unwrap();
    assert_eq!(told, report.objects);
    report.problems
}

#[test]
fn a_changed_byte_is_found_in_every_kind_of_object() {
    let damaged = Damaged::new();
    let blob = damaged.blob("deep/er/small");
    damaged.flip(ObjectKind::Blob, &blob);
    damaged.assert_one(&format!("blob {blob}"), "its bytes have the hash", "deep/er/small");

    let damaged = Damaged::new();
    let tree = damaged.tree("deep/er");
    damaged.flip(ObjectKind::Tree, &tree);
    damaged.assert_one(&format!("tree {tree}"), "its bytes have the hash", "deep/er");

    let damaged = Damaged::new();
    let Content::Regular { holes: Some(holes), .. } = damaged.content("sparse") else { panic!() };
    damaged.flip(ObjectKind::Holes, &holes);
    damaged.assert_one(&format!("hole list {holes}"), "its bytes have the hash", "sparse");

    let damaged = Damaged::new();
    damaged.flip(ObjectKind::Snapshot, &damaged.first);
    let [problem] = &damaged.problems()[..] else { panic!("{:?}", damaged.problems()) };
    assert_eq!(problem.object, format!("snapshot {}", damaged.first));
    assert_eq!(problem.affects, [format!("snapshot {}, from which thread main comes", damaged.first)]);
}

#[test]
fn a_large_blob_that_is_changed_cut_or_gone_is_found() {
    let damaged = Damaged::new();
    let file = damaged.blob_file("large");
    let object = format!("blob {}", damaged.blob("large"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    damaged.assert_one(&object, "its 300000 bytes have the hash", "large");
    bytes.truncate(1000);
    std::fs::write(&file, &bytes).unwrap();
    damaged.assert_one(&object, "its 1000 bytes have the hash", "large");
    std::fs::remove_file(&file).unwrap();
    damaged.assert_one(&object, "it is missing", "large");
}

#[test]
fn a_missing_object_of_any_kind_is_found() {
    let damaged = Damaged::new();
    let blob = damaged.blob("deep/er/small");
    damaged.delete(ObjectKind::Blob, &blob);
    damaged.assert_one(&format!("blob {blob}"), "it is missing", "deep/er/small");

    let damaged = Damaged::new();
    let tree = damaged.tree("deep");
    damaged.delete(ObjectKind::Tree, &tree);
    damaged.assert_one(&format!("tree {tree}"), "it is missing", "deep");

    let damaged = Damaged::new();
    damaged.delete(ObjectKind::Snapshot, &damaged.last);
    let [problem] = &damaged.problems()[..] else { panic!("{:?}", damaged.problems()) };
    assert_eq!(
        (problem.object.clone(), problem.problem.as_str()),
        (format!("snapshot {}", damaged.last), "it is missing")
    );
    assert_eq!(problem.affects, ["thread main"]);
}

#[test]
fn damage_that_nothing_needs_is_named_too() {
    let damaged = Damaged::new();
    let (blob, _) = damaged.fixture.store().put_blob(b"nobody's").unwrap();
    damaged.fixture.store().sync().unwrap();
    damaged.flip(ObjectKind::Blob, &blob);
    let [problem] = &damaged.problems()[..] else { panic!("{:?}", damaged.problems()) };
    assert_eq!((problem.object.clone(), problem.affects.len()), (format!("blob {blob}"), 0));
}

#[test]
fn a_damaged_reference_hides_no_other() {
    let damaged = Damaged::new();
    let other: ThreadName = "other".parse().unwrap();
    damaged.fixture.repository.refs().create_thread(&other, &damaged.first, &[]).unwrap();
    let refs = Connection::open(damaged.fixture.repository.path().join("refs.db")).unwrap();
    refs.execute("UPDATE threads SET snapshot = x'00' WHERE name = 'main'", []).unwrap();
    let blob = damaged.blob("large");
    std::fs::remove_file(damaged.blob_file("large")).unwrap();
    let found = damaged.problems();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].object == "thread main" && found[0].problem.contains("damaged"), "{found:?}");
    assert_eq!(
        (found[1].object.clone(), found[1].affects.clone()),
        (format!("blob {blob}"), vec!["thread other at large".to_owned()])
    );
}
