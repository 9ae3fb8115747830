//! Where a snapshot came from.

use crate::{ObjectId, Snapshot, Store, StoreError, Timestamp};
use std::collections::{BinaryHeap, HashMap, HashSet};

/// A snapshot and all it came from, newest first: by time, but none before one that came from it, whatever the clocks
/// said.
pub fn history(store: &Store, head: &ObjectId) -> Result<Vec<(ObjectId, Snapshot)>, StoreError> {
    let mut snapshots = HashMap::new();
    let mut successors: HashMap<ObjectId, usize> = HashMap::new();
    let mut unread = vec![*head];
    while let Some(id) = unread.pop() {
        if snapshots.contains_key(&id) {
            continue;
        }
        let snapshot = store.snapshot(&id)?;
        for parent in distinct_parents(&snapshot) {
            *successors.entry(parent).or_default() += 1;
            unread.push(parent);
        }
        snapshots.insert(id, snapshot);
    }
    let mut ready: BinaryHeap<(Timestamp, ObjectId)> = BinaryHeap::new();
    ready.extend(snapshots.get(head).map(|snapshot| (snapshot.time, *head)));
    let mut newest_first = Vec::with_capacity(snapshots.len());
    while let Some((_, id)) = ready.pop() {
        let Some(snapshot) = snapshots.remove(&id) else { continue };
        for parent in distinct_parents(&snapshot) {
            if let Some(left) = successors.get_mut(&parent) {
                *left -= 1;
                if *left == 0 {
                    ready.extend(snapshots.get(&parent).map(|snapshot| (snapshot.time, parent)));
                }
            }
        }
        newest_first.push((id, snapshot));
    }
    Ok(newest_first)
}

/// The snapshots `heads` and all they came from.
pub fn ancestors(
    store: &Store,
    heads: impl IntoIterator<Item = ObjectId>,
) -> Result<HashSet<ObjectId>, StoreError> {
    let mut found = HashSet::new();
    let mut unread: Vec<ObjectId> = heads.into_iter().collect();
    while let Some(id) = unread.pop() {
        if found.insert(id) {
            unread.extend(store.snapshot(&id)?.parents);
        }
    }
    Ok(found)
}

fn distinct_parents(snapshot: &Snapshot) -> HashSet<ObjectId> {
    snapshot.parents.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::{Content, Entry, Ino, Meta, TreeBuilder, Xattrs};
    use std::sync::Arc;

    fn put(store: &Store, time: i64, parents: &[ObjectId]) -> ObjectId {
        let tree = TreeBuilder::new().finish().unwrap();
        let time = Timestamp { sec: time, nsec: 0 };
        let meta = Meta {
            ino: Ino(2),
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            mtime: time,
            ctime: time,
            xattrs: Xattrs::new(),
        };
        let root = Entry { meta, content: Content::Directory { tree: tree.id, digest: tree.digest } };
        store.put_snapshot(&Snapshot { root, parents: parents.to_vec(), time, message: Vec::new() }).unwrap()
    }

    #[test]
    fn none_comes_before_one_that_came_from_it() {
        let store = Store::new(Arc::new(MemoryBackend::default()));
        let first = put(&store, 10, &[]);
        // A clock that was wrong: it is older than what it came from.
        let left = put(&store, 5, &[first, first]);
        let right = put(&store, 20, &[first]);
        let merged = put(&store, 30, &[left, right]);
        let ids = |head| history(&store, head).unwrap().into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(&merged), [merged, right, left, first]);
        assert_eq!(ids(&left), [left, first]);
        assert_eq!(ancestors(&store, [merged]).unwrap(), HashSet::from([first, left, right, merged]));
    }
}
