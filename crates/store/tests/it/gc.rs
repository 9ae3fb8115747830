//! Objects that nothing reaches go, and no others, whoever is at work meanwhile.

use crate::common::{Fixture, blob_of};
use selvedge_store::export::SourceError;
use selvedge_store::fsck::fsck;
use selvedge_store::gc::{GcError, Marked, Removed, Spare, ThreadLayer, give_back};
use selvedge_store::{HoldError, LayerId, NewState, ObjectId, ObjectKind, ThreadLock, ThreadName};
use std::time::Duration;

const AT_ONCE: Duration = Duration::ZERO;

/// For threads without layers.
fn no_layers(layer: ThreadLayer) -> Result<Vec<(ObjectKind, ObjectId)>, SourceError> {
    Err(format!("nothing is known of {layer:?}").into())
}

fn name(name: &str) -> ThreadName {
    name.parse().unwrap()
}

fn write(fixture: &Fixture, path: &str, bytes: impl AsRef<[u8]>) {
    let path = fixture.source.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn collect(fixture: &Fixture) -> Removed {
    Marked::mark(&fixture.repository, &no_layers).unwrap().sweep(AT_ONCE, &mut |_| ()).unwrap()
}

#[track_caller]
fn assert_sound(fixture: &Fixture) {
    assert_eq!(fsck(&fixture.repository, &mut |_| ()).unwrap().problems, []);
}

fn has(fixture: &Fixture, kind: ObjectKind, id: &ObjectId) -> bool {
    fixture.store().has(kind, id).unwrap()
}

#[test]
fn what_no_thread_reaches_is_removed_and_all_else_stays() {
    let fixture = Fixture::new();
    write(&fixture, "shared/file", "in both\n");
    write(&fixture, "first", "only in the first\n");
    let first = fixture.import().snapshot;
    std::fs::remove_file(fixture.source.join("first")).unwrap();
    let second = fixture.import_after(Some(first)).unwrap().snapshot;
    let refs = fixture.repository.refs();
    refs.create_thread(&name("main"), &second, &[]).unwrap();
    write(&fixture, "other/small", "only in the other\n");
    write(&fixture, "other/large", blob_of(300_000));
    std::fs::File::create(fixture.source.join("sparse")).unwrap().set_len(1 << 20).unwrap();
    let other = fixture.import().snapshot;
    let thread = refs.create_thread(&name("other"), &other, &[]).unwrap();
    assert_eq!(collect(&fixture), Removed::default(), "everything is needed");
    drop(ThreadLock::try_acquire(&fixture.repository, &thread.id).unwrap());
    refs.delete_thread(&thread).unwrap();
    let small = ObjectKind::Blob.id(b"only in the other\n");
    let large = ObjectKind::Blob.id(&blob_of(300_000));
    let removed = collect(&fixture);
    // The snapshot, its root and `other`, the list of holes, and the three files.
    assert_eq!(removed.count, 7);
    assert!(removed.bytes > 300_000, "{removed:?}");
    for (kind, id) in [(ObjectKind::Snapshot, other), (ObjectKind::Blob, small), (ObjectKind::Blob, large)] {
        assert!(!has(&fixture, kind, &id), "{kind} {id}");
    }
    assert!(!fixture.repository.locks_dir().join(thread.id.to_string()).exists());
    assert_sound(&fixture);
    // What came before a thread's snapshot is part of its history.
    for snapshot in [first, second] {
        fixture.export(&snapshot, &fixture.dest(&snapshot.to_string()), false).unwrap();
    }
    assert!(has(&fixture, ObjectKind::Blob, &ObjectKind::Blob.id(b"only in the first\n")));
    assert_eq!(collect(&fixture), Removed::default(), "again: nothing is left to remove");
    // What was removed can come back.
    let again = fixture.import().snapshot;
    refs.create_thread(&name("again"), &again, &[]).unwrap();
    assert_sound(&fixture);
}

#[test]
fn what_becomes_needed_between_the_phases_stays() {
    let fixture = Fixture::new();
    write(&fixture, "file", "found there and not written again\n");
    write(&fixture, "large", blob_of(200_000));
    let refs = fixture.repository.refs();
    let first = fixture.import().snapshot;
    let thread = refs.create_thread(&name("main"), &first, &[]).unwrap();
    refs.delete_thread(&thread).unwrap();
    let marked = Marked::mark(&fixture.repository, &no_layers).unwrap();
    // Everything is condemned; an import finds the same files there, and a thread is made of it.
    write(&fixture, "new", "new\n");
    let second = fixture.import().snapshot;
    refs.create_thread(&name("main"), &second, &[]).unwrap();
    // And somebody remembered the id.
    refs.create_thread(&name("remembered"), &first, &[]).unwrap();
    assert_eq!(marked.sweep(AT_ONCE, &mut |_| ()).unwrap(), Removed::default());
    assert_sound(&fixture);
}

#[test]
fn nothing_is_removed_while_somebody_relies_on_objects() {
    let fixture = Fixture::new();
    write(&fixture, "file", "not reached yet\n");
    let hold = fixture.repository.hold_objects().unwrap();
    let other = fixture.repository.hold_objects().unwrap();
    let snapshot = fixture.import().snapshot;
    let sweep = || {
        Marked::mark(&fixture.repository, &no_layers).unwrap().sweep(Duration::from_millis(50), &mut |_| ())
    };
    assert!(matches!(sweep(), Err(GcError::Hold(HoldError::Busy { removing: false }))));
    drop(hold);
    assert!(matches!(sweep(), Err(GcError::Hold(HoldError::Busy { removing: false }))));
    assert!(has(&fixture, ObjectKind::Snapshot, &snapshot));
    drop(other);
    assert!(sweep().unwrap().count > 0);
    assert!(!has(&fixture, ObjectKind::Snapshot, &snapshot));
}

#[test]
fn damage_that_hides_what_is_needed_removes_nothing() {
    let fixture = Fixture::new();
    write(&fixture, "dir/file", "needed\n");
    let snapshot = fixture.import().snapshot;
    let refs = fixture.repository.refs();
    let thread = refs.create_thread(&name("main"), &snapshot, &[]).unwrap();
    let missing = ObjectId::from_bytes([7; 32]);
    let lost = NewState { snapshot: missing, layers: Vec::new(), upper: None };
    refs.update_thread(&thread, &lost).unwrap();
    let Err(error) = Marked::mark(&fixture.repository, &no_layers) else {
        panic!("it is not clear what is needed")
    };
    assert!(matches!(&error, GcError::Unclear { thread, .. } if thread == "main"), "{error}");
    assert!(has(&fixture, ObjectKind::Snapshot, &snapshot));
}

#[test]
fn what_a_frozen_layer_names_stays_and_a_layer_that_cannot_be_read_is_no_reason_to_remove() {
    let fixture = Fixture::new();
    write(&fixture, "file", "of the snapshot\n");
    let snapshot = fixture.import().snapshot;
    let refs = fixture.repository.refs();
    let layer = LayerId::from_bytes([3; 16]);
    refs.create_thread(&name("main"), &snapshot, &[layer]).unwrap();
    let (named, _) = fixture.store().put_blob(b"named by the layer alone").unwrap();
    let (garbage, _) = fixture.store().put_blob(b"named by nothing").unwrap();
    fixture.store().sync().unwrap();
    let Err(error) = Marked::mark(&fixture.repository, &no_layers) else { panic!("the layer was not read") };
    assert!(matches!(&error, GcError::Unclear { thread, .. } if thread == "main"), "{error}");
    let told = |asked: ThreadLayer| {
        assert_eq!(asked, ThreadLayer::Frozen(layer));
        Ok(vec![(ObjectKind::Blob, named)])
    };
    let removed = Marked::mark(&fixture.repository, &told).unwrap().sweep(AT_ONCE, &mut |_| ()).unwrap();
    assert_eq!(removed.count, 1);
    assert!(has(&fixture, ObjectKind::Blob, &named) && !has(&fixture, ObjectKind::Blob, &garbage));
}

/// A thread whose many small files nobody else has, and then no thread.
fn fill_and_delete(fixture: &Fixture) {
    for file in 0..300_usize {
        write(fixture, &format!("many/{file}"), blob_of(20_000 + file));
    }
    let snapshot = fixture.import().snapshot;
    let refs = fixture.repository.refs();
    let thread = refs.create_thread(&name("gone"), &snapshot, &[]).unwrap();
    refs.delete_thread(&thread).unwrap();
    std::fs::remove_dir_all(fixture.source.join("many")).unwrap();
}

/// How large the database is with its log in it.
fn database_size(fixture: &Fixture) -> u64 {
    let database = rusqlite::Connection::open(fixture.repository.path().join("objects.db")).unwrap();
    database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    std::fs::metadata(fixture.repository.path().join("objects.db")).unwrap().len()
}

#[test]
fn what_removed_objects_took_goes_back_to_the_disk() {
    let fixture = Fixture::new();
    write(&fixture, "stays", "stays\n");
    let stays = fixture.import().snapshot;
    fixture.repository.refs().create_thread(&name("main"), &stays, &[]).unwrap();
    fill_and_delete(&fixture);
    collect(&fixture);
    let before = database_size(&fixture);
    assert!(before > 3_000_000, "{before}");
    let spare = give_back(&fixture.repository).unwrap();
    let after = std::fs::metadata(fixture.repository.path().join("objects.db")).unwrap().len();
    assert!(after < 200_000, "{before} bytes became {after}: {spare:?}");
    assert!(spare.given_back > 3_000_000 && spare.kept == 0, "{spare:?}");
    assert_eq!(give_back(&fixture.repository).unwrap(), Spare::default());
    assert_sound(&fixture);
    fixture.export(&stays, &fixture.dest("out"), false).unwrap();
}

#[test]
fn writers_beside_the_giving_back_of_room_lose_nothing() {
    let fixture = Fixture::new();
    fill_and_delete(&fixture);
    collect(&fixture);
    std::thread::scope(|scope| {
        let store = fixture.store();
        let put = |number: u32| store.put_blob(format!("blob {number}").as_bytes()).unwrap();
        scope.spawn(|| give_back(&fixture.repository).unwrap());
        for number in 0..200 {
            put(number);
            if number % 10 == 0 {
                store.sync().unwrap();
            }
        }
        store.sync().unwrap();
    });
    for number in 0..200 {
        let blob = ObjectKind::Blob.id(format!("blob {number}").as_bytes());
        assert!(has(&fixture, ObjectKind::Blob, &blob));
    }
    assert_sound(&fixture);
}

#[test]
fn a_database_that_was_not_made_for_it_keeps_its_room_and_says_so() {
    let fixture = Fixture::new();
    let database = rusqlite::Connection::open(fixture.repository.path().join("objects.db")).unwrap();
    database.execute_batch("PRAGMA auto_vacuum = NONE; VACUUM").unwrap();
    fill_and_delete(&fixture);
    collect(&fixture);
    let before = database_size(&fixture);
    let spare = give_back(&fixture.repository).unwrap();
    assert!(spare.given_back == 0 && spare.kept > 3_000_000, "{spare:?}");
    assert_eq!(database_size(&fixture), before);
    // What `gc` advises.
    database.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM").unwrap();
    fill_and_delete(&fixture);
    collect(&fixture);
    assert!(give_back(&fixture.repository).unwrap().given_back > 3_000_000);
    assert_sound(&fixture);
}
