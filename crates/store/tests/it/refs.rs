//! References move whole or not at all, and numbers are never handed out twice.

use selvedge_store::{FIRST_NEW_INO, LayerId, NewState, ObjectId, Refs, RefsError, ThreadName};
use std::collections::BTreeSet;
use std::path::PathBuf;

struct Fixture {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("refs.db");
    Refs::create(&path).unwrap();
    Fixture { path, _dir: dir }
}

fn name(text: &str) -> ThreadName {
    text.parse().unwrap()
}

fn snapshot(byte: u8) -> ObjectId {
    ObjectId::from_bytes([byte; 32])
}

#[test]
fn threads_come_back_as_they_were_made() {
    let fixture = fixture();
    let refs = Refs::open(&fixture.path).unwrap();
    let layers = [LayerId::random().unwrap(), LayerId::random().unwrap()];
    let b = refs.create_thread(&name("b"), &snapshot(1), &layers).unwrap();
    let a = refs.create_thread(&name("a"), &snapshot(2), &[]).unwrap();
    assert_ne!(a.id, b.id);
    let again = Refs::open(&fixture.path).unwrap();
    assert_eq!(again.threads().unwrap(), [a.clone(), b.clone()]);
    assert_eq!(again.thread(&name("b")).unwrap(), b);
    assert_eq!(b.layers, layers);
    assert!(matches!(refs.thread(&name("c")), Err(RefsError::NotFound { .. })));
    assert!(matches!(refs.create_thread(&name("a"), &snapshot(3), &[]), Err(RefsError::Exists { .. })));
    assert_eq!(refs.thread(&name("a")).unwrap(), a);
}

#[test]
fn a_reference_that_moved_is_not_moved_again() {
    let fixture = fixture();
    let refs = Refs::open(&fixture.path).unwrap();
    let first = refs.create_thread(&name("t"), &snapshot(1), &[]).unwrap();
    let upper = LayerId::random().unwrap();
    let new =
        NewState { snapshot: snapshot(2), layers: vec![LayerId::random().unwrap()], upper: Some(upper) };
    let second = refs.update_thread(&first, &new).unwrap();
    assert_eq!(refs.thread(&name("t")).unwrap(), second);
    assert_eq!((second.snapshot, second.upper), (snapshot(2), Some(upper)));
    assert!(matches!(refs.update_thread(&first, &new), Err(RefsError::Moved { .. })));
    assert!(matches!(refs.rename_thread(&first, &name("u")), Err(RefsError::Moved { .. })));
    assert!(matches!(refs.delete_thread(&first), Err(RefsError::Moved { .. })));
    assert_eq!(refs.thread(&name("t")).unwrap(), second);
}

#[test]
fn rename_and_delete_change_one_thread_only() {
    let fixture = fixture();
    let refs = Refs::open(&fixture.path).unwrap();
    let layers = [LayerId::random().unwrap()];
    let a = refs.create_thread(&name("a"), &snapshot(1), &layers).unwrap();
    let b = refs.create_thread(&name("b"), &snapshot(1), &layers).unwrap();
    assert!(matches!(refs.rename_thread(&a, &name("b")), Err(RefsError::Exists { .. })));
    let c = refs.rename_thread(&a, &name("c")).unwrap();
    assert_eq!((c.id, &c.layers), (a.id, &a.layers));
    assert_eq!(refs.threads().unwrap(), [b.clone(), c.clone()]);
    refs.delete_thread(&c).unwrap();
    assert_eq!(refs.threads().unwrap(), [b]);
    assert!(matches!(refs.delete_thread(&c), Err(RefsError::NotFound { .. })));
}

#[test]
fn racing_moves_lose_nothing() {
    let fixture = fixture();
    Refs::open(&fixture.path).unwrap().create_thread(&name("t"), &snapshot(0), &[]).unwrap();
    let moved: usize = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..4)
            .map(|_| {
                // A connection each, as processes have.
                let refs = Refs::open(&fixture.path).unwrap();
                scope.spawn(move || {
                    let mut moved = 0;
                    for _ in 0..100 {
                        let expected = refs.thread(&name("t")).unwrap();
                        let mut count = *expected.snapshot.as_bytes();
                        let (low, carry) = count[0].overflowing_add(1);
                        (count[0], count[1]) = (low, count[1] + u8::from(carry));
                        let snapshot = ObjectId::from_bytes(count);
                        let new = NewState { snapshot, layers: vec![], upper: None };
                        match refs.update_thread(&expected, &new) {
                            Ok(_) => moved += 1,
                            Err(RefsError::Moved { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    moved
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    let last = Refs::open(&fixture.path).unwrap().thread(&name("t")).unwrap();
    let count = usize::from(last.snapshot.as_bytes()[0]) + 256 * usize::from(last.snapshot.as_bytes()[1]);
    assert_eq!(count, moved);
    assert_eq!(last.revision, 1 + moved as u64);
    assert!(moved >= 100, "somebody always wins: {moved}");
}

#[test]
fn numbers_are_never_handed_out_twice() {
    let fixture = fixture();
    let ranges: Vec<_> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..4)
            .map(|_| {
                let refs = Refs::open(&fixture.path).unwrap();
                scope.spawn(move || (1..=25).map(|n| refs.reserve_numbers(n).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    let numbers: Vec<u64> = ranges.into_iter().flatten().collect();
    assert_eq!(numbers.len(), 4 * (1..=25).sum::<usize>());
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    assert_eq!(numbers.iter().min(), Some(&FIRST_NEW_INO));
    let refs = Refs::open(&fixture.path).unwrap();
    let next = refs.reserve_numbers(1).unwrap();
    assert!(numbers.iter().all(|&number| number < next.start));
    assert!(matches!(refs.reserve_numbers(u64::MAX), Err(RefsError::NumbersExhausted { .. })));
    assert_eq!(refs.reserve_numbers(0).unwrap(), next.end..next.end);
}

#[test]
fn damaged_rows_are_named() {
    let fixture = fixture();
    let refs = Refs::open(&fixture.path).unwrap();
    refs.create_thread(&name("t"), &snapshot(1), &[]).unwrap();
    let database = rusqlite::Connection::open(&fixture.path).unwrap();
    database.execute("UPDATE threads SET snapshot = x'00'", []).unwrap();
    let error = refs.thread(&name("t")).unwrap_err();
    assert!(matches!(&error, RefsError::Damaged { name, .. } if name == "t"), "{error}");
}

#[test]
fn a_name_that_stands_for_another_thread_is_noticed() {
    let fixture = fixture();
    let refs = Refs::open(&fixture.path).unwrap();
    let first = refs.create_thread(&name("a"), &snapshot(1), &[]).unwrap();
    let new = NewState { snapshot: snapshot(2), layers: Vec::new(), upper: None };
    let moved = refs.update_thread(&first, &new).unwrap();
    assert_eq!(refs.thread_again(&first).unwrap(), moved);
    refs.rename_thread(&moved, &name("b")).unwrap();
    assert!(matches!(refs.thread_again(&first), Err(RefsError::Replaced { .. })));
    refs.create_thread(&name("a"), &snapshot(2), &[]).unwrap();
    assert!(matches!(refs.thread_again(&first), Err(RefsError::Replaced { .. })));
}
