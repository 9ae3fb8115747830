//! What layers need of the store is not removed.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test fails by panicking, and shares its support")]

mod support;

use selvedge_store::Ino;
use selvedge_store::gc::{Marked, Removed, ThreadLayer};
use selvedge_view::{OpenFlags, Opened, SetAttr, View, objects_of_layer, remove_unneeded_layers};
use std::time::Duration;
use support::{Base, Bench};

const RW: OpenFlags = OpenFlags { read: true, write: true, exclusive: false };

fn collect(bench: &Bench) -> Removed {
    let repo = bench.repo();
    let layer_objects = |layer| objects_of_layer(&repo, layer).map_err(Into::into);
    Marked::mark(&repo, &layer_objects).unwrap().sweep(Duration::ZERO, &mut |_| ()).unwrap()
}

fn create(bench: &Bench, view: &View, name: &[u8], len: usize) -> Ino {
    let (attr, handle) = view.create(&bench.request(), view.root(), name, 0o600, RW).unwrap();
    view.write(handle, 0, &vec![name[0]; len]).unwrap();
    view.release(handle);
    attr.ino
}

#[track_caller]
fn assert_reads(bench: &Bench, view: &View, name: &[u8], len: usize) {
    let ino = view.lookup(view.root(), name).unwrap().ino;
    let handle = view.open_file(&bench.request(), ino, OpenFlags { write: false, ..RW }).unwrap();
    assert_eq!(view.read(handle, 0, 1 << 20).unwrap(), vec![name[0]; len]);
    view.release(handle);
}

#[test]
fn what_a_merged_layer_has_in_the_store_stays() {
    let mut bench = Bench::new(&Base::Dir { ino: 2, entries: Vec::new() });
    bench.deepest = 1;
    let view = bench.open();
    let small = create(&bench, &view, b"small", 3000);
    view.freeze().unwrap();
    create(&bench, &view, b"large", 200_000);
    view.freeze().unwrap();
    // A row of the upper that has its bytes in a layer beneath.
    view.setattr(small, &SetAttr { mode: Some(0o644), ..SetAttr::default() }).unwrap();
    view.tidy().unwrap();
    let layers = bench.repo().refs().threads().unwrap()[0].layers.clone();
    assert_eq!(layers.len(), 1, "they were merged");
    let named = objects_of_layer(&bench.repo(), ThreadLayer::Frozen(layers[0])).unwrap();
    assert_eq!(named.len(), 3, "two files, and the tree of the root");
    let (garbage, _) = bench.repo().store().put_blob(b"of an import that failed").unwrap();
    assert_eq!(collect(&bench).count, 0, "what was not synced is not there for others");
    let repo = bench.repo();
    assert_eq!(repo.store().put_blob(b"of an import that failed").unwrap(), (garbage, true));
    repo.store().sync().unwrap();
    assert_eq!(collect(&bench).count, 1);
    assert_eq!(remove_unneeded_layers(&bench.repo()).count, 0, "a mount is using them");
    for (name, len) in [(&b"small"[..], 3000), (b"large", 200_000)] {
        assert_reads(&bench, &view, name, len);
    }
    view.close().unwrap();
    let view = bench.open();
    for (name, len) in [(&b"small"[..], 3000), (b"large", 200_000)] {
        assert_reads(&bench, &view, name, len);
    }
}

/// Through a merge, snapshots, `gc` and a death: what the only layer that named the bytes was made of goes long before.
#[test]
fn a_file_deleted_while_open_is_readable_for_a_successor_after_a_snapshot_and_gc() {
    for (name, len) in [(&b"small"[..], 3000), (b"large", 200_000)] {
        let mut bench = Bench::new(&Base::Dir { ino: 2, entries: Vec::new() });
        bench.deepest = 0;
        let view = bench.open();
        let ino = create(&bench, &view, name, len);
        view.freeze().unwrap();
        view.tidy().unwrap();
        let flags = OpenFlags { write: false, ..RW };
        let handle = view.open_file(&bench.request(), ino, flags).unwrap();
        view.unlink(&bench.request(), view.root(), name).unwrap();
        for round in 0..3_u8 {
            create(&bench, &view, &[b'a' + round], 10);
            view.snapshot(b"", &|_| ()).unwrap();
            view.tidy().unwrap();
            assert!(
                bench.repo().refs().threads().unwrap()[0].layers.is_empty(),
                "the snapshot has all of them"
            );
            collect(&bench);
        }
        bench.kill(view);
        collect(&bench);
        let view = bench.resume(&[(handle, Opened::File(ino, flags))]);
        assert_eq!(view.read(handle, 0, 1 << 20).unwrap(), vec![name[0]; len]);
        collect(&bench);
        assert_eq!(view.read(handle, 0, 1 << 20).unwrap().len(), len);
        view.release(handle);
        view.forget(ino);
        view.close().unwrap();
        assert_eq!(collect(&bench).count, 1, "nobody needs the bytes any more");
    }
}
