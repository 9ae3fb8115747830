//! Objects: what is put comes back, damage is named, several processes share one database.

use crate::common::host::small_disk;
use crate::common::{blob_of, file_entry};
use selvedge_store::backend::{Backend, LocalBackend, MemoryBackend};
use selvedge_store::{
    Content, Extent, ObjectId, ObjectKind, ResolveError, Snapshot, Store, StoreError, Timestamp, TreeBuilder,
};
use std::sync::Arc;

fn local(dir: &std::path::Path, large: u64) -> Store {
    if !dir.join("objects.db").exists() {
        LocalBackend::create(dir).unwrap();
    }
    Store::new(Arc::new(LocalBackend::open_with(dir, large).unwrap()))
}

/// Runs `test` on a store in memory and on one on a disk.
fn each_backend(test: impl Fn(&Store)) {
    test(&Store::new(Arc::new(MemoryBackend::new())));
    let dir = tempfile::tempdir().unwrap();
    test(&local(dir.path(), 4096));
}

fn read_all(store: &Store, id: &ObjectId, size: u64) -> Vec<u8> {
    let reader = store.open_blob(id, size).unwrap();
    let mut bytes = vec![0; usize::try_from(size).unwrap() + 1];
    let mut at = 0;
    loop {
        match reader.read_at(&mut bytes[at..], at as u64).unwrap() {
            0 => break,
            more => at += more,
        }
    }
    bytes.truncate(at);
    bytes
}

#[test]
fn blobs_of_every_size_come_back() {
    each_backend(|store| {
        for size in [0, 1, 4095, 4096, 4097, 300_000] {
            let bytes = blob_of(size);
            let (id, new) = store.put_blob(&bytes).unwrap();
            assert!(new);
            assert_eq!(id, ObjectKind::Blob.id(&bytes));
            assert!(!store.put_blob(&bytes).unwrap().1, "identical content is stored once");
            assert!(store.has(ObjectKind::Blob, &id).unwrap());
            assert_eq!(read_all(store, &id, size as u64), bytes);
        }
    });
}

#[test]
fn holes_are_kept_exactly() {
    each_backend(|store| {
        let cases: [&[(bool, u64)]; 5] = [
            &[(false, 10)],
            &[(true, 100), (false, 8192), (true, 1)],
            &[(false, 1 << 20)],
            &[(false, 100), (false, 100), (true, 9000), (false, 5)],
            &[(true, 3000), (false, 50), (true, 3000)],
        ];
        for pieces in cases {
            let mut writer = store.blob_writer();
            let mut expected = Vec::new();
            let mut holes: Vec<Extent> = Vec::new();
            for &(data, len) in pieces {
                let offset = expected.len() as u64;
                if data {
                    let bytes = blob_of(usize::try_from(len).unwrap());
                    writer.write(&bytes).unwrap();
                    expected.extend(bytes);
                } else {
                    writer.hole(len).unwrap();
                    expected.resize(expected.len() + usize::try_from(len).unwrap(), 0);
                    match holes.last_mut() {
                        Some(last) if last.end() == offset => last.len += len,
                        _ => holes.push(Extent { offset, len }),
                    }
                }
            }
            let written = writer.finish().unwrap();
            assert_eq!(written.id, ObjectKind::Blob.id(&expected));
            assert_eq!(store.holes(&written.holes.unwrap()).unwrap(), holes);
            assert_eq!(read_all(store, &written.id, written.size), expected);
        }
    });
}

#[test]
fn a_large_blob_is_a_sparse_read_only_file_and_nothing_temporary_stays() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path(), 4096);
    let mut writer = store.blob_writer();
    writer.write(b"start").unwrap();
    writer.hole(64 << 20).unwrap();
    let written = writer.finish().unwrap();
    let name = written.id.to_string();
    let metadata = std::fs::metadata(dir.path().join("blobs").join(&name[..2]).join(&name)).unwrap();
    assert_eq!(metadata.len(), 5 + (64 << 20));
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(metadata.mode() & 0o7777, 0o444);
    drop(store.blob_writer());
    let mut unfinished = store.blob_writer();
    unfinished.write(&blob_of(10_000)).unwrap();
    drop(unfinished);
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn trees_and_snapshots_come_back() {
    each_backend(|store| {
        let mut builder = TreeBuilder::new();
        builder.push(b"b", file_entry(7, b"hello"));
        builder.push(b"a\xff", file_entry(8, b""));
        let tree = builder.finish().unwrap();
        assert!(store.put_tree(&tree).unwrap());
        assert!(!store.put_tree(&tree).unwrap());
        let read = store.tree(&tree.id).unwrap();
        assert_eq!(read.lookup(b"b"), Some(file_entry(7, b"hello")));
        let mut root = file_entry(2, b"");
        root.content = Content::Directory { tree: tree.id, digest: tree.digest };
        let time = Timestamp { sec: 5, nsec: 6 };
        let snapshot = Snapshot { root, parents: vec![], time, message: b"m\xff".to_vec() };
        let id = store.put_snapshot(&snapshot).unwrap();
        assert_eq!(store.snapshot(&id).unwrap(), snapshot);
        assert_eq!(store.resolve_snapshot(&id.to_string()[..8]).unwrap(), id);
        assert_eq!(store.resolve_snapshot(&id.to_string()).unwrap(), id);
        let other = if id.to_string().starts_with('0') { "1" } else { "0" };
        let resolve = |text: &str| store.resolve_snapshot(text).unwrap_err();
        assert!(matches!(resolve(&other.repeat(8)), ResolveError::NotFound { .. }));
        for bad in ["", "0123456", "0123456g", "ABCDEF01", &"0".repeat(65)] {
            assert!(matches!(resolve(bad), ResolveError::Syntax { .. }), "{bad}");
        }
        let missing = store.tree(&ObjectId::from_bytes([9; 32])).unwrap_err();
        assert!(matches!(missing, StoreError::Missing { kind: ObjectKind::Tree, .. }));
    });
}

#[test]
fn a_prefix_of_two_snapshots_is_ambiguous() {
    let backend = Arc::new(MemoryBackend::new());
    for last in [1, 2] {
        let mut id = [0xab; 32];
        id[31] = last;
        backend.put(ObjectKind::Snapshot, &ObjectId::from_bytes(id), b"any").unwrap();
    }
    let store = Store::new(backend);
    let error = store.resolve_snapshot("abababab").unwrap_err();
    assert!(matches!(error, ResolveError::Ambiguous { .. }));
    let whole = format!("{}02", "ab".repeat(31));
    assert_eq!(store.resolve_snapshot(&whole).unwrap().to_string(), whole);
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path(), 4096);
    let (small, _) = store.put_blob(b"small").unwrap();
    let (large, _) = store.put_blob(&blob_of(5000)).unwrap();
    store.sync().unwrap();
    drop(store);
    let database = rusqlite::Connection::open(dir.path().join("objects.db")).unwrap();
    assert_eq!(database.execute("UPDATE objects SET bytes = x'00'", []).unwrap(), 1);
    drop(database);
    let name = large.to_string();
    let file = dir.path().join("blobs").join(&name[..2]).join(&name);
    std::fs::File::options().write(true).open(&file).unwrap().set_len(4999).unwrap();
    let store = local(dir.path(), 4096);
    for (id, size) in [(small, 5), (large, 5000)] {
        let error = store.open_blob(&id, size).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(&id.to_string()), "{error}");
    }
    // The same bytes put again replace the damaged file.
    assert!(store.put_blob(&blob_of(5000)).unwrap().1);
    assert_eq!(read_all(&store, &large, 5000), blob_of(5000));
}

#[test]
fn what_is_synced_is_seen_by_others_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let first = local(dir.path(), 4096);
    let second = local(dir.path(), 4096);
    let (id, _) = first.put_blob(b"bytes").unwrap();
    first.sync().unwrap();
    assert_eq!(read_all(&second, &id, 5), b"bytes");
    // A store with another limit looks in both places.
    let (large, _) = first.put_blob(&blob_of(5000)).unwrap();
    let third = local(dir.path(), 1 << 20);
    assert_eq!(read_all(&third, &large, 5000), blob_of(5000));
    assert!(!third.put_blob(&blob_of(5000)).unwrap().1);
}

#[test]
fn threads_of_two_stores_on_one_database_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [local(dir.path(), 4096), local(dir.path(), 4096)];
    let ids: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4u8)
            .map(|thread| {
                let store = &stores[usize::from(thread % 2)];
                scope.spawn(move || {
                    let one = |i: u32| store.put_blob(&[&[thread][..], &i.to_le_bytes()].concat()).unwrap().0;
                    let ids: Vec<_> = (0..500).map(one).collect();
                    store.sync().unwrap();
                    ids
                })
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    let fresh = local(dir.path(), 4096);
    for id in ids {
        assert_eq!(ObjectKind::Blob.id(&read_all(&fresh, &id, 5)), id);
    }
}

#[test]
fn after_a_failed_write_the_store_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = local(dir.path(), 4096);
    store.put_blob(b"before").unwrap();
    // A table that is gone is a failure that no second attempt can cure.
    let database = rusqlite::Connection::open(dir.path().join("objects.db")).unwrap();
    database.execute("DROP TABLE syncs", []).unwrap();
    drop(database);
    assert!(matches!(store.sync().unwrap_err(), StoreError::Database { .. }));
    assert!(matches!(store.sync().unwrap_err(), StoreError::Latched { .. }));
    assert!(matches!(store.put_blob(b"after").unwrap_err(), StoreError::Latched { .. }));
}

#[test]
fn two_processes_write_one_database_at_once() {
    const DIRECTORY: &str = "SELVEDGE_TEST_DIRECTORY";
    let blob = |process: u32, i: u32| [process.to_le_bytes(), i.to_le_bytes()].concat();
    if let Some(dir) = std::env::var_os(DIRECTORY) {
        // One of the processes: tells who it is, writes, and ends.
        let process = std::process::id();
        let store = local(std::path::Path::new(&dir), 4096);
        for i in 0..400 {
            store.put_blob(&blob(process, i)).unwrap();
            if i % 20 == 0 {
                store.sync().unwrap();
            }
        }
        store.sync().unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    drop(local(dir.path(), 4096));
    let spawn = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "objects::two_processes_write_one_database_at_once"])
            .env(DIRECTORY, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut processes = [spawn(), spawn(), spawn()];
    for process in &mut processes {
        assert!(process.wait().unwrap().success());
    }
    let store = local(dir.path(), 4096);
    for process in &processes {
        for i in 0..400 {
            let bytes = blob(process.id(), i);
            assert_eq!(read_all(&store, &ObjectKind::Blob.id(&bytes), 8), bytes);
        }
    }
}

#[test]
fn a_full_disk_is_said_and_later_writes_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = small_disk(dir.path(), 4 << 20);
    let filler = dir.path().join("filler");
    std::fs::write(&filler, vec![0; 3 << 19]).unwrap();
    let store = local(dir.path(), 64 << 10);
    let (kept, _) = store.put_blob(b"kept").unwrap();
    store.sync().unwrap();
    for size in [30_000, 100_000] {
        let full = (0..200).find_map(|i| {
            let written = store.put_blob(&blob_of(size + i));
            written.and_then(|_| store.sync()).err()
        });
        let full = full.expect("the disk is smaller than that");
        assert_eq!(full.errno(), Some(libc::ENOSPC), "{full}");
    }
    assert_eq!(read_all(&store, &kept, 4), b"kept");
    std::fs::remove_file(&filler).unwrap();
    for blob in blob_files(dir.path()) {
        std::fs::remove_file(blob).unwrap();
    }
    store.sync().unwrap();
    let (later, _) = store.put_blob(b"later").unwrap();
    store.sync().unwrap();
    assert_eq!(read_all(&local(dir.path(), 4096), &later, 5), b"later");
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

fn blob_files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for directory in std::fs::read_dir(dir.join("blobs")).unwrap() {
        for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            files.push(file.unwrap().path());
        }
    }
    files
}
