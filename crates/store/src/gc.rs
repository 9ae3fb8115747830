//! Removing objects that nothing reaches.
//!
//! Two phases. [`Marked::mark`] finds what the threads reach, and what there is besides, while everybody works on.
//! [`Marked::sweep`] then waits until nobody relies on an object that no thread reaches (see [`ObjectHold`]), marks
//! what threads have come to reach since, and removes the rest. What is removed is unreachable at that instant, so that
//! a death in the middle leaves nothing but less garbage.
//!
//! [`ObjectHold`]: crate::ObjectHold

use crate::export::{Progress, SourceError};
use crate::hold::HoldError;
use crate::{
    Content, LayerId, LockError, ObjectId, ObjectKind, RefsError, Repository, StoreError, ThreadId,
    ThreadLock, ThreadRef,
};
use std::collections::HashSet;
use std::time::Duration;

/// How many names are asked for at a time.
const PAGE: usize = 1000;

/// How many objects are removed at a time, and then told of.
const BATCH: usize = 256;

/// The order in which kinds are removed: a snapshot that can be named has all it needs, and a tree has its files.
const ORDER: [ObjectKind; 4] = [ObjectKind::Snapshot, ObjectKind::Tree, ObjectKind::Holes, ObjectKind::Blob];

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many things.
    pub count: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// Room in the object database where nothing is any more, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spare {
    /// Given back to the disk.
    pub given_back: u64,
    /// Kept for later objects: the database was not made to give it back.
    pub kept: u64,
}

/// Why nothing, or not everything, was removed. What was is unreachable in any case.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// What threads need cannot be found out: something on the way is missing or damaged.
    #[error("cannot tell what thread {thread} needs, so nothing is removed")]
    Unclear {
        /// The thread.
        thread: String,
        /// What is wrong.
        #[source]
        source: SourceError,
    },
    /// A thread's reference cannot be read.
    #[error("cannot read all threads, so nothing is removed")]
    Refs(#[from] RefsError),
    /// Others rely on objects for too long.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A layer of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadLayer {
    /// One that never changes.
    Frozen(LayerId),
    /// The one that the thread writes.
    Upper(LayerId),
}

/// Tells what objects a layer needs. Of an upper these are only those that are needed by nothing else.
pub type LayerObjects<'a> = &'a dyn Fn(ThreadLayer) -> Result<Vec<(ObjectKind, ObjectId)>, SourceError>;

/// How often the threads are read again when one lets go of a layer while it is looked into.
const ATTEMPTS: usize = 20;

/// What threads reach, and what there is besides.
pub struct Marked<'a> {
    repository: &'a Repository,
    layer_objects: LayerObjects<'a>,
    /// Frozen layers that were looked into: they never change.
    layers: HashSet<LayerId>,
    reached: HashSet<(ObjectKind, ObjectId)>,
    /// What nothing reached.
    condemned: Vec<(ObjectKind, ObjectId)>,
}

/// Gives the room of objects that were removed, now or earlier, back to the disk. Nobody has to wait for it longer than for
/// any other writer, and whoever dies at it leaves the rest for the next time.
///
/// # Errors
/// When the store fails; nothing is lost then.
pub fn give_back(repository: &Repository) -> Result<Spare, StoreError> {
    repository.store().backend().give_back()
}

impl<'a> Marked<'a> {
    /// Marks what the threads reach now, their frozen layers, snapshots and all those before them, and notes the rest.
    pub fn mark(repository: &'a Repository, layer_objects: LayerObjects<'a>) -> Result<Self, GcError> {
        let mut marked = Self {
            repository,
            layer_objects,
            layers: HashSet::new(),
            reached: HashSet::new(),
            condemned: Vec::new(),
        };
        // What is written from now on is not noted, and what is reached from now on is marked by the sweep.
        marked.condemned = marked.everything()?;
        marked.mark_threads()?;
        let reached = &marked.reached;
        marked.condemned.retain(|key| !reached.contains(key));
        Ok(marked)
    }

    /// Removes what nothing reaches. Waits `patience` for those who rely on such objects.
    pub fn sweep(
        mut self,
        patience: Duration,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Removed, GcError> {
        let _alone = self.repository.hold_objects_alone(patience)?;
        self.mark_threads()?;
        let backend = self.repository.store().backend();
        let mut removed = Removed::default();
        for kind in ORDER {
            let of_kind = self.condemned.iter().filter(|key| key.0 == kind && !self.reached.contains(key));
            let ids: Vec<ObjectId> = of_kind.map(|(_, id)| *id).collect();
            for batch in ids.chunks(BATCH) {
                let now = backend.remove(kind, batch)?;
                removed.count += now.count;
                removed.bytes += now.bytes;
                progress(Progress { files: removed.count, bytes: removed.bytes });
            }
            if !ids.is_empty() {
                // A loss of power must not bring back what needs something that is gone.
                backend.sync()?;
            }
        }
        self.remove_locks()?;
        Ok(removed)
    }

    fn everything(&self) -> Result<Vec<(ObjectKind, ObjectId)>, StoreError> {
        let backend = self.repository.store().backend();
        let last = ObjectId::from_bytes([0xff; 32]);
        let mut all = Vec::new();
        for kind in ObjectKind::ALL {
            let mut first = ObjectId::from_bytes([0; 32]);
            loop {
                let names = backend.list(kind, &first, &last, PAGE)?;
                all.extend(names.iter().map(|id| (kind, *id)));
                match names.last().and_then(ObjectId::next) {
                    Some(next) if names.len() == PAGE => first = next,
                    _ => break,
                }
            }
        }
        Ok(all)
    }

    fn mark_threads(&mut self) -> Result<(), GcError> {
        let mut attempt = 0;
        'threads: loop {
            attempt += 1;
            for thread in self.repository.refs().threads()? {
                let unclear = |source| GcError::Unclear { thread: thread.name.to_string(), source };
                self.mark_snapshots(thread.snapshot).map_err(|source| unclear(source.into()))?;
                let frozen = thread.layers.iter().copied().map(ThreadLayer::Frozen);
                for layer in frozen.chain(thread.upper.map(ThreadLayer::Upper)) {
                    match self.mark_layer(layer) {
                        Ok(()) => {}
                        // A mount lets go of layers once a snapshot has what they say, and removes them.
                        Err(_) if attempt < ATTEMPTS && self.has_moved(&thread) => continue 'threads,
                        Err(source) => return Err(unclear(source)),
                    }
                }
            }
            return Ok(());
        }
    }

    fn has_moved(&self, thread: &ThreadRef) -> bool {
        let now = self.repository.refs().thread_again(thread);
        !now.is_ok_and(|now| now.layers == thread.layers && now.upper == thread.upper)
    }

    fn mark_layer(&mut self, layer: ThreadLayer) -> Result<(), SourceError> {
        if matches!(layer, ThreadLayer::Frozen(id) if self.layers.contains(&id)) {
            return Ok(());
        }
        for (kind, id) in (self.layer_objects)(layer)? {
            if kind == ObjectKind::Tree {
                self.mark_tree(id)?;
            } else {
                self.reached.insert((kind, id));
            }
        }
        if let ThreadLayer::Frozen(id) = layer {
            self.layers.insert(id);
        }
        Ok(())
    }

    fn mark_snapshots(&mut self, head: ObjectId) -> Result<(), StoreError> {
        let store = self.repository.store();
        let mut unread = vec![head];
        while let Some(id) = unread.pop() {
            if self.reached.contains(&(ObjectKind::Snapshot, id)) {
                continue;
            }
            let snapshot = store.snapshot(&id)?;
            if let Content::Directory { tree, .. } = snapshot.root.content {
                self.mark_tree(tree)?;
            }
            unread.extend(snapshot.parents);
            // Marked when all it needs is: an error leaves it to the next attempt.
            self.reached.insert((ObjectKind::Snapshot, id));
        }
        Ok(())
    }

    fn mark_tree(&mut self, root: ObjectId) -> Result<(), StoreError> {
        let store = self.repository.store();
        let mut unread = vec![root];
        while let Some(id) = unread.pop() {
            if !self.reached.insert((ObjectKind::Tree, id)) {
                continue;
            }
            for (_, entry) in store.tree(&id)?.iter() {
                match entry.content {
                    Content::Regular { blob, holes, .. } => {
                        self.reached.insert((ObjectKind::Blob, blob));
                        self.reached.extend(holes.map(|holes| (ObjectKind::Holes, holes)));
                    }
                    Content::Directory { tree, .. } => unread.push(tree),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes the lock files of threads that are gone.
    fn remove_locks(&self) -> Result<(), GcError> {
        let Ok(entries) = std::fs::read_dir(self.repository.locks_dir()) else { return Ok(()) };
        let locks: Vec<ThreadId> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // Read after the files: a thread whose file is there had its reference before.
        let threads: HashSet<ThreadId> =
            self.repository.refs().threads()?.into_iter().map(|thread| thread.id).collect();
        for thread in locks.iter().filter(|thread| !threads.contains(thread)) {
            let removed = ThreadLock::try_acquire(self.repository, thread)
                .and_then(|lock| lock.remove(self.repository, thread));
            match removed {
                // Whoever has it finds out by itself that the thread is gone.
                Ok(()) | Err(LockError::Held { .. }) => {}
                Err(error) => tracing::debug!(%thread, %error, "a lock file that nobody needs is left"),
            }
        }
        Ok(())
    }
}
